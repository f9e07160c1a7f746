//! Peers that send anything at all: whatever it is, budgets hold, the session that shares the pools goes on, and
//! nobody gets in who can't prove that he may.

use std::time::{Duration, Instant};

use proptest::prelude::*;
use relay_protocol::Status;
use relay_protocol::frame::Frame;
use relay_protocol::hello::{Hello, Instance, Request, Secret, SessionId, Welcome};
use relay_protocol::pool::Pool;
use relay_protocol::session::{Config, Event, Read, Session, StreamKey};

use crate::pair::{INSTANCE, Pair};
use crate::schedules::for_seeds;
use crate::simulator::network::Side::{self, Agent, Client};
use crate::simulator::rng::Rng;

/// Any frame at all, with numbers that mostly mean something: what is malformed ends the session, and the rest is
/// never tried. `ids` streams were begun, and `sent` bytes may be acknowledged.
fn a_frame(rng: &mut Rng, ids: u64, sent: u64, out: &mut Vec<u8>) {
    let wild = rng.below(300) == 0;
    let id = if wild { rng.magnitude(1..64) } else { rng.below(ids) << 1 };
    let number = if wild { rng.next() >> 6 } else { rng.magnitude(1..3_000) - 1 };
    let data = vec![rng.next() as u8; rng.magnitude(1..3_000) as usize];
    let status = Status::from_u8(rng.next() as u8);
    let frame = match rng.below(16) {
        0..5 => Frame::Stream { id, offset: number, fin: rng.below(500) == 0, data: &data },
        5 => Frame::MaxData { id, limit: number },
        6 => Frame::MaxStreams { limit: number },
        7 if rng.chance(20) => Frame::Reset { id, status, final_offset: number },
        7 => Frame::MaxData { id, limit: (number * 10).min(1 << 61) },
        8 => Frame::Datagram {
            id,
            seq: number,
            header: Some(b"header").filter(|_| id > 5).map(|x| &x[..]),
            data: &data,
        },
        9 => Frame::FlowClose { id, status },
        10 | 11 => Frame::LaneAck { lane: 1, position: if wild { number } else { rng.below(sent + 1) } },
        12 => Frame::Ping { token: number },
        13 => Frame::Pong { token: number % 8 },
        14 if rng.chance(5) => Frame::LaneClose,
        14 if rng.chance(5) => Frame::Drain { grace: number },
        _ if rng.below(500) == 0 => Frame::Goodbye { status, text: "over" },
        _ if rng.below(300) == 0 => return out.extend((0..rng.below(20)).map(|_| rng.next() as u8)),
        // An odd type that nobody knows, without a body: skipped.
        _ => return out.extend([0x40, 2 * rng.below(60) as u8 + 101, 0]),
    };
    frame.encode(out);
}

/// A session whose peer is the test, and what its programs hold.
struct Victim {
    side: Side,
    session: Session,
    lanes: Vec<u64>,
    streams: Vec<StreamKey>,
    sent: Vec<Vec<u8>>,
    total: u64,
    /// Bytes that are not a whole frame yet.
    unread: Vec<u8>,
}

impl Victim {
    fn new(side: Side, config: Config, now: Instant) -> Self {
        let honest =
            Config { receive_pool: Pool::new(8 << 20), send_pool: Pool::new(1 << 20), ..Config::client() };
        let (id, secret) = (SessionId([5; 16]), Secret([6; 32]));
        let session = match side {
            Agent => {
                let hello = Session::client(honest, id, secret, now).next_hello().1;
                Session::agent(config, &hello, INSTANCE, now).expect("a welcome").0
            }
            Client => {
                let mut session = Session::client(config, id, secret, now);
                let (lane, _) = session.next_hello();
                let mut welcome = Welcome::refusal(Status::Ok, INSTANCE);
                (welcome.initial_credit, welcome.max_streams) = (1 << 40, 1 << 40);
                assert!(session.welcomed(lane, &welcome, now));
                session
            }
        };
        Self {
            side,
            lanes: session.lanes().collect(),
            session,
            streams: Vec::new(),
            sent: Vec::new(),
            total: 0,
            unread: Vec::new(),
        }
    }

    /// What the peer does to it.
    fn attack(&mut self, rng: &mut Rng, foreign: &[u8], now: Instant) {
        let Some(&lane) = self.lanes.get(rng.below(self.lanes.len().max(1) as u64) as usize) else { return };
        let ids = if self.side == Agent { 30 } else { self.streams.len().max(1) as u64 };
        let mut bytes = std::mem::take(&mut self.unread);
        match rng.below(400) {
            // What was meant for another session, and what this one sent itself.
            0 => bytes.extend_from_slice(foreign),
            1 if !self.sent.is_empty() => {
                bytes = self.sent[rng.below(self.sent.len() as u64) as usize].clone();
            }
            _ => (0..rng.in_range(1..5)).for_each(|_| a_frame(rng, ids, self.total, &mut bytes)),
        }
        // A transport that brings too much of a frame that never ends is closed by the driver's own limit.
        let cut = if rng.chance(20) { rng.below(bytes.len() as u64 + 1) as usize } else { bytes.len() };
        match self.session.receive(lane, &bytes[..cut], now) {
            Ok(taken) => self.unread = bytes.split_off(taken),
            Err(_) => assert!(self.session.ended().is_some(), "a malformed frame ends the session"),
        }
    }

    /// What its own programs and its driver do.
    fn live(&mut self, rng: &mut Rng, now: Instant) {
        while let Some(event) = self.session.poll_event() {
            match event {
                Event::Opened(key) => self.streams.push(key),
                Event::FlowReadable(key) => while let Ok(Some(_)) = self.session.receive_datagram(key) {},
                Event::LaneOver(lane, _) => self.lanes.retain(|other| *other != lane),
                _ => {}
            }
        }
        if self.side == Client
            && self.streams.len() < 100
            && let Ok(key) = self.session.open()
        {
            self.streams.push(key);
        }
        for _ in 0..rng.below(4) {
            if self.streams.is_empty() {
                break;
            }
            let index = rng.below(self.streams.len() as u64) as usize;
            let key = self.streams[index];
            match rng.below(8) {
                0..3 => drop(self.session.write(key, &vec![7; rng.magnitude(1..100_000) as usize].into())),
                3..6 => drop(self.session.read(now, key, rng.magnitude(1..100_000) as usize)),
                6 => self.session.finish_riding(now, key),
                _ => {
                    self.session.release(key);
                    self.streams.swap_remove(index);
                }
            }
        }
        for &lane in &self.lanes {
            let mut out = Vec::new();
            self.session.transmit(lane, now, &mut out);
            self.total += out.len() as u64;
            if !out.is_empty() && self.sent.len() < 20 {
                self.sent.push(out);
            }
        }
    }

    fn check(&self) {
        let (stats, audit) = (self.session.stats(), self.session.audit());
        assert!(audit.credit <= stats.receive_reserved as u64, "{audit:?} {stats:?}");
        assert!(audit.stored <= audit.credit, "{audit:?}");
        assert_eq!(audit.sending, stats.send_held);
        assert!(stats.flows <= 64 + 8, "{stats:?}");
    }
}

fn small(base: Config) -> Config {
    Config {
        receive_pool: Pool::new(4 << 20),
        send_pool: Pool::new(2 << 20),
        max_streams: base.max_streams.min(64),
        max_flows: 64,
        ..base
    }
}

#[test]
fn a_hostile_peer_stays_within_its_budgets_and_harms_no_other_session() {
    for_seeds("a_hostile_peer", 400, |seed| {
        let mut rng = Rng::new(seed);
        let side = rng.pick(&Side::BOTH);
        let (client, agent) = (small(Config::client()), small(Config::agent()));
        let config = if side == Client { client.clone() } else { agent.clone() };
        let pools = [config.receive_pool.clone(), config.send_pool.clone()];
        // The neighbour shares them.
        let mut pair = Pair::with(client, agent);
        let key = pair.open("hello");
        pair.exchange();
        let other = pair.accepted();
        assert_eq!(pair.read(Agent, other).0, "hello");
        let alone = pools.each_ref().map(Pool::used);
        let mut victim = Victim::new(side, config, pair.now);
        for round in 0..200 {
            let text = format!("round {round}");
            pair.write(Client, key, &text);
            let foreign = pair.take(Client, 1);
            pair.give(Agent, 1, &foreign);
            victim.attack(&mut rng, &foreign, pair.now);
            victim.live(&mut rng, pair.now);
            victim.check();
            assert!(pools.iter().all(|pool| pool.used() <= pool.limit()));
            if rng.chance(5) {
                pair.now += rng.duration(Duration::from_millis(1)..Duration::from_secs(4));
                victim.session.handle_timeout(pair.now);
                let next = victim.session.poll_timeout();
                assert!(next.is_none_or(|next| next > pair.now), "a timer stays in the past");
            }
            pair.exchange();
            assert_eq!(pair.read(Agent, other), (text, Read::Blocked), "the neighbour's bytes are its own");
        }
        drop(victim);
        assert!(
            pair.events(Agent)
                .iter()
                .chain(&pair.events(Client))
                .all(|event| !matches!(event, Event::Ended(..)))
        );
        // Its own credit may have grown meanwhile, by as much as a stream gets.
        for (pool, alone) in pools.iter().zip(alone) {
            assert!(pool.used() <= alone + (64 << 10), "{} of {alone} bytes are back", pool.used());
        }
    });
}

/// A session with its secret, and a hello that may join it.
fn joinable() -> (Session, Hello, Instant) {
    let now = Instant::now();
    let mut client = Session::client(Config::client(), SessionId([1; 16]), Secret([2; 32]), now);
    let (lane, hello) = client.next_hello();
    let (agent, welcome) = Session::agent(Config::agent(), &hello, INSTANCE, now).expect("a welcome");
    assert!(client.welcomed(lane, &welcome, now));
    (agent, client.next_hello().1, now)
}

proptest! {
    #[test]
    fn no_change_to_a_hello_gets_in(at in any::<prop::sample::Index>(), change in 1u8.., cut in any::<bool>()) {
        let (mut agent, honest, now) = joinable();
        let mut bytes = honest.encode();
        let at = at.index(bytes.len());
        if cut { bytes.truncate(at) } else { bytes[at] ^= change }
        if let Ok(Some((hello, _))) = Hello::decode(&bytes) {
            let proven = |hello: &Hello| (hello.session, hello.lane, hello.request.clone());
            // The driver looks the session up by its id; the rest is the session's own to refuse.
            let is_for_it = hello.session == agent.id();
            let joined = is_for_it && agent.join(&hello, now).is_ok();
            prop_assert_eq!(joined, proven(&hello) == proven(&honest), "{:?}", hello);
        }
    }

    #[test]
    fn no_guess_gets_in(
        lane in any::<u64>(), proof in any::<[u8; 32]>(), held in prop::collection::vec(any::<u64>(), 0..16),
        create in any::<bool>(),
    ) {
        let (mut agent, honest, now) = joinable();
        let request = if create {
            Request::Create { secret: Secret(proof) }
        } else {
            Request::Join { proof, held }
        };
        let refusal = agent.join(&Hello { request, lane, ..honest }, now);
        prop_assert_eq!(refusal, Err(Welcome::refusal(Status::AgentLost, INSTANCE)));
        prop_assert_eq!(agent.lanes().collect::<Vec<_>>(), [1], "and closes nothing");
    }

    #[test]
    fn whatever_a_welcome_says_a_client_takes_no_harm(
        status in any::<u8>(), instance in any::<[u8; 16]>(), initial_credit in any::<u64>(),
        max_streams in any::<u64>(), again in any::<bool>(),
    ) {
        let now = Instant::now();
        let mut client = Session::client(Config::client(), SessionId([1; 16]), Secret([2; 32]), now);
        let mut welcome = Welcome::refusal(Status::from_u8(status), Instance(instance));
        (welcome.initial_credit, welcome.max_streams) = (initial_credit >> 2, max_streams >> 2);
        for round in 0..1 + u8::from(again) {
            let (lane, _) = client.next_hello();
            let welcomed = client.welcomed(lane, &welcome, now);
            prop_assert_eq!(welcomed, welcome.status == Status::Ok);
            prop_assert!(!client.welcomed(lane + 1, &welcome, now), "nobody asked for that lane");
            if welcomed && let Ok(key) = client.open() {
                let written = client.write(key, &vec![7; 1 << 20].into());
                prop_assert!(written.is_ok_and(|written| written as u64 <= welcome.initial_credit));
            }
            prop_assert!(client.stats().lanes <= usize::from(round) + 1);
        }
    }
}
