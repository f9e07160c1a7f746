//! Streams: every byte once and in order, ends as themselves, limits kept.

use bytes::{BufMut as _, Bytes};
use relay_protocol::frame::{Frame, Malformed};
use relay_protocol::pool::Pool;
use relay_protocol::session::{Config, Event, OpenError, Read};
use relay_protocol::{LargeFrame, Status};

use crate::pair::{Pair, encoded, frames, reset};
use crate::simulator::network::Side::{Agent, Client};

#[test]
fn frames_that_come_twice_are_dropped() {
    let mut pair = Pair::new();
    pair.open("hello");
    let bytes = pair.take(Client, 1);
    pair.give(Agent, 1, &bytes);
    pair.give(Agent, 1, &bytes);
    let key = pair.accepted();
    assert_eq!(pair.read(Agent, key), ("hello".into(), Read::Blocked));
}

#[test]
fn frames_may_overtake_each_other_on_two_lanes() {
    let mut pair = Pair::new();
    let key = pair.open("one ");
    let first = pair.take(Client, 1);
    let lane = pair.add_lane();
    pair.write(Client, key, "two");
    pair.client.finish(key);
    let second = pair.take(Client, lane);
    pair.give(Agent, lane, &second);
    assert!(pair.opened().is_empty(), "its first bytes are missing");
    pair.give(Agent, 1, &first);
    let key = pair.accepted();
    assert_eq!(pair.read(Agent, key), ("one two".into(), Read::End));
}

#[test]
fn a_stream_that_is_overtaken_by_a_later_one_is_not_taken_for_over() {
    let mut pair = Pair::new();
    pair.open("early");
    let early = pair.take(Client, 1);
    let lane = pair.add_lane();
    pair.open("late");
    let late = pair.take(Client, lane);
    pair.give(Agent, lane, &late);
    let key = pair.accepted();
    assert_eq!(pair.read(Agent, key).0, "late");
    pair.give(Agent, 1, &early);
    let key = pair.accepted();
    assert_eq!(pair.read(Agent, key).0, "early");
}

#[test]
fn what_comes_late_for_a_stream_that_is_over_is_ignored() {
    let mut pair = Pair::new();
    let key = pair.open("x");
    let old = pair.take(Client, 1);
    pair.give(Agent, 1, &old);
    pair.client.reset(key, Status::Aborted);
    pair.client.release(key);
    pair.exchange();
    let key = pair.accepted();
    assert_eq!(pair.read(Agent, key), (String::new(), reset(Status::Aborted)));
    pair.agent.release(key);
    pair.exchange();
    assert_eq!((pair.client.stats().streams, pair.agent.stats().streams), (0, 0));
    pair.give(Agent, 1, &old);
    assert_eq!(pair.agent.stats().streams, 0);
    assert!(pair.opened().is_empty());
}

#[test]
fn an_agent_that_opens_streams_is_malformed() {
    let mut pair = Pair::new();
    let bytes = encoded(&[Frame::Stream { id: 1, offset: 0, fin: false, data: b"x" }]);
    let result = pair.client.receive(1, &bytes, pair.now);
    assert_eq!(result, Err(Malformed::Violation("the agent may not open streams")));
    assert_eq!(pair.client.ended(), Some(Status::Unknown));
    let goodbye = pair.take(Client, 1);
    assert!(matches!(
        frames(&goodbye)[..],
        [Frame::Goodbye { status: Status::Unknown, text }, ..] if text.contains("the agent may not open streams")
    ));
}

#[test]
fn a_large_frame_may_be_gathered_in_a_buffer_of_its_own() {
    let mut pair = Pair::new();
    let key = pair.open("hello");
    pair.exchange();
    let agent = pair.accepted();
    assert_eq!(pair.read(Agent, agent).0, "hello");
    let text = "0123456789abcdef".repeat(2_000);
    pair.write(Client, key, &text);
    pair.client.finish(key);
    let bytes = pair.take(Client, 1);
    let mut large = LargeFrame::begin(&bytes[..1_000]).unwrap();
    let (rest, behind) = bytes.split_at(1_000 + large.missing());
    large.rest().put_slice(&rest[1_000..]);
    pair.agent.receive_large(1, large, pair.now).unwrap();
    assert_eq!(pair.read(Agent, agent).0, text);
    pair.give(Agent, 1, behind);
    pair.pass(std::time::Duration::from_millis(20));
    pair.exchange();
    assert_eq!(pair.client.stats().send_held, 0, "it has been acknowledged");
}

#[test]
fn a_large_frame_that_is_not_whole_is_malformed() {
    let mut pair = Pair::new();
    let data = vec![b'x'; 20_000];
    let bytes = encoded(&[Frame::Stream { id: 0, offset: 0, fin: false, data: &data }]);
    let large = LargeFrame::begin(&bytes[..100]).unwrap();
    let result = pair.agent.receive_large(1, large, pair.now);
    assert_eq!(result, Err(Malformed::Violation("a frame is not whole")));
}

#[test]
fn bytes_beyond_the_credit_are_malformed() {
    let mut pair = Pair::new();
    let bytes = encoded(&[Frame::Stream { id: 0, offset: 1 << 40, fin: false, data: b"x" }]);
    let result = pair.agent.receive(1, &bytes, pair.now);
    assert_eq!(result, Err(Malformed::Violation("bytes beyond the credit")));
}

#[test]
fn the_opener_waits_at_the_limit_and_goes_on_when_a_stream_is_over() {
    let mut pair = Pair::with(Config::client(), Config { max_streams: 3, ..Config::agent() });
    let keys: Vec<_> = (0..3).map(|_| pair.open("x")).collect();
    assert_eq!(pair.client.open(), Err(OpenError::Wait));
    pair.exchange();
    assert_eq!(pair.opened().len(), 3);
    pair.events(Client);
    pair.client.release(keys[1]);
    pair.exchange();
    for event in pair.events(Agent) {
        if let Event::Reset(key) = event {
            pair.agent.release(key);
        }
    }
    pair.exchange();
    assert!(pair.events(Client).contains(&Event::CanOpen));
    assert!(pair.client.open().is_ok());
    assert_eq!(pair.client.open(), Err(OpenError::Wait));
}

#[test]
fn where_memory_is_too_short_for_twice_as_many_streams_there_are_as_many_as_it_has_room_for() {
    let agent = Config {
        receive_pool: Pool::new(64 << 10),
        initial_credit: 1 << 10,
        first_window: 0,
        first_streams: 4,
        ..Config::agent()
    };
    let mut pair = Pair::with(Config::client(), agent);
    let mut open = 0;
    loop {
        pair.exchange();
        match pair.client.open() {
            Ok(key) => pair.write(Client, key, "x"),
            Err(OpenError::Wait) => break,
            Err(error) => panic!("{error}"),
        }
        open += 1;
    }
    // Twice 32 would be all; an eighth of it is kept for windows.
    assert_eq!(open, 56);
}

#[test]
fn half_close_keeps_the_reply_flowing() {
    let mut pair = Pair::new();
    let client = pair.open("question");
    pair.client.finish(client);
    pair.exchange();
    let agent = pair.accepted();
    assert_eq!(pair.read(Agent, agent), ("question".into(), Read::End));
    pair.write(Agent, agent, "answer");
    pair.exchange();
    assert_eq!(pair.read(Client, client), ("answer".into(), Read::Blocked));
    pair.agent.finish(agent);
    pair.exchange();
    assert_eq!(pair.read(Client, client), (String::new(), Read::End));
    pair.client.release(client);
    pair.agent.release(agent);
    pair.exchange();
    assert_eq!((pair.client.stats().streams, pair.agent.stats().streams), (0, 0));
    assert_eq!(pair.client.stats().receive_reserved, 0);
}

#[test]
fn a_reset_by_peer_comes_after_its_bytes_even_if_it_overtakes_them() {
    let mut pair = Pair::new();
    let key = pair.open("first, ");
    pair.exchange();
    let agent = pair.accepted();
    pair.write(Client, key, "last");
    let bytes = pair.take(Client, 1);
    let lane = pair.add_lane();
    pair.client.reset(key, Status::ResetByPeer);
    pair.client.release(key);
    let frame = pair.take(Client, lane);
    pair.give(Agent, lane, &frame);
    assert_eq!(pair.read(Agent, agent), ("first, ".into(), Read::Blocked));
    pair.give(Agent, 1, &bytes);
    assert_eq!(pair.read(Agent, agent), ("last".into(), reset(Status::ResetByPeer)));
}

#[test]
fn any_other_reset_is_seen_at_once() {
    let mut pair = Pair::new();
    let key = pair.open("never read");
    pair.exchange();
    let agent = pair.accepted();
    pair.client.reset(key, Status::Aborted);
    pair.exchange();
    assert_eq!(pair.read(Agent, agent), (String::new(), reset(Status::Aborted)));
    assert_eq!(pair.agent.write(agent, &Bytes::from_static(b"x")), Err(Status::Aborted));
}

#[test]
fn a_failed_dial_sends_its_code_and_no_byte() {
    let mut pair = Pair::new();
    let key = pair.open("header");
    pair.exchange();
    let agent = pair.accepted();
    pair.agent.reset(agent, Status::Refused);
    pair.agent.release(agent);
    let bytes = pair.take(Agent, 1);
    assert!(
        frames(&bytes).contains(&Frame::Reset { id: 0, status: Status::Refused, final_offset: 0 }),
        "RESET(code, 0)"
    );
    pair.give(Client, 1, &bytes);
    assert_eq!(pair.read(Client, key), (String::new(), reset(Status::Refused)));
}

#[test]
fn a_stream_reset_before_its_first_frame_takes_no_id() {
    let mut pair = Pair::new();
    let silent = pair.open("nobody hears this");
    pair.client.reset(silent, Status::Aborted);
    assert_eq!(pair.read(Client, silent).1, reset(Status::Aborted));
    pair.exchange();
    pair.client.release(silent);
    pair.open("this is the first");
    pair.exchange();
    assert_eq!(pair.agent.stats().streams, 1, "no entry waits for a stream that never comes");
    assert_eq!(pair.client.stats().streams, 1);
}

#[test]
fn a_reader_whose_stream_both_ends_reset_is_not_left_waiting() {
    let mut pair = Pair::new();
    let key = pair.open("x");
    pair.exchange();
    let agent = pair.accepted();
    pair.write(Agent, agent, "lost on the way");
    pair.take(Agent, 1);
    pair.agent.reset(agent, Status::ResetByPeer);
    let frame = pair.take(Agent, 1);
    pair.client.reset(key, Status::Aborted);
    pair.give(Client, 1, &frame);
    assert_eq!(pair.read(Client, key), (String::new(), reset(Status::Aborted)));
}

#[test]
fn a_reset_goes_out_although_both_halves_look_finished() {
    let mut pair = Pair::new();
    let key = pair.open("head");
    pair.exchange();
    let agent = pair.accepted();
    pair.write(Agent, agent, "never read");
    pair.agent.finish(agent);
    pair.exchange();
    pair.write(Client, key, "lost");
    pair.take(Client, 1);
    let lane = pair.add_lane();
    pair.client.finish(key);
    let end = pair.take(Client, lane);
    pair.give(Agent, lane, &end);
    pair.pass(std::time::Duration::from_millis(3));
    let acks = pair.take(Agent, lane);
    pair.give(Client, lane, &acks);
    pair.client.reset(key, Status::Aborted);
    pair.client.release(key);
    pair.client.lane_lost(1, pair.now);
    pair.agent.lane_lost(1, pair.now);
    pair.exchange();
    assert_eq!(pair.agent.reset_status(agent), Some(Status::Aborted));
    assert_eq!(pair.client.stats().streams, 0);
}

#[test]
fn thousands_of_small_frames_behind_a_gap_are_no_offence() {
    let mut pair = Pair::new();
    let key = pair.open("the gap");
    pair.take(Client, 1);
    let lane = pair.add_lane();
    for _ in 0..10_000 {
        pair.write(Client, key, "x");
        let bytes = pair.take(Client, lane);
        pair.give(Agent, lane, &bytes);
        let acks = pair.take(Agent, lane);
        pair.give(Client, lane, &acks);
        if pair.client.writable(key) == Ok(0) {
            pair.pass(std::time::Duration::from_millis(3));
            let acks = pair.take(Agent, lane);
            pair.give(Client, lane, &acks);
        }
    }
    pair.client.lane_lost(1, pair.now);
    pair.agent.lane_lost(1, pair.now);
    pair.exchange();
    let agent = pair.accepted();
    assert_eq!(pair.read(Agent, agent).0.len(), 7 + 10_000);
}

#[test]
fn a_writer_does_not_wait_for_a_stream_that_is_gone() {
    let client = Config { send_pool: Pool::new(8 * 1024), ..Config::client() };
    let mut pair = Pair::with(client, Config::agent());
    let full = Bytes::from(vec![0; 8 * 1024]);
    let keys: Vec<_> = (0..8).map(|_| pair.client.open().expect("a stream")).collect();
    while pair.client.write(keys[0], &full).expect("room") > 0
        || pair.client.write(keys[1], &full).expect("room") > 0
    {}
    for &key in &keys[2..] {
        assert_eq!(pair.client.writable(key), Ok(0));
    }
    pair.events(Client);
    for &key in &keys[2..7] {
        pair.client.release(key);
    }
    pair.exchange();
    assert!(pair.events(Client).contains(&Event::Writable(keys[7])), "the one that is left is woken");
}

#[test]
fn an_opener_that_waits_for_another_sessions_memory_is_told_to_try_again() {
    let pool = Pool::new(4 * 1024);
    let config = Config { receive_pool: pool, first_window: 0, ..Config::client() };
    let (mut one, mut other) =
        (Pair::with(config.clone(), Config::agent()), Pair::with(config, Config::agent()));
    let held = [one.open("all"), one.open("of it")];
    assert_eq!(other.client.open(), Err(OpenError::Wait));
    other.events(Client);
    held.into_iter().for_each(|key| one.client.release(key));
    one.exchange();
    // Nothing tells the other session but its own next turn, which its pings bring.
    let due = other.client.poll_timeout().expect("a ping");
    other.pass(due - other.now);
    assert!(other.events(Client).contains(&Event::CanOpen));
    assert!(other.client.open().is_ok());
}
