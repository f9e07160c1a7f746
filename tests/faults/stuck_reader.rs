//! One local program stops reading in the middle of a large download. The others are as fast as without it, and
//! neither end's memory grows.

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use relay_tests::{Agent, Namespace, Relay, alone, connect, download, short_or_long};

use crate::{AGENT_BUDGET, MIB, PLUGIN_BUDGET};

const TARGET: &str = "host/web.default.svc.cluster.local";
const DOWNLOADS: u64 = 8;
/// Of the speed without the stuck reader.
const SPEED: f64 = 0.9;

#[test]
fn eight_downloads_are_as_fast_beside_a_stuck_one() {
    let _alone = alone();
    let namespace = Namespace::new("stuck", &[]);
    let name = namespace.name();
    // Two relays that differ only in the stuck reader, so that what else the machine does befalls both.
    let (_without, free) = Relay::start(&["-n", name, TARGET, ":7010@tcp"]);
    let beside = Namespace::new("beside", &[]);
    let (relay, source) = Relay::start(&["-n", beside.name(), TARGET, ":7010@tcp"]);
    let mut stuck = connect(source);
    writeln!(stuck, "{}", 10 * 1024 * MIB).unwrap();
    stuck.read_exact(&mut [0; 1000]).unwrap();

    let begun = Instant::now();
    let size = short_or_long(16, 64) * MIB;
    // Both once without counting: buffers and windows are those of a cold start.
    eight_downloads(free, size);
    eight_downloads(source, size);
    let (mut rounds, mut without, mut with) = (0u32, Duration::ZERO, Duration::ZERO);
    let ratio = loop {
        rounds += 1;
        // In turn the first, so that whatever the one leaves behind befalls the other as often.
        if rounds % 2 == 0 {
            without += eight_downloads(free, size);
            with += eight_downloads(source, size);
        } else {
            with += eight_downloads(source, size);
            without += eight_downloads(free, size);
        }
        let ratio = without.as_secs_f64() / with.as_secs_f64();
        let is_long_enough = begun.elapsed() > short_or_long(Duration::ZERO, Duration::from_secs(600));
        // One round on a busy machine says little, as equal ones differ by a tenth; a real difference stays however
        // many there are.
        if rounds >= 4 && is_long_enough && (ratio >= SPEED || rounds >= short_or_long(40, 1000)) {
            break ratio;
        }
    };
    let (agent, plugin) = (Agent::of(beside.name()).peak_memory(), relay.memory());
    println!(
        "beside a reader stuck for {:?}: {DOWNLOADS} downloads at {:.0} % of their speed without it ({rounds} rounds); \
         plugin {} MiB, agent at most {} MiB",
        begun.elapsed(),
        ratio * 100.0,
        plugin / MIB,
        agent / MIB
    );
    assert!(ratio >= SPEED, "{:.0} % of the speed", ratio * 100.0);
    assert!(plugin < PLUGIN_BUDGET, "the plugin holds {} MiB", plugin / MIB);
    assert!(agent < AGENT_BUDGET, "the agent held {} MiB", agent / MIB);
    // Still there, and still where it was.
    stuck.read_exact(&mut [0; 1000]).unwrap();
}

fn eight_downloads(source: SocketAddr, size: u64) -> Duration {
    let begun = Instant::now();
    let downloads: Vec<_> = (0..DOWNLOADS).map(|_| thread::spawn(move || download(source, size))).collect();
    for download in downloads {
        download.join().unwrap().expect("a download beside a stuck one is whole");
    }
    begun.elapsed()
}
