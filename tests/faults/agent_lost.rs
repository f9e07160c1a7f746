//! The agent itself goes: deleted at once, or evicted and asked to end. Another one takes its place; listeners stay,
//! local UDP programs notice a pause, and what was open on the old one is reset with that reason.

use std::io::{ErrorKind, Read as _};
use std::net::UdpSocket;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use relay_tests::{
    AGENT_LABEL, Agent, Namespace, Relay, Took, beside_others, connect, echo_once, in_time, kubectl,
    wait_until,
};

/// New connections work within this time, and on a machine where a pod takes as long to start, soon after a start's.
const NEW: Duration = Duration::from_secs(5);
const BEYOND_A_START: Duration = Duration::from_secs(2);
/// Where nobody waits for them to finish, old streams are reset within this time.
const RESET: Duration = Duration::from_secs(5);
/// The statuses that an old stream may end with: its agent was lost, or had time to say that it ends.
const AGENT_LOST: u64 = 13;
const SHUTTING_DOWN: u64 = 12;
const TARGET: &str = "host/web.default.svc.cluster.local";

/// A local UDP program that knows nothing of relays: one socket, a message ten times a second.
struct UdpProgram {
    stop: Arc<AtomicBool>,
    answers: Receiver<Instant>,
    thread: JoinHandle<()>,
}

impl UdpProgram {
    fn start(address: SocketAddr) -> Self {
        let (stop, (sender, answers)) = (Arc::new(AtomicBool::new(false)), channel());
        let stopped = stop.clone();
        let thread = thread::spawn(move || {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            socket.connect(address).unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
            for number in 0u32.. {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                let _ = socket.send(&number.to_be_bytes());
                let mut answer = [0; 8];
                if let Ok(len) = socket.recv(&mut answer) {
                    assert_eq!(len, 4, "an answer as long as the question");
                    let _ = sender.send(Instant::now());
                    thread::sleep(Duration::from_millis(100));
                }
            }
        });
        Self { stop, answers, thread }
    }

    fn answered_after(&self, since: Instant, limit: Duration) -> Instant {
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let answer = self.answers.recv_timeout(left).expect("a UDP program gets answers");
            if answer > since {
                return answer;
            }
        }
    }

    fn finish(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the UDP program");
    }
}

/// The start of a pod is nearly all of it.
fn new_connections(time: Duration, relay: &Relay) -> Took {
    let first_start = relay.first_ready().expect("it was ready before");
    Took::new("new connections worked", time, NEW.max(first_start + BEYOND_A_START))
}

fn agent_pod(namespace: &Namespace) -> String {
    kubectl(&[
        "get",
        "pods",
        "-n",
        namespace.name(),
        "-l",
        AGENT_LABEL,
        "-o",
        "jsonpath={.items[0].metadata.name}",
    ])
}

#[test]
fn a_killed_agent_is_replaced() {
    let _beside = beside_others();
    in_time(lose_by_a_kill);
}

fn lose_by_a_kill() -> [Took; 2] {
    let (relay, namespace, echo, program, mut old) = started("killed");
    let killed = Instant::now();
    // As the kernel does when memory is short.
    Agent::of(namespace.name()).kill();
    let lost = relay.wait_state("agentLost", killed, Duration::from_secs(20));
    let took = goes_on("killed", &relay, killed, echo, program, &mut old);
    let ready = relay.wait_state("ready", lost.at, Duration::from_secs(5));
    assert!(
        ready.value["downSeconds"].as_f64().is_some_and(|gap| gap > 0.0),
        "the gap is told: {}",
        ready.value
    );
    let reason = lost.value["reason"].as_str().unwrap_or_default();
    println!("agent killed: told after {:?}: {reason}", lost.at - killed);
    assert!(!reason.is_empty());
    took
}

#[test]
fn an_agent_deleted_at_once_is_replaced() {
    let _beside = beside_others();
    in_time(lose_by_deletion);
}

fn lose_by_deletion() -> [Took; 2] {
    let (relay, namespace, echo, program, mut old) = started("deleted");
    let pod = agent_pod(&namespace);
    let deleted = Instant::now();
    kubectl(&["delete", "pod", &pod, "-n", namespace.name(), "--force", "--grace-period=0", "--wait=false"]);
    goes_on("deleted", &relay, deleted, echo, program, &mut old)
}

fn started(purpose: &str) -> (Relay, Namespace, SocketAddr, UdpProgram, TcpStream) {
    let namespace = Namespace::new(purpose, &[]);
    let (relay, echo) =
        Relay::start(&["-o", "json", "-n", namespace.name(), TARGET, ":7007@tcp", ":7007@udp"]);
    let program = UdpProgram::start(relay.next_forward());
    let mut old = connect(echo);
    echo_once(&mut old, b"old").unwrap();
    program.answered_after(Instant::now(), Duration::from_secs(20));
    (relay, namespace, echo, program, old)
}

/// What has to hold after an agent was lost at `lost`.
fn goes_on(
    how: &str,
    relay: &Relay,
    lost: Instant,
    echo: SocketAddr,
    program: UdpProgram,
    old: &mut TcpStream,
) -> [Took; 2] {
    assert_eq!(old.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    let reset = lost.elapsed();
    wait_until("new connections work", Duration::from_secs(30), || {
        echo_once(&mut connect(echo), b"new").is_ok()
    });
    let new = lost.elapsed();
    let ready = relay.wait_state("ready", lost, Duration::from_secs(30));
    let udp = program.answered_after(ready.at, Duration::from_secs(30)) - lost;
    let end = relay.wait_event("the old stream's end", lost, Duration::from_secs(5), |event| {
        event.is_stream_end(AGENT_LOST) || event.is_stream_end(SHUTTING_DOWN)
    });
    println!(
        "agent {how}: old streams reset after {reset:?} ({}), new ones worked after {new:?}, UDP after {udp:?}; the gap \
         told: {} s",
        end.value["reason"], ready.value["downSeconds"]
    );
    program.finish();
    [Took::new("an old stream was reset", reset, RESET), new_connections(new, relay)]
}

#[test]
fn an_evicted_agent_hands_over_and_lets_streams_finish() {
    let _beside = beside_others();
    in_time(lose_by_eviction);
}

fn lose_by_eviction() -> [Took; 1] {
    let namespace = Namespace::new("evicted", &[]);
    let grace = Duration::from_secs(8);
    let args = ["-o", "json", "-n", namespace.name(), "--drain-grace=8s", TARGET, ":7007@tcp", ":7007@udp"];
    let (relay, echo) = Relay::start(&args);
    let program = UdpProgram::start(relay.next_forward());
    let mut old = connect(echo);
    echo_once(&mut old, b"old").unwrap();
    let pod = agent_pod(&namespace);
    let evicted = Instant::now();
    evict(&namespace, &pod);

    let draining = relay.wait_state("draining", evicted, Duration::from_secs(20));
    echo_once(&mut old, b"still old").expect("a stream goes on within the grace");
    wait_until("new connections work", Duration::from_secs(30), || {
        echo_once(&mut connect(echo), b"new").is_ok()
    });
    let new = evicted.elapsed();
    // The start of another pod may take longer than the grace.
    let end = echo_once(&mut old, b"still old").err();
    let lasted = evicted.elapsed();
    assert!(end.is_none() || lasted >= grace, "a stream ended within the grace, after {lasted:?}: {end:?}");
    let ready = relay.wait_state("ready", evicted, Duration::from_secs(30));
    let udp = program.answered_after(ready.at, Duration::from_secs(30)) - evicted;
    // At the end of the grace it is reset, never closed as if the far end had.
    let end = end.unwrap_or_else(|| old.read(&mut [0]).unwrap_err());
    assert_eq!(end.kind(), ErrorKind::ConnectionReset);
    println!(
        "agent evicted: told after {:?}, another one ready after {:?}, new connections worked after {new:?}, UDP after \
         {udp:?}; an old stream was reset at the end of the grace, after {:?}",
        draining.at - evicted,
        ready.at - evicted,
        evicted.elapsed()
    );
    program.finish();
    [new_connections(new, &relay)]
}

/// What `kubectl drain` does.
fn evict(namespace: &Namespace, pod: &str) {
    let name = namespace.name();
    let file = tempfile::NamedTempFile::new().unwrap();
    let eviction = format!(
        r#"{{"apiVersion":"policy/v1","kind":"Eviction","metadata":{{"name":"{pod}","namespace":"{name}"}}}}"#
    );
    std::fs::write(file.path(), eviction).unwrap();
    let place = format!("/api/v1/namespaces/{name}/pods/{pod}/eviction");
    kubectl(&["create", "--raw", &place, "-f", file.path().to_str().unwrap()]);
}
