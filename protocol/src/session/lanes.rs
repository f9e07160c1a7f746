//! Lanes come, go and come back: hello, welcome, loss, and how many are wanted.

use std::time::{Duration, Instant};

use super::{Config, Event, ResetOut, Role, Session, StreamKey};
use crate::Status;
use crate::hello::{Hello, Instance, MAX_LANES, Request, Secret, SessionId, VERSION, Welcome};
use crate::lane::{Closing, Item, Lane};

/// Above this many bytes of streams, a second lane is worth its connection.
const PROTECT_BYTES: u64 = 256 * 1024;
/// Above this many, bulk on a far path is worth all lanes that it may have: it takes some five round trips until they are of
/// use.
const FAR_BYTES: u64 = 128 * 1024;
/// Streams that are open for this long are worth a second lane.
const PROTECT_AFTER: Duration = Duration::from_secs(1);
/// Extra lanes end after this much quiet.
const QUIET: Duration = Duration::from_secs(60);
/// A path that loses packets is given this many times as many lanes for bulk: each is held up often, and holds little.
const LOSSY: usize = 2;
/// A path with a shorter round trip is near: one lane fills it.
pub(super) const NEAR: Duration = Duration::from_millis(5);

impl Session {
    /// A client's end. `id` and `secret` are random.
    pub fn client(config: Config, id: SessionId, secret: Secret, now: Instant) -> Self {
        let mut session = Self::new(Role::Client, config, id, secret, now);
        // Without its floor a client waits for what its other sessions free.
        session.reserve_floors();
        session
    }

    /// An agent's end, made from a hello that creates a session, and the welcome that answers it.
    ///
    /// # Errors
    /// The refusal: the hello joins, or no memory is left for another session.
    pub fn agent(
        config: Config,
        hello: &Hello,
        instance: Instance,
        now: Instant,
    ) -> Result<(Self, Welcome), Welcome> {
        let Request::Create { secret } = &hello.request else {
            return Err(Welcome::refusal(Status::AgentLost, instance));
        };
        let mut session = Self::new(Role::Agent, config, hello.session, secret.clone(), now);
        if !session.reserve_floors() {
            return Err(Welcome::refusal(Status::TooManyStreams, instance));
        }
        session.instance = Some(instance);
        session.peer_initial_credit = hello.initial_credit;
        session.add_lane(hello.lane, now);
        let welcome = session.welcome(instance);
        Ok((session, welcome))
    }

    fn welcome(&self, instance: Instance) -> Welcome {
        Welcome {
            status: Status::Ok,
            versions: (VERSION, VERSION),
            features: 0,
            instance,
            initial_credit: self.config.initial_credit,
            max_streams: self.max_streams,
        }
    }

    /// Another hello for this session: the welcome, and the lane is part of the session; or the refusal.
    ///
    /// Of hellos said at the same time any may come first: one that a newer has overtaken joins if that lists it, and closes
    /// nothing. A lane that the newest does not list is over at once. Wrong proof, a number that was seen before or that
    /// nobody expects, and a secret that is not the session's are all refused alike.
    ///
    /// # Errors
    /// The refusal.
    pub fn join(&mut self, hello: &Hello, now: Instant) -> Result<Welcome, Welcome> {
        let Some(instance) = self.instance else {
            return Err(Welcome::refusal(Status::AgentLost, Instance([0; 16])));
        };
        let held: &[u64] = match &hello.request {
            Request::Create { secret }
                if *secret == self.secret && self.peer_begun == 0 && self.flows_begun == 0 =>
            {
                &[]
            }
            Request::Join { proof, held }
                if self.secret.verify(self.id, instance, hello.lane, held, proof) =>
            {
                held
            }
            _ => return Err(Welcome::refusal(Status::AgentLost, instance)),
        };
        let newest = self.highest_lane;
        let is_newest = hello.lane > newest;
        if self.ended.is_some() || !(is_newest || self.awaited.contains(&hello.lane)) {
            return Err(Welcome::refusal(Status::AgentLost, instance));
        }
        if is_newest {
            let lanes = self.lanes.iter().map(|lane| lane.id);
            let gone: Vec<u64> = lanes.filter(|id| !held.contains(id)).collect();
            for id in gone {
                self.lane_lost(id, now);
                self.events.push_back(Event::LaneOver(id, false));
            }
        }
        if self.lanes.len() >= MAX_LANES {
            return Err(Welcome::refusal(Status::TooManyStreams, instance));
        }
        if is_newest {
            // A number at or below the newest was seen, or passed over by a hello that knew nothing of it.
            let is_to_come = |id: &u64| self.awaited.contains(id) || (*id > newest && *id < hello.lane);
            self.awaited = held.iter().copied().filter(is_to_come).collect();
        } else {
            self.awaited.retain(|id| *id != hello.lane);
        }
        self.add_lane(hello.lane, now);
        Ok(self.welcome(instance))
    }

    /// The client's next lane: its number and its hello. It may be said while others wait for their welcome, up to
    /// [`Session::lanes_missing`]; only one that creates the session gives up the one before.
    pub fn next_hello(&mut self) -> (u64, Hello) {
        self.renew = false;
        self.highest_lane += 1;
        let lane = self.highest_lane;
        let request = match self.instance {
            None => {
                self.awaited.clear();
                Request::Create { secret: self.secret.clone() }
            }
            Some(instance) => {
                let held = self.lanes.iter().map(|lane| lane.id).chain(self.awaited.iter().copied());
                let held: Vec<u64> = held.take(MAX_LANES).collect();
                Request::Join { proof: self.secret.proof(self.id, instance, lane, &held), held }
            }
        };
        self.awaited.push(lane);
        let hello = Hello {
            request,
            session: self.id,
            lane,
            versions: (VERSION, VERSION),
            features: 0,
            initial_credit: self.config.initial_credit,
        };
        (lane, hello)
    }

    /// A lane whose hello was said gets no welcome: its connection is over, or nobody waits for it any longer.
    pub fn give_up(&mut self, lane: u64) {
        self.awaited.retain(|id| *id != lane);
    }

    /// How many lanes wait for their welcome.
    pub fn lanes_awaited(&self) -> usize {
        self.awaited.len()
    }

    /// The agent's answer to the hello of a lane. True where the lane is now part of the session.
    pub fn welcomed(&mut self, lane: u64, welcome: &Welcome, now: Instant) -> bool {
        if !self.awaited.contains(&lane) || self.ended.is_some() {
            return false;
        }
        self.give_up(lane);
        if welcome.status != Status::Ok || self.instance.is_some_and(|instance| instance != welcome.instance)
        {
            // A refusal tells nothing about the lanes that work.
            if self.lanes.is_empty() {
                let status = if self.instance.is_some() { Status::AgentLost } else { welcome.status };
                self.end(status, "the agent refused the session");
            }
            return false;
        }
        if self.instance.is_none() {
            self.instance = Some(welcome.instance);
            self.peer_initial_credit = welcome.initial_credit;
            self.peer_max_streams = welcome.max_streams;
        }
        self.add_lane(lane, now);
        // A lane that was only suspected has been replaced.
        let suspects: Vec<u64> = self.lanes.iter().filter(|lane| lane.suspect).map(|lane| lane.id).collect();
        for id in suspects {
            self.lane_lost(id, now);
            self.events.push_back(Event::LaneOver(id, false));
        }
        self.events.push_back(Event::CanOpen);
        true
    }

    fn add_lane(&mut self, id: u64, now: Instant) {
        self.highest_lane = self.highest_lane.max(id);
        self.lanes.push(Lane::new(id, now));
        self.no_lanes_since = None;
        self.choose_express();
    }

    /// With two lanes or more, one carries no bulk: the newest, which holds least, for as long as it works. One that is
    /// held up leaves the part to the one with least on it.
    pub(super) fn choose_express(&mut self) {
        let usable = || self.lanes.iter().filter(|lane| lane.is_usable());
        if usable().nth(1).is_none() {
            self.express = None;
            return;
        }
        let current = usable().find(|lane| Some(lane.id) == self.express);
        let moving = || usable().filter(|lane| !lane.lagging);
        let chosen = match current {
            Some(current) if current.lagging => {
                moving().min_by_key(|lane| lane.in_flight()).or(Some(current))
            }
            Some(current) => Some(current),
            None => moving().next_back().or_else(|| usable().next_back()),
        };
        self.express = chosen.map(|lane| lane.id);
    }

    /// The transport of a lane has ended, however. What was on it goes out again elsewhere.
    pub fn lane_lost(&mut self, id: u64, now: Instant) {
        let Some(index) = self.lanes.iter().position(|lane| lane.id == id) else { return };
        let mut lane = self.lanes.remove(index);
        self.acks_lost(id);
        for item in lane.take_outstanding() {
            self.item_lost(item);
        }
        if self.lanes.is_empty() {
            self.no_lanes_since = Some(now);
        }
        self.choose_express();
    }

    /// Acknowledgements of other lanes that travelled on this one may be lost with it.
    pub(super) fn acks_lost(&mut self, id: u64) {
        for lane in self.lanes.iter_mut().filter(|lane| lane.acked_on == Some(id)) {
            lane.owe_ack_again();
        }
    }

    pub(super) fn item_lost(&mut self, item: Item) {
        match item {
            Item::Stream(key, piece) => {
                if let Some(stream) = self.streams.get_mut(key.0) {
                    stream.send.on_lost(piece);
                    self.stats.bytes_resent += piece.len as u64;
                    self.queue_data(key);
                }
            }
            Item::MaxData(key, limit) => {
                if let Some(stream) =
                    self.streams.get_mut(key.0).filter(|stream| stream.recv.limit() == limit)
                {
                    stream.max_data_due = true;
                    self.queue_control(key);
                }
            }
            Item::Reset(key) => {
                if let Some(stream) = self.streams.get_mut(key.0)
                    && let Some((_, _, state)) = &mut stream.reset_out
                    && *state == ResetOut::Sent
                {
                    *state = ResetOut::Due;
                    self.queue_control(key);
                }
            }
            Item::FlowClose(id) => {
                if self.flow_closes.contains_key(&id) {
                    self.flow_close_queue.push_back(id);
                }
            }
            Item::MaxStreams => self.max_streams_due = true,
            Item::Drain => self.drain_due = true,
            Item::Goodbye => self.goodbye_due = !self.goodbye_acked,
            Item::Datagram(key, seq) => {
                if let Some(flow) = self.flows.get_mut(key.0) {
                    flow.lost(seq);
                }
            }
            Item::LaneClose | Item::Ping => {}
        }
    }

    /// The lanes that exist, oldest first.
    pub fn lanes(&self) -> impl Iterator<Item = u64> + '_ {
        self.lanes.iter().map(|lane| lane.id)
    }

    pub(super) fn lane(&mut self, id: u64) -> Option<&mut Lane> {
        self.lanes.iter_mut().find(|lane| lane.id == id)
    }

    pub(super) fn usable_lanes(&self) -> usize {
        self.lanes.iter().filter(|lane| lane.is_usable()).count()
    }

    /// Whether the client should say one more hello now.
    pub fn wants_lane(&self, now: Instant) -> bool {
        self.lanes_missing(now) > self.awaited.len()
    }

    /// How many more lanes the client should have now, those that are dialled or wait for their welcome among them.
    pub fn lanes_missing(&self, now: Instant) -> usize {
        if self.ended.is_some() || self.goodbye.is_some() || self.role == Role::Agent {
            return 0;
        }
        let usable = self.usable_lanes() - usize::from(self.renew && self.usable_lanes() > 0);
        let missing = self.lanes_wanted(now).saturating_sub(usable);
        // The hello lists the lanes that are held, the silent and the closing ones too.
        missing.min(MAX_LANES.saturating_sub(self.lanes.len()))
    }

    fn lanes_wanted(&self, now: Instant) -> usize {
        let quiet = now.saturating_duration_since(self.last_data) >= QUIET;
        if self.config.lanes < 2 || quiet {
            return 1;
        }
        let long_open =
            self.busy_since.is_some_and(|since| now.saturating_duration_since(since) >= PROTECT_AFTER);
        let far = self.lanes.iter().any(|lane| lane.rtt.known()) && !self.is_near();
        if !long_open && self.data_bytes < if far { FAR_BYTES } else { PROTECT_BYTES } {
            return 1;
        }
        // One of them is express, so a limit of n bulk lanes is n + 1 in all.
        let most = (self.config.lanes + 1).min(MAX_LANES);
        match () {
            () if far && self.data_bytes >= FAR_BYTES && self.is_restless(now) => {
                (self.config.lanes * LOSSY + 1).min(MAX_LANES)
            }
            () if far && self.data_bytes >= FAR_BYTES => most,
            () if self.is_restless(now) => most.min(3),
            () => 2,
        }
    }

    /// Retires the lanes that quiet has made superfluous.
    pub(super) fn retire_lanes(&mut self, now: Instant) {
        if self.role == Role::Agent || now.saturating_duration_since(self.last_data) < QUIET {
            return;
        }
        self.data_bytes = 0;
        self.busy_since = None;
        let extra = self.usable_lanes().saturating_sub(1);
        for lane in self.lanes.iter_mut().filter(|lane| lane.is_usable()).take(extra) {
            lane.closing = Closing::Due;
        }
        if extra > 0 {
            self.choose_express();
        }
    }

    /// Bytes of streams or datagrams went over the session.
    pub(super) fn saw_data(&mut self, now: Instant, bytes: usize) {
        self.last_data = now;
        let before = self.data_bytes;
        self.data_bytes += bytes as u64;
        if self.role == Role::Client
            && [PROTECT_BYTES, FAR_BYTES].iter().any(|limit| (before..self.data_bytes).contains(&(limit - 1)))
        {
            self.events.push_back(Event::WantsLane);
        }
        self.busy_since.get_or_insert(now);
    }

    /// Drops stream keys that no longer need control frames.
    pub(super) fn next_control(&mut self) -> Option<StreamKey> {
        let key = self.control.pop_front()?;
        if let Some(stream) = self.streams.get_mut(key.0) {
            stream.in_control = false;
        }
        Some(key)
    }
}
