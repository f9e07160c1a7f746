//! Two users of one shared agent, of whom one takes all that he can get. What a flood costs the machine it costs whatever
//! agent it goes through, so the other's echo is compared with its own beside the same flood through another agent.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that fails here should panic")]

use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use relay_tests::{
    Namespace, Relay, connect, documented_rules_of, echo_once, shared_agent, shared_agent_sum, wait_until,
};
use serde_json::json;

const TARGET: &str = "host/web.default.svc.cluster.local";
/// Streams that one session may have; the flood wants more.
const STREAMS: usize = 150;
const ECHOES: usize = 48;
const DOWNLOADS: usize = 24;
/// Connections to where nobody answers: addresses of this range (RFC 5737) swallow packets in the test cluster.
const HALF_OPEN: usize = 160;
const HOLE: &str = "ip/192.0.2.1";
const EXCHANGES: usize = 400;
const PACE: Duration = Duration::from_millis(4);
/// An echo that is as quick as this is quick enough; below, a ratio tells of the system's scheduler only.
const QUICK: Duration = Duration::from_millis(3);
const TRIES: usize = 5;

/// Somebody who takes all he can get; until dropped.
struct Flood {
    stop: Arc<AtomicBool>,
    echoes: Vec<JoinHandle<()>>,
    /// Nothing is read from these.
    unread: Vec<TcpStream>,
    half_open: Vec<TcpStream>,
    relay: Relay,
}

impl Flood {
    fn start(kubeconfig: &Path, agent: &str) -> Self {
        let targets = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(targets.path(), format!("{TARGET} :7007 :7010\n{HOLE} :80\n")).unwrap();
        let file = targets.path().to_str().unwrap();
        let args = ["-o", "json", "--agent-source=shared", "--server.namespace", agent, "-f", file];
        let (relay, echo) = Relay::start_as(kubeconfig, &args);
        let (source, hole) = (relay.next_forward(), relay.next_forward());
        let stop = Arc::new(AtomicBool::new(false));
        let echoes = (0..ECHOES).map(|_| again_and_again(echo, &stop)).collect();
        let unread = (0..DOWNLOADS).map(|_| {
            let mut stream = connect(source);
            writeln!(stream, "{}", 1_u64 << 30).unwrap();
            stream
        });
        let unread = unread.collect();
        let half_open = (0..HALF_OPEN).map(|_| connect(hole)).collect();
        Self { stop, echoes, unread, half_open, relay }
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.unread.clear();
        self.half_open.clear();
        for echo in self.echoes.drain(..) {
            let _ = echo.join();
        }
    }
}

/// Asks and is answered as fast as it goes, in connections that begin again when they end.
fn again_and_again(address: SocketAddr, stop: &Arc<AtomicBool>) -> JoinHandle<()> {
    let stop = Arc::clone(stop);
    thread::spawn(move || {
        let message = [7; 512];
        while !stop.load(Ordering::Relaxed) {
            let Ok(mut stream) = TcpStream::connect(address) else { continue };
            let _ = stream.set_read_timeout(Some(Duration::from_secs(5)));
            while !stop.load(Ordering::Relaxed) && echo_once(&mut stream, &message).is_ok() {}
        }
    })
}

/// The median of what an echo took, and what 99 of 100 took at most.
#[derive(Clone, Copy, Debug)]
struct Latency {
    p50: Duration,
    p99: Duration,
}

impl Latency {
    fn measure(stream: &mut TcpStream) -> Self {
        let mut took: Vec<_> = (0..EXCHANGES)
            .map(|_| {
                let since = Instant::now();
                echo_once(stream, b"a little").expect("it goes on beside a flood");
                let took = since.elapsed();
                thread::sleep(PACE);
                took
            })
            .collect();
        took.sort_unstable();
        Self { p50: took[EXCHANGES / 2], p99: took[EXCHANGES * 99 / 100] }
    }

    fn within_twice(self, control: Self) -> bool {
        let within = |one: Duration, other: Duration| one <= QUICK || one <= other * 2;
        within(self.p50, control.p50) && within(self.p99, control.p99)
    }
}

#[test]
fn beside_a_flood_anothers_echo_takes_what_it_takes_when_the_flood_goes_elsewhere() {
    let [shared, elsewhere] = ["crowded", "elsewhere"].map(|purpose| Namespace::new(purpose, &[]));
    let limit = format!("--max-streams={STREAMS}");
    for namespace in [&shared, &elsewhere] {
        shared_agent(namespace.name(), &["install", "--replicas=1", &limit]);
    }
    let rules = json!(documented_rules_of("manifests/role-shared.yaml")).to_string();
    let modest = shared.user("modest", &rules);
    let args = ["--agent-source=shared", "--server.namespace", shared.name(), TARGET, ":7007"];
    let (_relay, address) = Relay::start_as(&modest, &args);
    let mut stream = connect(address);
    println!("quiet: {:?}", Latency::measure(&mut stream));

    let beside = |namespace: &Namespace, stream: &mut TcpStream| {
        let flood = Flood::start(&namespace.user("greedy", &rules), namespace.name());
        let begun = Instant::now();
        // Beyond the limit it is told so.
        flood.relay.wait_event("a limit", begun - Duration::from_secs(5), Duration::from_secs(30), |event| {
            event.is_stream_end(11)
        });
        wait_until("half of the limit is used", Duration::from_secs(30), || {
            shared_agent_sum(namespace.name(), "streams") >= STREAMS as u64 / 2
        });
        Latency::measure(stream)
    };
    for _ in 0..TRIES {
        let control = beside(&elsewhere, &mut stream);
        let got = beside(&shared, &mut stream);
        println!("with the flood elsewhere: {control:?}; on the same agent: {got:?}");
        if got.within_twice(control) {
            // Whoever comes new is served too.
            let _flood = Flood::start(&shared.user("greedy", &rules), shared.name());
            let since = Instant::now();
            let mut newcomer = connect(address);
            echo_once(&mut newcomer, b"here I am").unwrap();
            println!("a new connection beside it was served after {:?}", since.elapsed());
            return;
        }
    }
    panic!("an echo took more than twice as long, {TRIES} times");
}
