//! The agent's end: a registry of sessions, and what their clients open.

use std::collections::HashMap;
use std::future::poll_fn;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use relay_protocol::hello::{Hello, HelloError, Instance, Request, SessionId, Welcome};
use relay_protocol::pool::Pool;
use relay_protocol::session::{Config, FlowKey, Read, Session as Core, StreamKey};
use relay_protocol::{Header, Protocol, Status};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use crate::flow::TunnelFlow;
use crate::lane::{self, Joined, LaneIo, ReadBuffer};
use crate::shared::{Notice, Shared};
use crate::stream::TunnelStream;
use crate::turns::Turns;

/// Time limit for a whole hello, and for the whole header of a stream.
const HELLO: Duration = Duration::from_secs(10);
/// Streams and flows that wait to be taken; when it is full, each further one waits in a task of its own.
const INCOMING: usize = 1_024;
/// What the queued datagrams of all sessions may take where many share the agent, in bytes.
const DATAGRAMS: usize = 16 << 20;
/// The initial credit of a stream where memory is plenty, and where it isn't, in bytes.
const CREDIT: [u64; 2] = [16 << 10, 4 << 10];
/// How long the lanes of a session that has ended may take to leave.
const LEAVE: Duration = Duration::from_secs(1);

/// Limits and times of all sessions on an agent. Clones share the pools.
#[derive(Clone, Debug)]
pub struct AgentConfig {
    /// How long a session without lanes lives while it has streams.
    pub session_life: Duration,
    /// Most sessions at a time; a further one is refused with [`Status::TooManyStreams`].
    pub max_sessions: usize,
    /// No session has more of the pools than it leaves to others.
    pub fair: bool,
    /// Most streams of a session at a time.
    pub max_streams: usize,
    /// Credit that each stream starts with, in bytes; it is reserved for each one that may be open.
    pub initial_credit: u64,
    /// Most flows of a session at a time; the one quiet for longest makes room.
    pub max_flows: usize,
    /// Budget for what arrived and was not taken, over all sessions.
    pub receive_pool: Pool,
    /// Budget for what was written and is not acknowledged, over all sessions.
    pub send_pool: Pool,
    /// A lane that brought nothing for this long is asked for a sign of life; zero never asks.
    pub ping: Duration,
    /// A lane with something outstanding that brought nothing for this long is given up.
    pub dead_after: Duration,
}

impl Default for AgentConfig {
    fn default() -> Self {
        let core = Config::agent();
        Self {
            session_life: core.life,
            max_sessions: 256,
            fair: false,
            max_streams: core.max_streams as usize,
            initial_credit: core.initial_credit,
            max_flows: core.max_flows,
            receive_pool: core.receive_pool,
            send_pool: core.send_pool,
            ping: core.ping.unwrap_or_default(),
            dead_after: core.dead_after,
        }
    }
}

impl AgentConfig {
    /// For one user's agent with twice the usual memory or more: room for more than ten thousand streams. With the usual
    /// budget their initial credit would end at two thousand.
    pub fn roomy() -> Self {
        let usual = Self::default();
        let [_, scarce] = CREDIT;
        Self { receive_pool: Pool::new(usual.receive_pool.limit() * 2), initial_credit: scarce, ..usual }
    }

    fn core(&self) -> Config {
        Config {
            life: self.session_life,
            fair: self.fair,
            datagrams: Pool::new(if self.fair { DATAGRAMS } else { usize::MAX }),
            max_streams: self.max_streams as u64,
            initial_credit: self.initial_credit,
            max_flows: self.max_flows,
            receive_pool: self.receive_pool.clone(),
            send_pool: self.send_pool.clone(),
            ping: Some(self.ping).filter(|ping| !ping.is_zero()),
            dead_after: self.dead_after,
            ..Config::agent()
        }
    }
}

/// What goes on, for an agent that ends itself when nothing does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Activity {
    /// Sessions that exist, with lanes or without.
    pub sessions: usize,
    /// Sessions that their clients ended in good order, ever.
    pub goodbyes: usize,
}

/// What a client opened. The header is whole and its protocol fits.
#[derive(Debug)]
pub enum Incoming {
    /// A TCP connection: to be dialled, then [`TunnelStream::accept`]ed or reset.
    Stream(TunnelStream),
    /// A UDP association.
    Flow(TunnelFlow),
}

impl Incoming {
    /// Where its session's tasks are run.
    pub fn turns(&self) -> Turns {
        match self {
            Self::Stream(stream) => stream.turns(),
            Self::Flow(flow) => flow.turns(),
        }
    }
}

/// Why a lane is over, where its session isn't the reason.
#[derive(Debug, thiserror::Error)]
pub enum LaneError {
    /// No whole hello within 10 s.
    #[error("no hello in time")]
    HelloTimedOut,
    /// The hello was understood and refused.
    #[error("refused: {0}")]
    Refused(Status),
    /// The transport broke before the welcome.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Not a hello.
    #[error(transparent)]
    Malformed(#[from] HelloError),
}

struct Registry {
    config: Config,
    max_sessions: usize,
    instance: Instance,
    sessions: Mutex<HashMap<SessionId, Arc<Shared>>>,
    incoming: mpsc::Sender<Incoming>,
    activity: watch::Sender<Activity>,
}

/// All sessions of an agent. Clones share them.
#[derive(Clone)]
pub struct Agent(Arc<Registry>);

impl Agent {
    /// An agent without sessions, and where the streams and flows of its clients come out.
    ///
    /// # Errors
    /// The system has no random numbers.
    pub fn new(config: &AgentConfig) -> io::Result<(Self, mpsc::Receiver<Incoming>)> {
        let mut instance = [0; 16];
        getrandom::fill(&mut instance).map_err(|error| io::Error::other(error.to_string()))?;
        let (incoming, receiver) = mpsc::channel(INCOMING);
        let registry = Registry {
            config: config.core(),
            max_sessions: config.max_sessions,
            instance: Instance(instance),
            sessions: Mutex::new(HashMap::new()),
            incoming,
            activity: watch::Sender::new(Activity::default()),
        };
        Ok((Self(Arc::new(registry)), receiver))
    }

    /// How many sessions there are.
    pub fn activity(&self) -> watch::Receiver<Activity> {
        self.0.activity.subscribe()
    }

    /// The pools that the sessions share, by name.
    pub fn pools(&self) -> [(&'static str, &Pool); 3] {
        let config = &self.0.config;
        [("receive", &config.receive_pool), ("send", &config.send_pool), ("datagrams", &config.datagrams)]
    }

    /// Serves one lane until it ends. `early` is what was read from the transport so far.
    ///
    /// # Errors
    /// Why there was no welcome.
    pub fn serve_lane<I: LaneIo>(
        &self,
        io: I,
        early: BytesMut,
    ) -> impl Future<Output = Result<(), LaneError>> + Send + use<I> {
        self.clone().serve(io, early)
    }

    async fn serve<I: LaneIo>(self, io: I, mut early: BytesMut) -> Result<(), LaneError> {
        let (mut read, mut write) = io.into_halves();
        let hello = async {
            loop {
                match Hello::decode(&early)? {
                    Some((hello, len)) => return Ok((hello, len)),
                    None if read.read_buf(&mut early).await? == 0 => {
                        return Err(LaneError::Io(io::ErrorKind::UnexpectedEof.into()));
                    }
                    None => {}
                }
            }
        };
        let (hello, len) = match timeout(HELLO, hello).await {
            Ok(Ok(hello)) => hello,
            Ok(Err(error)) => {
                if let LaneError::Malformed(HelloError::Version(..)) = error {
                    let _ = write.write_all(&self.refusal(Status::UnknownVersion).encode()).await;
                }
                let _ = write.shutdown().await;
                return Err(error);
            }
            Err(_) => return Err(LaneError::HelloTimedOut),
        };
        let (welcome, shared) = self.0.admit(&hello);
        let joined = shared.map(|shared| Joined::new(shared, hello.lane));
        write.write_all(&welcome.encode()).await?;
        write.flush().await?;
        let Some(joined) = joined else {
            let _ = write.shutdown().await;
            return Err(LaneError::Refused(welcome.status));
        };
        let (turns, buffer) = (joined.turns(), ReadBuffer::new(&early[len..]));
        let place = turns.clone();
        let lane = async move {
            match I::adopted(read, write, &place) {
                Ok((read, write)) => lane::run(joined, read, write, buffer).await,
                // The session hears of it as of any lane that is lost.
                Err(error) => tracing::debug!(%error, "lane not taken over"),
            }
        };
        turns.run(lane).await;
        Ok(())
    }

    fn refusal(&self, status: Status) -> Welcome {
        Welcome::refusal(status, self.0.instance)
    }

    /// Lets the streams of all sessions end for at most `grace`, then ends the sessions.
    pub async fn drain(&self, grace: Duration) {
        let sessions: Vec<_> = self.0.sessions().values().cloned().collect();
        for shared in &sessions {
            shared.with(|state, _| state.session.drain(grace));
        }
        let ends = async {
            for shared in &sessions {
                shared.idle().await;
            }
        };
        let _ = timeout(grace, ends).await;
        for shared in &sessions {
            shared.with(|state, _| state.session.goodbye(Status::ShuttingDown, "the agent was asked to end"));
        }
        let left = async {
            for shared in &sessions {
                shared.stop.cancelled().await;
            }
        };
        let _ = timeout(LEAVE, left).await;
    }
}

impl Registry {
    fn sessions(&self) -> MutexGuard<'_, HashMap<SessionId, Arc<Shared>>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Finds or makes the session that a hello asks for. A session whose id is unknown, and one that the hello can't
    /// prove to own, are refused alike.
    fn admit(self: &Arc<Self>, hello: &Hello) -> (Welcome, Option<Arc<Shared>>) {
        let mut sessions = self.sessions();
        if let Some(shared) = sessions.get(&hello.session) {
            let joined = shared.with(|state, now| state.session.join(hello, now));
            return match joined {
                Ok(welcome) => (welcome, Some(shared.clone())),
                Err(refusal) => (refusal, None),
            };
        }
        if let Request::Join { .. } = hello.request {
            return (Welcome::refusal(Status::AgentLost, self.instance), None);
        }
        if sessions.len() >= self.max_sessions {
            tracing::info!(sessions = sessions.len(), "too many sessions: another one refused");
            return (Welcome::refusal(Status::TooManyStreams, self.instance), None);
        }
        let turns = match if self.config.fair { Turns::together() } else { Ok(Turns::none()) } {
            Ok(turns) => turns,
            Err(error) => {
                tracing::warn!(%error, "no thread for a session: refused");
                return (Welcome::refusal(Status::TooManyStreams, self.instance), None);
            }
        };
        let now = tokio::time::Instant::now().into_std();
        match Core::agent(self.newcomer(sessions.len()), hello, self.instance, now) {
            Err(refusal) => (refusal, None),
            Ok((core, welcome)) => {
                let shared = Shared::new(core, turns.clone());
                sessions.insert(hello.session, shared.clone());
                self.activity.send_modify(|activity| activity.sessions += 1);
                turns.spawn(shared.clone().run_timer());
                turns.spawn(self.clone().own(hello.session, shared.clone()));
                (welcome, Some(shared))
            }
        }
    }

    /// What the next session gets, as one more than `sessions`. Where many share the agent, everybody who may still come
    /// finds a floor: a quarter of a pool is for nothing else, and of what is free beyond that a newcomer gets a part.
    fn newcomer(&self, sessions: usize) -> Config {
        let mut config = self.config.clone();
        if config.fair {
            let to_come = self.max_sessions.saturating_sub(sessions);
            let part = |pool: &Pool| {
                let least = pool.limit() / 4 / self.max_sessions;
                least + pool.free().saturating_sub(least * to_come) / 32
            };
            config.send_floor = part(&config.send_pool).min(config.send_floor);
            let receive = part(&config.receive_pool) as u64;
            let [plenty, scarce] = CREDIT;
            config.initial_credit =
                if receive >= config.first_streams / 2 * plenty { plenty } else { scarce };
            config.first_streams = (receive / config.initial_credit).clamp(1, config.first_streams);
        }
        config
    }

    /// Serves a session until it has ended and its lanes have left.
    async fn own(self: Arc<Self>, id: SessionId, shared: Arc<Shared>) {
        let status = loop {
            if let Some(status) = self.note(&shared) {
                break status;
            }
            shared.attention().await;
        };
        self.sessions().remove(&id);
        let _ = timeout(LEAVE, async {
            while shared.has_lanes() {
                shared.attention().await;
            }
        })
        .await;
        shared.stop.cancel();
        shared.turns.close();
        self.activity.send_modify(|activity| {
            activity.sessions -= 1;
            activity.goodbyes += usize::from(status == Status::Ok);
        });
    }

    fn note(&self, shared: &Arc<Shared>) -> Option<Status> {
        for notice in shared.take_notices() {
            match notice {
                Notice::Opened(key) => self.opened(shared, key),
                Notice::FlowOpened(key) => self.flow_opened(shared, key),
                Notice::Drain(_) => {}
                Notice::Ended(status, text) => {
                    tracing::debug!(%status, text, "session over");
                    return Some(status);
                }
            }
        }
        None
    }

    fn opened(&self, shared: &Arc<Shared>, key: StreamKey) {
        let (turns, shared, incoming) = (shared.turns.clone(), shared.clone(), self.incoming.clone());
        turns.spawn(async move {
            match timeout(HELLO, read_header(&shared, key)).await {
                Ok(Ok(header)) => {
                    let stream = TunnelStream::new(shared, key, header, false);
                    // The receiver is gone only when the agent ends.
                    let _ = incoming.send(Incoming::Stream(stream)).await;
                }
                Ok(Err(status)) => shared.with(|state, _| {
                    state.session.reset(key, status);
                    state.session.release(key);
                }),
                Err(_) => shared.with(|state, _| state.session.release(key)),
            }
        });
    }

    fn flow_opened(&self, shared: &Arc<Shared>, key: FlowKey) {
        let Some(encoded) = shared.peek(|session| session.flow_header(key)) else { return };
        let header = match Header::decode(&encoded) {
            Ok(Some((header, len))) if len == encoded.len() && header.protocol == Protocol::Udp => Ok(header),
            Ok(_) => Err(Status::UnknownProtocol),
            Err(error) => Err(error.status()),
        };
        match header {
            Ok(header) => {
                let flow = TunnelFlow::new(shared.clone(), key, header);
                // A flow that nobody has time for is dropped, as datagrams are.
                let _ = self.incoming.try_send(Incoming::Flow(flow));
            }
            Err(status) => shared.with(|state, _| state.session.close_flow(key, status)),
        }
    }
}

/// Takes the header off the front of a stream.
async fn read_header(shared: &Shared, key: StreamKey) -> Result<Header, Status> {
    let mut bytes = Vec::new();
    loop {
        match Header::decode(&bytes) {
            Ok(Some((header, _))) if header.protocol == Protocol::Tcp => return Ok(header),
            Ok(Some(_)) => return Err(Status::UnknownProtocol),
            Err(error) => return Err(error.status()),
            Ok(None) => {}
        }
        // The length stands in the first three bytes; nothing behind the header may be taken.
        let want = match bytes[..] {
            [_, high, low, ..] => usize::from(u16::from_be_bytes([high, low])) - bytes.len(),
            _ => 3 - bytes.len(),
        };
        let chunk: Bytes = poll_fn(|cx| {
            shared.with(|state, now| match state.session.read(now, key, want) {
                Read::Data(data) => Poll::Ready(Ok(data)),
                Read::End => Poll::Ready(Err(Status::Unknown)),
                Read::Reset(status) => Poll::Ready(Err(status)),
                Read::Blocked => {
                    state.wait_readable(key, cx.waker());
                    Poll::Pending
                }
            })
        })
        .await?;
        bytes.extend_from_slice(&chunk);
    }
}
