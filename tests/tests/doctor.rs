//! `kubectl relay doctor`: all is well for the administrator; a missing right is named, and what `--print-role` prints
//! mends it; nothing is left behind.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that fails here should panic")]

use std::path::Path;
use std::time::Duration;

use relay_tests::{
    Exited, Namespace, Relay, Signal, Took, admin_kubeconfig, connect, documented_rules_of, echo_once,
    in_time, kubectl, kubectl_apply, shared_agent, wait_until, without,
};
use serde_json::Value;

/// How long it may take with a test agent.
const LIMIT: Duration = Duration::from_secs(60);

fn examined(kubeconfig: &Path, args: &[&str]) -> Exited {
    Relay::spawn_as(kubeconfig, &[&["doctor"], args].concat()).wait(LIMIT)
}

/// The verdict of each check in a JSON report.
fn verdicts(report: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().expect("a string").to_owned();
    let checks = report["checks"].as_array().expect("checks");
    checks.iter().map(|check| (text(&check["check"]), text(&check["verdict"]))).collect()
}

#[test]
fn everything_is_well_for_the_administrator_under_pod_security_restricted() {
    in_time(|| {
        let namespace = Namespace::new("doctor", &["pod-security.kubernetes.io/enforce=restricted"]);
        let args = ["-n", namespace.name(), "--agent-source", "image", "-o", "json"];
        let exited = examined(&admin_kubeconfig(), &args);
        assert_eq!((exited.code, exited.stderr.as_str()), (Some(0), ""), "{}", exited.stdout);
        let report: Value = serde_json::from_str(&exited.stdout).unwrap();
        assert_eq!(report["ok"], true);
        let verdicts = verdicts(&report);
        for check in [
            "kubeconfig",
            "proxy",
            "server",
            "user",
            "image",
            "targets",
            "namespace",
            "admission",
            "nodes",
            "agent",
            "upgrade",
            "session",
            "dns",
            "udp",
            "cleanup",
        ] {
            let verdict =
                verdicts.iter().find(|(name, _)| name == check).map(|(_, verdict)| verdict.as_str());
            assert_eq!(verdict, Some("ok"), "{check}: {report:#}");
        }
        let timed =
            report["checks"].as_array().unwrap().iter().filter(|check| check["milliseconds"].is_number());
        assert!(timed.count() >= 6, "{report:#}");
        let gone = || namespace.agents().is_empty();
        let gone = wait_until("Job and pod are gone", Duration::from_secs(30), gone);
        [
            Took::new("doctor took", exited.took, Duration::from_secs(10)),
            Took::new("Job and pod were gone", gone, Duration::from_secs(5)),
        ]
    });
}

#[test]
fn a_missing_right_is_named_and_the_printed_role_mends_it() {
    for (verb, resource, named) in [("create", "jobs", "create jobs.batch"), ("list", "pods", "list pods")] {
        let namespace = Namespace::new("mended", &[]);
        let user = namespace.user("dev", &without(verb, resource));
        let args = ["-n", namespace.name(), "--agent-source", "image"];
        let before = examined(&user, &args);
        assert_eq!(before.code, Some(1), "{}", before.stdout);
        let line = before.stdout.lines().find(|line| line.starts_with("failed ")).expect("a failed line");
        assert!(line.contains("image") && line.contains(named), "{}", before.stdout);
        assert!(before.stdout.contains("--print-role"), "{}", before.stdout);
        assert_eq!(kubectl(&["get", "jobs", "-n", namespace.name(), "-o", "name"]), "");

        let printed = examined(&user, &[&args[..], &["--print-role"]].concat());
        assert_eq!((printed.code, printed.stderr.as_str()), (Some(0), ""), "{}", printed.stdout);
        kubectl_apply(namespace.name(), &printed.stdout);
        let after = examined(&user, &args);
        assert_eq!(after.code, Some(0), "{}", after.stdout);
        assert!(after.stdout.contains("ok       image "), "{}", after.stdout);
        assert!(after.stdout.contains("ok       cleanup "), "{}", after.stdout);
    }
}

#[test]
fn the_role_for_a_shared_agent_is_missed_before_and_enough_after() {
    let namespace = Namespace::new("examined", &[]);
    let name = namespace.name();
    shared_agent(name, &["install", "--replicas=1"]);
    // Whoever has no rights at all.
    let user = namespace.user("dev", "[]");
    let args = ["-n", "default", "--server.namespace", name, "--agent-source", "shared"];
    let target = ["--agent-source=shared", "--server.namespace", name, "host/web.default", ":7007"];

    let before = examined(&user, &args);
    assert_eq!(before.code, Some(1), "{}", before.stdout);
    let line = before.stdout.lines().find(|line| line.starts_with("failed ")).expect("a failed line");
    assert!(line.contains("shared"), "{}", before.stdout);
    let words = before.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
    for word in ["list pods", "create pods/portforward", "--print-role"] {
        assert!(words.contains(word), "{word:?} is missing in:\n{}", before.stdout);
    }
    let refused = Relay::spawn_as(&user, &target).wait(Duration::from_secs(30));
    assert_eq!(refused.code, Some(1), "{}", refused.stderr);
    assert!(refused.stderr.contains("kind: Role"), "the run says the same: {}", refused.stderr);

    let rules = serde_json::json!(documented_rules_of("manifests/role-shared.yaml")).to_string();
    let user = namespace.user("dev", &rules);
    let there = kubectl(&["get", "jobs,pods", "-n", name, "-o", "name"]);
    let after = examined(&user, &[&args[..], &["-o", "json"]].concat());
    let report: Value = serde_json::from_str(&after.stdout).unwrap();
    assert_eq!((after.code, &report["ok"]), (Some(0), &Value::Bool(true)), "{report:#}");
    let verdicts = verdicts(&report);
    for check in ["shared", "agent", "upgrade", "session", "dns", "udp"] {
        assert!(verdicts.contains(&(check.into(), "ok".into())), "{check}: {report:#}");
    }
    assert!(after.stdout.contains("the shared agent stays"), "{}", after.stdout);
    // It is somebody else's agent.
    assert_eq!(kubectl(&["get", "jobs,pods", "-n", name, "-o", "name"]), there);
    let (relay, address) = Relay::start_as(&user, &target);
    echo_once(&mut connect(address), b"allowed").unwrap();
    assert_eq!(relay.stop(Signal::INT).code, Some(0));
}

#[test]
fn a_quota_is_named_before_anything_is_started() {
    let namespace = Namespace::new("full", &[]);
    let name = namespace.name();
    kubectl(&["create", "quota", "none", "--hard=pods=0", "-n", name]);
    // Until its use is counted, it counts for nothing.
    wait_until("the quota is counted", Duration::from_secs(20), || {
        kubectl(&["get", "quota", "none", "-n", name, "-o", "jsonpath={.status.used.pods}"]) == "0"
    });
    let exited = examined(&admin_kubeconfig(), &["-n", name, "--agent-source", "image"]);
    assert_eq!(exited.code, Some(1), "{}", exited.stdout);
    assert!(exited.stdout.contains("failed   admission "), "{}", exited.stdout);
    // Lines are wrapped.
    let words = exited.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(words.contains("exceeded quota: none") && words.contains("hint: free some of it"), "{words}");
    assert_eq!(kubectl(&["get", "jobs", "-n", name, "-o", "name"]), "");
}

#[test]
fn ctrl_c_while_it_waits_for_its_agent_leaves_nothing() {
    let namespace = Namespace::new("stopped", &[]);
    // An agent that never comes to run.
    let args =
        ["doctor", "-n", namespace.name(), "--agent-source", "image", "--server.node-selector", "no=such"];
    let doctor = Relay::spawn(&args);
    wait_until("the Job is made", Duration::from_secs(20), || !namespace.agents().is_empty());
    let exited = doctor.stop(Signal::INT);
    assert_eq!(exited.code, Some(130), "{}", exited.stdout);
    assert!(exited.stdout.contains("ok       cleanup "), "{}", exited.stdout);
    wait_until("Job and pod are gone", Duration::from_secs(30), || namespace.agents().is_empty());
}
