//! One end: a session, the connections that carry its lanes, and the programs that use it. A driver without I/O.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use bytes::BufMut as _;
use relay_protocol::frame::Malformed;
use relay_protocol::hello::{Hello, Instance, Request, Welcome};
use relay_protocol::session::{Config, Event, FlowKey, OpenError, Session, StreamKey};
use relay_protocol::{LargeFrame, MAX_DATAGRAM, Status};

use super::flows::Flows;
use super::network::Side;
use super::program::{Next, Plan, Program, Record};
use super::rng::Rng;

/// Gaps in a stream: as many frames as its sender may have outstanding.
const MAX_GAPS: usize = 2_048;
/// Room for a stream's small frames, in bytes, however few they are.
const CHUNK: usize = 4_096;

/// What a connection is at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The agent's: the hello has not come.
    Hello,
    /// The client's: this lane's welcome has not come.
    Welcome(u64),
    Live(u64),
    /// Closed here as soon as everything is written.
    Closing,
}

/// One end of a pipe.
#[derive(Debug)]
pub(crate) struct Port {
    pub(crate) phase: Phase,
    pub(crate) since: Duration,
    inbox: Vec<u8>,
    large: Option<LargeFrame>,
    pub(crate) outbox: Vec<u8>,
    /// To be broken off at once.
    pub(crate) broken: bool,
}

impl Port {
    pub(crate) fn new(phase: Phase, since: Duration, outbox: Vec<u8>) -> Self {
        Self { phase, since, inbox: Vec::new(), large: None, outbox, broken: false }
    }

    /// Gives the session what has come: as a driver does, large frames in buffers of their own.
    fn take(&mut self, session: &mut Session, lane: u64, clock: Instant) -> Result<(), Malformed> {
        loop {
            if let Some(mut large) = self.large.take() {
                let here = large.missing().min(self.inbox.len());
                large.rest().put_slice(&self.inbox[..here]);
                self.inbox.drain(..here);
                if large.missing() > 0 {
                    self.large = Some(large);
                    return session.receive(lane, &[], clock).map(drop);
                }
                session.receive_large(lane, large, clock)?;
            }
            let taken = session.receive(lane, &self.inbox, clock)?;
            self.inbox.drain(..taken);
            self.large = LargeFrame::begin(&self.inbox);
            if self.large.is_none() {
                return Ok(());
            }
            self.inbox.clear();
        }
    }
}

/// One end.
#[derive(Debug)]
pub(crate) struct End {
    pub(crate) side: Side,
    pub(crate) config: Config,
    pub(crate) session: Option<Session>,
    pub(crate) instance: Instance,
    pub(crate) ports: BTreeMap<usize, Port>,
    pub(crate) programs: BTreeMap<StreamKey, Program>,
    /// Programs that may be able to go on.
    pub(crate) runnable: BTreeSet<StreamKey>,
    /// Programs that pause, as told to the world once.
    pub(crate) pauses: Vec<(StreamKey, Duration)>,
    pub(crate) flows: Flows,
    pub(crate) asleep: bool,
    pub(crate) ended: Option<(Status, String)>,
    /// Lanes that this end gave up or was told of, in good order or not.
    pub(crate) lanes_over: Vec<(u64, bool)>,
    pub(crate) opened: usize,
    pub(crate) wakeups: u64,
    turns: u64,
    /// When the session was over at this end.
    pub(crate) ended_at: Option<Duration>,
    /// The peer wants no new streams.
    pub(crate) drained: bool,
    /// Streams that this session can't open are left for the next one.
    pub(crate) has_heir: bool,
    /// Takes no hellos any more.
    pub(crate) deaf: bool,
    rng: Rng,
}

impl End {
    pub(crate) fn new(side: Side, config: Config, session: Option<Session>, rng: Rng) -> Self {
        let flows = Flows::new(side);
        Self {
            side,
            config,
            session,
            instance: Instance([7; 16]),
            ports: BTreeMap::new(),
            programs: BTreeMap::new(),
            runnable: BTreeSet::new(),
            pauses: Vec::new(),
            flows,
            asleep: false,
            ended: None,
            lanes_over: Vec::new(),
            opened: 0,
            wakeups: 0,
            turns: 0,
            ended_at: None,
            drained: false,
            has_heir: false,
            deaf: false,
            rng,
        }
    }

    /// The process is gone, and another has taken its place that knows of nothing.
    pub(crate) fn restart(&mut self) {
        self.session = None;
        self.instance = Instance([self.rng.next() as u8; 16]);
        self.ports.values_mut().for_each(|port| port.broken = true);
        self.programs.clear();
        self.runnable.clear();
        self.pauses.clear();
        self.flows = Flows::new(self.side);
        (self.ended, self.ended_at, self.deaf) = (None, None, false);
    }

    /// Nothing of the session is left at this end.
    pub(crate) fn is_over(&self) -> bool {
        self.programs.is_empty() && self.session.as_ref().is_none_or(|session| session.ended().is_some())
    }

    /// Bytes that a pipe brought.
    pub(crate) fn arrived(&mut self, pipe: usize, bytes: &[u8], now: Duration, clock: Instant) {
        let Some(port) = self.ports.get_mut(&pipe) else { return };
        port.inbox.extend_from_slice(bytes);
        if port.phase == Phase::Hello {
            self.hello(pipe, clock);
        } else if let Phase::Welcome(lane) = port.phase {
            self.welcome(pipe, lane, clock);
        }
        let (Some(port), Some(session)) = (self.ports.get_mut(&pipe), &mut self.session) else { return };
        let Phase::Live(lane) = port.phase else { return };
        if let Err(malformed) = port.take(session, lane, clock) {
            panic!("{now:?}: {:?} calls it malformed: {malformed}", self.side);
        }
    }

    /// The agent's registry of sessions: here, at most one.
    fn hello(&mut self, pipe: usize, clock: Instant) {
        // What has ended and was seen by all its programs is out of the registry.
        if self.is_over() {
            self.session = None;
        }
        let Some(port) = self.ports.get_mut(&pipe) else { return };
        let Some((hello, len)) = Hello::decode(&port.inbox).expect("a hello") else { return };
        assert_eq!(len, port.inbox.len(), "something was sent before the welcome");
        port.inbox.clear();
        if self.deaf {
            port.broken = true;
            return;
        }
        let known = self.session.as_ref().is_some_and(|session| session.id() == hello.session);
        let answer = match (&mut self.session, &hello.request) {
            (Some(session), _) if known => session.join(&hello, clock),
            (_, Request::Create { .. }) => {
                match Session::agent(self.config.clone(), &hello, self.instance, clock) {
                    Ok((session, welcome)) => {
                        self.session = Some(session);
                        (self.ended, self.ended_at) = (None, None);
                        Ok(welcome)
                    }
                    Err(refusal) => Err(refusal),
                }
            }
            _ => Err(Welcome::refusal(Status::AgentLost, self.instance)),
        };
        let (welcome, phase) = match answer {
            Ok(welcome) => (welcome, Phase::Live(hello.lane)),
            Err(refusal) => (refusal, Phase::Closing),
        };
        port.outbox = welcome.encode();
        port.phase = phase;
    }

    fn welcome(&mut self, pipe: usize, lane: u64, clock: Instant) {
        let (Some(port), Some(session)) = (self.ports.get_mut(&pipe), &mut self.session) else { return };
        let Some((welcome, len)) = Welcome::decode(&port.inbox).expect("a welcome") else { return };
        port.inbox.drain(..len);
        if session.welcomed(lane, &welcome, clock) {
            port.phase = Phase::Live(lane);
        } else {
            port.broken = true;
        }
    }

    /// The other side of a pipe is gone.
    pub(crate) fn pipe_ended(&mut self, pipe: usize, clock: Instant) {
        let Some(port) = self.ports.remove(&pipe) else { return };
        match (port.phase, &mut self.session) {
            (Phase::Live(lane), Some(session)) => session.lane_lost(lane, clock),
            (Phase::Welcome(lane), Some(session)) => session.give_up(lane),
            _ => {}
        }
    }

    /// Timers, events and programs. True where anything was done.
    pub(crate) fn run(
        &mut self,
        now: Duration,
        clock: Instant,
        plans: &[Plan],
        records: &mut [[Record; 2]],
        due: &mut Vec<usize>,
    ) -> bool {
        let Some(session) = &mut self.session else { return false };
        let mut busy = false;
        if session.poll_timeout().is_some_and(|at| at <= clock) {
            self.wakeups += 1;
            session.handle_timeout(clock);
            busy = true;
        }
        while let Some(number) = due.first().copied().filter(|_| self.side == Side::Client) {
            match session.open() {
                Ok(key) => {
                    due.remove(0);
                    self.opened += 1;
                    self.programs.insert(key, Program::new(self.side, key, Some(number), self.rng.fork()));
                    self.runnable.insert(key);
                    busy = true;
                }
                Err(OpenError::Wait) => break,
                Err(OpenError::Draining | OpenError::Ended(_)) if self.has_heir => break,
                Err(OpenError::Draining | OpenError::Ended(_)) => {
                    due.remove(0);
                    records[number].iter_mut().for_each(|record| record.done = true);
                }
            }
        }
        busy |= self.flows.run(session, now, clock, &mut self.rng);
        busy |= self.take_events(now, clock);
        while let Some(key) = self.runnable.pop_first() {
            busy = true;
            self.run_program(key, now, clock, plans, records);
        }
        busy
    }

    fn run_program(
        &mut self,
        key: StreamKey,
        now: Duration,
        clock: Instant,
        plans: &[Plan],
        records: &mut [[Record; 2]],
    ) {
        let (Some(session), Some(program)) = (&mut self.session, self.programs.get_mut(&key)) else { return };
        if program.asleep {
            return;
        }
        // Not for ever, so that programs and lanes take turns.
        for _ in 0..64 {
            match program.step(session, (now, clock), plans, records) {
                Next::Again => {}
                Next::Sleep(time) => {
                    program.asleep = true;
                    self.pauses.push((key, time));
                    return;
                }
                Next::Blocked => return,
                Next::Done => {
                    self.programs.remove(&key);
                    return;
                }
            }
        }
        self.runnable.insert(key);
        program.asleep = true;
        self.pauses.push((key, Duration::from_micros(10)));
    }

    /// A program's pause is over.
    pub(crate) fn rested(&mut self, key: StreamKey) {
        if let Some(program) = self.programs.get_mut(&key) {
            program.asleep = false;
            self.runnable.insert(key);
        }
    }

    fn take_events(&mut self, now: Duration, clock: Instant) -> bool {
        let mut any = false;
        while let Some(event) = self.session.as_mut().and_then(Session::poll_event) {
            any = true;
            match event {
                Event::Opened(key) => {
                    assert_eq!(self.side, Side::Agent);
                    self.opened += 1;
                    self.programs.insert(key, Program::new(self.side, key, None, self.rng.fork()));
                    self.runnable.insert(key);
                }
                Event::Readable(key) => {
                    if let Some(program) = self.programs.get_mut(&key) {
                        assert!(program.read_blocked, "readable, but nobody asked");
                        program.read_blocked = false;
                        self.runnable.insert(key);
                    }
                }
                Event::Writable(key) => {
                    if let Some(program) = self.programs.get_mut(&key) {
                        assert!(program.write_blocked, "writable, but nobody asked");
                        program.write_blocked = false;
                        self.runnable.insert(key);
                    }
                }
                Event::FlowOpened(key) => self.flow_event(key, true, clock),
                Event::FlowReadable(key) => self.flow_event(key, false, clock),
                Event::CanOpen | Event::WantsLane => {}
                Event::LaneOver(lane, orderly) => {
                    self.lanes_over.push((lane, orderly));
                    let port = self.ports.values_mut().find(|port| port.phase == Phase::Live(lane));
                    if let Some(port) = port {
                        port.phase = Phase::Closing;
                        port.broken = !orderly;
                    }
                }
                Event::Drain(_) => self.drained = true,
                Event::Reset(_) => {}
                Event::Ended(status, text) => {
                    self.ended = Some((status, text));
                    self.ended_at = Some(now);
                }
            }
        }
        any
    }

    fn flow_event(&mut self, key: FlowKey, opened: bool, clock: Instant) {
        if let Some(session) = &mut self.session {
            self.flows.event(session, key, opened, clock);
        }
    }

    /// Fills the outboxes of connections that can take something.
    pub(crate) fn fill(&mut self, pipe: usize, clock: Instant) -> bool {
        let (Some(port), Some(session)) = (self.ports.get_mut(&pipe), &mut self.session) else {
            return false;
        };
        let Phase::Live(lane) = port.phase else { return false };
        if !port.outbox.is_empty() {
            return false;
        }
        if !session.has_work(lane, clock) {
            let leaves = session.is_done_with(lane);
            if leaves {
                port.phase = Phase::Closing;
                session.lane_lost(lane, clock);
            }
            return leaves;
        }
        session.transmit(lane, clock, &mut port.outbox);
        assert!(
            !port.outbox.is_empty() || !session.has_work(lane, clock),
            "work that never gets done: {session:?}"
        );
        assert!(port.outbox.len() <= 64 * 1024 + MAX_DATAGRAM + 64 * 1024, "a batch grew without bounds");
        true
    }

    /// What must hold at every moment.
    pub(crate) fn check(&mut self) {
        let Some(session) = &self.session else { return };
        let side = self.side;
        let stats = session.stats();
        let (receive, send) = (&self.config.receive_pool, &self.config.send_pool);
        assert!(stats.receive_reserved <= receive.limit() && receive.used() <= receive.limit());
        assert!(stats.send_held <= send.limit() && send.used() <= send.limit());
        assert!(stats.lanes <= relay_protocol::hello::MAX_LANES);
        // A walk over all streams at every turn would take longer with many of them than everything else.
        self.turns += 1;
        if !self.turns.is_multiple_of(1 + stats.streams as u64 / 32) {
            return;
        }
        let audit = session.audit();
        assert!(
            audit.credit <= stats.receive_reserved as u64,
            "{side:?} promised too much: {audit:?} {stats:?}"
        );
        assert!(audit.stored <= audit.credit, "{side:?} stores what it never promised: {audit:?}");
        let chunks = 2 * audit.stored as usize + stats.streams * CHUNK;
        assert!(audit.allocated <= chunks, "{side:?} allocates too much: {audit:?}");
        assert_eq!(audit.sending, stats.send_held, "{side:?} has lost count of what it sends");
        assert!(audit.most_gaps <= MAX_GAPS, "{side:?} waits at too many gaps: {audit:?}");
    }
}
