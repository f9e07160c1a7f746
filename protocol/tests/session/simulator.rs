//! Two ends, the pipes between them and the faults that strike them, in virtual time.
//!
//! Nothing here sleeps or asks a clock: the same plans, paths and seed give the same run, byte for byte.

pub(crate) mod content;
pub(crate) mod end;
pub(crate) mod flows;
pub(crate) mod network;
pub(crate) mod program;
pub(crate) mod rng;
pub(crate) mod town;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use relay_protocol::Status;
use relay_protocol::hello::{Secret, SessionId};
use relay_protocol::session::{Config, Session, StreamKey};

use end::{End, Phase, Port};
use network::{Link, Path, Pipe, Side};
use program::{Plan, Record};
use rng::Rng;

/// A dial without a welcome is given up after this long.
const CONNECT: Duration = Duration::from_secs(3);
/// An agent's connection without a hello is closed after this long.
const HELLO: Duration = Duration::from_secs(10);
/// The lanes of a session that has ended are closed after this long.
const LEAVE: Duration = Duration::from_secs(1);
/// Between a dial that was refused and the next.
const REFUSED: Duration = Duration::from_millis(200);
/// Turns without any progress of time that no correct run needs.
const TOO_BUSY: u64 = 200_000;

/// Something that strikes from outside.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// One live pipe dies, and both sides learn of it.
    Kill,
    /// All do.
    KillAll,
    /// One pipe swallows all bytes from now on; nobody is told.
    Cut,
    /// All do.
    CutAll,
    /// One direction of one pipe does.
    CutOneWay(Side),
    /// One end does nothing for this long, and is told of it afterwards if the flag is set.
    Sleep(Side, Duration, bool),
    /// All new pipes swallow all bytes for this long.
    NoDials(Duration),
    /// All dials fail at once for this long.
    Refuse(Duration),
    /// The agent is gone, and another has taken its place.
    Restart,
    /// The agent asks for no more streams, ends the session after this long at the most, and goes.
    Drain(Duration),
    /// One end ends the session.
    Goodbye(Side),
}

#[derive(Debug)]
enum What {
    LinkFree(usize),
    Arrive {
        pipe: usize,
        from: Side,
    },
    Ended {
        pipe: usize,
        to: Side,
    },
    Program {
        side: Side,
        key: StreamKey,
    },
    Strike(Fault),
    Wake(Side, bool),
    /// A pipe may have been idle for too long.
    Idle(usize),
    /// The agent's grace is over.
    GraceOver,
    /// The agent's process ends.
    Exit,
    /// Nothing but a reason to look.
    Look,
}

#[derive(Debug)]
struct Entry {
    at: Duration,
    order: u64,
    what: What,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

/// What pipes are like, one dial after the other.
pub(crate) type Paths = Box<dyn FnMut(&mut Rng, Duration) -> NewPipe>;

/// A pipe to be.
pub(crate) struct NewPipe {
    pub(crate) path: Path,
    /// Dies after this many bytes in the direction of this side's writes.
    pub(crate) dies_after: Option<(Side, u64)>,
}

impl From<Path> for NewPipe {
    fn from(path: Path) -> Self {
        Self { path, dies_after: None }
    }
}

/// The whole of it.
pub(crate) struct World {
    pub(crate) now: Duration,
    base: Instant,
    pub(crate) ends: [End; 2],
    pub(crate) pipes: Vec<Pipe>,
    links: Vec<Link>,
    heap: BinaryHeap<Reverse<Entry>>,
    order: u64,
    pub(crate) rng: Rng,
    paths: Paths,
    pub(crate) plans: Vec<Plan>,
    pub(crate) records: Vec<[Record; 2]>,
    unopened: Vec<usize>,
    due: Vec<usize>,
    next_dial: Duration,
    no_dials_until: Duration,
    refused_until: Duration,
    /// Pipes that carried nothing for this long die; without a word if the flag is set.
    pub(crate) kills_idle: Option<(Duration, bool)>,
    /// The agent drains until its streams are over.
    draining: bool,
    pub(crate) dials: usize,
    turns: u64,
}

impl World {
    /// `shared`: the rates of the bottleneck that pipes without one of their own share, up and down.
    pub(crate) fn new(seed: u64, client: Config, agent: Config, shared: [u64; 2], paths: Paths) -> Self {
        Self::beginning(Duration::ZERO, Instant::now(), seed, client, agent, shared, paths)
    }

    /// One that begins at `now`, on the clock that showed `base` at zero.
    pub(crate) fn beginning(
        now: Duration,
        base: Instant,
        seed: u64,
        client: Config,
        agent: Config,
        shared: [u64; 2],
        paths: Paths,
    ) -> Self {
        let mut rng = Rng::new(seed);
        let mut secret = [0; 32];
        secret.iter_mut().for_each(|byte| *byte = rng.next() as u8);
        let id = SessionId(u128::from(rng.next()).to_be_bytes());
        let session = Session::client(client.clone(), id, Secret(secret), base + now);
        Self {
            now,
            base,
            ends: [
                End::new(Side::Client, client, Some(session), rng.fork()),
                End::new(Side::Agent, agent, None, rng.fork()),
            ],
            pipes: Vec::new(),
            links: shared.map(Link::new).into(),
            heap: BinaryHeap::new(),
            order: 0,
            rng,
            paths,
            plans: Vec::new(),
            records: Vec::new(),
            unopened: Vec::new(),
            due: Vec::new(),
            next_dial: now,
            no_dials_until: Duration::ZERO,
            refused_until: Duration::ZERO,
            kills_idle: None,
            draining: false,
            dials: 0,
            turns: 0,
        }
    }

    /// A near, fast world with the usual settings.
    pub(crate) fn good(seed: u64) -> Self {
        Self::with(seed, Config::client(), Config::agent(), Path::good())
    }

    /// All pipes alike.
    pub(crate) fn with(seed: u64, client: Config, agent: Config, path: Path) -> Self {
        Self::new(seed, client, agent, [10 << 20; 2], Box::new(move |_, _| path.clone().into()))
    }

    pub(crate) fn clock(&self) -> Instant {
        self.base + self.now
    }

    pub(crate) fn client(&mut self) -> &mut Session {
        self.ends[0].session.as_mut().expect("the client's session")
    }

    pub(crate) fn agent(&mut self) -> &mut Session {
        self.ends[1].session.as_mut().expect("the agent's session")
    }

    fn at(&mut self, at: Duration, what: What) {
        self.order += 1;
        self.heap.push(Reverse(Entry { at, order: self.order, what }));
    }

    pub(crate) fn strike_at(&mut self, at: Duration, fault: Fault) {
        self.at(at, What::Strike(fault));
    }

    /// One more stream; its number.
    pub(crate) fn plan(&mut self, plan: Plan) -> usize {
        let number = self.plans.len();
        self.at(plan.opens_at, What::Look);
        self.plans.push(plan);
        self.records.push(Default::default());
        self.unopened.push(number);
        number
    }

    pub(crate) fn plan_all(&mut self, plans: Vec<Plan>) {
        plans.into_iter().for_each(|plan| {
            self.plan(plan);
        });
    }

    /// Runs until `done`, which must be before `limit`.
    pub(crate) fn run_until(&mut self, limit: Duration, mut done: impl FnMut(&mut Self) -> bool) {
        loop {
            self.settle();
            if done(self) {
                return;
            }
            let next = self.next();
            assert!(next <= limit, "not done at {limit:?}:\n{}", self.describe());
            self.advance(next);
        }
    }

    /// Runs for this long.
    pub(crate) fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        self.at(end, What::Look);
        self.run_until(end + Duration::from_nanos(1), |world| world.now >= end);
    }

    pub(crate) fn streams_done(&self) -> bool {
        self.unopened.is_empty() && self.due.is_empty() && self.ends.iter().all(|end| end.programs.is_empty())
    }

    /// All programs are through, and no session remembers any of it.
    pub(crate) fn all_done(&mut self) -> bool {
        self.streams_done()
            && self.ends.iter().all(|end| {
                end.flows.is_done()
                    && end.session.as_ref().is_none_or(|session| {
                        let stats = session.stats();
                        stats.streams == 0 && stats.flows == 0 && stats.send_held == 0
                    })
            })
    }

    /// When anything happens next.
    pub(crate) fn next(&self) -> Duration {
        let mut next = self.heap.peek().map_or(Duration::MAX, |Reverse(entry)| entry.at);
        for end in &self.ends {
            if end.asleep {
                continue;
            }
            if let Some(at) = end.session.as_ref().and_then(Session::poll_timeout) {
                let at = at.saturating_duration_since(self.base);
                assert!(at > self.now, "{:?}'s timer stays in the past: {at:?} at {:?}", end.side, self.now);
                next = next.min(at);
            }
            if let Some(at) = end.flows.next().filter(|at| *at > self.now) {
                next = next.min(at);
            }
            for port in end.ports.values() {
                match port.phase {
                    Phase::Hello => next = next.min(port.since + HELLO),
                    Phase::Welcome(_) => next = next.min(port.since + CONNECT),
                    Phase::Live(_) => next = next.min(end.ended_at.map_or(Duration::MAX, |at| at + LEAVE)),
                    Phase::Closing => {}
                }
            }
        }
        if self.next_dial > self.now {
            next = next.min(self.next_dial);
        }
        next
    }

    pub(crate) fn advance(&mut self, to: Duration) {
        if to > self.now {
            self.now = to;
            self.turns = 0;
        }
        while let Some(Reverse(entry)) = self.heap.peek()
            && entry.at <= self.now
        {
            let Some(Reverse(entry)) = self.heap.pop() else { break };
            self.happen(entry.what);
        }
    }

    fn happen(&mut self, what: What) {
        match what {
            What::LinkFree(link) => {
                self.links[link].busy = false;
                self.start_link(link);
            }
            What::Arrive { pipe, from } => {
                while let Some(bytes) = self.pipes[pipe].arrived(from, self.now) {
                    self.arrive(pipe, from, &bytes);
                }
            }
            What::Ended { pipe, to } => self.pipes[pipe].ways[to.other().index()].ended = true,
            What::Program { side, key } => self.ends[side.index()].rested(key),
            What::Strike(fault) => self.strike(fault),
            What::Wake(side, told) => {
                let clock = self.clock();
                let end = &mut self.ends[side.index()];
                end.asleep = false;
                if let Some(session) = end.session.as_mut().filter(|_| told) {
                    session.woke(clock);
                }
            }
            What::Idle(pipe) => self.idle(pipe),
            What::GraceOver => self.end_drain(),
            What::Exit => self.exit(),
            What::Look => {}
        }
    }

    /// Ends a pipe that has carried nothing for too long, or looks again when that may be so.
    fn idle(&mut self, id: usize) {
        let Some((limit, silent)) = self.kills_idle else { return };
        let due = self.pipes[id].last_used + limit;
        if self.pipes[id].dead {
        } else if due > self.now {
            self.at(due, What::Idle(id));
        } else if silent {
            self.pipes[id].ways.iter_mut().for_each(|way| way.swallows = true);
        } else {
            self.break_pipe(id);
        }
    }

    /// The streams are over, or the grace is.
    fn end_drain(&mut self) {
        if std::mem::take(&mut self.draining) {
            if let Some(session) = &mut self.ends[1].session {
                session.goodbye(Status::ShuttingDown, "the agent was asked to end");
            }
            self.at(self.now + LEAVE, What::Exit);
        }
    }

    fn exit(&mut self) {
        self.live().into_iter().for_each(|id| self.break_pipe(id));
        self.ends[1].restart();
    }

    /// Lets both ends work until nothing is left to do at this moment. True where anything was.
    pub(crate) fn settle(&mut self) -> bool {
        let mut any = false;
        loop {
            self.turns += 1;
            assert!(self.turns < TOO_BUSY, "busy without end at {:?}:\n{}", self.now, self.describe());
            let mut busy = false;
            for side in Side::BOTH {
                if !self.ends[side.index()].asleep {
                    busy |= self.work(side);
                    self.ends[side.index()].check();
                }
            }
            if self.draining
                && self.ends[1].session.as_ref().is_none_or(|session| session.stats().streams == 0)
            {
                busy = true;
                self.end_drain();
            }
            if !busy {
                return any;
            }
            any = true;
        }
    }

    fn work(&mut self, side: Side) -> bool {
        let (now, clock) = (self.now, self.clock());
        let mut busy = self.read_pipes(side);
        if side == Side::Client {
            let plans = &self.plans;
            let (due, later): (Vec<_>, Vec<_>) =
                self.unopened.drain(..).partition(|&number| plans[number].opens_at <= now);
            self.unopened = later;
            self.due.extend(due);
            busy |= self.dial();
        }
        let end = &mut self.ends[side.index()];
        busy |= end.run(now, clock, &self.plans, &mut self.records, &mut self.due);
        for (key, time) in std::mem::take(&mut end.pauses) {
            self.at(now + time, What::Program { side, key });
        }
        busy | self.write_pipes(side)
    }

    fn read_pipes(&mut self, side: Side) -> bool {
        let (now, clock) = (self.now, self.clock());
        let mut busy = false;
        let ids: Vec<usize> = self.ends[side.index()].ports.keys().copied().collect();
        for id in ids {
            let pipe = &mut self.pipes[id];
            let most = pipe.path.read;
            let way = &mut pipe.ways[side.other().index()];
            while !way.arrived.is_empty() {
                busy = true;
                let len = way.arrived.len().min(1 + self.rng.below(most as u64) as usize);
                let bytes: Vec<u8> = way.arrived.drain(..len).collect();
                self.ends[side.index()].arrived(id, &bytes, now, clock);
            }
            if way.ended {
                busy = true;
                self.ends[side.index()].pipe_ended(id, clock);
                self.kill(id);
            }
        }
        busy
    }

    fn write_pipes(&mut self, side: Side) -> bool {
        let clock = self.clock();
        let mut busy = false;
        let ids: Vec<usize> = self.ends[side.index()].ports.keys().copied().collect();
        for id in ids {
            let timed_out = match self.ends[side.index()].ports.get(&id) {
                Some(port) if port.phase == Phase::Hello => self.now >= port.since + HELLO,
                Some(Port { phase: Phase::Welcome(_), since, .. }) => self.now >= *since + CONNECT,
                Some(Port { phase: Phase::Live(_), .. }) => {
                    self.ends[side.index()].ended_at.is_some_and(|at| self.now >= at + LEAVE)
                }
                Some(_) => false,
                None => continue,
            };
            if timed_out || self.ends[side.index()].ports.get(&id).is_some_and(|port| port.broken) {
                busy = true;
                self.ends[side.index()].pipe_ended(id, clock);
                self.kill(id);
                if side == Side::Client {
                    self.next_dial = self.next_dial.max(self.now + Duration::from_millis(200));
                }
                continue;
            }
            loop {
                busy |= self.ends[side.index()].fill(id, clock);
                let Some(port) = self.ends[side.index()].ports.get_mut(&id) else { break };
                let pipe = &mut self.pipes[id];
                let len = pipe.room(side).min(port.outbox.len());
                if len == 0 {
                    if port.outbox.is_empty() && port.phase == Phase::Closing {
                        pipe.ways[side.index()].finished = true;
                        self.ends[side.index()].ports.remove(&id);
                        self.finish(id, side);
                        busy = true;
                    }
                    break;
                }
                busy = true;
                let way = &mut pipe.ways[side.index()];
                way.queue.extend(port.outbox.drain(..len));
                let link = way.link;
                self.start_link(link);
            }
        }
        busy
    }

    fn start_link(&mut self, id: usize) {
        let link = &mut self.links[id];
        if link.busy {
            return;
        }
        let Some((pipe, side, bytes)) = link.next(&mut self.pipes) else { return };
        link.busy = true;
        self.pipes[pipe].last_used = self.now;
        let leaves = self.now + link.time(bytes.len());
        let (arrives, freed) = self.pipes[pipe].leave(side, leaves, bytes, &mut self.rng);
        self.at(leaves, What::LinkFree(id));
        for at in freed.into_iter().chain([arrives]) {
            self.at(at, What::Arrive { pipe, from: side });
        }
        self.finish(pipe, side);
    }

    /// The end that follows the last byte, once that is on its way.
    fn finish(&mut self, id: usize, side: Side) {
        let way = &self.pipes[id].ways[side.index()];
        if way.finished && way.queue.is_empty() {
            let at = way.last_arrival().max(self.now + self.pipes[id].path.delay);
            self.at(at, What::Ended { pipe: id, to: side.other() });
        }
    }

    fn arrive(&mut self, id: usize, from: Side, bytes: &[u8]) {
        let pipe = &mut self.pipes[id];
        let dead = pipe.dead;
        let way = &mut pipe.ways[from.index()];
        way.travelling -= bytes.len();
        if way.swallows || dead {
            return;
        }
        let left = way.dies_after.map_or(u64::MAX, |after| after - way.delivered);
        let len = bytes.len().min(left as usize);
        way.arrived.extend(&bytes[..len]);
        way.delivered += len as u64;
        if left <= bytes.len() as u64 {
            self.break_pipe(id);
        }
    }

    /// The pipe is dead; each side learns of it a little later.
    fn break_pipe(&mut self, id: usize) {
        self.kill(id);
        for side in Side::BOTH {
            let later =
                self.rng.duration(Duration::ZERO..self.pipes[id].path.delay * 3 + Duration::from_millis(1));
            self.at(self.now + later, What::Ended { pipe: id, to: side });
        }
    }

    fn kill(&mut self, id: usize) {
        let pipe = &mut self.pipes[id];
        if std::mem::replace(&mut pipe.dead, true) {
            return;
        }
        pipe.ways.iter_mut().for_each(|way| way.queue.clear());
        let delay = pipe.path.delay;
        for side in Side::BOTH {
            let at = self.pipes[id].ways[side.other().index()].last_arrival().max(self.now + delay);
            if !self.pipes[id].ways[side.other().index()].swallows {
                self.at(at, What::Ended { pipe: id, to: side });
            }
        }
    }

    fn live(&self) -> Vec<usize> {
        (0..self.pipes.len()).filter(|&id| !self.pipes[id].dead).collect()
    }

    pub(crate) fn strike(&mut self, fault: Fault) {
        let live = self.live();
        let one = (!live.is_empty()).then(|| self.rng.pick(&live));
        match fault {
            Fault::Kill => one.into_iter().for_each(|id| self.break_pipe(id)),
            Fault::KillAll => live.into_iter().for_each(|id| self.break_pipe(id)),
            Fault::Cut => {
                if let Some(id) = one {
                    self.pipes[id].ways.iter_mut().for_each(|way| way.swallows = true);
                }
            }
            Fault::CutAll => {
                for id in live {
                    self.pipes[id].ways.iter_mut().for_each(|way| way.swallows = true);
                }
            }
            Fault::CutOneWay(side) => {
                if let Some(id) = one {
                    self.pipes[id].ways[side.index()].swallows = true;
                }
            }
            Fault::Sleep(side, time, told) => {
                if !self.ends[side.index()].asleep {
                    self.ends[side.index()].asleep = true;
                    self.at(self.now + time, What::Wake(side, told));
                }
            }
            Fault::NoDials(time) => self.no_dials_until = self.now + time,
            Fault::Refuse(time) => self.refused_until = self.now + time,
            Fault::Restart => self.exit(),
            Fault::Drain(grace) => {
                if let Some(session) = &mut self.ends[1].session
                    && session.ended().is_none()
                    && !self.draining
                {
                    session.drain(grace);
                    self.ends[1].deaf = true;
                    self.draining = true;
                    self.at(self.now + grace, What::GraceOver);
                }
            }
            Fault::Goodbye(side) => {
                if let Some(session) = &mut self.ends[side.index()].session {
                    session.goodbye(Status::Ok, "enough");
                }
            }
        }
    }

    /// The session has ended, or will, and nothing more begins in it: the plans of streams that it never opened.
    pub(crate) fn bequest(&mut self) -> Option<Vec<Plan>> {
        let client = &self.ends[0];
        if client.ended.is_none() && !client.drained {
            return None;
        }
        let left = self.due.drain(..).chain(self.unopened.drain(..));
        Some(left.map(|number| self.plans[number].clone()).collect())
    }

    /// What keeps the sessions before from dialling keeps this one too.
    fn inherit(&mut self, before: &Self) {
        self.no_dials_until = before.no_dials_until;
        self.refused_until = before.refused_until;
        self.next_dial = self.next_dial.max(before.next_dial);
    }

    /// The session has ended at both ends, and every program has seen it.
    pub(crate) fn is_over(&self) -> bool {
        self.ends.iter().all(End::is_over)
    }

    fn dial(&mut self) -> bool {
        let clock = self.clock();
        let end = &mut self.ends[0];
        let Some(session) = &mut end.session else { return false };
        // Beside a lane that works all that are missing are dialled at the same time, else one after the other.
        let is_alone = !session.is_connected();
        if self.now < self.next_dial || !session.wants_lane(clock) || is_alone && session.lanes_awaited() > 0
        {
            return false;
        }
        if self.now < self.refused_until {
            self.dials += 1;
            self.next_dial = self.now + REFUSED;
            return false;
        }
        let (lane, hello) = session.next_hello();
        let NewPipe { path, dies_after } = (self.paths)(&mut self.rng, self.now);
        let id = self.pipes.len();
        let links = match path.rate {
            None => [0, 1],
            Some(rate) => {
                self.links.push(Link::new(rate));
                self.links.push(Link::new(rate));
                [self.links.len() - 2, self.links.len() - 1]
            }
        };
        for side in Side::BOTH {
            self.links[links[side.index()]].pipes.push((id, side));
        }
        let mut pipe = Pipe::new(path, links);
        if let Some((side, bytes)) = dies_after {
            pipe.ways[side.index()].dies_after = Some(bytes);
        }
        if self.now < self.no_dials_until {
            pipe.ways.iter_mut().for_each(|way| way.swallows = true);
        }
        pipe.last_used = self.now;
        self.pipes.push(pipe);
        self.dials += 1;
        if let Some((limit, _)) = self.kills_idle {
            self.at(self.now + limit, What::Idle(id));
        }
        self.ends[0].ports.insert(id, Port::new(Phase::Welcome(lane), self.now, hello.encode()));
        self.ends[1].ports.insert(id, Port::new(Phase::Hello, self.now, Vec::new()));
        if is_alone {
            self.next_dial = self.now + Duration::from_millis(100);
        }
        true
    }

    /// For the message of a failure.
    pub(crate) fn describe(&self) -> String {
        let mut text = format!("at {:?}, {} dials\n", self.now, self.dials);
        for end in &self.ends {
            text += &format!(
                "{:?}: asleep {}, ended {:?} at {:?}, {} programs, flows done {}, ports {:?}, {:?}\n",
                end.side,
                end.asleep,
                end.ended,
                end.ended_at,
                end.programs.len(),
                end.flows.is_done(),
                end.ports.iter().map(|(id, port)| (id, port.phase, port.outbox.len())).collect::<Vec<_>>(),
                end.session.as_ref().map(Session::stats),
            );
            for program in end.programs.values().take(5) {
                let number = program.number;
                let record = number.map(|number| &self.records[number][end.side.index()]);
                let plan = number.map(|number| &self.plans[number]);
                text += &format!("  {number:?} {program:?} {record:?} {plan:?}\n");
            }
        }
        text
    }
}
