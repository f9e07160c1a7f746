//! The account of an agent and the session with it.

use std::sync::Mutex;

use jiff::Timestamp;
use tokio::sync::watch;

use super::{AgentOrigin, AgentSnapshot, AgentState, changed, lock, now};
use crate::{agent::supervisor::Current, output::RelayState};

/// Which agent it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentName {
    /// Its namespace.
    pub namespace: String,
    /// Its pod.
    pub pod: String,
    /// Where it comes from.
    pub origin: AgentOrigin,
}

/// What is known of an agent: one after the other, where one is lost.
pub struct AgentAccount {
    id: u64,
    context: Option<String>,
    standing: Mutex<Standing>,
    /// The session, as the supervisor has it.
    current: Mutex<Option<watch::Receiver<Current>>>,
    changes: watch::Sender<u64>,
}

/// How it stands.
#[derive(Debug, Clone)]
pub(super) struct Standing {
    namespace: String,
    pod: Option<String>,
    origin: Option<AgentOrigin>,
    pub(super) state: AgentState,
    pub(super) since: Timestamp,
    pub(super) reason: Option<String>,
}

impl AgentAccount {
    pub(super) fn new(id: u64, context: Option<&str>, namespace: &str, changes: watch::Sender<u64>) -> Self {
        let standing = Standing {
            namespace: namespace.to_owned(),
            pod: None,
            origin: None,
            state: AgentState::Connecting,
            since: now(),
            reason: None,
        };
        let context = context.map(ToOwned::to_owned);
        Self { id, context, standing: Mutex::new(standing), current: Mutex::default(), changes }
    }

    /// Its number.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Where its session is to be looked at.
    pub fn follow(&self, current: watch::Receiver<Current>) {
        *lock(&self.current) = Some(current);
    }

    /// Which agent it is from now on.
    pub fn is(&self, name: AgentName) {
        {
            let mut standing = lock(&self.standing);
            let AgentName { namespace, pod, origin } = name;
            (standing.namespace, standing.pod, standing.origin) = (namespace, Some(pod), Some(origin));
        }
        changed(&self.changes);
    }

    /// There is none, and will be none.
    pub fn is_none(&self) {
        {
            let mut standing = lock(&self.standing);
            (standing.pod, standing.origin) = (None, Some(AgentOrigin::None));
        }
        changed(&self.changes);
    }

    /// Takes note of what is told of the relay.
    pub fn told(&self, told: &RelayState) {
        let (state, reason) = match told {
            RelayState::Connecting => (AgentState::Connecting, None),
            RelayState::Ready { .. } => (AgentState::Ready, None),
            RelayState::Reconnecting { reason, .. } => (AgentState::Reconnecting, Some(reason)),
            RelayState::Draining => (AgentState::Draining, None),
            RelayState::Unreachable { reason, .. } => (AgentState::Unreachable, Some(reason)),
            RelayState::AgentLost { reason, .. } => (AgentState::AgentLost, Some(reason)),
        };
        {
            let mut standing = lock(&self.standing);
            // The same with another reason began when it began.
            if standing.state != state {
                (standing.state, standing.since) = (state, now());
            }
            standing.reason = reason.cloned();
        }
        changed(&self.changes);
    }

    pub(super) fn standing(&self) -> Standing {
        lock(&self.standing).clone()
    }

    /// Lanes, and milliseconds of a round trip.
    fn health(&self) -> (usize, Option<f64>) {
        let current = lock(&self.current).clone();
        match current.as_ref().map(|current| current.borrow().clone()) {
            Some(Current::Session { session, .. }) => {
                let health = session.health();
                let in_millis = |time: std::time::Duration| (time.as_secs_f64() * 10_000.0).round() / 10.0;
                (health.lanes, health.round_trip.map(in_millis))
            }
            Some(Current::Starting) | None => (0, None),
        }
    }

    /// A round trip in milliseconds.
    pub(super) fn latency_millis(&self) -> Option<f64> {
        self.health().1
    }

    /// As it is now.
    pub fn snapshot(&self) -> AgentSnapshot {
        let Standing { namespace, pod, origin, state, since, reason } = self.standing();
        let (lanes, latency_millis) = self.health();
        AgentSnapshot {
            id: self.id,
            context: self.context.clone(),
            namespace,
            pod,
            source: origin,
            state,
            since,
            reason,
            lanes,
            latency_millis,
        }
    }
}
