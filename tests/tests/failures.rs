//! What goes wrong is said in one sentence, with a hint, soon, and with the right exit code.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that fails here should panic")]

use std::io::{ErrorKind, Read as _};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use relay_tests::{Exited, Namespace, Relay, Took, connect, in_time, kubectl_apply};

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

/// Starts it, which cannot work and waits until its time is up, and looks how soon it says why.
fn said(args: &[&str], why: &str, limit: Duration) -> (Took, Exited) {
    let relay = Relay::spawn(args);
    let said = relay.said(why, limit).unwrap_or_else(|| relay.age());
    let exited = relay.wait(Duration::from_secs(20));
    assert_eq!(exited.code, Some(1), "{}", exited.stderr);
    println!("{}", exited.stderr);
    (Took::new(format!("{why:?} was said"), said, limit), exited)
}

/// Connects, which must be reset at once; then the reason is said.
fn is_reset(relay: &Relay, address: SocketAddr, why: &str) -> [Took; 2] {
    let since = Instant::now();
    assert_eq!(connect(address).read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    let reset = since.elapsed();
    relay.wait_stderr(why, Duration::from_secs(30));
    [
        Took::new("the connection was reset", reset, SOON),
        Took::new(format!("{why:?} was said"), since.elapsed() - reset, SOON),
    ]
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
    let only = "--agent-source=image";
    let args = ["-n", namespace.name(), only, image, "--pod-running-timeout=8s", WEB, ":80"];
    in_time(|| {
        // The runtime itself takes a moment to find out.
        let (took, exited) = said(&args, "relay.test/no-such-image:1", SOON * 2);
        assert!(exited.stderr.contains("hint:"), "{}", exited.stderr);
        [took]
    });
}

#[test]
fn an_image_that_no_runtime_could_use_ends_the_run_at_once() {
    let namespace = Namespace::new("image", &[]);
    let only = "--agent-source=image";
    let args = ["-n", namespace.name(), only, "--server.image=Not/An:Image:Name", WEB, ":80"];
    in_time(|| {
        let exited = fails(&args, 1, &["Not/An:Image:Name", "hint:"]);
        [Took::new("an unusable image ended the run", exited.took, SOON * 2)]
    });
}

#[test]
fn a_pod_that_fits_no_node_is_said_and_waited_for() {
    let namespace = Namespace::new("unschedulable", &[]);
    let args =
        ["-n", namespace.name(), "--server.node-selector=no=node", "--pod-running-timeout=6s", WEB, ":80"];
    in_time(|| [said(&args, "node", SOON + Duration::from_secs(1)).0]);
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
    let args = ["-n", namespace.name(), "--pod-running-timeout=6s", WEB, ":80"];
    in_time(|| [said(&args, "quota", SOON + Duration::from_secs(1)).0]);
}

#[test]
fn pod_security_that_refuses_a_patched_pod_names_its_rule() {
    let namespace = Namespace::new("refused", &["pod-security.kubernetes.io/enforce=restricted"]);
    let patch = r#"{"spec":{"hostNetwork":true}}"#;
    let args = ["-n", namespace.name(), "--pod-running-timeout=6s", "-p", patch, WEB, ":80"];
    in_time(|| [said(&args, "PodSecurity", SOON + Duration::from_secs(1)).0]);
}

#[test]
fn an_unknown_name_resets_the_connection_at_once_and_says_so() {
    in_time(|| {
        let (relay, address) = Relay::start(&["host/no-such-name.invalid", ":80"]);
        is_reset(&relay, address, "no-such-name.invalid")
    });
}

#[test]
fn a_refused_port_is_said() {
    in_time(|| {
        let (relay, address) = Relay::start(&["pod/pod-echo", ":7099"]);
        is_reset(&relay, address, "nothing listens on port 7099")
    });
}

#[test]
fn a_black_hole_is_given_up_at_its_time_limit() {
    // Addresses of this range (RFC 5737) swallow packets in the test cluster.
    in_time(|| {
        let (relay, address) = Relay::start(&["ip/192.0.2.1", ":80"]);
        let since = Instant::now();
        assert_eq!(connect(address).read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
        let took = since.elapsed();
        assert!(took >= Duration::from_secs(8), "{took:?}");
        relay.wait_stderr("no answer", Duration::from_secs(30));
        [
            Took::new("the connection was reset", took, Duration::from_secs(13)),
            Took::new("the reason was said", since.elapsed() - took, SOON),
        ]
    });
}
