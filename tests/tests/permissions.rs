//! Rights: the documented Role is enough, and each right that is missing is named.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that fails here should panic")]

use std::time::Duration;

use relay_tests::{
    Namespace, Relay, Signal, Took, documented_rules, echo_once, in_time, kubectl, kubectl_apply, wait_until,
    with_verbs, without,
};
use serde_json::json;

const WEB: &str = "host/web.default.svc.cluster.local";

#[test]
fn the_documented_role_is_enough_with_each_transport() {
    let namespace = Namespace::new("role", &[]);
    let user = namespace.user("dev", &json!(documented_rules()).to_string());
    for transport in ["websocket", "websocket-v4", "spdy", "auto"] {
        let args = ["-n", namespace.name(), "--transport", transport, WEB, ":7007@tcp"];
        let (_relay, address) = Relay::start_as(&user, &args);
        echo_once(&mut relay_tests::connect(address), transport.as_bytes()).unwrap();
    }
}

#[test]
fn the_documented_role_reaches_services_and_workloads_of_the_namespace() {
    let namespace = Namespace::new("objects", &[]);
    let user = namespace.user("dev", &json!(documented_rules()).to_string());
    let name = namespace.name();
    kubectl_apply(
        name,
        r#"{"apiVersion":"v1","kind":"List","items":[
        {"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"app"},"spec":{"replicas":1,
          "selector":{"matchLabels":{"app":"app"}},"template":{"metadata":{"labels":{"app":"app"}},"spec":{"containers":[
          {"name":"workload","image":"relay.test/workload:1","imagePullPolicy":"IfNotPresent","args":["serve"],
           "ports":[{"name":"echo","containerPort":7007}]}]}}}},
        {"apiVersion":"v1","kind":"Service","metadata":{"name":"app"},"spec":{"selector":{"app":"app"},
          "ports":[{"name":"echo","port":7,"targetPort":"echo"}]}}]}"#,
    );
    kubectl(&["rollout", "status", "deployment/app", "-n", name, "--timeout=60s"]);
    let (relay, service) = Relay::start_as(&user, &["-n", name, "svc/app", ":echo", "deploy/app", ":echo"]);
    for address in [service, relay.next_forward()] {
        echo_once(&mut relay_tests::connect(address), b"hello").unwrap();
    }
}

#[test]
fn each_missing_right_is_named_with_a_role_that_would_do() {
    let needed = [
        ("create", "jobs", WEB),
        ("list", "pods", WEB),
        ("watch", "pods", WEB),
        ("get", "services", "svc/app"),
        ("get", "deployments", "deploy/app"),
        ("get", "statefulsets", "sts/app"),
        ("get", "daemonsets", "ds/app"),
        ("get", "replicasets", "rs/app"),
    ];
    let namespace = Namespace::new("denied", &[]);
    for (verb, resource, target) in needed {
        let user = namespace.user(&format!("no-{verb}-{resource}"), &without(verb, resource));
        let args = ["-n", namespace.name(), "--pod-running-timeout=10s", target, ":80"];
        in_time(|| {
            let exited = Relay::spawn_as(&user, &args).wait(Duration::from_secs(20));
            assert_eq!(exited.code, Some(1), "{verb} {resource}: {}", exited.stderr);
            for word in [verb, resource, "kind: Role", "hint:"] {
                assert!(
                    exited.stderr.contains(word),
                    "{verb} {resource}: {word:?} is missing in:\n{}",
                    exited.stderr
                );
            }
            [Took::new(format!("{verb} {resource} was named"), exited.took, Duration::from_secs(3))]
        });
    }
}

#[test]
fn a_right_that_only_helps_is_missed_with_a_warning() {
    let namespace = Namespace::new("warned", &[]);
    for (verb, resource) in [("list", "jobs"), ("list", "events"), ("watch", "events")] {
        let user = namespace.user(&format!("no-{verb}-{resource}"), &without(verb, resource));
        let (relay, address) = Relay::start_as(&user, &["-n", namespace.name(), WEB, ":7007@tcp"]);
        echo_once(&mut relay_tests::connect(address), b"it works").unwrap();
        relay.wait_stderr(resource, Duration::from_secs(5));
        assert!(relay.stderr().contains(verb), "{verb} {resource}:\n{}", relay.stderr());
    }
}

#[test]
fn a_job_that_may_not_be_deleted_is_said_at_the_end() {
    let namespace = Namespace::new("undeleted", &[]);
    let user = namespace.user("dev", &without("delete", "jobs"));
    let (relay, address) = Relay::start_as(&user, &["-n", namespace.name(), WEB, ":7007@tcp"]);
    echo_once(&mut relay_tests::connect(address), b"it works").unwrap();
    let exited = relay.stop(Signal::INT);
    assert_eq!(exited.code, Some(1), "{}", exited.stderr);
    for word in ["delete", "jobs", "left behind"] {
        assert!(exited.stderr.contains(word), "{word:?} is missing in:\n{}", exited.stderr);
    }
    // The agent was told goodbye: its pod ends by itself, and the Job's own time limit removes both.
    wait_until("Job and pod are gone", Duration::from_secs(60), || namespace.agents().is_empty());
}

#[test]
fn without_port_forward_the_missing_right_is_named() {
    let namespace = Namespace::new("forward", &[]);
    let mut rules = documented_rules();
    rules.retain(|rule| {
        !rule["resources"].as_array().is_some_and(|list| list.iter().any(|item| item == "pods/portforward"))
    });
    let user = namespace.user("dev", &json!(rules).to_string());
    let exited = Relay::spawn_as(&user, &["-n", namespace.name(), WEB, ":80"]).wait(Duration::from_secs(30));
    assert_eq!(exited.code, Some(1), "{}", exited.stderr);
    assert!(exited.stderr.contains("pods/portforward"), "{}", exited.stderr);
    wait_until("a run that fails leaves no agent", Duration::from_secs(10), || namespace.agents().is_empty());
}

#[test]
fn a_role_with_only_create_on_port_forward_gets_in_by_spdy() {
    let namespace = Namespace::new("create", &[]);
    let user = namespace.user("dev", &with_verbs("pods/portforward", &["create"]));
    let (_relay, address) = Relay::start_as(&user, &["-n", namespace.name(), WEB, ":7007@tcp"]);
    echo_once(&mut relay_tests::connect(address), b"by spdy").unwrap();
}
