//! The verbs for a shared agent, as its administrator types them.

use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::{Relay, admin_kubeconfig};

/// Runs `kubectl relay agent` on the shared agent of a namespace.
pub fn try_shared_agent(namespace: &str, args: &[&str]) -> Output {
    let mut command = Command::new(Relay::program());
    command.arg("agent").args(args).args(["-n", namespace]).env("KUBECONFIG", admin_kubeconfig());
    command.stdin(Stdio::null()).output().expect("the plugin runs")
}

/// As [`try_shared_agent`], where it has to succeed; gives what it printed.
pub fn shared_agent(namespace: &str, args: &[&str]) -> String {
    let output = try_shared_agent(namespace, args);
    let (stdout, stderr) =
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "agent {args:?}: {stdout}{stderr}");
    stdout
}

/// What `agent status` tells.
pub fn shared_agent_status(namespace: &str) -> Value {
    serde_json::from_str(&shared_agent(namespace, &["status", "-o", "json"])).unwrap()
}

/// A number of all replicas together, such as `streams`; of those that can be asked, which one that ends cannot.
pub fn shared_agent_sum(namespace: &str, field: &str) -> u64 {
    let status = shared_agent_status(namespace);
    let replicas = status["replicas"].as_array().expect("replicas");
    replicas.iter().filter_map(|replica| replica[field].as_u64()).sum()
}
