//! Flows: datagrams whole, once, or not at all.

use bytes::Bytes;
use relay_protocol::Status;
use relay_protocol::frame::Frame;

use crate::pair::{Pair, frames};
use crate::simulator::network::Side::{Agent, Client};

#[test]
fn a_datagram_that_comes_twice_is_delivered_once() {
    let mut pair = Pair::new();
    let now = pair.now;
    let key = pair.client.open_flow(now, Bytes::from_static(b"header")).expect("a flow");
    assert_eq!(pair.client.send_datagram(now, key, Bytes::from_static(b"query")), Ok(()));
    let bytes = pair.take(Client, 1);
    pair.give(Agent, 1, &bytes);
    pair.give(Agent, 1, &bytes);
    let agent = pair.accepted_flow();
    assert_eq!(pair.agent.receive_datagram(agent), Ok(Some(Bytes::from_static(b"query"))));
    assert_eq!(pair.agent.receive_datagram(agent), Ok(None));
}

#[test]
fn the_header_travels_until_a_datagram_has_arrived() {
    let mut pair = Pair::new();
    let now = pair.now;
    let key = pair.client.open_flow(now, Bytes::from_static(b"header")).expect("a flow");
    let mut with_header = Vec::new();
    for _ in 0..2 {
        assert_eq!(pair.client.send_datagram(now, key, Bytes::from_static(b"x")), Ok(()));
        let bytes = pair.take(Client, 1);
        with_header.push(
            frames(&bytes).iter().any(|frame| matches!(frame, Frame::Datagram { header: Some(_), .. })),
        );
        pair.give(Agent, 1, &bytes);
    }
    pair.exchange();
    let now = pair.now;
    assert_eq!(pair.client.send_datagram(now, key, Bytes::from_static(b"x")), Ok(()));
    let bytes = pair.take(Client, 1);
    with_header
        .push(frames(&bytes).iter().any(|frame| matches!(frame, Frame::Datagram { header: Some(_), .. })));
    assert_eq!(with_header, [true, true, false]);
}

#[test]
fn a_closed_flow_is_over_at_both_ends() {
    let mut pair = Pair::new();
    let now = pair.now;
    let key = pair.client.open_flow(now, Bytes::from_static(b"header")).expect("a flow");
    assert_eq!(pair.client.send_datagram(now, key, Bytes::from_static(b"x")), Ok(()));
    pair.exchange();
    pair.client.close_flow(key, Status::Ok);
    pair.exchange();
    let agent = pair.accepted_flow();
    assert_eq!(pair.agent.receive_datagram(agent), Ok(Some(Bytes::from_static(b"x"))));
    assert_eq!(pair.agent.receive_datagram(agent), Err(Status::Ok));
    pair.agent.close_flow(agent, Status::Ok);
    assert_eq!((pair.client.stats().flows, pair.agent.stats().flows), (0, 0));
}
