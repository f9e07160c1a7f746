//! The cases by which Kubernetes itself tests `kubectl port-forward`, done with `kubectl relay` instead: to a pod that
//! listens everywhere, to one that listens on its loopback only, and to that one without an agent.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that fails here should panic")]

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr},
    time::Duration,
};

use relay_tests::{
    Namespace, Relay, Signal, connect, download, half_close, http_get, kubectl, kubectl_apply, upload,
    wait_until,
};
use relay_workload::{BANNER, MARKER};

const MIB: u64 = 1 << 20;
/// How long it may take until the removal of a pod is told.
const TOLD: Duration = Duration::from_secs(20);

/// Where a pod listens, and how it is reached.
#[derive(Debug, Clone, Copy)]
enum Server {
    Everywhere,
    OnLoopback,
    OnLoopbackWithoutAgent,
}

const ALL: [Server; 3] = [Server::Everywhere, Server::OnLoopback, Server::OnLoopbackWithoutAgent];

/// A namespace with one pod.
fn pod(server: Server) -> Namespace {
    let namespace = Namespace::new("cases", &[]);
    let args = match server {
        Server::Everywhere => r#"["serve"]"#,
        Server::OnLoopback | Server::OnLoopbackWithoutAgent => r#"["serve","--loopback"]"#,
    };
    kubectl_apply(
        namespace.name(),
        &format!(
            r#"{{"apiVersion":"v1","kind":"Pod","metadata":{{"name":"server"}},"spec":{{
               "terminationGracePeriodSeconds":1,"containers":[{{"name":"workload","image":"relay.test/workload:1",
               "imagePullPolicy":"IfNotPresent","args":{args}}}]}}}}"#
        ),
    );
    kubectl(&["wait", "pod/server", "-n", namespace.name(), "--for=condition=Ready", "--timeout=60s"]);
    namespace
}

/// Forwards to the pod's ports; gives the local address of each.
fn forward<const N: usize>(
    namespace: &Namespace,
    server: Server,
    ports: [&str; N],
) -> (Relay, [SocketAddr; N]) {
    let source: &[&str] = match server {
        Server::OnLoopbackWithoutAgent => &["--agent-source", "none"],
        Server::Everywhere | Server::OnLoopback => &[],
    };
    let begin = ["-n", namespace.name(), "-l", "127.0.0.1", "pod/server"];
    let relay = Relay::spawn(&[source, &begin[..], &ports[..]].concat());
    let addresses = ports.map(|_| relay.next_forward());
    (relay, addresses)
}

fn ends_well(relay: Relay) {
    let exited = relay.stop(Signal::INT);
    assert_eq!(exited.code, Some(0), "{}", exited.stderr);
}

#[test]
fn a_client_that_connects_and_leaves_without_a_word() {
    for server in ALL {
        let namespace = pod(server);
        let (relay, [echo, web]) = forward(&namespace, server, [":7007", ":8080"]);
        for _ in 0..3 {
            drop(connect(echo));
        }
        assert!(http_get(web, "/").unwrap().contains(MARKER), "{server:?}");
        ends_well(relay);
    }
}

#[test]
fn a_client_that_sends_ends_its_side_and_reads_the_answer() {
    // The end of one direction does not reach a pod without an agent: what that means is told in docs/without-agent.md.
    for server in [Server::Everywhere, Server::OnLoopbackWithoutAgent] {
        let namespace = pod(server);
        let (relay, [source, half, sink]) = forward(&namespace, server, [":7010", ":7011", ":7009"]);
        let mut stream = connect(source);
        writeln!(stream, "{MIB}").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        relay_tests::receive_pattern(&mut stream, MIB).unwrap_or_else(|error| panic!("{server:?}: {error}"));
        if matches!(server, Server::Everywhere) {
            upload(sink, MIB).unwrap();
            half_close(half, Duration::from_secs(2), MIB).unwrap();
        }
        ends_well(relay);
    }
}

#[test]
fn a_server_that_speaks_without_being_asked() {
    for server in ALL {
        let namespace = pod(server);
        let (relay, [banner]) = forward(&namespace, server, [":7008"]);
        let mut stream = connect(banner);
        let mut said = vec![0; BANNER.len()];
        stream.read_exact(&mut said).unwrap();
        assert_eq!(said, BANNER.as_bytes(), "{server:?}");
        drop(stream);
        ends_well(relay);
    }
}

#[test]
fn a_client_that_leaves_in_the_middle_of_40_megabytes() {
    for server in ALL {
        let namespace = pod(server);
        let (relay, [source]) = forward(&namespace, server, [":7010"]);
        let mut stream = connect(source);
        writeln!(stream, "{}", 40 * MIB).unwrap();
        stream.read_exact(&mut vec![0; 1 << 20]).unwrap();
        drop(stream);
        download(source, 40 * MIB).unwrap_or_else(|error| panic!("{server:?}: {error}; {}", relay.stderr()));
        ends_well(relay);
    }
}

#[test]
fn a_pod_that_is_removed() {
    for server in ALL {
        let namespace = pod(server);
        let (relay, [echo]) = forward(&namespace, server, [":7007"]);
        let mut stream = connect(echo);
        relay_tests::echo_once(&mut stream, b"hello").unwrap();
        kubectl(&["delete", "pod", "server", "-n", namespace.name(), "--wait=false"]);
        // What was open ends, and is not left hanging.
        let ended = stream.read(&mut [0]);
        assert!(!matches!(ended, Ok(1..)), "{server:?}: {ended:?}");
        relay.wait_stderr("; new connections are reset", TOLD);
        wait_until("new connections are reset", TOLD, || {
            let mut stream = connect(echo);
            let _ = stream.write_all(b"hello");
            !matches!(stream.read(&mut [0; 5]), Ok(1..))
        });
        ends_well(relay);
    }
}
