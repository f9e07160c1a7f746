//! Both ends of a session under arbitrary use: programs that do anything in any order, lanes that come and go, and,
//! from the moment the input says so, peers that send anything at all.
#![no_main]

use std::time::{Duration, Instant};

use arbitrary::Arbitrary;
use bytes::{BufMut as _, Bytes};
use libfuzzer_sys::fuzz_target;
use relay_protocol::frame::Frame;
use relay_protocol::hello::{Instance, Secret, SessionId};
use relay_protocol::pool::Pool;
use relay_protocol::session::{Config, Event, FlowKey, Read, Session, StreamKey};
use relay_protocol::{LargeFrame, Status};

#[derive(Arbitrary, Debug)]
enum Op<'a> {
    Open,
    Write {
        agent: bool,
        stream: u8,
        len: u16,
    },
    Read {
        agent: bool,
        stream: u8,
        max: u16,
    },
    Finish {
        agent: bool,
        stream: u8,
    },
    Reset {
        agent: bool,
        stream: u8,
        code: u8,
    },
    Release {
        agent: bool,
        stream: u8,
    },
    OpenFlow,
    Send {
        agent: bool,
        flow: u8,
        len: u16,
    },
    CloseFlow {
        agent: bool,
        flow: u8,
    },
    /// Moves what one end has for a lane, or only its first bytes.
    Carry {
        agent: bool,
        lane: u8,
        cut: Option<u16>,
    },
    /// Delivers to the other end what was moved, at most this much.
    Deliver {
        agent: bool,
        lane: u8,
        most: u16,
    },
    Lose {
        lane: u8,
    },
    Join,
    Pass {
        milliseconds: u16,
    },
    Woke {
        agent: bool,
    },
    Drain {
        agent: bool,
    },
    Goodbye {
        agent: bool,
    },
    /// Anything at all arrives.
    Garbage {
        agent: bool,
        lane: u8,
        bytes: &'a [u8],
    },
    /// A frame arrives that parses, with numbers that may mean something.
    Forge {
        agent: bool,
        lane: u8,
        kind: u8,
        id: u8,
        number: u32,
        data: &'a [u8],
    },
}

struct End {
    session: Session,
    streams: Vec<StreamKey>,
    flows: Vec<FlowKey>,
    pools: [Pool; 2],
}

/// What is on its way to each end, per lane.
#[derive(Default)]
struct Wire {
    lane: u64,
    to: [Vec<u8>; 2],
}

struct World {
    now: Instant,
    /// The client, the agent.
    ends: [End; 2],
    wires: Vec<Wire>,
    honest: bool,
}

fn config(base: Config) -> (Config, [Pool; 2]) {
    let pools = [Pool::new(1 << 20), Pool::new(96 * 1024)];
    let config = Config {
        receive_pool: pools[0].clone(),
        send_pool: pools[1].clone(),
        max_streams: 24,
        max_flows: 4,
        lane_cap: 32 * 1024,
        ..base
    };
    (config, pools)
}

impl World {
    fn new() -> Option<Self> {
        let now = Instant::now();
        let (client, client_pools) = config(Config::client());
        let (agent, agent_pools) = config(Config::agent());
        let mut client = Session::client(client, SessionId([1; 16]), Secret([2; 32]), now);
        let (lane, hello) = client.next_hello();
        let (agent, welcome) = Session::agent(agent, &hello, Instance([3; 16]), now).ok()?;
        assert!(client.welcomed(lane, &welcome, now));
        let end = |session, pools| End { session, streams: Vec::new(), flows: Vec::new(), pools };
        Some(Self {
            now,
            ends: [end(client, client_pools), end(agent, agent_pools)],
            wires: vec![Wire { lane, ..Wire::default() }],
            honest: true,
        })
    }

    fn stream(&self, end: usize, index: u8) -> Option<StreamKey> {
        let streams = &self.ends[end].streams;
        streams.get(usize::from(index).checked_rem(streams.len())?).copied()
    }

    fn flow(&self, end: usize, index: u8) -> Option<FlowKey> {
        let flows = &self.ends[end].flows;
        flows.get(usize::from(index).checked_rem(flows.len())?).copied()
    }

    fn wire(&self, index: u8) -> Option<usize> {
        usize::from(index).checked_rem(self.wires.len())
    }

    fn act(&mut self, op: Op<'_>) {
        let now = self.now;
        match op {
            Op::Open => {
                if let Ok(key) = self.ends[0].session.open() {
                    self.ends[0].streams.push(key);
                }
            }
            Op::Write { agent, stream, len } => {
                let Some(key) = self.stream(agent.into(), stream) else { return };
                let data = Bytes::from(vec![7; usize::from(len)]);
                if let Ok(written) = self.ends[usize::from(agent)].session.write(key, &data) {
                    assert!(written <= data.len());
                }
            }
            Op::Read { agent, stream, max } => {
                let Some(key) = self.stream(agent.into(), stream) else { return };
                if let Read::Data(data) =
                    self.ends[usize::from(agent)].session.read(now, key, usize::from(max).max(1))
                {
                    assert!(!self.honest || data.iter().all(|byte| *byte == 7));
                }
            }
            Op::Finish { agent, stream } => {
                let Some(key) = self.stream(agent.into(), stream) else { return };
                self.ends[usize::from(agent)].session.finish_riding(now, key);
            }
            Op::Reset { agent, stream, code } => {
                let Some(key) = self.stream(agent.into(), stream) else { return };
                self.ends[usize::from(agent)].session.reset(key, Status::from_u8(code));
            }
            Op::Release { agent, stream } => {
                let Some(key) = self.stream(agent.into(), stream) else { return };
                let end = &mut self.ends[usize::from(agent)];
                end.session.release(key);
                end.streams.retain(|other| *other != key);
            }
            Op::OpenFlow => {
                if let Ok(key) = self.ends[0].session.open_flow(now, Bytes::from_static(b"header")) {
                    self.ends[0].flows.push(key);
                }
            }
            Op::Send { agent, flow, len } => {
                let Some(key) = self.flow(agent.into(), flow) else { return };
                let data = Bytes::from(vec![7; usize::from(len)]);
                let _ = self.ends[usize::from(agent)].session.send_datagram(now, key, data);
            }
            Op::CloseFlow { agent, flow } => {
                let Some(key) = self.flow(agent.into(), flow) else { return };
                let end = &mut self.ends[usize::from(agent)];
                end.session.close_flow(key, Status::Ok);
                end.flows.retain(|other| *other != key);
            }
            Op::Carry { agent, lane, cut } => {
                let Some(index) = self.wire(lane) else { return };
                let wire = &mut self.wires[index];
                let to = &mut wire.to[usize::from(!agent)];
                let before = to.len();
                self.ends[usize::from(agent)].session.transmit(wire.lane, now, to);
                if let Some(cut) = cut {
                    // What is not written in full costs the lane.
                    to.truncate(before.max(to.len().min(usize::from(cut))));
                    self.lose(index);
                }
            }
            Op::Deliver { agent, lane, most } => {
                let Some(index) = self.wire(lane) else { return };
                let wire = &mut self.wires[index];
                let bytes = &mut wire.to[usize::from(agent)];
                let most = bytes.len().min(usize::from(most));
                if let Some(mut large) = LargeFrame::begin(&bytes[..most])
                    && let Some(rest) = bytes.get(most..most + large.missing())
                {
                    large.rest().put_slice(rest);
                    bytes.drain(..most + rest.len());
                    let taken = self.ends[usize::from(agent)].session.receive_large(wire.lane, large, now);
                    assert!(taken.is_ok() || !self.honest, "an honest frame is malformed: {taken:?}");
                    return;
                }
                match self.ends[usize::from(agent)].session.receive(wire.lane, &bytes[..most], now) {
                    Ok(taken) => {
                        assert!(taken <= most);
                        bytes.drain(..taken);
                    }
                    Err(error) => assert!(!self.honest, "honest bytes are malformed: {error}"),
                }
            }
            Op::Lose { lane } => {
                if let Some(index) = self.wire(lane) {
                    self.lose(index);
                }
            }
            Op::Join => {
                let (lane, hello) = self.ends[0].session.next_hello();
                match self.ends[1].session.join(&hello, now) {
                    Ok(welcome) => {
                        self.ends[0].session.welcomed(lane, &welcome, now);
                        self.wires.push(Wire { lane, ..Wire::default() });
                    }
                    Err(refusal) => {
                        self.ends[0].session.welcomed(lane, &refusal, now);
                    }
                }
            }
            Op::Pass { milliseconds } => {
                self.now += Duration::from_millis(milliseconds.into());
                for end in &mut self.ends {
                    end.session.handle_timeout(self.now);
                    let next = end.session.poll_timeout();
                    assert!(next.is_none_or(|next| next > self.now), "a timer stays in the past");
                }
            }
            Op::Woke { agent } => self.ends[usize::from(agent)].session.woke(now),
            Op::Drain { agent } => self.ends[usize::from(agent)].session.drain(Duration::from_secs(1)),
            Op::Goodbye { agent } => {
                self.ends[usize::from(agent)].session.goodbye(Status::ShuttingDown, "enough");
            }
            Op::Garbage { agent, lane, bytes } => self.forge(agent, lane, bytes),
            Op::Forge { agent, lane, kind, id, number, data } => {
                let (id, number) = (u64::from(id), u64::from(number));
                let frame = match kind % 12 {
                    0 | 1 => Frame::Stream { id, offset: number % 70_000, fin: kind > 127, data },
                    2 => Frame::MaxData { id, limit: number },
                    3 => Frame::MaxStreams { limit: number % 40 },
                    4 => Frame::Reset { id, status: Status::from_u8(kind), final_offset: number % 70_000 },
                    5 => Frame::Datagram { id, seq: number, header: None, data },
                    6 => Frame::Datagram { id, seq: number, header: Some(b"header"), data },
                    7 => Frame::FlowClose { id, status: Status::Ok },
                    8 => Frame::LaneAck { lane: id, position: number },
                    9 => Frame::Ping { token: number },
                    10 => Frame::Pong { token: id },
                    _ => Frame::LaneClose,
                };
                let mut bytes = Vec::new();
                frame.encode(&mut bytes);
                self.forge(agent, lane, &bytes);
            }
        }
    }

    fn forge(&mut self, agent: bool, lane: u8, bytes: &[u8]) {
        self.honest = false;
        let Some(index) = self.wire(lane) else { return };
        let lane = self.wires[index].lane;
        if let Some(mut large) = LargeFrame::begin(bytes) {
            // Whole or not, whatever it says of itself.
            let missing = large.missing();
            large.rest().put_bytes(0, missing - usize::from(missing % 7 == 0));
            let _ = self.ends[usize::from(agent)].session.receive_large(lane, large, self.now);
        } else if let Ok(taken) = self.ends[usize::from(agent)].session.receive(lane, bytes, self.now) {
            assert!(taken <= bytes.len());
        }
    }

    fn lose(&mut self, index: usize) {
        let wire = self.wires.swap_remove(index);
        for end in &mut self.ends {
            end.session.lane_lost(wire.lane, self.now);
        }
    }

    fn check(&mut self) {
        for end in &mut self.ends {
            while let Some(event) = end.session.poll_event() {
                match event {
                    Event::Opened(key) => end.streams.push(key),
                    Event::FlowOpened(key) => end.flows.push(key),
                    Event::FlowReadable(key) => while let Ok(Some(_)) = end.session.receive_datagram(key) {},
                    _ => {}
                }
            }
            assert!(end.pools.iter().all(|pool| pool.used() <= pool.limit()));
            let stats = end.session.stats();
            assert!(
                stats.receive_reserved <= end.pools[0].limit() && stats.send_held <= end.pools[1].limit()
            );
            let audit = end.session.audit();
            assert!(audit.credit <= stats.receive_reserved as u64 && audit.stored <= audit.credit);
            assert_eq!(audit.sending, stats.send_held);
        }
    }
}

fuzz_target!(|ops: Vec<Op<'_>>| {
    let Some(mut world) = World::new() else { return };
    let pools: Vec<Pool> = world.ends.iter().flat_map(|end| end.pools.clone()).collect();
    for op in ops {
        world.act(op);
        world.check();
    }
    for end in &mut world.ends {
        end.session.abandon(Status::AgentLost, "over");
        end.streams.drain(..).for_each(|key| end.session.release(key));
        end.flows.drain(..).for_each(|key| end.session.close_flow(key, Status::Ok));
        let stats = end.session.stats();
        assert_eq!(stats.send_held, 0, "nothing is held for streams that are gone");
        let lanes: Vec<u64> = end.session.lanes().collect();
        for lane in lanes {
            let mut out = Vec::new();
            for _ in 0..4 {
                end.session.transmit(lane, world.now, &mut out);
            }
            assert!(!end.session.has_work(lane, world.now), "work that never gets done");
        }
    }
    drop(world);
    assert!(pools.iter().all(|pool| pool.used() == 0), "pools get everything back");
});
