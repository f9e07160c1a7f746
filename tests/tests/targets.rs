//! Every kind of target, as a user names it, serves the page.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that fails here should panic")]

use std::collections::HashSet;
use std::time::Duration;

use relay_tests::{Relay, echo_once, http_get, kubectl, wait_until};
use relay_workload::MARKER;

/// Starts a forward and fetches the page through it.
fn serves(target: &str, port: &str) -> Relay {
    let (relay, address) = Relay::start(&[target, port]);
    let page = http_get(address, "/").unwrap_or_else(|error| panic!("{target}: {error}; {}", relay.stderr()));
    assert!(page.contains(MARKER), "{target}: {page}");
    relay
}

fn cluster_ip(service: &str) -> String {
    kubectl(&["get", "service", service, "-o", "jsonpath={.spec.clusterIP}"])
}

#[test]
fn a_service_by_port_name() {
    serves("svc/web", ":http");
}

#[test]
fn a_service_by_port_number() {
    serves("service/web", ":80");
}

#[test]
fn a_headless_service() {
    serves("svc/web-headless", ":http");
}

#[test]
fn a_service_that_is_another_name() {
    serves("svc/web-external", ":80");
}

#[test]
fn a_pod_with_and_without_its_kind() {
    serves("pod/pod-echo", ":8080");
    serves("pod-echo", ":http");
}

#[test]
fn workloads_of_every_kind() {
    for target in ["deploy/web", "sts/sts", "ds/ds", "job/job-echo"] {
        serves(target, ":http");
    }
    let set = kubectl(&["get", "replicasets", "-l", "app=web", "-o", "jsonpath={.items[0].metadata.name}"]);
    serves(&format!("rs/{set}"), ":http");
}

#[test]
fn workloads_by_full_and_short_names_and_group() {
    for target in ["deployment/web", "deployments.apps/web", "statefulsets.v1.apps/sts", "daemonsets/ds"] {
        serves(target, ":8080");
    }
}

#[test]
fn an_address_of_either_family() {
    serves(&format!("ip/{}", cluster_ip("web")), ":80");
    serves(&format!("ip/{}", cluster_ip("web6")), ":80");
}

#[test]
fn a_host_by_full_name_and_by_the_search_list() {
    serves("host/web.default.svc.cluster.local", ":80");
    serves("host/web", ":80");
}

#[test]
fn a_node_by_its_name() {
    let node = kubectl(&["get", "nodes", "-o", "jsonpath={.items[0].metadata.name}"]);
    // The kubelet answers there, over TLS: what is not TLS it closes or refuses with a line of text.
    let (_relay, address) = Relay::start(&[&format!("node/{node}"), ":10250"]);
    let answer = http_get(address, "/").unwrap_err().to_string();
    assert!(answer.contains("HTTPS"), "{answer}");
}

#[test]
fn a_workload_spreads_connections_over_its_pods() {
    let (_relay, address) = Relay::start(&["deploy/web", ":http"]);
    let mut pages = HashSet::new();
    wait_until("both pods answer", Duration::from_secs(20), || {
        pages.insert(http_get(address, "/").unwrap());
        pages.len() == 2
    });
}

#[test]
fn several_targets_and_ports_in_one_run() {
    let (relay, web) =
        Relay::start(&["svc/web", ":http", ":echo@tcp", "sts/sts", ":8080", "host/web", ":80"]);
    let echo = relay.next_forward();
    let sts = relay.next_forward();
    let host = relay.next_forward();
    for address in [web, sts, host] {
        assert!(http_get(address, "/").unwrap().contains(MARKER));
    }
    echo_once(&mut relay_tests::connect(echo), b"several").unwrap();
}

#[test]
fn the_lines_that_scripts_grep_for() {
    let relay = Relay::spawn(&["svc/web", "18080:http"]);
    let lines = [relay.next_line(Duration::from_secs(60)), relay.next_line(Duration::from_secs(5))];
    assert_eq!(lines, ["Forwarding from 127.0.0.1:18080 -> 80", "Forwarding from [::1]:18080 -> 80"]);
}

#[test]
fn an_address_given_is_the_only_one_listened_on() {
    let relay = Relay::spawn(&["-l", "127.0.0.1", "svc/web", "18081:http"]);
    assert_eq!(relay.next_line(Duration::from_secs(60)), "Forwarding from 127.0.0.1:18081 -> 80");
    assert!(std::net::TcpStream::connect("[::1]:18081").is_err());
}

#[test]
fn a_pod_deleted_and_replaced_is_followed() {
    let (relay, address) = Relay::start(&["sts/sts", ":http"]);
    assert!(http_get(address, "/").is_ok());
    kubectl(&["delete", "pod", "sts-0", "--wait=true", "--grace-period=1"]);
    kubectl(&["wait", "pod/sts-1", "--for=condition=Ready", "--timeout=60s"]);
    wait_until("a live pod serves again", Duration::from_secs(5), || http_get(address, "/").is_ok());
    wait_until("the pod is back", Duration::from_secs(60), || {
        kubectl(&["get", "pod", "sts-0", "--ignore-not-found", "-o", "jsonpath={.status.phase}"]) == "Running"
    });
    drop(relay);
}
