//! An agent without an image of its own: the plugin brings it, and it runs under whatever image the cluster has.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that fails here should panic")]

use std::time::Duration;

use relay_tests::{
    Namespace, Relay, Signal, documented_rules, documented_rules_of, http_get, kubectl, kubectl_apply,
    wait_until,
};
use relay_workload::MARKER;
use serde_json::json;

/// No registry answers for it, and no node has it.
const NO_IMAGE: &str = "--server.image=relay.test/no-such-image:1";
const RESTRICTED: &str = "pod-security.kubernetes.io/enforce=restricted";

/// A Service named web, of a pod that fits Pod Security *restricted*, in a namespace of its own.
fn namespace_with_web(purpose: &str) -> Namespace {
    let namespace = Namespace::new(purpose, &[RESTRICTED]);
    kubectl_apply(
        namespace.name(),
        r#"{"apiVersion":"v1","kind":"List","items":[
        {"apiVersion":"v1","kind":"Pod","metadata":{"name":"web","labels":{"app":"web"}},"spec":{
          "terminationGracePeriodSeconds":1,
          "securityContext":{"runAsNonRoot":true,"runAsUser":1000,"seccompProfile":{"type":"RuntimeDefault"}},
          "containers":[{"name":"web","image":"relay.test/workload:1","imagePullPolicy":"IfNotPresent","args":["serve"],
            "ports":[{"name":"http","containerPort":8080}],
            "securityContext":{"allowPrivilegeEscalation":false,"capabilities":{"drop":["ALL"]}}}]}},
        {"apiVersion":"v1","kind":"Service","metadata":{"name":"web"},"spec":{"selector":{"app":"web"},
          "ports":[{"name":"http","port":80,"targetPort":"http"}]}}]}"#,
    );
    kubectl(&["wait", "pod/web", "-n", namespace.name(), "--for=condition=Ready", "--timeout=60s"]);
    namespace
}

fn config_maps(namespace: &Namespace) -> String {
    let selector = "app.kubernetes.io/managed-by=kubectl-relay";
    kubectl(&["get", "configmaps", "-n", namespace.name(), "-l", selector, "-o", "name"])
}

fn image_of_the_agent(namespace: &Namespace) -> String {
    let image = "jsonpath={.items[0].spec.containers[0].image}";
    kubectl(&["get", "pods", "-n", namespace.name(), "-l", relay_tests::AGENT_LABEL, "-o", image])
}

fn serves(relay: &Relay, address: std::net::SocketAddr) {
    let page = http_get(address, "/").unwrap_or_else(|error| panic!("{error}; {}", relay.stderr()));
    assert!(page.contains(MARKER), "{page}");
}

#[test]
fn it_works_under_the_targets_image_in_a_restricted_namespace_and_leaves_nothing() {
    let namespace = namespace_with_web("embedded");
    let relay = Relay::spawn(&["-n", namespace.name(), "--agent-source", "embedded", "svc/web", ":http"]);
    let address = relay.next_forward();
    let embedded = relay.age();
    serves(&relay, address);
    assert!(!relay.stderr().contains("warning"), "{}", relay.stderr());
    assert_eq!(image_of_the_agent(&namespace), "relay.test/workload:1");
    assert!(config_maps(&namespace).starts_with("configmap/relay-agent-"));

    let exited = relay.stop(Signal::INT);
    assert_eq!(exited.code, Some(0), "{}", exited.stderr);
    assert_eq!(config_maps(&namespace), "");
    wait_until("Job and pod are gone", Duration::from_secs(5), || namespace.agents().is_empty());

    let relay = Relay::spawn(&["-n", namespace.name(), "--agent-source", "image", "svc/web", ":http"]);
    relay.next_forward();
    let image = relay.age();
    println!("first Forwarding line: embedded after {embedded:?}, from the image after {image:?}");
    assert!(embedded < image + Duration::from_secs(3), "{embedded:?} and {image:?}");
}

#[test]
fn its_config_map_goes_with_its_job_when_the_plugin_is_killed() {
    let namespace = namespace_with_web("orphan");
    let args = ["-n", namespace.name(), "--agent-source=embedded", "svc/web", ":http"];
    let (relay, address) = Relay::start(&args);
    serves(&relay, address);
    relay.signal(Signal::KILL);
    let job = kubectl(&["get", "jobs", "-n", namespace.name(), "-o", "name"]);
    // As the cluster does itself when the agent has ended.
    kubectl(&["delete", &job, "-n", namespace.name(), "--wait=false"]);
    wait_until("the ConfigMap is gone", Duration::from_secs(30), || config_maps(&namespace).is_empty());
}

#[test]
fn health_is_answered_where_an_image_would_answer() {
    let namespace = namespace_with_web("health");
    let patch = r#"{"spec":{"containers":[{"name":"agent","readinessProbe":{"exec":{"command":["/relay-server","--health"]},
        "periodSeconds":1}}]}}"#;
    let args = ["-n", namespace.name(), "--agent-source=embedded", "-p", patch, "svc/web", ":http"];
    let (_relay, _) = Relay::start(&args);
    let pods = ["wait", "pod", "-n", namespace.name(), "-l", relay_tests::AGENT_LABEL];
    kubectl(&[&pods[..], &["--for=condition=Ready", "--timeout=30s"]].concat());
}

#[test]
fn an_agent_that_is_lost_is_replaced_by_another_embedded_one() {
    let namespace = namespace_with_web("again");
    let args = ["-n", namespace.name(), NO_IMAGE, "svc/web", ":http"];
    let (relay, address) = Relay::start(&args);
    serves(&relay, address);
    let first = namespace.agents();
    let selector = relay_tests::AGENT_LABEL;
    kubectl(&["delete", "pods", "-n", namespace.name(), "-l", selector, "--grace-period=1", "--wait=false"]);
    wait_until("another agent serves", Duration::from_secs(30), || {
        let now = namespace.agents();
        !now.is_empty() && now.lines().all(|line| !first.contains(line)) && http_get(address, "/").is_ok()
    });
    let said = relay.stderr().matches("cannot be pulled").count();
    assert_eq!(said, 1, "the image is not tried again:\n{}", relay.stderr());
}

#[test]
fn an_image_that_cannot_be_pulled_is_replaced_within_five_seconds() {
    for image in [NO_IMAGE, "--server.image=Not/An:Image:Name"] {
        let namespace = namespace_with_web("auto");
        let relay = Relay::spawn(&["-n", namespace.name(), image, "svc/web", ":http"]);
        let fell_back =
            relay.wait_stderr("starting the agent that this plugin carries", Duration::from_secs(10));
        let address = relay.next_forward();
        println!("{image}: fell back after {fell_back:?}, first Forwarding line after {:?}", relay.age());
        serves(&relay, address);
        let exited = relay.stop(Signal::INT);
        assert_eq!(exited.code, Some(0), "{}", exited.stderr);
        assert!(fell_back < Duration::from_secs(5), "{fell_back:?}; {}", exited.stderr);
        assert_eq!(config_maps(&namespace), "");
    }
}

#[test]
fn the_documented_roles_are_enough_and_without_the_second_the_right_is_named() {
    let namespace = namespace_with_web("rights");
    let name = namespace.name();
    let both = [documented_rules(), documented_rules_of("manifests/role-embedded.yaml")].concat();
    let may = namespace.user("may", &json!(both).to_string());
    let (relay, address) = Relay::start_as(&may, &["-n", name, NO_IMAGE, "svc/web", ":http"]);
    serves(&relay, address);
    let exited = relay.stop(Signal::INT);
    assert_eq!((exited.code, exited.stderr.contains("warning")), (Some(0), false), "{}", exited.stderr);

    let may_not = namespace.user("may-not", &json!(documented_rules()).to_string());
    let args = ["-n", name, "--agent-source=embedded", "svc/web", ":http"];
    let exited = Relay::spawn_as(&may_not, &args).wait(Duration::from_secs(20));
    assert_eq!(exited.code, Some(1), "{}", exited.stderr);
    assert!(exited.stderr.contains("not allowed to create configmaps"), "{}", exited.stderr);
    assert!(exited.stderr.contains("[configmaps], verbs: [create, delete]"), "{}", exited.stderr);
    wait_until("no Job is left", Duration::from_secs(10), || namespace.agents().is_empty());

    // The image is enough for whoever has only the first Role, by default as well.
    let (relay, address) = Relay::start_as(&may_not, &["-n", name, "svc/web", ":http"]);
    serves(&relay, address);
    assert_eq!(image_of_the_agent(&namespace).split(':').next(), Some("ghcr.io/kubectl-relay/relay-server"));
}
