//! What a shared agent's policy denies, on a real cluster: whoever asked is told, and so is whoever reads its log, its audit
//! and its counts.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that fails here should panic")]

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::SocketAddr;
use std::time::Duration;

use relay_tests::{
    Namespace, Relay, connect, documented_rules_of, echo_once, kubectl, shared_agent, shared_agent_sum,
    wait_until,
};
use serde_json::{Value, json};

const POD: &str = "app.kubernetes.io/component=shared-agent";
/// How long the terminal may take to say what has just happened.
const SOON: Duration = Duration::from_secs(10);

/// For what takes as long as a replica's end.
const LONG: Duration = Duration::from_secs(60);

/// Whoever has only the Role for the shared agent.
struct User<'a> {
    agent: &'a str,
    kubeconfig: std::path::PathBuf,
}

impl User<'_> {
    fn forward(&self, target: &str, port: u16) -> (Relay, SocketAddr) {
        let port = format!(":{port}");
        let args = ["--agent-source=shared", "--server.namespace", self.agent, target, &port];
        Relay::start_as(&self.kubeconfig, &args)
    }

    fn reaches(&self, target: &str, port: u16) {
        let (relay, address) = self.forward(target, port);
        echo_once(&mut connect(address), b"allowed")
            .unwrap_or_else(|error| panic!("{target}:{port}: {error}; {}", relay.stderr()));
    }

    fn is_denied(&self, target: &str, port: u16) {
        let (relay, address) = self.forward(target, port);
        let mut stream = connect(address);
        // It may have been reset before.
        let _ = stream.write_all(b"let me in");
        let end = stream.read(&mut [0]);
        assert_eq!(end.map_err(|error| error.kind()), Err(ErrorKind::ConnectionReset), "{target}:{port}");
        relay.wait_stderr("the agent is not allowed to dial", SOON);
    }
}

fn first(what: &str, selector: &[&str], path: &str) -> String {
    kubectl(&[&["get", what, "-n", "default", "-o", path], selector].concat())
}

fn logs(namespace: &str) -> String {
    kubectl(&["logs", "-n", namespace, "-l", POD, "--tail=-1"])
}

/// The audit's lines of streams that the policy denied: where they wanted to go.
fn audited(namespace: &str) -> Vec<(String, u64)> {
    let logs = logs(namespace);
    let lines = logs.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let denied = lines.filter(|line| line["event"] == "end" && line["code"] == 10);
    denied
        .map(|line| (line["address"].as_str().unwrap().to_owned(), line["port"].as_u64().unwrap()))
        .collect()
}

#[test]
fn what_is_denied_is_said_logged_audited_and_counted() {
    let namespace = Namespace::new("policy", &[]);
    let name = namespace.name();
    let web = first("service", &["web"], "jsonpath={.spec.clusterIP}");
    let web_pod = first("pods", &["-l", "app=web"], "jsonpath={.items[0].status.podIP}");
    let other = first("pod", &["pod-echo"], "jsonpath={.status.podIP}");
    let denied = [&format!("--deny={web}/32"), &format!("--deny={web_pod}/32:7000-7999")];
    let by_name = ["--deny=*.kube-system.svc.cluster.local", "--deny=*:7008"];
    shared_agent(
        name,
        &[&["install", "--replicas=1", "--audit", denied[0], denied[1]], &by_name[..]].concat(),
    );
    let rules = json!(documented_rules_of("manifests/role-shared.yaml")).to_string();
    let user = User { agent: name, kubeconfig: namespace.user("jane", &rules) };

    user.reaches(&format!("ip/{other}"), 7007);
    let cases = [
        (format!("ip/{web_pod}"), 7007),
        // A name that leads to an address that is denied, complete, short, and through an alias (CNAME).
        ("host/web.default.svc.cluster.local".into(), 7007),
        ("host/web.default".into(), 7007),
        ("host/web-external.default.svc.cluster.local".into(), 7007),
        // The name itself, by a pattern; the port; what is denied by itself.
        ("host/kube-dns.kube-system.svc.cluster.local".into(), 53),
        (format!("ip/{other}"), 7008),
        ("ip/169.254.169.254".into(), 80),
        ("ip/127.0.0.1".into(), 9527),
        ("ip/::1".into(), 9527),
    ];
    for (target, port) in &cases {
        user.is_denied(target, *port);
    }
    user.reaches(&format!("ip/{other}"), 7007);

    let counted = |all: usize| {
        wait_until("each is counted", LONG, || shared_agent_sum(name, "denied") == all as u64);
    };
    counted(cases.len());
    let wanted: Vec<_> = cases
        .iter()
        .map(|(target, port)| (target.split_once('/').unwrap().1.to_owned(), u64::from(*port)))
        .collect();
    wait_until("the log is there", SOON, || audited(name).len() >= wanted.len());
    assert_eq!(audited(name), wanted);
    let logs = logs(name);
    let said = logs.lines().filter(|line| line.contains("target denied")).count();
    assert_eq!(said, cases.len(), "{logs}");
    assert!(logs.contains(r#""status":"denied by policy""#), "{logs}");

    // With an allow list nothing else is open, and what was denied before is not remembered.
    let allow = format!("--allow={other}/32:7007");
    let name_allowed = "--allow=web.default.svc.cluster.local:7007";
    shared_agent(name, &["upgrade", "--deny=", &allow, name_allowed]);
    user.reaches(&format!("ip/{other}"), 7007);
    user.reaches("host/web.default.svc.cluster.local", 7007);
    let closed = [
        (format!("ip/{other}"), 7008),
        (format!("ip/{web_pod}"), 7007),
        ("host/kube-dns.kube-system.svc.cluster.local".into(), 53),
        // Whoever names an alias does not name what was allowed.
        ("host/web-external.default.svc.cluster.local".into(), 7007),
        ("ip/169.254.169.254".into(), 80),
        ("ip/127.0.0.1".into(), 9527),
    ];
    for (target, port) in &closed {
        user.is_denied(target, *port);
    }
    // Those of the replica before, while it ends, are not among them.
    counted(closed.len());
}
