//! A path that ends connections instead of carrying them: by resets again and again, as a middlebox with a grudge
//! does. What was under way comes through.

use std::thread;
use std::time::{Duration, Instant};

use relay_tests::{Echoes, Path, Relay, Transfers, alone, beside_others, short_or_long, wait_until, xtask};

use crate::MIB;

/// Between two resets.
const EVERY: Duration = Duration::from_secs(2);

#[test]
fn a_reset_every_two_seconds_stops_no_transfer() {
    let _beside = beside_others();
    let path = Path::new();
    let args = ["-o", "json", "svc/web", ":sink", ":source", ":echo@tcp"];
    let (relay, sink) = Relay::start_as(&path.kubeconfig(), &args);
    let (source, echo) = (relay.next_forward(), relay.next_forward());
    let echoes = Echoes::start(echo, 10);
    let transfers = Transfers::start(sink, source, short_or_long(128, 1024) * MIB);
    let begun = Instant::now();
    let mut resets = 0;
    while begun.elapsed() < Duration::from_secs(short_or_long(14, 60)) {
        let next = Instant::now() + EVERY;
        let since = Instant::now();
        path.reset();
        resets += 1;
        wait_until("it dials again", Duration::from_secs(20), || path.accepted_after(since).is_some());
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    let last = Instant::now();
    echoes.all_answered(last);
    let (up, down) = transfers.finish();
    println!(
        "{resets} resets in {:?}: {up} uploads and {down} downloads whole, longest wait for an answer {:?}",
        last - begun,
        echoes.longest_gap()
    );
    echoes.finish();
}

#[test]
fn a_path_that_answers_every_segment_with_a_reset_is_left_and_found_again() {
    let _alone = alone();
    let (relay, sink) = Relay::start(&["-o", "json", "svc/web", ":sink", ":source", ":echo@tcp"]);
    let (source, echo) = (relay.next_forward(), relay.next_forward());
    let echoes = Echoes::start(echo, 10);
    let transfers = Transfers::start(sink, source, 128 * MIB);
    for _ in 0..short_or_long(3, 10) {
        let since = Instant::now();
        xtask(&["path", "reset"]);
        relay.wait_state("reconnecting", since, Duration::from_secs(20));
        xtask(&["path", "heal"]);
        let healed = Instant::now();
        let all = echoes.all_answered(healed) - healed;
        println!("every conversation went on {all:?} after the heal");
    }
    transfers.finish();
    echoes.finish();
}
