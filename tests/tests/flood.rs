//! Two users of one shared agent, of whom one takes all that he can get: streams, memory, connections to where nobody
//! answers. He has a machine of his own, as a colleague would: his programs get a part of one processor only, so that what
//! is measured is what he does to the agent and to the cluster, not what he does to the other's machine.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that fails here should panic")]

use std::io::{BufRead as _, BufReader};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use relay_tests::{
    Namespace, Quota, Relay, connect, documented_rules_of, echo_once, shared_agent, shared_agent_sum,
    wait_until, xtask_program,
};
use serde_json::json;

const TARGET: &str = "host/web.default.svc.cluster.local";
/// Connections to where nobody answers: addresses of this range (RFC 5737) swallow packets in the test cluster.
const HOLE: &str = "ip/192.0.2.1";
/// What the flooding programs have of one processor.
const PERCENT: u32 = 20;
/// Each of these is a session, and wants more streams than one may have.
const SESSIONS: usize = 2;
/// Streams that one session may have.
const STREAMS: usize = 1_000;
/// Connections that are used again and again, each for many exchanges.
const LIVELY: &str = "800";
/// Connections that are made anew for each exchange.
const NEW: &str = "16";
/// Connections that ask for everything and read nothing, and those to the hole.
const STUCK: &str = "100";
const EXCHANGES: usize = 2_000;
const PACE: Duration = Duration::from_millis(2);
/// What others do to the machine meanwhile spoils a round, not all of them.
const ROUNDS: usize = 5;
/// An echo that is as quick as this is quick enough; below, a ratio tells of the system's scheduler only.
const QUICK: Duration = Duration::from_millis(3);

/// Somebody who takes all he can get; until dropped.
struct Flood {
    programs: Vec<Child>,
    relays: Vec<Relay>,
    quota: Quota,
}

impl Flood {
    /// Waits until he has what he can get.
    fn start(kubeconfig: &Path, agent: &str) -> Self {
        let mut flood =
            Self { programs: Vec::new(), relays: Vec::new(), quota: Quota::new("flood", PERCENT) };
        for _ in 0..SESSIONS {
            flood.add_session(kubeconfig, agent);
        }
        let wanted = (SESSIONS * STREAMS / 2) as u64;
        wait_until("half of all streams are used", Duration::from_secs(60), || {
            shared_agent_sum(agent, "streams") >= wanted
        });
        flood
    }

    fn add_session(&mut self, kubeconfig: &Path, agent: &str) {
        let targets = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(targets.path(), format!("{TARGET} :7007 :7010\n{HOLE} :80\n")).unwrap();
        let file = targets.path().to_str().unwrap();
        let args = ["--agent-source=shared", "--server.namespace", agent, "-f", file];
        let (relay, echo) = Relay::start_as(kubeconfig, &args);
        let (source, hole) = (relay.next_forward(), relay.next_forward());
        self.quota.take_in(relay.pid());
        self.relays.push(relay);
        self.load("stuck", source, &["--count", STUCK]);
        self.load("stuck", hole, &["--count", STUCK]);
        self.load("again", echo, &["--streams", LIVELY, "--count", "1000000"]);
        self.load("again", echo, &["--streams", NEW, "--count", "1"]);
    }

    fn load(&mut self, kind: &str, address: SocketAddr, args: &[&str]) {
        let mut command = Command::new(xtask_program());
        command.args(["bench", "load", kind, "--address", &address.to_string()]).args(args);
        let mut program = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("xtask runs");
        self.quota.take_in(program.id());
        let mut line = String::new();
        BufReader::new(program.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert!(line.starts_with('{'), "{kind}: {line:?}");
        self.programs.push(program);
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        for program in &mut self.programs {
            let _ = program.kill();
            let _ = program.wait();
        }
    }
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

    /// The middle of what the rounds have shown.
    fn median(rounds: &[[Self; 3]], kind: usize) -> Self {
        let middle = |of: fn(&Self) -> Duration| {
            let mut all: Vec<_> = rounds.iter().map(|round| of(&round[kind])).collect();
            all.sort_unstable();
            all[all.len() / 2]
        };
        Self { p50: middle(|latency| latency.p50), p99: middle(|latency| latency.p99) }
    }

    fn within_twice(self, other: Self) -> bool {
        let within = |one: Duration, other: Duration| one <= QUICK || one <= other * 2;
        within(self.p50, other.p50) && within(self.p99, other.p99)
    }
}

#[test]
fn beside_a_flood_anothers_echo_takes_twice_its_quiet_time_at_most() {
    let [shared, elsewhere] = ["crowded", "elsewhere"].map(|purpose| Namespace::new(purpose, &[]));
    let limit = format!("--max-streams={STREAMS}");
    for namespace in [&shared, &elsewhere] {
        shared_agent(namespace.name(), &["install", "--replicas=1", &limit]);
    }
    let rules = json!(documented_rules_of("manifests/role-shared.yaml")).to_string();
    let modest = shared.user("modest", &rules);
    let greedy = [&shared, &elsewhere].map(|namespace| namespace.user("greedy", &rules));
    let args = ["--agent-source=shared", "--server.namespace", shared.name(), TARGET, ":7007"];
    let (_relay, address) = Relay::start_as(&modest, &args);
    let mut stream = connect(address);

    let mut rounds = Vec::new();
    for round in 0..ROUNDS {
        let quiet = Latency::measure(&mut stream);
        let mut both = [(&shared, &greedy[0]), (&elsewhere, &greedy[1])];
        both.rotate_left(round % 2);
        let mut found = both.map(|(namespace, user)| {
            let flood = Flood::start(user, namespace.name());
            let latency = Latency::measure(&mut stream);
            // Whoever comes new is served too.
            let mut newcomer = connect(address);
            echo_once(&mut newcomer, b"here I am").unwrap();
            drop(flood);
            wait_until("the flood is over", Duration::from_secs(60), || {
                shared_agent_sum(namespace.name(), "streams") <= 2
            });
            latency
        });
        found.rotate_right(round % 2);
        let [beside, control] = found;
        println!("quiet {quiet:?}; flood on the same agent {beside:?}; on another {control:?}");
        rounds.push([quiet, beside, control]);
        // What 1 of 100 waits for may be the machine's own: then it is as long beside the same flood through another agent.
        let most =
            |quiet: Latency, control: Latency| Latency { p50: quiet.p50, p99: quiet.p99.max(control.p99) };
        // A few exchanges decide what 99 of 100 took at most, so the rounds so far are looked at together too.
        let [typical, crowded, elsewhere] = [0, 1, 2].map(|kind| Latency::median(&rounds, kind));
        if beside.within_twice(most(quiet, control)) || crowded.within_twice(most(typical, elsewhere)) {
            return;
        }
    }
    panic!("an echo took more than twice as long, {ROUNDS} times; quiet, crowded, elsewhere: {rounds:#?}");
}
