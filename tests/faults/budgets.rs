//! The path is cut while a thousand streams have much to say. Both ends keep to their memory and stop reading from
//! the sockets instead; after the heal every byte arrives.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use relay_tests::{
    Agent, Echoes, Namespace, Path, Relay, beside_others, connect, receive_pattern, wait_until,
};
use relay_workload::{Pattern, sha256_of_pattern};

use crate::{AGENT_BUDGET, MIB, PLUGIN_BUDGET};

const TARGET: &str = "host/web.default.svc.cluster.local";
const EACH_WAY: usize = 500;
/// Of each stream: more in all than the ends and the sockets between could hold.
const LEN: u64 = MIB;
/// What each upload sends before all have begun.
const BEGIN: u64 = 64 * 1024;

#[test]
fn a_thousand_busy_streams_and_a_cut_stay_within_the_budgets() {
    let _beside = beside_others();
    let (namespace, path) = (Namespace::new("busy", &[]), Path::new());
    let args = ["-o", "json", "-n", namespace.name(), TARGET, ":7009@tcp", ":7010@tcp", ":7007@tcp"];
    let (relay, sink) = Relay::start_as(&path.kubeconfig(), &args);
    let (source, echo) = (relay.next_forward(), relay.next_forward());
    let echoes = Echoes::start(echo, 5);
    // All of them have begun before any goes further, so that the cut finds all of them busy, however quick the path is.
    let gate = Arc::new(RwLock::new(()));
    let closed = gate.write().unwrap();
    let (taken, given) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let ups: Vec<_> = (0..EACH_WAY).map(|_| upload(sink, gate.clone(), taken.clone())).collect();
    let downs: Vec<_> = (0..EACH_WAY).map(|_| download(source, gate.clone(), given.clone())).collect();
    wait_until("all have begun", Duration::from_secs(60), || {
        taken.load(Ordering::Relaxed) == EACH_WAY as u64 * BEGIN
            && given.load(Ordering::Relaxed) == EACH_WAY as u64
    });
    let since = Instant::now();
    drop(closed);
    path.cut();
    relay.wait_state("reconnecting", since, Duration::from_secs(30));
    // What the sockets take they take soon; then nothing more.
    let mut last = taken.load(Ordering::Relaxed);
    let mut still = Instant::now();
    wait_until("local sockets are not read any more", Duration::from_secs(60), || {
        let now = taken.load(Ordering::Relaxed);
        if now != last {
            (last, still) = (now, Instant::now());
        }
        still.elapsed() > Duration::from_secs(5)
    });
    let left = EACH_WAY as u64 * LEN - last;
    let agent = Agent::of(namespace.name());
    println!(
        "cut with {} streams: plugin {} MiB, agent {} MiB (at most {}); {} MiB of the uploads were not taken",
        2 * EACH_WAY,
        relay.memory() / MIB,
        agent.memory() / MIB,
        agent.peak_memory() / MIB,
        left / MIB
    );
    assert!(left > EACH_WAY as u64 * LEN / 4, "the uploads went on, to wherever they went");
    assert!(relay.memory() < PLUGIN_BUDGET, "the plugin holds {} MiB", relay.memory() / MIB);
    assert!(agent.peak_memory() < AGENT_BUDGET, "the agent held {} MiB", agent.peak_memory() / MIB);
    path.heal();
    let healed = Instant::now();
    echoes.all_answered(healed);
    for stream in ups.into_iter().chain(downs) {
        stream.join().unwrap().expect("a stream that the cut held up is whole");
    }
    println!(
        "all were whole {:?} after the heal; the plugin holds {} MiB",
        healed.elapsed(),
        relay.memory() / MIB
    );
    echoes.finish();
    assert!(agent.peak_memory() < AGENT_BUDGET, "the agent held {} MiB", agent.peak_memory() / MIB);
    assert!(relay.memory() < PLUGIN_BUDGET, "the plugin holds {} MiB", relay.memory() / MIB);
}

type Stream = thread::JoinHandle<io::Result<()>>;

/// Uploads, and tells how much of it was taken from the program.
fn upload(sink: SocketAddr, gate: Arc<RwLock<()>>, taken: Arc<AtomicU64>) -> Stream {
    let mut stream = connect(sink);
    // What waits, waits in the program and not in the kernel.
    socket2::SockRef::from(&stream).set_send_buffer_size(32 * 1024).unwrap();
    thread::spawn(move || {
        let mut pattern = Pattern::new();
        for sent in (0..LEN).step_by(4096) {
            if sent == BEGIN {
                drop(gate.read());
            }
            stream.write_all(&pattern.take(4096))?;
            taken.fetch_add(4096, Ordering::Relaxed);
        }
        stream.shutdown(Shutdown::Write)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let is_right = answer.trim() == format!("{} {LEN}", sha256_of_pattern(LEN));
        if is_right { Ok(()) } else { Err(io::Error::other(format!("the sink answered {answer:?}"))) }
    })
}

/// Downloads, and counts as one when bytes come.
fn download(source: SocketAddr, gate: Arc<RwLock<()>>, given: Arc<AtomicU64>) -> Stream {
    let mut stream = connect(source);
    thread::spawn(move || {
        writeln!(stream, "{LEN}")?;
        // Looked at, not taken: the check below wants to see all.
        stream.peek(&mut [0])?;
        given.fetch_add(1, Ordering::Relaxed);
        drop(gate.read());
        receive_pattern(&mut stream, LEN)
    })
}
