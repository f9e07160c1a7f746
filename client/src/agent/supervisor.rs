//! Keeps an agent running and a session with it: one task that owns both, and starts them again when they are lost.
//! The listeners know nothing of this; they ask for the current session.

use std::{pin::Pin, sync::Arc, time::Duration};

use jiff::Timestamp;
use relay_transport::DialError as DialFailure;
use relay_tunnel::{ClientConfig, Session, State};
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until},
};

use super::{
    farewell::{Farewell, Leaving},
    launch::{Fate, LaunchError, Launcher, Running},
    outage::Outage,
};
use crate::{
    cli::settings::SessionSettings,
    dialer::{LaneDialer, NodeAway, final_refusal, node_away},
    output::RelayState,
};

/// Pauses between attempts to start another agent.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
/// Refusals are final after this long of nothing else: an API server that has just started refuses everybody.
const FINAL_AFTER: Duration = Duration::from_secs(15);
/// New connections get another agent when the API server has not reached the agent's node for this long. A kubelet
/// that only restarts is back sooner.
const NODE_AFTER: Duration = Duration::from_secs(5);
/// An agent that was just started may not listen yet: that is nobody's concern for so long.
const NOT_YET: Duration = Duration::from_secs(2);
/// An agent that ran this long was a good one: the next start is tried at once.
const STEADY: Duration = Duration::from_secs(30);

/// What a new connection finds.
#[derive(Clone, Default)]
pub enum Current {
    /// No session: an agent is being started.
    #[default]
    Starting,
    /// A session. Opening a stream waits while it is not ready.
    Session {
        /// The session.
        session: Session,
        /// Whether traffic flows at the moment.
        ready: bool,
    },
}

impl Current {
    /// Whether traffic flows at the moment.
    pub fn is_ready(&self) -> bool {
        matches!(self, Self::Session { ready: true, .. })
    }
}

/// Starts agents and sessions.
pub struct Supervisor {
    launcher: Launcher,
    session: SessionSettings,
    /// Changes with the machine's network.
    network: watch::Receiver<u64>,
    outage: Outage,
    place: watch::Sender<Option<Place>>,
    current: watch::Sender<Current>,
    ready: watch::Sender<bool>,
    leaving: Leaving,
}

/// Where an agent runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Its pod's namespace.
    pub namespace: String,
    /// Its pod.
    pub pod: String,
    /// Many use it, and it stays.
    pub is_shared: bool,
}

/// What a supervisor tells.
#[derive(Clone)]
pub struct Supervised {
    /// Where the agent of the latest session runs.
    pub place: watch::Receiver<Option<Place>>,
    /// The session for new connections. Closed when there will be none any more.
    pub current: watch::Receiver<Current>,
    /// Whether traffic has been able to flow yet.
    pub was_ready: watch::Receiver<bool>,
    /// Sessions that new connections do not use any more.
    pub leaving: Leaving,
}

/// Why a session with a running agent ended.
enum End {
    /// The agent is gone, perhaps with its node.
    AgentLost { reason: String, node: bool },
    /// The agent runs, its session is over: another can begin there.
    SessionLost(String),
    /// The agent asked for no new streams.
    Draining,
    /// The API server does not reach the agent's node: the agent may still run, and come back.
    Unreachable,
}

/// Signs that the agent's node is away, while dials fail.
struct Away {
    since: Instant,
    /// The API server says so itself.
    told: bool,
    /// It answers everything but the dials.
    answered: bool,
}

impl Supervisor {
    /// A supervisor, and what it tells.
    pub fn new(
        launcher: Launcher,
        session: SessionSettings,
        network: watch::Receiver<u64>,
    ) -> (Self, Supervised) {
        let (current, sessions) = watch::channel(Current::Starting);
        let (ready, was_ready) = watch::channel(false);
        let leaving = Leaving::default();
        let (place, places) = watch::channel(None);
        let supervised = Supervised { place: places, current: sessions, was_ready, leaving: leaving.clone() };
        let outage = Outage::new(Arc::clone(&launcher.output));
        (Self { launcher, session, network, outage, place, current, ready, leaving }, supervised)
    }

    /// Runs until an agent cannot be had.
    pub async fn run(self) -> LaunchError {
        let mut pause = FIRST_PAUSE;
        let mut is_new = true;
        let mut refused = None;
        let mut avoid: Option<String> = None;
        self.launcher.output.state(&RelayState::Connecting);
        loop {
            let started = Instant::now();
            match self.launcher.launch(avoid.as_deref()).await {
                Ok(agent) => {
                    self.launcher.output.agent(agent.name());
                    refused = None;
                    let is_shared = agent.is_shared();
                    match self.serve(&Arc::new(agent)).await {
                        Ok(node) => avoid = node,
                        Err(error) => return error,
                    }
                    // The first loss is nobody's habit; agents that go as they come are.
                    let is_first = std::mem::take(&mut is_new);
                    let has_other = is_shared && self.launcher.shared.has_untried();
                    // To look for another replica costs little.
                    let steady = if is_shared { FIRST_PAUSE } else { STEADY };
                    if is_first || has_other || started.elapsed() > steady {
                        pause = FIRST_PAUSE;
                        continue;
                    }
                }
                // Before the first success there is nothing to go on waiting for.
                Err(error) if !self.was_ready() => return error,
                Err(error) => {
                    let since = error.is_refusal().then(|| refused.unwrap_or(started));
                    let is_final = since.is_some_and(|since| since.elapsed() >= FINAL_AFTER);
                    if is_final || (since.is_none() && !error.is_transient()) {
                        return error;
                    }
                    refused = since;
                    self.launcher.output.warning(&error.to_string(), Some(&error.hint()));
                }
            }
            let mut network = self.network.clone();
            network.mark_unchanged();
            tokio::select! {
                () = sleep(pause) => pause = (pause * 2).min(if refused.is_some() { FINAL_AFTER / 4 } else { LONGEST_PAUSE }),
                Ok(()) = network.changed() => {}
            }
        }
    }

    fn was_ready(&self) -> bool {
        *self.ready.borrow()
    }

    /// Serves with one agent until it is lost. Gives the node that the next one should not be on.
    async fn serve(&self, agent: &Arc<Running>) -> Result<Option<String>, LaunchError> {
        let mut pause = FIRST_PAUSE;
        loop {
            let (session, end) = self.session(agent).await?;
            self.current.send_replace(Current::Starting);
            match end {
                End::SessionLost(reason) => {
                    session.abandon(&reason);
                    if agent.is_shared() && self.launcher.shared.has_untried() {
                        // It may be full where another is not.
                        self.launcher
                            .output
                            .warning(&format!("{}: {reason}", agent.pod), Some("trying another replica"));
                        return Ok(None);
                    }
                    if !self.was_ready() {
                        return Err(LaunchError::NoSession(reason));
                    }
                    self.outage.agent_lost(reason);
                    sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
                End::AgentLost { reason, node } => {
                    session.abandon(&reason);
                    self.outage.agent_lost(reason);
                    self.remove(agent);
                    return Ok(agent.node.clone().filter(|_| node));
                }
                End::Draining => {
                    self.outage.draining();
                    self.let_go(session, agent);
                    return Ok(None);
                }
                End::Unreachable => {
                    self.outage.unreachable(agent.node_is_gone());
                    self.let_go(session, agent);
                    return Ok(agent.node.clone());
                }
            }
        }
    }

    /// One session, until its end. Before its first welcome, a refused port-forward is final.
    async fn session(&self, agent: &Running) -> Result<(Session, End), LaunchError> {
        let (dialer, mut failures) = LaneDialer::new(
            self.launcher.access.client(),
            &agent.namespace,
            &agent.pod,
            self.session.transport,
        );
        let (session, mut states) = Session::start(&self.client_config(), dialer);
        self.place.send_replace(Some(Place {
            namespace: agent.namespace.clone(),
            pod: agent.pod.clone(),
            is_shared: agent.is_shared(),
        }));
        self.current.send_replace(Current::Session { session: session.clone(), ready: false });
        let (deadline, late) = (Instant::now() + self.launcher.timeout, Instant::now() + NOT_YET);
        let mut network = self.network.clone();
        let mut unreached = None;
        let mut told = None;
        let mut away: Option<Away> = None;
        let mut asking = None;
        // A session begun anew: what it replaces worked.
        let mut is_down = self.was_ready();
        loop {
            let patience = away.as_ref().filter(|away| !away.answered).map(|away| away.since + NODE_AFTER);
            tokio::select! {
                // What was refused says more than the loss that follows from it.
                biased;
                Ok(()) = failures.changed() => {
                    let failure = failures.borrow_and_update().clone();
                    if let Some(error) = failure.as_ref().filter(|_| !self.was_ready()).and_then(|error| final_refusal(error, agent.is_shared())) {
                        session.abandon("the port-forward was refused");
                        return Err(error);
                    }
                    // Another replica need not be started, so it may be tried before this one was ever reached.
                    away = Away::after(away, failure.as_ref()).filter(|_| is_down || agent.is_shared());
                    // A dial has failed once more since the answer: it is not the path that was away.
                    if away.as_ref().is_some_and(|away| away.answered) {
                        return Ok((session, End::Unreachable));
                    }
                    if away.is_some() && agent.is_given_up(Timestamp::now()) {
                        let end = End::AgentLost { reason: agent.node_is_gone(), node: true };
                        return Ok((session, end));
                    }
                }
                () = sleep_until(deadline), if !self.was_ready() => {
                    session.abandon("it took too long");
                    return Err(LaunchError::Unreached { waited: self.launcher.timeout, reason: unreached });
                }
                () = sleep_until(late), if unreached != told => {
                    if let Some(reason) = &unreached {
                        let message = format!("the agent is not reached yet: {reason}");
                        self.launcher.output.warning(&message, None);
                    }
                    told.clone_from(&unreached);
                }
                () = until(patience), if patience.is_some() && asking.is_none() => {
                    if away.as_ref().is_some_and(|away| away.told) {
                        return Ok((session, End::Unreachable));
                    }
                    asking = Some(Box::pin(self.launcher.is_answered()));
                }
                answered = answer(&mut asking) => {
                    asking = None;
                    away = away.filter(|_| answered).map(|away| Away { answered: true, ..away });
                }
                fate = agent.fate_after(None) => {
                    let end = match fate {
                        Fate::Ending => End::Draining,
                        Fate::Gone(reason) => End::AgentLost { reason, node: false },
                        Fate::Failed(trouble) => {
                            session.abandon(&trouble.what);
                            return Err(LaunchError::Trouble(trouble));
                        }
                    };
                    return Ok((session, end));
                }
                Ok(()) = network.changed() => session.probe(),
                changed = states.changed() => {
                    if changed.is_err() {
                        return Ok((session, End::SessionLost("the session ended".into())));
                    }
                    let state = states.borrow_and_update().clone();
                    let down = match state {
                        State::Reconnecting { .. } => true,
                        State::Connecting { .. } => self.was_ready(),
                        _ => false,
                    };
                    let was_down = std::mem::replace(&mut is_down, down);
                    if was_down && !is_down {
                        // Whatever lost the lanes may have lost the watches' connections too, and nobody pings those.
                        self.launcher.access.reconnect();
                        away = None;
                    }
                    match &state {
                        State::Connecting { reason: Some(reason) } => unreached = Some(reason.clone()),
                        State::Connecting { reason: None } => {}
                        _ => told.clone_from(&unreached),
                    }
                    let ready = matches!(state, State::Ready);
                    if ready {
                        agent.was_seen();
                    }
                    self.current.send_replace(Current::Session { session: session.clone(), ready });
                    if let State::Lost { refused: true, .. } = state
                        && let Some(error) = failures.borrow().as_ref().and_then(|error| final_refusal(error, agent.is_shared()))
                    {
                        return Err(error);
                    }
                    if let Some(end) = self.session_end(state) {
                        return Ok((session, end));
                    }
                }
            }
        }
    }

    fn client_config(&self) -> ClientConfig {
        ClientConfig {
            first: !self.was_ready(),
            lanes: usize::from(self.session.lanes),
            ping: self.session.ping.unwrap_or(Duration::ZERO),
            dead_after: self.session.dead_after,
            session_life: self.session.session_life,
            ..ClientConfig::default()
        }
    }

    fn session_end(&self, state: State) -> Option<End> {
        match state {
            State::Connecting { .. } => None,
            State::Ready => {
                self.outage.over();
                self.ready.send_replace(true);
                None
            }
            State::Reconnecting { since, reason } => {
                self.outage.reconnecting(since, reason);
                None
            }
            State::Draining { .. } => Some(End::Draining),
            State::Lost { reason, gone: true, .. } => Some(End::AgentLost { reason, node: false }),
            State::Lost { reason, gone: false, .. } => Some(End::SessionLost(reason)),
        }
    }

    /// Removes a lost agent's Job, if it has one, beside the start of the next.
    fn remove(&self, agent: &Running) {
        let (jobs, Some(job)) = (self.launcher.jobs.clone(), agent.job.clone()) else { return };
        tokio::spawn(async move {
            // What could not be removed now is tried again when the run ends.
            if let Err(error) = jobs.remove(&job).await {
                tracing::info!(%error, job, "lost agent's Job not removed");
            }
        });
    }

    /// Lets a session's streams go on while the next agent starts.
    fn let_go(&self, session: Session, agent: &Arc<Running>) {
        let farewell = Farewell {
            session,
            agent: Arc::clone(agent),
            jobs: self.launcher.jobs.clone(),
            output: Arc::clone(&self.launcher.output),
            current: self.current.subscribe(),
        };
        farewell.begin(&self.leaving);
    }
}

impl Away {
    /// What is suspected after one more failure.
    fn after(before: Option<Self>, failure: Option<&DialFailure>) -> Option<Self> {
        let told = match node_away(failure?) {
            NodeAway::No => return None,
            NodeAway::Perhaps => false,
            NodeAway::Yes => true,
        };
        let (since, answered) =
            before.map_or_else(|| (Instant::now(), false), |away| (away.since, away.answered));
        Some(Self { since, told, answered })
    }
}

/// The answer to what is being asked, if anything is.
async fn answer(asking: &mut Option<Pin<Box<impl Future<Output = bool>>>>) -> bool {
    match asking {
        Some(asking) => asking.await,
        None => std::future::pending().await,
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}
