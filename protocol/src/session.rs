//! The session: streams and flows over any number of lanes that die, lag and come back.
//!
//! One end of it, without I/O. Bytes that a lane brought go into [`Session::receive`]; bytes for a lane come from
//! [`Session::transmit`]; what happened comes from [`Session::poll_event`]; [`Session::poll_timeout`] says when
//! [`Session::handle_timeout`] wants to be called. `session.rs` holds the state; its submodules hold the programs'
//! side of streams and flows, the lanes, the two byte paths and the timers.

mod again;
mod audit;
mod flows;
mod lanes;
mod receive;
mod streams;
mod timers;
mod transmit;

use again::Budget;
pub use audit::Audit;
pub use transmit::BATCH;

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::Status;
use crate::flow::{Flow, SESSION_QUEUED};
use crate::hello::{Instance, Secret, SessionId};
use crate::lane::{Item, Lane};
use crate::pace::Pace;
use crate::path::{Arriving, Total};
use crate::pool::{Pool, Share};
use crate::recv::RecvHalf;
use crate::send::SendHalf;
use crate::slab::{Key, Slab};

/// A stream at this end. Not its id on the wire, which is given at the first transmission.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamKey(pub(crate) Key);

/// A flow at this end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FlowKey(pub(crate) Key);

impl StreamKey {
    /// A small number, unique among the streams that exist, to index tables with.
    pub const fn index(self) -> usize {
        self.0.index as usize
    }
}

impl FlowKey {
    /// A small number, unique among the flows that exist, to index tables with.
    pub const fn index(self) -> usize {
        self.0.index as usize
    }
}

/// A stream that holds no more than this may use the last eighth of the send pool, in bytes.
const SMALL: u64 = 4 * 1024;

/// Which end of the session this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Dials lanes, opens streams and flows.
    Client,
    /// Accepts them.
    Agent,
}

/// Limits and times of a session.
#[derive(Clone, Debug)]
pub struct Config {
    /// Budget for what has arrived and was not taken, and for the credit that the peer holds, in bytes.
    pub receive_pool: Pool,
    /// Budget for what was written and is not acknowledged, in bytes.
    pub send_pool: Pool,
    /// Budget for queued datagrams, in bytes, of which no session has more than 8 MiB.
    pub datagrams: Pool,
    /// The session has no more of the pools than it leaves to others, but for its floors.
    pub fair: bool,
    /// Bytes of the send pool that belong to the session, so that it never waits for another's: at most a quarter.
    pub send_floor: usize,
    /// Streams that the peer may have open at first: for each, the initial credit is reserved.
    pub first_streams: u64,
    /// Credit that each stream starts with, in bytes; announced in hello or welcome.
    pub initial_credit: u64,
    /// Credit given to a stream as soon as it begins, while half of the pool is free, in bytes.
    pub first_window: u64,
    /// The most credit of one stream, in bytes.
    pub max_window: u64,
    /// The most streams that the peer may have open at a time.
    pub max_streams: u64,
    /// The most flows at a time; the one quiet for longest makes room.
    pub max_flows: usize,
    /// The most lanes, 1 to 16.
    pub lanes: usize,
    /// Unacknowledged bytes in flight on one lane, in bytes: three times as many where the round trip is below 5 ms;
    /// elsewhere what the path holds, at most four times as many.
    pub lane_cap: u64,
    /// A lane that brought nothing for this long is asked for a sign of life; `None` never asks.
    pub ping: Option<Duration>,
    /// A lane with something outstanding that brought nothing for this long is given up.
    pub dead_after: Duration,
    /// How long a session without lanes lives while it has streams.
    pub life: Duration,
    /// How long a session without lanes lives while it has no streams.
    pub idle_life: Duration,
}

impl Config {
    /// The client's: pools of 64 MiB to receive and 24 MiB to send.
    pub fn client() -> Self {
        Self {
            receive_pool: Pool::new(64 << 20),
            send_pool: Pool::new(24 << 20),
            datagrams: Pool::new(usize::MAX),
            fair: false,
            send_floor: 256 << 10,
            first_streams: 128,
            initial_credit: 2 * 1024,
            first_window: 64 * 1024,
            max_window: 16 << 20,
            max_streams: 0,
            max_flows: 4_096,
            lanes: 4,
            lane_cap: 2 << 20,
            ping: Some(Duration::from_secs(5)),
            dead_after: Duration::from_secs(15),
            life: Duration::from_secs(30 * 60),
            idle_life: Duration::from_secs(60),
        }
    }

    /// The agent's, for its memory limit of 128 MiB: pools of 48 MiB to receive and 24 MiB to send.
    pub fn agent() -> Self {
        Self {
            receive_pool: Pool::new(48 << 20),
            initial_credit: 16 * 1024,
            max_streams: 16 * 1024,
            max_flows: 1_024,
            // A little later than the client, whose pings then serve both.
            ping: Some(Duration::from_millis(7_500)),
            ..Self::client()
        }
    }
}

/// What happened. A stream or flow gets `Readable` or `Writable` only after an operation on it said that it would
/// block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The peer began a stream, and its first bytes are there.
    Opened(StreamKey),
    /// There are bytes to read, or the end, or a reset.
    Readable(StreamKey),
    /// There is room to write, or a reset.
    Writable(StreamKey),
    /// The stream was reset, by either end or with the session.
    Reset(StreamKey),
    /// The peer began a flow, and its first datagram is there.
    FlowOpened(FlowKey),
    /// There is a datagram to read, or the flow was closed.
    FlowReadable(FlowKey),
    /// [`Session::open`] may succeed where it did not.
    CanOpen,
    /// [`Session::wants_lane`] may have turned true. What time makes of it, no event tells.
    WantsLane,
    /// This lane is over: its transport is to be closed. `true`: in good order.
    LaneOver(u64, bool),
    /// The peer wants no new streams and will end the session after this time.
    Drain(Duration),
    /// The session is over; its streams have been reset.
    Ended(Status, String),
}

/// Why a stream can't be opened now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// Not welcomed yet, the peer's limit is met, or no memory is left: [`Event::CanOpen`] tells when to try again.
    #[error("not yet")]
    Wait,
    /// The peer is draining.
    #[error("the agent takes no new streams")]
    Draining,
    /// The session is over.
    #[error("session is over: {0}")]
    Ended(Status),
}

/// What there is to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Read {
    /// The next bytes.
    Data(Bytes),
    /// Nothing yet.
    Blocked,
    /// The peer has finished, and everything was read.
    End,
    /// The stream was reset.
    Reset(Status),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ResetOut {
    Due,
    Sent,
    Acked,
}

#[derive(Debug)]
struct Stream {
    id: Option<u64>,
    send: SendHalf,
    recv: RecvHalf,
    /// The program was told of it, or opened it.
    announced: bool,
    /// The program has let go of it.
    released: bool,
    max_data_due: bool,
    reset_out: Option<(Status, u64, ResetOut)>,
    reset_in: Option<Status>,
    in_control: bool,
    in_data: bool,
    /// Is among those that wait for the next message.
    riding: bool,
    /// The peer has said something since this end last did.
    heard_last: bool,
    wants_read: bool,
    wants_write: bool,
    /// Is among those that wait for room in the send pool.
    waits_for_pool: bool,
}

impl Stream {
    fn new(id: Option<u64>, send_limit: u64, recv_limit: u64) -> Self {
        Self {
            id,
            send: SendHalf::new(send_limit),
            recv: RecvHalf::new(recv_limit),
            announced: id.is_none(),
            released: false,
            max_data_due: false,
            reset_out: None,
            reset_in: None,
            in_control: false,
            in_data: false,
            riding: false,
            heard_last: false,
            wants_read: false,
            wants_write: false,
            waits_for_pool: false,
        }
    }

    fn reset_acked(&self) -> bool {
        match self.reset_out {
            Some((Status::ResetByPeer, _, ResetOut::Acked)) => self.send.all_acked(),
            Some((_, _, ResetOut::Acked)) => true,
            _ => false,
        }
    }

    fn is_over(&self) -> bool {
        self.released
            && match (self.reset_in, self.reset_out) {
                (Some(_), _) => true,
                // Both halves have dropped what they held, and look as if they were through.
                (None, Some(_)) => self.reset_acked(),
                (None, None) => self.send.is_done() && self.recv.is_delivered(),
            }
    }
}

/// Counters for tests, states and metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Streams that exist at this end.
    pub streams: usize,
    /// Flows that exist at this end.
    pub flows: usize,
    /// Lanes that exist at this end.
    pub lanes: usize,
    /// Bytes reserved of the receive pool.
    pub receive_reserved: usize,
    /// Bytes held for sending or sending again.
    pub send_held: usize,
    /// Datagrams dropped since the beginning, for whatever reason.
    pub datagrams_dropped: u64,
    /// Stream bytes sent a second time or more often.
    pub bytes_resent: u64,
}

/// One end of a session.
#[derive(Debug)]
pub struct Session {
    role: Role,
    config: Config,
    id: SessionId,
    secret: Secret,
    instance: Option<Instance>,

    streams: Slab<Stream>,
    stream_ids: HashMap<u64, StreamKey>,
    /// Streams that this end has begun, and those opened but not yet on the wire.
    begun: u64,
    unbegun: u64,
    peer_max_streams: u64,
    peer_initial_credit: u64,
    /// Streams that the peer has begun, and of these, those that are over.
    peer_begun: u64,
    peer_over: u64,
    /// How many of the peer's may be open at a time: for each, the initial credit is reserved.
    allowed: u64,
    /// What the peer was last told.
    max_streams: u64,

    flows: Slab<Flow>,
    flow_ids: HashMap<u64, FlowKey>,
    flows_begun: u64,
    /// Numbers below the peer's highest that have not been seen: overtaken on another lane.
    flows_overtaken: std::collections::BTreeSet<u64>,
    flow_closes: HashMap<u64, Status>,
    /// What the queues of all flows may hold.
    datagrams: Pool,

    lanes: Vec<Lane>,
    /// What the paths of all lanes hold together.
    total: Total,
    /// When bulk may leave on them.
    pace: Pace,
    /// What the peer sends on them.
    arriving: Arriving,
    /// What may be sent a second time.
    again: Budget,
    highest_lane: u64,
    /// Lanes between hello and welcome: of a client, those whose welcome it waits for; of an agent, those that the newest
    /// hello has named and whose own has not come yet.
    awaited: Vec<u64>,
    express: Option<u64>,
    no_lanes_since: Option<Instant>,
    /// The lanes that there are may all be dead: one more is wanted at once.
    renew: bool,
    /// When something that a lost packet held up last came through, and since when there are more lanes for it.
    repaired: Option<Instant>,
    restless: Option<Instant>,
    /// Data went over the session recently: a second lane protects it.
    busy_since: Option<Instant>,
    last_data: Instant,
    data_bytes: u64,

    control: VecDeque<StreamKey>,
    /// Streams whose new credit can wait for the next message, which the use of the old one brings about.
    riders: VecDeque<StreamKey>,
    /// Streams with a few bytes that wait for the next message, and until when; in order.
    passengers: VecDeque<(Instant, StreamKey)>,
    small: VecDeque<StreamKey>,
    bulk: VecDeque<StreamKey>,
    flow_queue: VecDeque<FlowKey>,
    flow_close_queue: VecDeque<u64>,
    max_streams_due: bool,
    drain: Option<u64>,
    drain_due: bool,
    goodbye: Option<(Status, String)>,
    goodbye_due: bool,
    goodbye_acked: bool,
    peer_draining: bool,

    received: Share,
    sending: Share,
    send_held: usize,
    write_waiters: VecDeque<StreamKey>,
    open_waiting: bool,
    ended: Option<(Status, String)>,
    events: VecDeque<Event>,
    acked: Vec<Item>,
    stats: Stats,
    token: u64,
}

impl Session {
    fn new(role: Role, config: Config, id: SessionId, secret: Secret, now: Instant) -> Self {
        let share = if config.fair { Share::fair } else { Share::new };
        let received = share(config.receive_pool.clone());
        let sending = share(config.send_pool.clone());
        let allowed = if role == Role::Agent { config.first_streams.min(config.max_streams) } else { 0 };
        Self {
            role,
            id,
            secret,
            instance: None,
            streams: Slab::new(),
            stream_ids: HashMap::new(),
            begun: 0,
            unbegun: 0,
            peer_max_streams: 0,
            peer_initial_credit: 0,
            peer_begun: 0,
            peer_over: 0,
            allowed,
            max_streams: allowed,
            flows: Slab::new(),
            flow_ids: HashMap::new(),
            flows_begun: 0,
            flows_overtaken: std::collections::BTreeSet::new(),
            flow_closes: HashMap::new(),
            datagrams: config.datagrams.part(SESSION_QUEUED),
            lanes: Vec::new(),
            total: Total::default(),
            pace: Pace::default(),
            arriving: Arriving::default(),
            again: Budget::new(now),
            highest_lane: 0,
            awaited: Vec::new(),
            express: None,
            no_lanes_since: Some(now),
            renew: false,
            repaired: None,
            restless: None,
            busy_since: None,
            last_data: now,
            data_bytes: 0,
            control: VecDeque::new(),
            riders: VecDeque::new(),
            passengers: VecDeque::new(),
            small: VecDeque::new(),
            bulk: VecDeque::new(),
            flow_queue: VecDeque::new(),
            flow_close_queue: VecDeque::new(),
            max_streams_due: false,
            drain: None,
            drain_due: false,
            goodbye: None,
            goodbye_due: false,
            goodbye_acked: false,
            peer_draining: false,
            received,
            sending,
            send_held: 0,
            write_waiters: VecDeque::new(),
            open_waiting: false,
            ended: None,
            events: VecDeque::new(),
            acked: Vec::new(),
            stats: Stats::default(),
            token: 0,
            config,
        }
    }

    /// Reserves what the session must have; false where the pools are too full.
    fn reserve_floors(&mut self) -> bool {
        let send = self.send_floor();
        let receive = self.allowed * self.config.initial_credit;
        self.sending.try_reserve_floor(send) && self.received.try_reserve_floor(receive as usize)
    }

    fn send_floor(&self) -> usize {
        self.config.send_floor.min(self.sending.limit() / 4)
    }

    /// What happened since the last call, oldest first.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// A stream's number on the wire, if it has one yet.
    pub fn stream_number(&self, key: StreamKey) -> Option<u64> {
        self.streams.get(key.0)?.id
    }

    /// A flow's number on the wire, if it has one yet.
    pub fn flow_number(&self, key: FlowKey) -> Option<u64> {
        self.flows.get(key.0)?.id
    }

    /// The session's id.
    pub const fn id(&self) -> SessionId {
        self.id
    }

    /// How the session ended, if it has.
    pub fn ended(&self) -> Option<Status> {
        self.ended.as_ref().map(|(status, _)| *status)
    }

    /// Counters as of now.
    pub fn stats(&self) -> Stats {
        Stats {
            streams: self.streams.len(),
            flows: self.flows.len(),
            lanes: self.lanes.len(),
            receive_reserved: self.received.held(),
            send_held: self.send_held,
            ..self.stats
        }
    }

    /// Lets the peer begin more streams as others end, and more at a time as long as memory is plenty: twice as many, or,
    /// where there is no room for so many and the peer has none left, what there is room for, little by little.
    fn raise_max_streams(&mut self) {
        let open = self.peer_begun - self.peer_over;
        if open * 2 >= self.allowed && self.allowed < self.config.max_streams {
            let credit = self.config.initial_credit.max(1);
            let room = self.received.free().saturating_sub(self.received.reserve()) as u64 / credit;
            let twice = self.allowed.min(self.config.max_streams - self.allowed);
            let more = match () {
                () if twice <= room => twice,
                () if self.peer_begun >= self.max_streams => room.min(self.allowed / 8),
                () => 0,
            };
            if self.received.try_reserve((more * credit) as usize) {
                self.allowed += more;
            }
        }
        let limit = self.peer_over + self.allowed;
        let step = if self.peer_begun >= self.max_streams { 1 } else { (self.allowed / 8).max(1) };
        if limit >= self.max_streams + step {
            self.max_streams = limit;
            self.max_streams_due = true;
        }
    }

    /// What many streams at a time made necessary is given back as they end, by not renewing it.
    fn lower_allowed(&mut self) {
        let open = self.peer_begun - self.peer_over;
        if self.allowed > self.config.first_streams && open * 4 < self.allowed {
            self.allowed -= 1;
            self.received.release(self.config.initial_credit as usize);
        }
    }

    const fn is_mine(&self, id: u64) -> bool {
        (id & 1 == 0) == matches!(self.role, Role::Client)
    }

    fn queue_control(&mut self, key: StreamKey) {
        if let Some(stream) = self.streams.get_mut(key.0).filter(|stream| !stream.in_control) {
            stream.in_control = true;
            self.control.push_back(key);
        }
    }

    fn queue_data(&mut self, key: StreamKey) {
        let Some(stream) = self.streams.get_mut(key.0) else { return };
        if stream.in_data || stream.reset_in.is_some() || !stream.send.has_work() {
            return;
        }
        stream.in_data = true;
        if stream.send.unsent() <= SMALL && stream.send.in_flight() <= 4 * SMALL {
            self.small.push_back(key);
        } else {
            self.bulk.push_back(key);
        }
    }

    /// Asks the peer to begin nothing new; the session goes on for `grace`.
    pub fn drain(&mut self, grace: Duration) {
        self.drain = Some(u64::try_from(grace.as_millis()).unwrap_or(u64::MAX).min(crate::varint::MAX));
        self.drain_due = true;
    }

    /// Ends the session: all streams are reset, and the peer is told why.
    pub fn goodbye(&mut self, status: Status, text: &str) {
        if self.goodbye.is_none() {
            self.goodbye = Some((status, text.to_owned()));
            self.goodbye_due = true;
            self.end(status, text);
        }
    }

    /// The peer has acknowledged the GOODBYE, or there is none and never will be.
    pub const fn is_goodbye_done(&self) -> bool {
        self.goodbye_acked
    }

    /// Gives the session up without a word to the peer, which is known to be gone.
    pub fn abandon(&mut self, status: Status, text: &str) {
        self.end(status, text);
    }

    /// Ends everything at this end; says nothing to the peer.
    fn end(&mut self, status: Status, text: &str) {
        if self.ended.is_some() {
            return;
        }
        self.ended = Some((status, text.to_owned()));
        for key in self.streams.keys().into_iter().map(StreamKey) {
            let Some(stream) = self.streams.get_mut(key.0) else { continue };
            if stream.recv.is_complete() && (stream.reset_in.is_some() || stream.send.is_done()) {
                continue;
            }
            // A reset whose bytes will never come is worth no more than the session.
            match stream.reset_in {
                Some(earlier) if earlier != Status::ResetByPeer => {}
                _ => stream.reset_in = Some(status),
            }
            stream.recv.discard();
            let freed = stream.send.discard();
            self.release_send(freed);
            self.tell_reset(key);
            self.remove_if_over(key);
        }
        self.end_flows(status);
        self.control.clear();
        self.riders.clear();
        self.passengers.clear();
        self.small.clear();
        self.bulk.clear();
        self.events.push_back(Event::CanOpen);
        self.events.push_back(Event::Ended(status, text.to_owned()));
    }
}
