//! The plugin stands still for a while, as a laptop that sleeps: the cluster has given its lanes up meanwhile, and
//! it dials again as soon as it wakes.

use std::thread;
use std::time::{Duration, Instant};

use relay_tests::{
    Echoes, Path, Relay, Signal, Took, Transfers, beside_others, in_time, short_or_long, wait_until,
};

use crate::MIB;

/// After waking, a new dial may take this long.
const DIAL: Duration = Duration::from_secs(1);

#[test]
fn connections_go_on_after_sleep() {
    let _beside = beside_others();
    let path = Path::new();
    let args = ["-o", "json", "svc/web", ":sink", ":source", ":echo@tcp"];
    let (relay, sink) = Relay::start_as(&path.kubeconfig(), &args);
    let (source, echo) = (relay.next_forward(), relay.next_forward());
    let echoes = Echoes::start(echo, 10);
    let transfers = Transfers::start(sink, source, short_or_long(128, 1024) * MIB);
    in_time(|| {
        relay.signal(Signal::STOP);
        let stopped = Instant::now();
        // Longer than the agent keeps a silent lane, also when it is short.
        thread::sleep(Duration::from_secs(short_or_long(20, 90)));
        let woken = Instant::now();
        relay.signal(Signal::CONT);
        wait_until("it dials", Duration::from_secs(20), || path.accepted_after(woken).is_some());
        let dialled = path.accepted_after(woken).expect("one was waited for") - woken;
        let first = echoes.first_answer(stopped).saturating_duration_since(woken);
        let all = echoes.all_answered(woken) - woken;
        println!("asleep for {:?}: first answer {first:?}, last {all:?} after waking", woken - stopped);
        [Took::new("a new dial", dialled, DIAL)]
    });
    let (up, down) = transfers.finish();
    println!("{up} uploads and {down} downloads whole");
    echoes.finish();
}
