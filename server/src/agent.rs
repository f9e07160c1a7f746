//! The agent as a whole: what its tasks share, and its life from the first connection to the last.

use std::future::{Future, pending};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use relay_dial::{Dialer, Flows, Resolver};
use relay_observe::Ledger;
use relay_tunnel::{Activity, AgentConfig, Incoming, Turns};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::info;

use crate::carry::Seldom;
use crate::places::Places;
use crate::settings::{Limits, Settings};
use crate::{listen, metrics, session};

/// How long tasks may take to see that it is over.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// From so much memory on, twice the usual limit, one user's agent has larger budgets.
const ROOMY: u64 = 256 << 20;

/// What all tasks share.
pub struct Shared {
    /// Reaches targets.
    pub dialer: Dialer,
    /// All UDP flows.
    pub flows: Flows,
    /// How many streams there may be.
    pub places: Places,
    /// What is counted and written of each.
    pub ledger: Ledger,
    /// Which denials are said.
    pub denials: Seldom,
    /// The agent's limits.
    pub limits: Limits,
    /// All sessions.
    pub sessions: relay_tunnel::Agent,
    /// Where direct streams are run: who opens them can't be told apart.
    pub direct: Turns,
    /// Held once by every lane.
    pub lanes: Arc<()>,
    /// Every connection's task. Awaited at the end.
    pub tasks: TaskTracker,
    /// Nothing new may begin.
    pub draining: CancellationToken,
    /// What is left is reset.
    pub abort: CancellationToken,
    /// Direct streams that are open, keep-alive streams among them.
    busy: watch::Sender<usize>,
}

/// Counts a direct stream as long as it is held.
pub struct Busy<'a>(&'a watch::Sender<usize>);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|streams| *streams -= 1);
    }
}

impl Shared {
    /// Counts a direct stream until the guard is dropped.
    pub fn enter(&self) -> Busy<'_> {
        self.busy.send_modify(|streams| *streams += 1);
        Busy(&self.busy)
    }

    /// Direct streams that are open.
    pub fn streams(&self) -> usize {
        *self.busy.borrow()
    }

    /// Returns when there was nothing to do for as long as `limit`.
    async fn idle(&self, limit: Option<Duration>) {
        let (mut busy, mut activity) = (self.busy.subscribe(), self.sessions.activity());
        loop {
            let idle = *busy.borrow_and_update() == 0 && activity.borrow_and_update().sessions == 0;
            tokio::select! {
                // Both senders live as long as the agent: neither can fail.
                _ = busy.changed() => {}
                _ = activity.changed() => {}
                () = async {
                    match limit {
                        Some(limit) if idle => sleep(limit).await,
                        _ => pending().await,
                    }
                } => return,
            }
        }
    }

    /// Returns when a client said GOODBYE and nobody else is there.
    async fn goodbye(&self) {
        let gone = |activity: &Activity| activity.goodbyes > 0 && activity.sessions == 0;
        let _ = self.sessions.activity().wait_for(gone).await;
        self.quiet().await;
    }

    /// Returns when no direct stream is left.
    async fn quiet(&self) {
        // The sender is ours, so that this cannot fail.
        let _ = self.busy.subscribe().wait_for(|streams| *streams == 0).await;
    }
}

/// Why the agent ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It had nothing to do.
    Idle,
    /// It was told to.
    Stopped,
    /// Its only user left.
    Goodbye,
}

/// Where an agent listens.
pub struct Listeners {
    /// For its clients, on loopback.
    pub clients: Vec<TcpListener>,
    /// For whoever reads its metrics.
    pub metrics: Vec<TcpListener>,
}

/// An agent that listens and has not begun to serve.
pub struct Agent {
    listeners: Listeners,
    shared: Arc<Shared>,
    incoming: mpsc::Receiver<Incoming>,
    settings: Settings,
}

impl Agent {
    /// An agent with these listeners, which writes in `ledger`.
    ///
    /// # Errors
    /// The system has no random numbers or no thread, or a listener no address.
    pub fn new(
        listeners: Listeners,
        settings: &Settings,
        limits: Limits,
        resolver: Resolver,
        ledger: Ledger,
    ) -> io::Result<Self> {
        let is_roomy = !settings.shared && limits.memory >= ROOMY;
        let usual = if is_roomy { AgentConfig::roomy() } else { AgentConfig::default() };
        let config = AgentConfig {
            session_life: settings.session_life,
            max_sessions: settings.max_sessions,
            fair: settings.shared,
            // Some beyond the limit get through, so that they are answered with its status instead of kept waiting.
            max_streams: settings.max_streams().saturating_add(settings.max_streams() / 8 + 16),
            ping: settings.ping,
            dead_after: settings.dead_after,
            ..usual
        };
        let mut policy = settings.policy.clone();
        for listener in listeners.clients.iter().chain(&listeners.metrics) {
            policy.own_ports.push(listener.local_addr()?.port());
        }
        let (sessions, incoming) = relay_tunnel::Agent::new(&config)?;
        let mut dial = limits.dial.clone();
        if is_roomy {
            dial.kernel_bytes *= 2;
        }
        let shared = Shared {
            dialer: Dialer::new(resolver, policy, dial),
            flows: Flows::new(limits.flows),
            places: Places::new(settings.max_streams(), settings.max_streams_total(), settings.shared),
            ledger,
            denials: Seldom::new(Instant::now()),
            limits,
            sessions,
            direct: if settings.shared { Turns::together()? } else { Turns::none() },
            lanes: Arc::new(()),
            tasks: TaskTracker::new(),
            draining: CancellationToken::new(),
            abort: CancellationToken::new(),
            busy: watch::Sender::new(0),
        };
        Ok(Self { listeners, shared: Arc::new(shared), incoming, settings: settings.clone() })
    }

    /// What the agent's tasks share.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Serves until the agent has been idle for too long, or until `stop`: then streams may finish within the grace.
    pub async fn run(self, stop: impl Future<Output = ()>) -> Exit {
        let Self { listeners, shared, incoming, settings } = self;
        let greeting = Arc::new(Semaphore::new(shared.limits.greeting_connections));
        let mut accepting = JoinSet::new();
        let places = Arc::new(Semaphore::new(metrics::MOST));
        for listener in listeners.metrics {
            accepting.spawn(metrics::accept(listener, shared.clone(), places.clone()));
        }
        for listener in listeners.clients {
            accepting.spawn(listen::accept(listener, shared.clone(), greeting.clone()));
        }
        let mut serving = JoinSet::new();
        serving.spawn(session::serve(incoming, shared.clone()));
        let exit = tokio::select! {
            () = shared.idle(settings.idle) => Exit::Idle,
            () = shared.goodbye(), if settings.exit_on_goodbye => Exit::Goodbye,
            () = stop => Exit::Stopped,
        };
        accepting.shutdown().await;
        if exit == Exit::Stopped {
            let grace = settings.drain_grace;
            let sessions = shared.sessions.activity().borrow().sessions;
            info!(sessions, streams = shared.streams(), ?grace, "stopping: open streams may finish");
            shared.draining.cancel();
            // At the end of the grace what is left is reset.
            let _ = tokio::join!(shared.sessions.drain(grace), timeout(grace, shared.quiet()));
        }
        shared.abort.cancel();
        shared.tasks.close();
        let _ = timeout(LAST_WORDS, shared.tasks.wait()).await;
        exit
    }
}
