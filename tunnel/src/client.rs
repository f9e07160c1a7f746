//! The client's end of a session: dials lanes, keeps them, opens streams and flows.

mod attempt;
mod health;

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use relay_protocol::hello::{Secret, SessionId};
use relay_protocol::pool::Pool;
use relay_protocol::session::{Config, OpenError, Session as Core};
use relay_protocol::{Header, Status};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};

use crate::clock::SleepWatch;
use crate::flow::TunnelFlow;
use crate::lane::{self, LaneIo};
use crate::shared::{Notice, Shared};
use crate::stream::TunnelStream;
use crate::turns::Turns;

use self::attempt::{Attempt, Welcomed, connect, connect_extra};
pub use self::health::Health;

/// How often the clocks are compared and the number of lanes is looked at.
const TICK: Duration = Duration::from_secs(1);
/// Time limit for one dial, hello and welcome included.
const ATTEMPT: Duration = Duration::from_secs(10);
/// With no lane left an attempt gets this long, the next one twice as long, up to [`ATTEMPT`]: one that a path under
/// repair has swallowed costs little, and a slow server is still waited for.
const IMPATIENT: Duration = Duration::from_secs(3);
/// An attempt that took this long is given up for a new one when the network has changed.
const STALE: Duration = Duration::from_secs(3);
/// Refusals that may pass (a starting API server refuses everybody) are final after this long of nothing else.
const FINAL_AFTER: Duration = Duration::from_secs(15);
/// For this long attempts begin within [`SOON`] of each other, or as soon as the last one has failed; later within
/// [`LATER`].
const EAGER: Duration = Duration::from_secs(60);
const SOON: Duration = Duration::from_secs(1);
const LATER: Duration = Duration::from_secs(10);
/// What has just ended in good order is to arrive as that, not as a reset with the session: for so long at most.
const LAST_ENDS: Duration = Duration::from_millis(20);
/// How long the lanes of a session that has ended may take to leave.
const LEAVE: Duration = Duration::from_secs(1);

/// Why there is no lane.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct DialError {
    /// For people.
    pub message: String,
    /// Refused by the API server (401, 403, 404): final before anything worked, and after 15 s of nothing else later.
    pub fatal: bool,
    /// The agent itself is gone, so the session is lost.
    pub gone: bool,
}

impl DialError {
    /// One that another attempt may not meet.
    fn passing(message: String) -> Self {
        Self { message, fatal: false, gone: false }
    }
}

/// How to get one more lane to the agent.
pub trait Dialer: Send + Sync + 'static {
    /// The transport.
    type Io: LaneIo;

    /// Connects once. Dropping the future gives the attempt up. Several may be under way at a time.
    fn dial(&self) -> impl Future<Output = Result<Self::Io, DialError>> + Send;
}

/// Limits and times of a client's session. Clones share the pools.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// Nothing has worked before this session: its first dial is refused for good, where later a refusal may pass.
    pub first: bool,
    /// Most bulk lanes, 1 to 15.
    pub lanes: usize,
    /// A lane that brought nothing for this long is asked for a sign of life; zero never asks.
    pub ping: Duration,
    /// A lane with something outstanding that brought nothing for this long is given up.
    pub dead_after: Duration,
    /// How long a session without lanes lives while it has streams.
    pub session_life: Duration,
    /// Budget for what arrived and was not taken.
    pub receive_pool: Pool,
    /// Budget for what was written and is not acknowledged.
    pub send_pool: Pool,
}

impl Default for ClientConfig {
    fn default() -> Self {
        let core = Config::client();
        Self {
            first: true,
            lanes: core.lanes,
            ping: core.ping.unwrap_or_default(),
            dead_after: core.dead_after,
            session_life: core.life,
            receive_pool: core.receive_pool,
            send_pool: core.send_pool,
        }
    }
}

impl ClientConfig {
    fn core(&self) -> Config {
        Config {
            lanes: self.lanes.clamp(1, 15),
            ping: Some(self.ping).filter(|ping| !ping.is_zero()),
            dead_after: self.dead_after,
            life: self.session_life,
            receive_pool: self.receive_pool.clone(),
            send_pool: self.send_pool.clone(),
            ..Config::client()
        }
    }
}

/// How the session does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// No lane yet.
    Connecting {
        /// Why the last attempt failed, if there was one.
        reason: Option<String>,
    },
    /// Traffic flows.
    Ready,
    /// No lane works; streams wait.
    Reconnecting {
        /// Since when.
        since: Instant,
        /// Why.
        reason: String,
    },
    /// The agent takes no new streams and will end after this time.
    Draining {
        /// How long streams may go on.
        grace: Duration,
    },
    /// There is no way back: a new session is needed, and perhaps a new agent.
    Lost {
        /// Why.
        reason: String,
        /// The agent itself is gone.
        gone: bool,
        /// The API server refused every attempt for so long that it means it.
        refused: bool,
    },
}

/// A session with an agent. Clones share it.
#[derive(Clone)]
pub struct Session {
    shared: Arc<Shared>,
    state: watch::Receiver<State>,
    probe: Arc<Notify>,
}

impl Session {
    /// Starts a session, which dials at once and for as long as it lives. To be called within a runtime.
    pub fn start<D: Dialer>(config: &ClientConfig, dialer: D) -> (Self, watch::Receiver<State>) {
        let (mut id, mut secret) = ([0; 16], [0; 32]);
        let random = getrandom::fill(&mut id).and_then(|()| getrandom::fill(&mut secret));
        let core = Core::client(config.core(), SessionId(id), Secret(secret), Instant::now().into_std());
        let (sender, state) = watch::channel(State::Connecting { reason: None });
        let shared = Shared::new(core, Turns::none());
        if let Err(error) = random {
            shared.with(|state, _| {
                state.session.abandon(Status::Unknown, &format!("no random numbers: {error}"));
            });
        }
        tokio::spawn(shared.clone().run_timer());
        let probe = Arc::new(Notify::new());
        let manager = Manager {
            first: config.first,
            shared: shared.clone(),
            dialer: Arc::new(dialer),
            extra: JoinSet::new(),
            state: sender,
            lanes: JoinSet::new(),
            connected: false,
            down_since: Instant::now(),
            fatal_since: None,
            reason: None,
            gone: false,
            refused: false,
            probe: probe.clone(),
            welcomed: false,
            draining: None,
            failures: 0,
        };
        tokio::spawn(manager.run());
        (Self { shared, state: state.clone(), probe }, state)
    }

    /// How the session does.
    pub fn state(&self) -> watch::Receiver<State> {
        self.state.clone()
    }

    /// Opens a stream without waiting for the agent's answer. Waits only while there is no session yet, the agent's
    /// limit of streams is met, or other streams hold all memory for what is to be sent; cancel-safe.
    ///
    /// # Errors
    /// Why there will be no stream.
    pub async fn open(&self, header: Header) -> Result<TunnelStream, Status> {
        let mut first = Vec::with_capacity(header.encoded_len());
        header.encode(&mut first);
        let first = Bytes::from(first);
        let key = poll_fn(|cx| {
            self.shared.with(|state, _| match state.session.open() {
                Ok(key) => Poll::Ready(Ok(key)),
                Err(error) => refusal(error).map_or_else(
                    || {
                        state.wait_open(cx.waker());
                        Poll::Pending
                    },
                    |status| Poll::Ready(Err(status)),
                ),
            })
        })
        .await?;
        // From here on the stream goes when this future does.
        let stream = TunnelStream::new(self.shared.clone(), key, header, true);
        stream.send_all(first).await.map_err(|reset| reset.status)?;
        Ok(stream)
    }

    /// Opens a flow. Waits as [`Session::open`] does.
    ///
    /// # Errors
    /// Why there will be no flow.
    pub async fn open_flow(&self, header: Header) -> Result<TunnelFlow, Status> {
        let mut encoded = Vec::with_capacity(header.encoded_len());
        header.encode(&mut encoded);
        let encoded = Bytes::from(encoded);
        let key = poll_fn(|cx| {
            self.shared.with(|state, now| match state.session.open_flow(now, encoded.clone()) {
                Ok(key) => Poll::Ready(Ok(key)),
                Err(error) => match refusal(error) {
                    Some(status) => Poll::Ready(Err(status)),
                    None => {
                        state.wait_open(cx.waker());
                        Poll::Pending
                    }
                },
            })
        })
        .await?;
        Ok(TunnelFlow::new(self.shared.clone(), key, header))
    }

    /// Ends the session: resets its streams, tells the agent, and waits until it knows or `grace` has passed.
    pub async fn close(&self, grace: Duration) {
        if self.shared.with(|state, _| state.session.send_riding()) {
            let _ = timeout(LAST_ENDS, self.shared.idle()).await;
        }
        self.shared.with(|state, _| state.session.goodbye(Status::Ok, "the client has left"));
        let _ = timeout(grace, self.shared.stop.cancelled()).await;
        self.shared.stop.cancel();
    }

    /// Something about the network has changed: asks every lane for a sign of life, and dials at once where there is
    /// none. Silence so far still counts, so it may be called as often as one likes.
    pub fn probe(&self) {
        self.shared.with(|state, _| state.session.probe());
        self.probe.notify_one();
    }

    /// Waits until the session has no streams or has ended.
    pub async fn idle(&self) {
        self.shared.idle().await;
    }

    /// Gives the session up without a word: its agent is known to be gone.
    pub fn abandon(&self, reason: &str) {
        self.shared.with(|state, _| state.session.abandon(Status::AgentLost, reason));
    }
}

/// The status for an error that won't pass.
fn refusal(error: OpenError) -> Option<Status> {
    match error {
        OpenError::Wait => None,
        OpenError::Draining => Some(Status::ShuttingDown),
        OpenError::Ended(Status::Ok) => Some(Status::AgentLost),
        OpenError::Ended(status) => Some(status),
    }
}

struct Manager<D: Dialer> {
    first: bool,
    shared: Arc<Shared>,
    dialer: Arc<D>,
    /// Extra lanes under way: all that are missing at a time, for which a far path has round trips to spare. One that turns
    /// out to be needed no more comes to nothing.
    extra: JoinSet<Result<Option<Welcomed<D::Io>>, DialError>>,
    state: watch::Sender<State>,
    lanes: JoinSet<()>,
    /// Some lane worked at the last look.
    connected: bool,
    down_since: Instant,
    fatal_since: Option<Instant>,
    reason: Option<String>,
    gone: bool,
    refused: bool,
    probe: Arc<Notify>,
    welcomed: bool,
    draining: Option<Duration>,
    failures: u32,
}

impl<D: Dialer> Manager<D> {
    async fn run(mut self) {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut sleep_watch = SleepWatch::new(TICK);
        let mut next = Instant::now();
        let mut attempt: Option<Attempt<D::Io>> = None;
        let mut began = next;
        while self.shared.peek(Core::ended).is_none() {
            if attempt.is_none() && next <= Instant::now() {
                let missing = self.lanes_missing();
                if self.connected {
                    // More than one only beside one that works: who has none needs one soon, not several.
                    for _ in self.extra.len()..missing {
                        self.extra.spawn(connect_extra(self.shared.clone(), self.dialer.clone()));
                    }
                } else if missing > 0 {
                    began = Instant::now();
                    attempt = Some(Box::pin(connect(self.shared.clone(), self.dialer.clone())));
                }
            }
            tokio::select! {
                result = async { attempt.as_mut()?.await.into() }, if attempt.is_some() => {
                    attempt = None;
                    // Always there while an attempt is.
                    let Some(result) = result else { continue };
                    next = self.attempted(began, result);
                }
                _ = tick.tick() => {
                    if sleep_watch.slept() {
                        tracing::info!("this machine slept: checking the connection");
                        self.shared.with(|state, now| state.session.woke(now));
                        attempt = None;
                        self.extra = JoinSet::new();
                        next = Instant::now();
                        self.failures = 0;
                        self.fatal_since = None;
                    }
                }
                () = self.probe.notified() => {
                    if !self.connected {
                        next = Instant::now();
                        self.failures = 0;
                    }
                    // What has been under way for so long may hang on what has changed.
                    if began.elapsed() >= STALE {
                        attempt = None;
                    }
                }
                () = sleep_until(self.patience(began)), if attempt.is_some() && self.is_down() => {
                    attempt = None;
                    let waited = began.elapsed().as_secs();
                    let error = DialError::passing(format!("no answer from the agent within {waited} s"));
                    next = self.attempted(began, Err(error));
                }
                () = self.shared.attention() => {}
                () = sleep_until(next), if attempt.is_none() && next > Instant::now() => {}
                Some(_) = self.lanes.join_next() => {}
                Some(extra) = self.extra.join_next() => {
                    if let Ok(Some(result)) = extra.map(Result::transpose) {
                        next = self.attempted(Instant::now(), result);
                    }
                }
            }
            self.note();
            if self.publish() {
                // The wait may be that for an extra lane, of which nothing hung.
                next = Instant::now();
            }
        }
        self.note();
        let _ = timeout(LEAVE, async { while self.lanes.join_next().await.is_some() {} }).await;
        self.publish();
        self.shared.stop.cancel();
    }

    /// No lane works, and one did before.
    fn is_down(&self) -> bool {
        self.welcomed && !self.connected
    }

    /// Until when an attempt may take that began then, while nothing works.
    fn patience(&self, began: Instant) -> Instant {
        // One for an extra lane may have been under way when the last one was lost.
        began.max(self.down_since) + (IMPATIENT * 2u32.pow(self.failures.min(2))).min(ATTEMPT)
    }

    fn lanes_missing(&self) -> usize {
        self.shared.peek(|session| session.lanes_missing(Instant::now().into_std()))
    }

    /// Starts the lane of an attempt that began then, or takes note of its failure. Gives the time of the next one.
    fn attempted(&mut self, began: Instant, result: Result<Welcomed<D::Io>, DialError>) -> Instant {
        let now = Instant::now();
        let error = match result {
            Ok(welcomed) => {
                let Welcomed { lane, read, write, buffer } = welcomed;
                self.lanes.spawn(lane::run(lane, read, write, buffer));
                (self.failures, self.fatal_since, self.welcomed) = (0, None, true);
                return now;
            }
            Err(error) => error,
        };
        tracing::debug!(%error, "no lane");
        if self.shared.peek(Core::is_connected) {
            // What works is not touched by an extra lane that doesn't come.
            return now + LATER;
        }
        self.fatal_since = error.fatal.then(|| self.fatal_since.unwrap_or(now));
        let at_once = self.first && !self.welcomed;
        let is_final =
            self.fatal_since.is_some_and(|since| at_once || now.duration_since(since) >= FINAL_AFTER);
        (self.gone, self.refused) = (error.gone, error.fatal && !error.gone && is_final);
        if error.gone || is_final {
            self.shared.with(|state, _| state.session.abandon(Status::AgentLost, &error.message));
        }
        self.reason = Some(error.message);
        self.failures += 1;
        let most = if now.duration_since(self.down_since) < EAGER { SOON } else { LATER };
        let wait = Duration::from_millis(25) * 2u32.pow(self.failures.min(12));
        // What the attempt itself took has been waited: a path that swallows everything may be whole again.
        now.max(began + jittered(wait.min(most)))
    }

    fn note(&mut self) {
        for notice in self.shared.take_notices() {
            match notice {
                Notice::Drain(grace) => self.draining = Some(grace),
                Notice::Ended(_, text) => {
                    self.reason = Some(match self.reason.take() {
                        Some(last) if last != text => format!("{text}: {last}"),
                        _ => text,
                    });
                }
                // The agent opens nothing: the core refuses it.
                Notice::Opened(_) | Notice::FlowOpened(_) => {}
            }
        }
    }

    /// Tells how the session does. True where its last working lane has just been lost.
    fn publish(&mut self) -> bool {
        let (connected, ended) = self.shared.peek(|session| (session.is_connected(), session.ended()));
        let lost = std::mem::replace(&mut self.connected, connected) && !connected;
        if connected {
            self.reason = None;
        } else if lost {
            self.down_since = Instant::now();
        }
        let reason = self.reason.clone();
        let state = if ended.is_some() {
            State::Lost {
                reason: reason.unwrap_or_else(|| "the session has ended".to_owned()),
                gone: self.gone,
                refused: self.refused,
            }
        } else if let Some(grace) = self.draining {
            State::Draining { grace }
        } else if connected {
            State::Ready
        } else if self.welcomed {
            let reason = reason.unwrap_or_else(|| "the connection to the cluster was lost".to_owned());
            State::Reconnecting { since: self.down_since, reason }
        } else {
            State::Connecting { reason }
        };
        self.state.send_if_modified(|old| {
            let changed = *old != state;
            *old = state;
            changed
        });
        lost
    }
}

/// Between half of `wait` and all of it.
fn jittered(wait: Duration) -> Duration {
    let mut byte = [0];
    // Without random numbers there is no jitter, which is no reason to fail.
    let _ = getrandom::fill(&mut byte);
    wait / 2 + wait / 2 * u32::from(byte[0]) / 255
}
