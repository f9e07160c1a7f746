//! The pods behind a workload come and go. A pod that turns unready gets no new connection a second later; one that is
//! deleted takes its own connections with it, and no other.

use std::io::{BufRead as _, BufReader, ErrorKind, Read as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use relay_tests::{
    Namespace, Relay, beside_others, connect, echo_once, http_get, kubectl, kubectl_apply, wait_until,
};

/// After readiness has changed, new connections may go wrong for this long.
const FOLLOWED: Duration = Duration::from_secs(1);

const WORKLOAD: &str = r#"{"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "moving"}, "spec": {
  "replicas": 2,
  "serviceName": "moving",
  "podManagementPolicy": "Parallel",
  "selector": {"matchLabels": {"app": "moving"}},
  "template": {"metadata": {"labels": {"app": "moving"}}, "spec": {
    "terminationGracePeriodSeconds": 1,
    "containers": [{
      "name": "workload", "image": "relay.test/workload:1", "imagePullPolicy": "IfNotPresent",
      "args": ["serve"],
      "ports": [{"name": "http", "containerPort": 8080}, {"name": "banner", "containerPort": 7008}],
      "readinessProbe": {"httpGet": {"path": "/healthz", "port": "http"}, "periodSeconds": 1, "failureThreshold": 1, "timeoutSeconds": 10}
    }]
  }}
}}"#;

fn workload(purpose: &str) -> Namespace {
    let namespace = Namespace::new(purpose, &[]);
    kubectl_apply(namespace.name(), WORKLOAD);
    kubectl(&["rollout", "status", "sts/moving", "-n", namespace.name(), "--timeout=120s"]);
    namespace
}

/// Whether the next connections go to this pod alone.
fn only(address: SocketAddr, pod: &str) -> bool {
    (0..10).all(|_| http_get(address, "/").is_ok_and(|page| page.contains(pod)))
}

#[test]
fn readiness_is_followed_within_a_second() {
    let _beside = beside_others();
    let namespace = workload("readiness");
    let name = namespace.name();
    let (relay, address) = Relay::start(&["-n", name, "sts/moving", ":http", "pod/moving-0", ":http"]);
    let first = relay.next_forward();
    let ready = |wanted: bool| {
        let condition = format!("--for=condition=Ready={wanted}");
        kubectl(&["wait", "pod/moving-0", "-n", name, &condition, "--timeout=60s"]);
        Instant::now()
    };
    assert!(!only(address, "moving-1"), "both pods serve");
    http_get(first, "/ready/off").unwrap();
    let changed = ready(false);
    wait_until("nothing new goes to the pod that is not ready", FOLLOWED, || only(address, "moving-1"));
    println!("a pod turned unready: left alone {:?} after kubectl saw it", changed.elapsed());
    http_get(first, "/ready/on").unwrap();
    let changed = ready(true);
    wait_until("the pod serves again", FOLLOWED, || !only(address, "moving-1"));
    println!("a pod turned ready: used {:?} after kubectl saw it", changed.elapsed());
}

#[test]
fn a_pod_that_is_deleted_takes_its_own_connections_along_and_no_other() {
    let _beside = beside_others();
    let namespace = workload("deleted");
    let (_relay, address) = Relay::start(&["-n", namespace.name(), "sts/moving", ":banner"]);
    let mut connections: Vec<(String, TcpStream)> = (0..10)
        .map(|_| {
            let stream = connect(address);
            let mut banner = String::new();
            // Nothing follows the banner, so nothing is lost in the reader.
            BufReader::new(&stream).read_line(&mut banner).unwrap();
            (banner, stream)
        })
        .collect();
    let (doomed, others): (Vec<_>, Vec<_>) =
        connections.iter_mut().partition(|(banner, _)| banner.contains("moving-0"));
    assert!(!doomed.is_empty() && !others.is_empty(), "both pods have connections");
    let deleted = Instant::now();
    kubectl(&["delete", "pod", "moving-0", "-n", namespace.name(), "--grace-period=1", "--wait=false"]);
    for (banner, stream) in doomed {
        match stream.read(&mut [0]) {
            Ok(0) => {} // the program in the pod ended it
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
            other => panic!("{banner}: {other:?}"),
        }
    }
    println!("a deleted pod's connections ended after {:?}", deleted.elapsed());
    for (_, stream) in others {
        echo_once(stream, b"still here").unwrap();
    }
    assert!(connect(address).read(&mut [0]).is_ok_and(|len| len == 1), "a new connection goes to a live pod");
}
