//! Sessions whose agent takes no new connections any more, or is not reached: they go on beside the new one until
//! their streams have ended or nothing can be hoped for.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use relay_tunnel::{Session, State};
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval_at},
};

use super::{
    diagnosis::Trouble,
    jobs::Jobs,
    launch::{Fate, Running},
    supervisor::Current,
};
use crate::output::Output;

/// How often is looked whether an agent that is not reached is given up by the cluster.
const LOOK: Duration = Duration::from_secs(2);
/// The agent is told goodbye within this time.
const GOODBYE: Duration = Duration::from_millis(500);

/// The sessions that are on their way out. Clones share them.
#[derive(Clone, Default)]
pub struct Leaving(Arc<Mutex<Vec<Session>>>);

impl Leaving {
    fn add(&self, session: Session) {
        let mut sessions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        sessions.retain(|session| !matches!(*session.state().borrow(), State::Lost { .. }));
        sessions.push(session);
    }

    /// Ends them all at once, as the run ends.
    pub async fn close(&self, grace: Duration) {
        let sessions = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        futures_util::future::join_all(sessions.iter().map(|session| session.close(grace))).await;
    }
}

/// One session on its way out.
pub(super) struct Farewell {
    pub(super) session: Session,
    pub(super) agent: Arc<Running>,
    pub(super) jobs: Jobs,
    pub(super) output: Arc<Output>,
    /// What new connections use.
    pub(super) current: watch::Receiver<Current>,
}

impl Farewell {
    /// Starts the task that sees the session off and removes its agent. It ends with the run at the latest.
    pub(super) fn begin(self, leaving: &Leaving) {
        leaving.add(self.session.clone());
        tokio::spawn(async move {
            if let Some(reason) = self.last_of_it().await {
                self.session.abandon(&reason);
                let message = format!("the connections of the former agent are reset: {reason}");
                self.output.warning(&message, Some("new connections go to the new agent"));
            } else {
                self.session.close(GOODBYE).await;
            }
            if let Some(job) = &self.agent.job
                && let Err(error) = self.jobs.remove(job).await
            {
                // What could not be removed now is tried again when the run ends.
                tracing::info!(%error, job, "former agent's Job not removed");
            }
        });
    }

    /// Waits until the session is needed no more; gives the reason where streams may be lost with it.
    async fn last_of_it(&self) -> Option<String> {
        let mut states = self.session.state();
        let mut current = self.current.clone();
        // Flows go on here until there is somewhere else to go.
        let done = async {
            let _ = current.wait_for(Current::is_ready).await;
            self.session.idle().await;
        };
        let lost = async {
            match states.wait_for(|state| matches!(state, State::Lost { .. })).await.as_deref() {
                Ok(State::Lost { reason, .. }) => reason.clone(),
                _ => "its session ended".to_owned(),
            }
        };
        tokio::select! {
            // A session that has ended has no streams either: those it had were reset.
            biased;
            reason = lost => Some(reason),
            () = done => None,
            reason = self.gone() => Some(reason),
        }
    }

    async fn gone(&self) -> String {
        let over = async {
            loop {
                match self.agent.fate_after(Some(&Fate::Ending)).await {
                    Fate::Gone(reason) | Fate::Failed(Trouble { what: reason, .. }) => break reason,
                    Fate::Ending => {}
                }
            }
        };
        let given_up = async {
            let mut look = interval_at(Instant::now() + LOOK, LOOK);
            look.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let states = self.session.state();
            loop {
                look.tick().await;
                let reached = matches!(*states.borrow(), State::Ready | State::Draining { .. });
                if !reached && self.agent.is_given_up(Timestamp::now()) {
                    break;
                }
            }
        };
        tokio::select! {
            reason = over => reason,
            () = given_up => self.agent.node_is_gone(),
        }
    }
}
