//! How sessions end: with a word, without one, and with nothing left behind.

use std::time::Duration;

use relay_protocol::Status;
use relay_protocol::frame::Frame;
use relay_protocol::session::{Config, Event, OpenError, Read};

use crate::pair::{Pair, encoded, frames, reset};
use crate::simulator::network::Side::{Agent, Client};

#[test]
fn goodbye_resets_everything_and_is_acknowledged() {
    let mut pair = Pair::new();
    let key = pair.open("x");
    pair.exchange();
    let agent = pair.accepted();
    pair.client.goodbye(Status::ShuttingDown, "closing");
    assert_eq!(pair.read(Client, key), (String::new(), reset(Status::ShuttingDown)));
    pair.exchange();
    assert!(pair.client.is_goodbye_done());
    assert!(pair.events(Agent).contains(&Event::Ended(Status::ShuttingDown, "closing".into())));
    assert_eq!(pair.read(Agent, agent), (String::new(), reset(Status::ShuttingDown)));
    pair.client.release(key);
    pair.agent.release(agent);
    assert_eq!((pair.client.stats().streams, pair.agent.stats().streams), (0, 0));
    assert_eq!((pair.client.stats().send_held, pair.agent.stats().send_held), (0, 0));
    assert_eq!(pair.client.open(), Err(OpenError::Ended(Status::ShuttingDown)));
}

#[test]
fn a_session_that_is_over_has_nothing_to_send_but_goodbye() {
    let mut pair = Pair::with(Config::client(), Config { max_streams: 2, ..Config::agent() });
    let (one, other) = (pair.open("a"), pair.open("b"));
    pair.exchange();
    let agents = pair.opened();
    pair.write(Agent, agents[0], "in flight");
    pair.agent.reset(agents[1], Status::Aborted);
    pair.take(Agent, 1);
    let lane = pair.add_lane();
    pair.agent.goodbye(Status::ShuttingDown, "over");
    agents.iter().for_each(|&key| pair.agent.release(key));
    pair.agent.lane_lost(1, pair.now);
    let bytes = pair.take(Agent, lane);
    assert!(matches!(frames(&bytes)[..], [Frame::Goodbye { .. }]), "{:?}", frames(&bytes));
    assert_eq!(pair.agent.stats().streams, 0);
    pair.give(Client, lane, &bytes);
    assert_eq!(pair.read(Client, one).1, reset(Status::ShuttingDown));
    assert_eq!(pair.read(Client, other).1, reset(Status::ShuttingDown));
}

#[test]
fn drain_lets_streams_finish_but_begins_none() {
    let mut pair = Pair::new();
    let key = pair.open("x");
    pair.exchange();
    let agent = pair.accepted();
    pair.agent.drain(Duration::from_secs(30));
    pair.exchange();
    assert!(pair.events(Client).contains(&Event::Drain(Duration::from_secs(30))));
    assert_eq!(pair.client.open(), Err(OpenError::Draining));
    pair.write(Agent, agent, "still here");
    pair.exchange();
    assert_eq!(pair.read(Client, key).0, "still here");
}

#[test]
fn a_session_with_streams_outlives_its_lanes_for_long_and_one_without_for_a_while() {
    for (streams, life) in [(1, 30 * 60), (0, 60)] {
        let mut pair = Pair::new();
        if streams > 0 {
            pair.open("x");
            pair.exchange();
        }
        pair.agent.lane_lost(1, pair.now);
        pair.client.lane_lost(1, pair.now);
        pair.pass(Duration::from_secs(life - 1));
        assert_eq!((pair.agent.ended(), pair.client.ended()), (None, None));
        pair.pass(Duration::from_secs(1));
        let lost = Some(Status::AgentLost);
        assert_eq!((pair.agent.ended(), pair.client.ended()), (lost, lost));
    }
}

#[test]
fn a_reset_whose_bytes_never_came_ends_with_the_session() {
    let mut pair = Pair::new();
    let key = pair.open("x");
    pair.exchange();
    let agent = pair.accepted();
    pair.write(Agent, agent, "lost");
    pair.take(Agent, 1);
    pair.agent.reset(agent, Status::ResetByPeer);
    let bytes = pair.take(Agent, 1);
    pair.give(Client, 1, &bytes);
    assert_eq!(pair.read(Client, key), (String::new(), Read::Blocked));
    pair.client.abandon(Status::AgentLost, "gone");
    assert!(pair.events(Client).contains(&Event::Readable(key)));
    assert_eq!(pair.read(Client, key), (String::new(), reset(Status::AgentLost)));
}

#[test]
fn a_lost_session_is_never_a_clean_end() {
    let mut pair = Pair::new();
    let key = pair.open("request");
    pair.exchange();
    pair.client.finish(key);
    pair.client.abandon(Status::AgentLost, "gone");
    assert_eq!(pair.read(Client, key), (String::new(), reset(Status::AgentLost)));
}

#[test]
fn a_malformed_frame_ends_the_session_with_a_reason_that_names_it() {
    let mut pair = Pair::new();
    assert!(pair.agent.receive(1, &[0x3e, 0], pair.now).is_err());
    let bytes = pair.take(Agent, 1);
    let text = frames(&bytes).into_iter().find_map(|frame| match frame {
        Frame::Goodbye { text, .. } => Some(text.to_owned()),
        _ => None,
    });
    assert_eq!(text.as_deref(), Some("malformed: unknown frame type 0x3e"));
    pair.give(Client, 1, &bytes);
    assert_eq!(pair.client.ended(), Some(Status::Unknown));
}

#[test]
fn acknowledgements_beyond_what_was_sent_are_malformed_and_those_of_unknown_lanes_ignored() {
    let mut pair = Pair::new();
    let unknown = encoded(&[Frame::LaneAck { lane: 99, position: 5 }]);
    assert!(pair.agent.receive(1, &unknown, pair.now).is_ok());
    let beyond = encoded(&[Frame::LaneAck { lane: 1, position: 1 << 30 }]);
    assert!(pair.agent.receive(1, &beyond, pair.now).is_err());
}
