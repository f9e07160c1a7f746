//! What is late on one lane goes out again on another, and counts once.

use std::time::Duration;

use bytes::Bytes;
use relay_protocol::frame::Frame;

use crate::pair::{Pair, frames};
use crate::simulator::network::Side::{Agent, Client};

/// Longer than anything takes on a lane whose round trip is not known yet, shorter than a suspicion.
const LATE: Duration = Duration::from_millis(600);

/// Two lanes, of which the second is the client's express lane.
fn two_lanes() -> Pair {
    let mut pair = Pair::new();
    pair.add_lane();
    pair
}

#[test]
fn a_small_write_that_is_late_goes_out_again_and_arrives_once() {
    let mut pair = two_lanes();
    pair.open("hello");
    let late = pair.take(Client, 2);
    assert!(!late.is_empty());
    pair.pass(LATE);
    let again = pair.take(Client, 1);
    assert!(frames(&again).iter().any(|frame| matches!(frame, Frame::Stream { data: b"hello", .. })));
    pair.give(Agent, 1, &again);
    pair.give(Agent, 2, &late);
    let key = pair.accepted();
    assert_eq!(pair.read(Agent, key).0, "hello");
    assert_eq!(pair.client.stats().bytes_resent, 5);
    pair.exchange();
    assert_eq!(pair.client.stats().send_held, 0);
}

#[test]
fn what_follows_does_not_queue_up_behind_what_is_late() {
    let mut pair = two_lanes();
    let key = pair.open("one ");
    pair.take(Client, 2);
    pair.pass(LATE);
    pair.write(Client, key, "two");
    let held_up = pair.take(Client, 2);
    // TCP learns by what follows that the lane has lost something.
    assert_eq!(frames(&held_up), [Frame::Ping { token: 0 }], "nothing new on a lane that is held up");
    let bytes = pair.take(Client, 1);
    pair.give(Agent, 1, &bytes);
    let agent = pair.accepted();
    assert_eq!(pair.read(Agent, agent).0, "one two");
}

#[test]
fn with_one_lane_nothing_is_sent_twice() {
    let mut pair = Pair::new();
    pair.open("hello");
    pair.take(Client, 1);
    pair.pass(LATE);
    assert_eq!(pair.client.stats().bytes_resent, 0);
}

#[test]
fn a_lane_that_is_held_up_is_pinged_so_that_tcp_learns_of_the_loss() {
    let mut pair = Pair::new();
    pair.open("hello");
    let late = pair.take(Client, 1);
    let ping = |pair: &mut Pair, time| {
        pair.pass(time);
        pair.take(Client, 1)
    };
    let first = ping(&mut pair, LATE);
    assert_eq!(frames(&first), [Frame::Ping { token: 0 }]);
    assert_eq!(frames(&ping(&mut pair, LATE / 6)), [], "one is on its way");
    let second = ping(&mut pair, LATE);
    assert_eq!(frames(&second), [Frame::Ping { token: 1 }], "the first may be lost too");
    for bytes in [late, first, second] {
        pair.give(Agent, 1, &bytes);
    }
    pair.exchange();
    assert_eq!(frames(&ping(&mut pair, LATE)), [], "nothing is late any more");
}

#[test]
fn a_near_lane_that_is_held_up_is_not_pinged() {
    let mut pair = Pair::new();
    let key = pair.open("hello");
    pair.exchange();
    pair.write(Client, key, "again");
    let late = pair.take(Client, 1);
    pair.pass(LATE);
    assert_eq!(frames(&pair.take(Client, 1)), [], "it waits for a busy processor");
    pair.give(Agent, 1, &late);
}

#[test]
fn little_is_sent_twice_when_much_is_late() {
    let mut pair = two_lanes();
    let keys: Vec<_> = (0..100).map(|_| pair.open(&"x".repeat(2_000))).collect();
    pair.take(Client, 2);
    pair.pass(LATE);
    pair.take(Client, 1);
    let resent = pair.client.stats().bytes_resent;
    assert!((2_000..60_000).contains(&resent), "{resent} of {} bytes", 2_000 * keys.len());
}

#[test]
fn a_late_datagram_goes_out_again_and_is_delivered_once() {
    let mut pair = two_lanes();
    let now = pair.now;
    let key = pair.client.open_flow(now, Bytes::from_static(b"header")).expect("a flow");
    pair.client.send_datagram(now, key, Bytes::from_static(b"query")).expect("room");
    let late = pair.take(Client, 2);
    pair.pass(LATE);
    let again = pair.take(Client, 1);
    pair.give(Agent, 1, &again);
    pair.give(Agent, 2, &late);
    let agent = pair.accepted_flow();
    assert_eq!(pair.agent.receive_datagram(agent), Ok(Some(Bytes::from_static(b"query"))));
    assert_eq!(pair.agent.receive_datagram(agent), Ok(None));
}

#[test]
fn datagrams_of_lanes_that_died_hold_no_memory() {
    let mut pair = two_lanes();
    let now = pair.now;
    let key = pair.client.open_flow(now, Bytes::from_static(b"header")).expect("a flow");
    // More than all flows may hold, if what died with its lane stayed.
    for round in 0..150 {
        let lane = 2 + round;
        for _ in 0..30 {
            pair.client.send_datagram(now, key, Bytes::from_static(&[7; 4_000])).expect("room");
            pair.take(Client, lane);
        }
        pair.client.lane_lost(lane, now);
        pair.agent.lane_lost(lane, now);
        pair.add_lane();
    }
    assert_eq!(pair.client.stats().datagrams_dropped, 0);
}
