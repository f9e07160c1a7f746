//! What a session costs by itself: two ends in memory, one lane, no I/O and no real time.
//! `cargo bench --package relay-protocol --profile fast` runs it; `cargo xtask count` counts instructions.

#![allow(clippy::expect_used, reason = "a benchmark that fails here should panic")]

use std::time::{Duration, Instant};

use bytes::Bytes;
use relay_microbench::Cases;
use relay_protocol::hello::{Instance, Secret, SessionId};
use relay_protocol::session::{Config, Event, Read, Session, StreamKey};

/// What one turn of a round trip takes in virtual time: a near path.
const TURN: Duration = Duration::from_micros(100);
const PIECE: usize = 64 * 1024;

/// Two ends with one stream between them.
struct Pair {
    now: Instant,
    client: Session,
    agent: Session,
    lane: u64,
    wire: Vec<u8>,
}

impl Pair {
    fn new() -> (Self, StreamKey, StreamKey) {
        let now = Instant::now();
        let mut client = Session::client(Config::client(), SessionId([1; 16]), Secret([2; 32]), now);
        let (lane, hello) = client.next_hello();
        let (agent, welcome) =
            Session::agent(Config::agent(), &hello, Instance([7; 16]), now).expect("a welcome");
        assert!(client.welcomed(lane, &welcome, now));
        let mut pair = Self { now, client, agent, lane, wire: Vec::new() };
        let ours = pair.client.open().expect("a stream");
        pair.client.write(ours, &Bytes::from_static(b"begin")).expect("a first write");
        pair.turn();
        let theirs = std::iter::from_fn(|| pair.agent.poll_event()).find_map(|event| match event {
            Event::Opened(key) => Some(key),
            _ => None,
        });
        let theirs = theirs.expect("a stream at the agent");
        assert!(matches!(pair.agent.read(pair.now, theirs, PIECE), Read::Data(_)));
        (pair, ours, theirs)
    }

    /// Everything that either end has goes to the other; a moment passes.
    fn turn(&mut self) {
        self.now += TURN;
        carry(&mut self.client, &mut self.agent, self.lane, self.now, &mut self.wire);
        carry(&mut self.agent, &mut self.client, self.lane, self.now, &mut self.wire);
        self.client.handle_timeout(self.now);
        self.agent.handle_timeout(self.now);
    }
}

fn carry(from: &mut Session, to: &mut Session, lane: u64, now: Instant, wire: &mut Vec<u8>) {
    while from.has_work(lane, now) {
        wire.clear();
        from.transmit(lane, now, wire);
        if wire.is_empty() {
            break;
        }
        let taken = to.receive(lane, wire, now).expect("well-formed bytes");
        assert_eq!(taken, wire.len(), "a batch ends with a whole frame");
    }
}

/// One mebibyte from client to agent, read in full.
fn bulk(cases: &mut Cases) {
    const BYTES: usize = 1 << 20;
    let (mut pair, ours, theirs) = Pair::new();
    let data = Bytes::from(vec![7; PIECE]);
    cases.case("session/bulk", Some(BYTES as u64), || {
        let (mut left, mut missing) = (BYTES, BYTES);
        while missing > 0 {
            while left > 0 {
                let piece = data.slice(..left.min(PIECE));
                match pair.client.write(ours, &piece).expect("an open stream") {
                    0 => break,
                    written => left -= written,
                }
            }
            pair.turn();
            while let Read::Data(read) = pair.agent.read(pair.now, theirs, PIECE) {
                missing -= read.len();
            }
            while pair.client.poll_event().is_some() || pair.agent.poll_event().is_some() {}
        }
    });
}

/// 64 bytes there and 64 bytes back.
fn echo(cases: &mut Cases) {
    let (mut pair, ours, theirs) = Pair::new();
    let data = Bytes::from_static(&[7; 64]);
    cases.case("session/echo", None, || {
        pair.client.write(ours, &data).expect("an open stream");
        pair.turn();
        while let Read::Data(read) = pair.agent.read(pair.now, theirs, PIECE) {
            pair.agent.write(theirs, &read).expect("an open stream");
        }
        pair.turn();
        let mut missing = data.len();
        while let Read::Data(read) = pair.client.read(pair.now, ours, PIECE) {
            missing -= read.len();
        }
        assert_eq!(missing, 0);
        while pair.client.poll_event().is_some() || pair.agent.poll_event().is_some() {}
    });
}

fn main() {
    relay_microbench::main(|cases| {
        bulk(cases);
        echo(cases);
    });
}
