//! What goes wrong is said in one sentence, with a hint, soon, and with the right exit code.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that fails here should panic")]

use std::io::{ErrorKind, Read as _};
use std::time::{Duration, Instant};

use relay_tests::{Exited, Namespace, Relay, connect, kubectl_apply};

/// How soon a diagnosis is due.
const SOON: Duration = Duration::from_secs(3);
const WEB: &str = "host/web.default.svc.cluster.local";

fn fails(args: &[&str], code: i32, words: &[&str]) -> Exited {
    let exited = Relay::spawn(args).wait(Duration::from_secs(30));
    assert_eq!(exited.code, Some(code), "{args:?}: {}", exited.stderr);
    assert_eq!(exited.stdout, "", "{args:?}");
    for word in words {
        assert!(exited.stderr.contains(word), "{args:?}: {word:?} is missing in:\n{}", exited.stderr);
    }
    exited
}

#[test]
fn misuse_exits_with_two_and_says_what_to_type() {
    for args in [
        &["svc/web"][..],
        &["svc/", "80"],
        &["svc/web", "notaport:x:y"],
        &["svc/web", "70000"],
        &["ip/not-an-address", "80"],
        &["svc/web", "80", "--lanes=0"],
        &["svc/web", "80@sctp"],
    ] {
        fails(args, 2, &["hint:"]);
    }
}

#[test]
fn what_is_not_there_is_named() {
    fails(&["svc/missing", ":80"], 1, &["missing", "hint:"]);
    fails(&["svc/web", "nosuchport"], 1, &["nosuchport", "hint:"]);
    fails(&["nosuchkind/web", ":80"], 1, &["nosuchkind", "hint:"]);
}

#[test]
fn a_cluster_that_does_not_answer_is_named() {
    fails(&["--server", "https://127.0.0.1:1", "svc/web", ":80"], 1, &["127.0.0.1:1", "hint:"]);
}

#[test]
fn an_image_that_can_not_be_pulled_is_said_and_waited_for() {
    let namespace = Namespace::new("image", &[]);
    let image = "--server.image=relay.test/no-such-image:1";
    let relay = Relay::spawn(&["-n", namespace.name(), image, "--pod-running-timeout=8s", WEB, ":80"]);
    // The runtime itself takes a moment to find out.
    let said = relay.wait_stderr("relay.test/no-such-image:1", SOON * 2);
    let exited = relay.wait(Duration::from_secs(20));
    assert_eq!(exited.code, Some(1), "{}", exited.stderr);
    assert!(exited.stderr.contains("hint:"), "{}", exited.stderr);
    println!("an image that can't be pulled was said after {said:?}");
}

#[test]
fn an_image_that_no_runtime_could_use_ends_the_run_at_once() {
    let namespace = Namespace::new("image", &[]);
    let args = ["-n", namespace.name(), "--server.image=Not/An:Image:Name", WEB, ":80"];
    let exited = fails(&args, 1, &["Not/An:Image:Name", "hint:"]);
    println!("an unusable image was said after {:?}", exited.took);
    assert!(exited.took < SOON * 2, "{:?}", exited.took);
}

#[test]
fn a_pod_that_fits_no_node_is_said_and_waited_for() {
    let namespace = Namespace::new("unschedulable", &[]);
    let args =
        ["-n", namespace.name(), "--server.node-selector=no=node", "--pod-running-timeout=6s", WEB, ":80"];
    let relay = Relay::spawn(&args);
    let said = relay.wait_stderr("node", SOON + Duration::from_secs(1));
    let exited = relay.wait(Duration::from_secs(20));
    assert_eq!(exited.code, Some(1), "{}", exited.stderr);
    println!("unschedulable was said after {said:?}");
}

#[test]
fn a_quota_that_forbids_the_pod_is_said_and_waited_for() {
    let namespace = Namespace::new("quota", &[]);
    let quota = r#"{"apiVersion":"v1","kind":"ResourceQuota","metadata":{"name":"none"},"spec":{"hard":{"pods":"0"}}}"#;
    kubectl_apply(namespace.name(), quota);
    relay_tests::wait_until("the quota is in force", Duration::from_secs(10), || {
        !relay_tests::kubectl(&[
            "get",
            "quota",
            "none",
            "-n",
            namespace.name(),
            "-o",
            "jsonpath={.status.hard}",
        ])
        .is_empty()
    });
    let relay = Relay::spawn(&["-n", namespace.name(), "--pod-running-timeout=6s", WEB, ":80"]);
    let said = relay.wait_stderr("quota", SOON + Duration::from_secs(1));
    let exited = relay.wait(Duration::from_secs(20));
    assert_eq!(exited.code, Some(1), "{}", exited.stderr);
    println!("the quota was said after {said:?}");
}

#[test]
fn pod_security_that_refuses_a_patched_pod_names_its_rule() {
    let namespace = Namespace::new("refused", &["pod-security.kubernetes.io/enforce=restricted"]);
    let patch = r#"{"spec":{"hostNetwork":true}}"#;
    let args = ["-n", namespace.name(), "--pod-running-timeout=6s", "-p", patch, WEB, ":80"];
    let relay = Relay::spawn(&args);
    relay.wait_stderr("PodSecurity", SOON + Duration::from_secs(1));
    assert_eq!(relay.wait(Duration::from_secs(20)).code, Some(1));
}

#[test]
fn an_unknown_name_resets_the_connection_at_once_and_says_so() {
    let (relay, address) = Relay::start(&["host/no-such-name.invalid", ":80"]);
    let since = Instant::now();
    assert_eq!(connect(address).read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert!(since.elapsed() < SOON, "{:?}", since.elapsed());
    relay.wait_stderr("no-such-name.invalid", SOON);
}

#[test]
fn a_refused_port_is_said() {
    let (relay, address) = Relay::start(&["pod/pod-echo", ":7099"]);
    assert_eq!(connect(address).read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    relay.wait_stderr("refuses", SOON);
}

#[test]
fn a_black_hole_is_given_up_at_its_time_limit() {
    // Addresses of this range (RFC 5737) swallow packets in the test cluster.
    let (relay, address) = Relay::start(&["ip/192.0.2.1", ":80"]);
    let since = Instant::now();
    assert_eq!(connect(address).read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    let took = since.elapsed();
    assert!((Duration::from_secs(8)..Duration::from_secs(13)).contains(&took), "{took:?}");
    relay.wait_stderr("no answer", SOON);
}
