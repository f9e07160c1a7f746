//! The API server dies by SIGKILL and is back five seconds later, in the middle of transfers and conversations.
//! Everything goes on where it was, the last time with another certificate of the same authority.

use std::thread;
use std::time::{Duration, Instant};

use relay_tests::{Echoes, Relay, Transfers, alone, short_or_long, wait_for_controllers, xtask};

use crate::MIB;

/// How long the API server is away.
const AWAY: Duration = Duration::from_secs(5);
/// After the server is ready again, the first byte may take this long.
const FIRST_BYTE: Duration = Duration::from_secs(3);
const CONVERSATIONS: usize = 50;

#[test]
fn with_one_lane_everything_goes_on() {
    everything_goes_on("1");
}

#[test]
fn with_four_lanes_everything_goes_on() {
    everything_goes_on("4");
}

fn everything_goes_on(lanes: &str) {
    let _alone = alone();
    let args = ["-o", "json", "--lanes", lanes, "svc/web", ":sink", ":source", ":echo@tcp"];
    let (relay, sink) = Relay::start(&args);
    let (source, echo) = (relay.next_forward(), relay.next_forward());
    let echoes = Echoes::start(echo, CONVERSATIONS);
    let rounds = short_or_long(2, 10);
    for round in 1..=rounds {
        if round > 1 {
            wait_for_controllers();
        }
        let transfers = Transfers::start(sink, source, short_or_long(128, 1024) * MIB);
        let before = Instant::now();
        xtask(&["apiserver", "kill"]);
        let killed = Instant::now();
        relay.wait_state("reconnecting", before, Duration::from_secs(20));
        thread::sleep(AWAY.saturating_sub(killed.elapsed()));
        let restart = ["apiserver", "restart", "--kill", "--new-certificate"];
        xtask(if round == rounds { &restart } else { &["apiserver", "start"] });
        let ready = Instant::now();
        let first = echoes.first_answer(killed).saturating_duration_since(ready);
        let all = echoes.all_answered(killed).saturating_duration_since(ready);
        let (up, down) = transfers.finish();
        println!(
            "{lanes} lanes, round {round}: first answer {first:?}, last of {CONVERSATIONS} {all:?} after the API \
             server was ready; {up} uploads and {down} downloads whole; the plugin holds {} MiB",
            relay.memory() / MIB
        );
        assert!(first < FIRST_BYTE, "the first byte took {first:?}");
    }
    println!(
        "{lanes} lanes: longest wait for an answer {:?}, {} answers in all",
        echoes.longest_gap(),
        echoes.finish()
    );
}
