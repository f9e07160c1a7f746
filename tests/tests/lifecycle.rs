//! How the agent comes and goes, and what the plugin leaves behind: nothing.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that fails here should panic")]

use std::net::TcpListener;
use std::time::Duration;

use relay_tests::{Namespace, Relay, Signal, Took, echo_once, http_get, in_time, kubectl, wait_until};

const WEB: &str = "host/web.default.svc.cluster.local";
/// How soon the plugin ends, and its Job and pod after it.
const SOON: Duration = Duration::from_secs(5);

#[test]
fn signals_end_it_in_order_and_leave_nothing() {
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        in_time(|| {
            let namespace = Namespace::new("signals", &[]);
            let (relay, address) = Relay::start(&["-n", namespace.name(), WEB, ":80"]);
            assert!(http_get(address, "/").is_ok());
            let exited = relay.stop(signal);
            assert_eq!(exited.code, Some(0), "{signal:?}: {}", exited.stderr);
            let gone = || namespace.agents().is_empty();
            let gone = wait_until("Job and pod are gone", Duration::from_secs(60), gone);
            [
                Took::new(format!("{signal:?} ended the plugin"), exited.took, SOON),
                Took::new("Job and pod were gone", gone, SOON),
            ]
        });
    }
}

#[test]
fn a_killed_plugin_leaves_an_agent_that_ends_itself_and_its_job() {
    let namespace = Namespace::new("killed", &[]);
    let args = ["-n", namespace.name(), "--agent-idle", "5s", WEB, ":80"];
    let (relay, address) = Relay::start(&args);
    assert!(http_get(address, "/").is_ok());
    assert!(!namespace.agents().is_empty());
    relay.signal(Signal::KILL);
    // A session without lanes and streams lives a minute; then the idle time; then the Job's own ten seconds.
    let gone = wait_until("Job and pod are gone", Duration::from_secs(120), || namespace.agents().is_empty());
    println!("after SIGKILL the agent, its Job and its pod were gone in {gone:?}");
}

#[test]
fn a_busy_local_port_fails_before_anything_is_made_in_the_cluster() {
    let namespace = Namespace::new("busy", &[]);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let exited =
        Relay::spawn(&["-n", namespace.name(), WEB, &format!("{port}:80")]).wait(Duration::from_secs(10));
    assert_eq!(exited.code, Some(1));
    assert!(
        exited.stderr.contains(&port.to_string()) && exited.stderr.contains("hint:"),
        "{}",
        exited.stderr
    );
    assert_eq!(kubectl(&["get", "events,jobs", "-n", namespace.name(), "-o", "name"]), "");
}

#[test]
fn pod_security_restricted_needs_no_patch() {
    let namespace = Namespace::new("restricted", &["pod-security.kubernetes.io/enforce=restricted"]);
    let (relay, address) = Relay::start(&["-n", namespace.name(), WEB, ":80"]);
    assert!(http_get(address, "/").is_ok());
    assert!(!relay.stderr().to_lowercase().contains("warning"), "{}", relay.stderr());
}

#[test]
fn the_agent_may_live_in_another_namespace() {
    let namespace = Namespace::new("agent", &[]);
    let (_relay, address) = Relay::start(&["--server.namespace", namespace.name(), "svc/web", ":http"]);
    assert!(http_get(address, "/").is_ok());
    assert!(!namespace.agents().is_empty());
}

#[test]
fn a_patch_reaches_the_agent_and_what_it_needs_stays() {
    let namespace = Namespace::new("patch", &[]);
    let patch = r#"{"metadata":{"labels":{"team":"blue"}},"spec":{"priority":null,"hostname":"relay","containers":[{"name":"agent","args":["--nonsense"]}]}}"#;
    let (_relay, address) = Relay::start(&["-n", namespace.name(), "-p", patch, WEB, ":80"]);
    assert!(http_get(address, "/").is_ok());
    let name = kubectl(&["get", "pods", "-n", namespace.name(), "-l", "team=blue", "-o", "name"]);
    assert!(name.starts_with("pod/"), "{name}");
}

#[test]
fn an_agent_that_is_deleted_is_replaced_and_the_forward_goes_on() {
    let namespace = Namespace::new("replaced", &[]);
    let (_relay, address) = Relay::start(&["-n", namespace.name(), "--drain-grace=5s", WEB, ":7007@tcp"]);
    let mut old = relay_tests::connect(address);
    echo_once(&mut old, b"old").unwrap();
    let agent = kubectl(&["get", "pods", "-n", namespace.name(), "-o", "name"]);
    kubectl(&["delete", &agent, "-n", namespace.name(), "--wait=false"]);
    wait_until("another agent is there", Duration::from_secs(20), || {
        namespace.agents().lines().any(|line| line.starts_with("pod/") && line != agent)
    });
    let back = wait_until("new connections work", Duration::from_secs(20), || {
        echo_once(&mut relay_tests::connect(address), b"new").is_ok()
    });
    println!("new connections worked {back:?} after another agent appeared");
    // The old agent lets its streams finish for a while, and resets what is left.
    let reset = wait_until("a lost agent resets its streams", Duration::from_secs(60), || {
        echo_once(&mut old, b"still there?").is_err()
    });
    println!("the old stream was reset {reset:?} later");
}
