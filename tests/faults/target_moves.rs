//! The pods behind a workload come and go. A pod that turns unready gets no new connection a second later; one that is
//! deleted takes its own connections with it, and no other.

use std::io::{self, BufRead as _, BufReader, ErrorKind, Read as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use relay_tests::{Namespace, Relay, beside_others, connect, echo_once, http_get, kubectl, kubectl_apply};

/// After readiness has changed, new connections may go wrong for this long.
const FOLLOWED: Duration = Duration::from_secs(1);
/// Connections that are looked at after that, and how long they may take in all.
const ENOUGH: usize = 10;
const PATIENCE: Duration = Duration::from_secs(15);

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

/// A page, and when it was asked for.
struct Asked {
    begun: Instant,
    page: io::Result<String>,
}

impl Asked {
    fn is_from(&self, pod: &str) -> bool {
        self.page.as_ref().is_ok_and(|page| page.contains(pod))
    }
}

/// Asks for one page after the other until enough were asked for after `followed`: those before, and those after.
fn ask(address: SocketAddr, followed: Instant) -> (Vec<Asked>, Vec<Asked>) {
    let (mut before, mut after) = (Vec::new(), Vec::new());
    while after.len() < ENOUGH {
        let begun = Instant::now();
        let asked = Asked { begun, page: http_get(address, "/") };
        let pages = if begun > followed { &mut after } else { &mut before };
        pages.push(asked);
        assert!(followed.elapsed() < PATIENCE, "{} pages in {PATIENCE:?}", after.len());
    }
    (before, after)
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
    let (_, at_first) = ask(address, Instant::now());
    assert!(at_first.iter().any(|asked| asked.is_from("moving-0")), "both pods serve");
    http_get(first, "/ready/off").unwrap();
    let changed = ready(false);
    let (before, after) = ask(address, changed + FOLLOWED);
    let last = before.iter().rfind(|asked| !asked.is_from("moving-1")).map(|asked| asked.begun - changed);
    println!("a pod turned unready: asked for the last time {last:?} after kubectl saw it");
    for asked in after {
        let (late, page) = (asked.begun - changed, &asked.page);
        assert!(asked.is_from("moving-1"), "asked for {late:?} after a pod turned unready: {page:?}");
    }
    http_get(first, "/ready/on").unwrap();
    let changed = ready(true);
    let (before, after) = ask(address, changed + FOLLOWED);
    let first = before.iter().chain(&after).find(|asked| asked.is_from("moving-0"));
    println!("a pod turned ready: used {:?} after kubectl saw it", first.map(|asked| asked.begun - changed));
    assert!(after.iter().any(|asked| asked.is_from("moving-0")), "the pod serves again");
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
