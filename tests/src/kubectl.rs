//! The cluster's administrator, and the fault levers of `cargo xtask cluster`.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

pub(crate) fn needed(name: &str) -> PathBuf {
    let value = std::env::var_os(name);
    value
        .map(PathBuf::from)
        .unwrap_or_else(|| panic!("{name} is not set: run these tests with `cargo xtask test`"))
}

/// The administrator's kubeconfig.
pub fn admin_kubeconfig() -> PathBuf {
    needed("KUBECONFIG")
}

/// Runs kubectl and gives what it said.
pub fn try_kubectl(args: &[&str]) -> Output {
    Command::new("kubectl").args(args).stdin(Stdio::null()).output().expect("kubectl runs")
}

/// Runs kubectl, which must succeed, and gives its stdout.
pub fn kubectl(args: &[&str]) -> String {
    let output = try_kubectl(args);
    assert!(output.status.success(), "kubectl {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Applies a manifest in a namespace.
pub fn kubectl_apply(namespace: &str, manifest: &str) {
    let mut child = Command::new("kubectl")
        .args(["apply", "-n", namespace, "-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("kubectl runs");
    child.stdin.take().unwrap().write_all(manifest.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success(), "kubectl apply of:\n{manifest}");
}

/// `xtask` itself.
pub fn xtask_program() -> PathBuf {
    needed("RELAY_XTASK")
}

/// Runs a subcommand of `cargo xtask cluster` on the test cluster and gives its stdout.
pub fn xtask(args: &[&str]) -> String {
    let name = needed("RELAY_CLUSTER");
    let output = Command::new(xtask_program())
        .arg("cluster")
        .args(args)
        .arg("--name")
        .arg(name)
        .stdin(Stdio::null())
        .output()
        .expect("xtask runs");
    assert!(output.status.success(), "xtask cluster {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
