//! Targets files: several namespaces through one agent, and errors that name the line.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that fails here should panic")]

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, UdpSocket};
use std::process::Command;
use std::time::{Duration, Instant};

use relay_tests::{
    Namespace, Relay, Signal, admin_kubeconfig, connect, echo_once, http_get, kubectl, wait_until,
};
use relay_workload::MARKER;

/// As users of krelay have them, with four local ports from `first` on.
fn targets(first: u16) -> String {
    let (page, local) = (first + 1, first + 2);
    format!(
        "# A target on each line, as on the command line.\n\n\
         -n kube-system svc/kube-dns {first}:53@udp\n\
         // what has no namespace is in the current one\n\
         svc/web {page}:80\n\
         -l 127.0.0.1 host/web.default.svc.cluster.local {local}:80\n\
         -n=kube-system svc/kube-dns {first}:53@tcp   # TCP too\n"
    )
}

fn file(text: &str) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    file
}

/// A query for the name servers of the root: any answer will do.
const QUERY: [u8; 17] = [7, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 1];

fn works(relay: &Relay, first: u16, namespace: &Namespace) {
    for _ in 0..4 {
        relay.next_forward();
    }
    let local = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
    let mut answer = [0; 1500];
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    udp.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let asked = (0..3).any(|_| udp.send_to(&QUERY, local(first)).is_ok() && udp.recv(&mut answer).is_ok());
    assert!(asked && answer[..2] == QUERY[..2], "{}", relay.stderr());
    for port in [first + 1, first + 2] {
        assert!(http_get(local(port), "/").unwrap().contains(MARKER));
    }
    let mut stream = connect(local(first));
    stream.write_all(&[&[0, 17], &QUERY[..]].concat()).unwrap();
    stream.read_exact(&mut answer[..4]).unwrap();
    assert_eq!(answer[2..4], QUERY[..2]);
    let agents = namespace.agents();
    assert_eq!(agents.lines().filter(|line| line.starts_with("pod/")).count(), 1, "{agents}");
}

#[test]
fn one_agent_serves_the_targets_of_several_namespaces() {
    let namespace = Namespace::new("file", &[]);
    let file = file(&targets(18_100));
    let relay = Relay::spawn(&["--server.namespace", namespace.name(), "-f", file.path().to_str().unwrap()]);
    works(&relay, 18_100, &namespace);
    let exited = relay.stop(Signal::INT);
    assert_eq!(exited.code, Some(0), "{}", exited.stderr);
    wait_until("Job and pod are gone", Duration::from_secs(20), || namespace.agents().is_empty());
}

#[test]
fn standard_input_is_a_file_too() {
    let namespace = Namespace::new("stdin", &[]);
    let file = file(&targets(18_110));
    let mut command = Command::new("sh");
    command
        .args(["-c", "file=$1; shift; exec \"$@\" <\"$file\"", "sh"])
        .arg(file.path())
        .arg(Relay::program());
    command.args(["--server.namespace", namespace.name(), "-f", "-"]).env("KUBECONFIG", admin_kubeconfig());
    works(&Relay::spawn_command(command), 18_110, &namespace);
}

#[test]
fn files_and_the_command_line_add_up() {
    let (one, two) = (file("svc/web :80"), file("-n default pod/pod-echo 18120:7007@tcp"));
    let files = [one.path().to_str().unwrap(), two.path().to_str().unwrap()];
    let (relay, _) = Relay::start(&["host/web", ":80", "-f", files[0], "-f", files[1], "--log-connections"]);
    for _ in 1..3 {
        relay.next_forward();
    }
    echo_once(&mut connect(SocketAddr::from(([127, 0, 0, 1], 18_120))), b"hello").unwrap();
    relay.wait_stderr(
        "target=pod/pod-echo port=7007/tcp sent=5 received=5 status=\"ok\"",
        Duration::from_secs(5),
    );
}

#[test]
fn each_context_has_an_agent_of_its_own() {
    let namespace = Namespace::new("context", &[]);
    let kubeconfig = tempfile::NamedTempFile::new().unwrap();
    std::fs::copy(admin_kubeconfig(), kubeconfig.path()).unwrap();
    let path = kubeconfig.path().to_str().unwrap();
    let of_context = |what: &str| {
        kubectl(&[
            "--kubeconfig",
            path,
            "config",
            "view",
            "-o",
            &format!("jsonpath={{.contexts[0].context.{what}}}"),
        ])
    };
    let (cluster, user) =
        (format!("--cluster={}", of_context("cluster")), format!("--user={}", of_context("user")));
    let in_namespace = format!("--namespace={}", namespace.name());
    kubectl(&["--kubeconfig", path, "config", "set-context", "other", &cluster, &user, &in_namespace]);

    let file = file("svc/web 18130:80\n--context other host/web.default.svc.cluster.local 18131:80\n");
    let relay = Relay::spawn_as(kubeconfig.path(), &["-f", file.path().to_str().unwrap()]);
    for _ in 0..2 {
        relay.next_forward();
    }
    for port in [18_130, 18_131] {
        assert!(http_get(SocketAddr::from(([127, 0, 0, 1], port)), "/").unwrap().contains(MARKER));
    }
    let agents = namespace.agents();
    assert_eq!(agents.lines().filter(|line| line.starts_with("pod/")).count(), 1, "{agents}");
    let exited = relay.stop(Signal::INT);
    assert_eq!(exited.code, Some(0), "{}", exited.stderr);
    wait_until("Job and pod are gone", Duration::from_secs(20), || namespace.agents().is_empty());
}

#[test]
fn what_the_cluster_says_is_told_with_file_and_line() {
    let namespace = Namespace::new("line", &[]);
    let file = file("svc/web :80\n\n-n kube-system svc/missing :80\n");
    let path = file.path().to_str().unwrap();
    let exited =
        Relay::spawn(&["--server.namespace", namespace.name(), "-f", path]).wait(Duration::from_secs(20));
    assert_eq!(exited.code, Some(1), "{}", exited.stderr);
    let expected =
        format!("error: {path}:3: services \"missing\" not found in namespace \"kube-system\"\nhint: ");
    assert!(exited.stderr.starts_with(&expected), "{}", exited.stderr);
    assert_eq!(namespace.agents(), "");
}

#[test]
fn connections_are_told_of_as_events() {
    let (relay, address) = Relay::start(&["-o", "json", "--log-connections", "svc/web", ":80", ":closed"]);
    let closed = relay.next_forward();
    let since = Instant::now();
    http_get(address, "/").unwrap();
    assert!(connect(closed).read(&mut [0]).is_err());
    let ended = |status: u64| {
        relay
            .wait_event("a connection", since, Duration::from_secs(5), |event| {
                event.value["event"] == "connection" && event.value["status"] == status
            })
            .value
    };
    let (fine, refused) = (ended(1), ended(7));
    assert!(fine["received"].as_u64().unwrap() > 0 && fine["by"].is_null(), "{fine}");
    assert_eq!((&refused["target"], &refused["by"]), (&"svc/web".into(), &"remote".into()), "{refused}");
}
