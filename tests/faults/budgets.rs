//! The path is cut while a thousand streams have much to say. Both ends keep to their memory and stop reading from
//! the sockets instead; after the heal every byte arrives.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
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

#[test]
fn a_thousand_busy_streams_and_a_cut_stay_within_the_budgets() {
    let _beside = beside_others();
    let (namespace, path) = (Namespace::new("busy", &[]), Path::new());
    let args = ["-o", "json", "-n", namespace.name(), TARGET, ":7009@tcp", ":7010@tcp", ":7007@tcp"];
    let (relay, sink) = Relay::start_as(&path.kubeconfig(), &args);
    let (source, echo) = (relay.next_forward(), relay.next_forward());
    let echoes = Echoes::start(echo, 5);
    // All of them are open before anything large is under way, so that the cut finds all of them busy.
    let go = Arc::new(Barrier::new(2 * EACH_WAY + 1));
    let (taken, given) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let ups: Vec<_> = (0..EACH_WAY).map(|_| upload(sink, go.clone(), taken.clone())).collect();
    let downs: Vec<_> = (0..EACH_WAY).map(|_| download(source, go.clone(), given.clone())).collect();
    go.wait();
    wait_until("bytes go both ways", Duration::from_secs(60), || {
        taken.load(Ordering::Relaxed) > MIB && given.load(Ordering::Relaxed) > MIB
    });
    let since = Instant::now();
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
fn upload(sink: SocketAddr, go: Arc<Barrier>, taken: Arc<AtomicU64>) -> Stream {
    let mut stream = connect(sink);
    // What waits, waits in the program and not in the kernel.
    socket2::SockRef::from(&stream).set_send_buffer_size(32 * 1024).unwrap();
    thread::spawn(move || {
        let mut pattern = Pattern::new();
        go.wait();
        for _ in 0..LEN / 4096 {
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

/// Downloads, and tells when bytes come.
fn download(source: SocketAddr, go: Arc<Barrier>, given: Arc<AtomicU64>) -> Stream {
    let mut stream = connect(source);
    thread::spawn(move || {
        go.wait();
        writeln!(stream, "{LEN}")?;
        // Looked at, not taken: the check below wants to see all.
        given.fetch_add(stream.peek(&mut [0; 16 * 1024])? as u64, Ordering::Relaxed);
        receive_pattern(&mut stream, LEN)
    })
}
