//! Keeps an agent running and a session with it: one task that owns both, and starts them again when they are lost.
//! The listeners know nothing of this; they ask for the current session.

use std::{sync::Arc, time::Duration};

use relay_tunnel::{ClientConfig, Session, State};
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until},
};

use super::launch::{Fate, LaunchError, Launcher, Running};
use crate::{
    cli::settings::SessionSettings,
    dialer::{LaneDialer, final_refusal},
    output::{Output, RelayState},
};

/// Pauses between attempts to start another agent.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
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
    output: Arc<Output>,
    current: watch::Sender<Current>,
    ready: watch::Sender<bool>,
}

/// Why a session with a running agent ended.
enum End {
    /// The agent is gone.
    AgentLost(String),
    /// The agent runs, its session is over: another can begin there.
    SessionLost(String),
    /// The agent asked for no new streams.
    Draining,
}

impl Supervisor {
    /// A supervisor, the current session, and whether traffic has been able to flow yet.
    pub fn new(
        launcher: Launcher,
        session: SessionSettings,
        output: Arc<Output>,
    ) -> (Self, watch::Receiver<Current>, watch::Receiver<bool>) {
        let (current, sessions) = watch::channel(Current::Starting);
        let (ready, was_ready) = watch::channel(false);
        (Self { launcher, session, output, current, ready }, sessions, was_ready)
    }

    /// Runs until an agent cannot be had.
    pub async fn run(self) -> LaunchError {
        let mut pause = FIRST_PAUSE;
        self.output.state(&RelayState::Connecting);
        loop {
            let started = Instant::now();
            match self.launcher.launch().await {
                Ok(agent) => {
                    let agent = Arc::new(agent);
                    if let Err(error) = self.serve(&agent).await {
                        return error;
                    }
                    if started.elapsed() > STEADY {
                        pause = FIRST_PAUSE;
                        continue;
                    }
                }
                // Before the first success there is nothing to go on waiting for.
                Err(error) if !*self.ready.borrow() || !error.is_transient() => return error,
                Err(error) => self.output.warning(&error.to_string(), Some(&error.hint())),
            }
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Serves with one agent until it is lost.
    async fn serve(&self, agent: &Arc<Running>) -> Result<(), LaunchError> {
        let mut pause = FIRST_PAUSE;
        loop {
            let (session, end) = self.session(agent).await?;
            self.current.send_replace(Current::Starting);
            match end {
                End::SessionLost(reason) => {
                    session.abandon(&reason);
                    if !*self.ready.borrow() {
                        return Err(LaunchError::NoSession(reason));
                    }
                    self.output.state(&RelayState::AgentLost { reason });
                    sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
                End::AgentLost(reason) => {
                    session.abandon(&reason);
                    self.output.state(&RelayState::AgentLost { reason });
                    self.remove(agent);
                    return Ok(());
                }
                End::Draining => {
                    self.output.state(&RelayState::Draining);
                    self.let_drain(session, agent);
                    return Ok(());
                }
            }
        }
    }

    /// One session, until its end. Before its first welcome, a refused port-forward is final.
    async fn session(&self, agent: &Running) -> Result<(Session, End), LaunchError> {
        let (dialer, mut failures) = LaneDialer::new(
            self.launcher.access.client(),
            &self.launcher.namespace,
            &agent.pod,
            self.session.transport,
        );
        let (session, mut states) = Session::start(&client_config(&self.session), dialer);
        self.current.send_replace(Current::Session { session: session.clone(), ready: false });
        let deadline = Instant::now() + self.launcher.timeout;
        let mut told = None;
        loop {
            tokio::select! {
                // What was refused says more than the loss that follows from it.
                biased;
                Ok(()) = failures.changed(), if !*self.ready.borrow() => {
                    let refusal = failures.borrow_and_update().as_ref().and_then(final_refusal);
                    if let Some(error) = refusal {
                        session.abandon("the port-forward was refused");
                        return Err(error);
                    }
                }
                () = sleep_until(deadline), if !*self.ready.borrow() => {
                    session.abandon("it took too long");
                    return Err(LaunchError::Unreached { waited: self.launcher.timeout, reason: told });
                }
                fate = agent.fate_after(None) => {
                    let end = match fate {
                        Fate::Ending => End::Draining,
                        Fate::Gone(reason) => End::AgentLost(reason),
                    };
                    return Ok((session, end));
                }
                changed = states.changed() => {
                    if changed.is_err() {
                        return Ok((session, End::SessionLost("the session ended".into())));
                    }
                    let state = states.borrow_and_update().clone();
                    let ready = matches!(state, State::Ready);
                    if let State::Connecting { reason: Some(reason) } = &state
                        && told.as_ref() != Some(reason)
                    {
                        self.output.warning(&format!("the agent is not reached yet: {reason}"), None);
                        told = Some(reason.clone());
                    }
                    self.current.send_replace(Current::Session { session: session.clone(), ready });
                    if let Some(end) = self.session_end(state) {
                        return Ok((session, end));
                    }
                }
            }
        }
    }

    fn session_end(&self, state: State) -> Option<End> {
        match state {
            State::Connecting { .. } => None,
            State::Ready => {
                let again = *self.ready.borrow();
                self.output.state(&RelayState::Ready { again });
                self.ready.send_replace(true);
                None
            }
            State::Reconnecting { reason, .. } => {
                self.output.state(&RelayState::Reconnecting { reason });
                None
            }
            State::Draining { .. } => Some(End::Draining),
            State::Lost { reason, gone: true } => Some(End::AgentLost(reason)),
            State::Lost { reason, gone: false } => Some(End::SessionLost(reason)),
        }
    }

    /// Removes a lost agent's Job beside the start of the next.
    fn remove(&self, agent: &Running) {
        let (jobs, job) = (self.launcher.jobs.clone(), agent.job.clone());
        tokio::spawn(async move {
            // What could not be removed now is tried again when the run ends.
            if let Err(error) = jobs.remove(&job).await {
                tracing::info!(%error, job, "lost agent's Job not removed");
            }
        });
    }

    /// Lets a draining session's streams finish while the next agent starts.
    fn let_drain(&self, session: Session, agent: &Arc<Running>) {
        let (jobs, agent) = (self.launcher.jobs.clone(), Arc::clone(agent));
        tokio::spawn(async move {
            loop {
                if let Fate::Gone(_) = agent.fate_after(Some(&Fate::Ending)).await {
                    break;
                }
            }
            session.abandon("its agent has ended");
            if let Err(error) = jobs.remove(&agent.job).await {
                tracing::info!(%error, job = agent.job, "drained agent's Job not removed");
            }
        });
    }
}

fn client_config(settings: &SessionSettings) -> ClientConfig {
    ClientConfig {
        lanes: usize::from(settings.lanes),
        ping: settings.ping.unwrap_or(Duration::ZERO),
        dead_after: settings.dead_after,
        session_life: settings.session_life,
        ..ClientConfig::default()
    }
}
