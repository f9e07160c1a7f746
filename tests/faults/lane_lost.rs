//! One of several connections to the API server is lost. What was on it goes out on another at once: nobody waits,
//! and there is nothing to tell.

use std::thread;
use std::time::{Duration, Instant};

use relay_tests::{Echoes, Path, Relay, Transfers, beside_others, short_or_long, wait_until};

use crate::MIB;

/// Conversations share the processors with transfers and a whole cluster; waiting for a time limit would still show.
const NO_PAUSE: Duration = Duration::from_secs(3);
/// An extra lane that does not come is tried again after ten seconds.
const REPLACED: Duration = Duration::from_secs(60);

#[test]
fn the_loss_of_one_lane_costs_no_pause() {
    let _beside = beside_others();
    let path = Path::new();
    let args = ["-o", "json", "-v=4", "svc/web", ":sink", ":source", ":echo@tcp"];
    let (relay, sink) = Relay::start_as(&path.kubeconfig(), &args);
    let (source, echo) = (relay.next_forward(), relay.next_forward());
    let echoes = Echoes::start(echo, 10);
    let transfers = Transfers::start(sink, source, short_or_long(128, 1024) * MIB);
    // Connections for requests and watches come by the same path.
    let lanes = || relay.stderr().matches("lane dialled").count();
    wait_until("there are two lanes", REPLACED, || lanes() >= 2);
    let mut first_loss = None;
    for losses in 1..=short_or_long(4, 20) {
        // Both are in use when one is lost, and the lost one is replaced before the next.
        thread::sleep(Duration::from_secs(2));
        let lost = Instant::now();
        path.reset_busiest();
        wait_until("it is replaced", REPLACED, || lanes() >= 2 + losses);
        echoes.all_answered(lost);
        first_loss.get_or_insert(lost);
    }
    let gap = echoes.longest_gap_since(first_loss.expect("one was lost"));
    let (up, down) = transfers.finish();
    println!(
        "one lane lost again and again: {up} uploads and {down} downloads whole, longest wait for an answer {gap:?}"
    );
    echoes.finish();
    let told: Vec<_> = relay.events().into_iter().filter(|event| event.is_state("reconnecting")).collect();
    assert!(told.is_empty(), "another lane was there: {told:#?}");
    assert!(gap < NO_PAUSE, "an answer took {gap:?}");
}
