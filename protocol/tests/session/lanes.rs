//! Lanes: acknowledgements, suspicion, signs of life, orderly ends.

use std::time::Duration;

use bytes::Bytes;
use relay_protocol::frame::Frame;
use relay_protocol::session::{Config, Event, Read, StreamKey};

use crate::pair::{Pair, encoded, frames};
use crate::simulator::network::Side::{Agent, Client};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

#[test]
fn an_acknowledgement_waits_two_milliseconds_for_company() {
    // No credit to announce, which would be company.
    let mut pair = Pair::with(Config::client(), Config { first_window: 0, ..Config::agent() });
    pair.open("x");
    let bytes = pair.take(Client, 1);
    pair.give(Agent, 1, &bytes);
    pair.take(Agent, 1);
    let due = pair.agent.poll_timeout().expect("a time");
    assert!(due <= pair.now + 2 * MS);
    assert!(!pair.agent.has_work(1, pair.now));
    pair.pass(2 * MS);
    let acks = pair.take(Agent, 1);
    assert_eq!(frames(&acks), [Frame::LaneAck { lane: 1, position: bytes.len() as u64 }]);
    pair.give(Client, 1, &acks);
    assert_eq!(pair.client.stats().send_held, 0);
    assert_eq!(pair.take(Client, 1), b"", "an acknowledgement causes none");
}

#[test]
fn what_rides_leaves_with_the_next_message_or_after_two_milliseconds() {
    let answer = Bytes::from_static(b"1");
    for has_company in [true, false] {
        let mut pair = Pair::new();
        pair.open("x");
        let bytes = pair.take(Client, 1);
        pair.give(Agent, 1, &bytes);
        let stream = pair.accepted();
        assert_eq!(pair.agent.write_riding(pair.now, stream, &answer), Ok(1));
        assert!(!pair.agent.has_work(1, pair.now), "neither it nor more credit is worth a message");
        if has_company {
            pair.write(Agent, stream, "23");
        } else {
            assert_eq!(pair.agent.poll_timeout(), Some(pair.now + 2 * MS));
            pair.pass(2 * MS);
        }
        let message = pair.take(Agent, 1);
        let expected: &[u8] = if has_company { b"123" } else { b"1" };
        let frames = frames(&message);
        assert_eq!(frames[0], Frame::Stream { id: 0, offset: 0, fin: false, data: expected });
        let credit = frames.iter().any(|frame| matches!(frame, Frame::MaxData { id: 0, .. }));
        assert!(credit && frames.len() == 3, "and the acknowledgement: {frames:?}");
        pair.pass(2 * MS);
        assert!(!pair.agent.has_work(1, pair.now));
    }
}

#[test]
fn what_the_peer_may_be_waiting_for_does_not_ride() {
    let mut pair = Pair::new();
    pair.open("x");
    let bytes = pair.take(Client, 1);
    pair.give(Agent, 1, &bytes);
    let stream = pair.accepted();
    assert_eq!(pair.read(Agent, stream).0, "x", "as much as there was to read");
    assert_eq!(pair.agent.write_riding(pair.now, stream, &Bytes::from_static(b"1")), Ok(1));
    let message = pair.take(Agent, 1);
    assert_eq!(frames(&message)[0], Frame::Stream { id: 0, offset: 0, fin: false, data: b"1" });
}

/// A client whose question was answered, and the answer is acknowledged.
fn answered(pair: &mut Pair) -> (StreamKey, StreamKey) {
    let key = pair.open("question");
    pair.exchange();
    let agent = pair.accepted();
    pair.read(Agent, agent);
    pair.write(Agent, agent, "answer");
    pair.exchange();
    (key, agent)
}

#[test]
fn the_end_of_an_answered_stream_leaves_with_the_next_message_or_after_two_milliseconds() {
    for has_company in [true, false] {
        let mut pair = Pair::new();
        let (key, _) = answered(&mut pair);
        pair.client.finish_riding(pair.now, key);
        assert!(!pair.client.has_work(1, pair.now), "it is worth no message");
        if has_company {
            pair.open("next");
        } else {
            assert_eq!(pair.client.poll_timeout(), Some(pair.now + 2 * MS));
            pair.pass(2 * MS);
        }
        let message = pair.take(Client, 1);
        let ends = |frame: &Frame<'_>| matches!(frame, Frame::Stream { id: 0, fin: true, data: b"", .. });
        let opens = |frame: &Frame<'_>| matches!(frame, Frame::Stream { id: 2, data: b"next", .. });
        let frames = frames(&message);
        assert!(frames.iter().any(ends), "{frames:?}");
        assert_eq!(frames.iter().any(opens), has_company, "{frames:?}");
    }
}

#[test]
fn an_end_that_answers_an_end_rides_too() {
    let mut pair = Pair::new();
    let (key, agent) = answered(&mut pair);
    pair.client.finish(key);
    let bytes = pair.take(Client, 1);
    pair.give(Agent, 1, &bytes);
    assert_eq!(pair.read(Agent, agent), (String::new(), Read::End));
    pair.agent.finish_riding(pair.now, agent);
    assert!(!pair.agent.has_work(1, pair.now));
    pair.pass(2 * MS);
    pair.exchange();
    assert_eq!(pair.read(Client, key), ("answer".into(), Read::End));
    pair.client.release(key);
    pair.agent.release(agent);
    assert_eq!((pair.client.stats().streams, pair.agent.stats().streams), (0, 0));
}

#[test]
fn an_end_behind_bytes_of_its_own_does_not_ride() {
    let mut pair = Pair::new();
    let (key, agent) = answered(&mut pair);
    pair.write(Client, key, "last question");
    pair.client.finish_riding(pair.now, key);
    let message = pair.take(Client, 1);
    assert!(matches!(frames(&message)[0], Frame::Stream { fin: true, data: b"last question", .. }));
    pair.give(Agent, 1, &message);
    assert_eq!(pair.read(Agent, agent), ("last question".into(), Read::End));
    pair.write(Agent, agent, "last answer");
    pair.take(Agent, 1);
    pair.agent.finish_riding(pair.now, agent);
    let message = pair.take(Agent, 1);
    assert!(
        matches!(frames(&message)[0], Frame::Stream { fin: true, data: b"", .. }),
        "sent, and still the last word"
    );
}

#[test]
fn an_acknowledgement_is_no_reason_to_send_what_rides() {
    let mut pair = Pair::new();
    let key = pair.open("question");
    pair.exchange();
    let agent = pair.accepted();
    pair.read(Agent, agent);
    pair.write(Agent, agent, "answer");
    let bytes = pair.take(Agent, 1);
    pair.give(Client, 1, &bytes);
    pair.client.finish(key);
    let message = pair.take(Client, 1);
    let is_end = |frame: &Frame<'_>| matches!(frame, Frame::Stream { .. });
    let (end, rest): (Vec<_>, Vec<_>) = frames(&message).into_iter().partition(is_end);
    assert!(matches!(rest[..], [.., Frame::LaneAck { .. }]), "{rest:?}");
    pair.give(Agent, 1, &encoded(&end));
    pair.agent.finish_riding(pair.now, agent);
    pair.give(Agent, 1, &encoded(&rest));
    assert!(!pair.agent.has_work(1, pair.now));
    pair.pass(2 * MS);
    assert!(pair.agent.has_work(1, pair.now));
}

#[test]
fn what_rides_is_not_lost_with_its_lane() {
    let mut pair = Pair::new();
    pair.open("x");
    pair.exchange();
    let stream = pair.accepted();
    assert_eq!(pair.agent.write_riding(pair.now, stream, &Bytes::from_static(b"1")), Ok(1));
    pair.client.lane_lost(1, pair.now);
    pair.agent.lane_lost(1, pair.now);
    pair.pass(2 * MS);
    let lane = pair.add_lane();
    let message = pair.take(Agent, lane);
    assert_eq!(frames(&message)[0], Frame::Stream { id: 0, offset: 0, fin: false, data: b"1" });
}

#[test]
fn a_transport_that_takes_nothing_keeps_no_timer_in_the_past() {
    let mut pair = Pair::new();
    pair.open("x");
    let bytes = pair.take(Client, 1);
    pair.give(Agent, 1, &bytes);
    pair.pass(10 * MS);
    assert!(pair.agent.poll_timeout().expect("a time") > pair.now);
    assert!(pair.agent.has_work(1, pair.now), "the acknowledgement still waits");
}

#[test]
fn what_was_on_a_lane_that_died_goes_out_on_the_other() {
    let mut pair = Pair::new();
    pair.add_lane();
    let key = pair.open("hello");
    pair.client.finish(key);
    for lane in [1, 2] {
        pair.take(Client, lane);
    }
    pair.client.lane_lost(2, pair.now);
    pair.agent.lane_lost(2, pair.now);
    pair.exchange();
    let agent = pair.accepted();
    assert_eq!(pair.read(Agent, agent).0, "hello");
    assert_eq!(pair.client.stats().bytes_resent, 5);
}

#[test]
fn what_arrived_before_the_lane_died_is_not_delivered_twice() {
    let mut pair = Pair::new();
    let key = pair.open("hello");
    let bytes = pair.take(Client, 1);
    pair.give(Agent, 1, &bytes);
    pair.client.lane_lost(1, pair.now);
    pair.agent.lane_lost(1, pair.now);
    pair.add_lane();
    pair.write(Client, key, " again");
    pair.exchange();
    let agent = pair.accepted();
    assert_eq!(pair.read(Agent, agent).0, "hello again");
}

#[test]
fn a_partial_frame_dies_with_its_lane() {
    let mut pair = Pair::new();
    pair.open("hello");
    let bytes = pair.take(Client, 1);
    let taken = pair.agent.receive(1, &bytes[..bytes.len() - 1], pair.now);
    assert!(taken.is_ok_and(|taken| taken < bytes.len()));
    pair.client.lane_lost(1, pair.now);
    pair.agent.lane_lost(1, pair.now);
    pair.add_lane();
    pair.exchange();
    let agent = pair.accepted();
    assert_eq!(pair.read(Agent, agent).0, "hello");
}

#[test]
fn a_silent_lane_is_suspected_after_three_seconds_and_given_up_after_fifteen() {
    let mut pair = Pair::with(Config { lanes: 1, ..Config::client() }, Config::agent());
    pair.open("x");
    pair.take(Client, 1);
    pair.pass(3 * SECOND - MS);
    assert!(pair.client.is_connected() && !pair.client.wants_lane(pair.now));
    pair.pass(MS);
    assert!(!pair.client.is_connected());
    assert!(pair.client.wants_lane(pair.now), "a replacement is dialled");
    assert!(pair.client.lanes().eq([1]), "but it is not given up yet");
    pair.pass(12 * SECOND - MS);
    assert!(pair.client.lanes().eq([1]));
    pair.pass(MS);
    assert_eq!(pair.client.lanes().count(), 0);
    assert!(pair.events(Client).contains(&Event::LaneOver(1, false)));
}

#[test]
fn a_suspect_lane_is_replaced_and_its_frames_arrive_once() {
    let mut pair = Pair::new();
    pair.open("hello");
    let late = pair.take(Client, 1);
    pair.pass(3 * SECOND);
    let lane = pair.add_lane();
    assert!(pair.client.lanes().eq([lane]), "the old lane is closed when the new one is welcome");
    pair.exchange();
    let agent = pair.accepted();
    pair.give(Agent, 1, &late);
    assert_eq!(pair.read(Agent, agent).0, "hello");
}

#[test]
fn a_suspect_lane_that_speaks_again_is_used_again() {
    let mut pair = Pair::with(Config { lanes: 1, ..Config::client() }, Config::agent());
    pair.open("x");
    let late = pair.take(Client, 1);
    pair.pass(3 * SECOND);
    pair.give(Agent, 1, &late);
    pair.pass(2 * MS);
    let acks = pair.take(Agent, 1);
    pair.give(Client, 1, &acks);
    assert!(pair.client.is_connected() && !pair.client.wants_lane(pair.now));
    pair.exchange();
    assert_eq!(pair.client.stats().send_held, 0);
}

#[test]
fn a_quiet_lane_is_asked_for_a_sign_of_life() {
    let mut pair = Pair::new();
    pair.pass(5 * SECOND - MS);
    assert!(!pair.client.has_work(1, pair.now));
    pair.pass(MS);
    let ping = pair.take(Client, 1);
    assert!(matches!(frames(&ping)[..], [Frame::Ping { .. }]));
    pair.give(Agent, 1, &ping);
    let pong = pair.take(Agent, 1);
    assert!(matches!(frames(&pong)[..], [Frame::Pong { .. }, Frame::LaneAck { .. }]));
    pair.give(Client, 1, &pong);
    pair.pass(4 * SECOND);
    assert!(pair.client.is_connected());
}

#[test]
fn a_quiet_lane_that_does_not_answer_is_given_up() {
    let mut pair = Pair::new();
    pair.pass(5 * SECOND);
    pair.take(Client, 1);
    pair.pass(3 * SECOND);
    assert!(pair.client.wants_lane(pair.now));
    pair.pass(12 * SECOND);
    assert_eq!(pair.client.lanes().count(), 0);
}

#[test]
fn an_acknowledgement_lost_with_another_lane_is_sent_again() {
    let mut pair = Pair::new();
    let key = pair.open("x");
    pair.exchange();
    let agent = pair.accepted();
    let lane = pair.add_lane();
    pair.write(Agent, agent, "outstanding on the second lane");
    pair.take(Agent, lane);
    pair.write(Client, key, "to be acknowledged");
    let bytes = pair.take(Client, lane);
    pair.give(Agent, lane, &bytes);
    // The second lane takes nothing more from the agent, which falls back on the first; that one dies.
    pair.agent.handle_timeout(pair.now + 4 * SECOND);
    let acked = Frame::LaneAck { lane, position: bytes.len() as u64 };
    let lost = pair.take(Agent, 1);
    assert!(frames(&lost).contains(&acked));
    pair.agent.lane_lost(1, pair.now);
    let again = pair.take(Agent, lane);
    assert!(frames(&again).contains(&acked), "{:?}", frames(&again));
}

#[test]
fn superfluous_lanes_end_in_good_order_after_a_minute() {
    let mut pair = Pair::new();
    pair.add_lane();
    let key = pair.open("x");
    pair.exchange();
    let agent = pair.accepted();
    for _ in 0..70 {
        pair.pass(SECOND);
        pair.exchange();
    }
    assert_eq!((pair.client.lanes().count(), pair.agent.lanes().count()), (1, 1));
    let ended = |event: &Event| matches!(event, Event::LaneOver(_, true));
    assert_eq!(pair.events(Client).iter().filter(|event| ended(event)).count(), 1);
    assert_eq!(pair.events(Agent).iter().filter(|event| ended(event)).count(), 1);
    pair.write(Client, key, "y");
    pair.exchange();
    assert_eq!(pair.read(Agent, agent).0, "xy");
}

#[test]
fn times_beyond_what_a_clock_can_hold_are_never() {
    let forever = Duration::MAX;
    let config = Config { dead_after: forever, life: forever, idle_life: forever, ..Config::client() };
    let mut pair = Pair::with(config, Config::agent());
    pair.open("x");
    pair.take(Client, 1);
    assert!(pair.client.poll_timeout().is_some());
    pair.client.lane_lost(1, pair.now);
    assert_eq!(pair.client.poll_timeout(), None);
}
