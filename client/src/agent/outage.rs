//! Since when nothing works, told once it works again: one figure for whatever lay in between, a lost path, a lost
//! agent, or both.

use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use tokio::time::Instant;

use crate::output::{Output, RelayState};

/// Tells the relay's states, and knows how long it has been down.
pub(super) struct Outage {
    output: Arc<Output>,
    /// The clock that measures, and the one that people read.
    since: Mutex<Option<(Instant, Timestamp)>>,
}

impl Outage {
    pub(super) fn new(output: Arc<Output>) -> Self {
        Self { output, since: Mutex::new(None) }
    }

    /// Nothing works, if that is news since `since`. Gives the time for people.
    fn began(&self, since: Instant) -> Timestamp {
        let mut down = self.since.lock().unwrap_or_else(PoisonError::into_inner);
        let ago = jiff::SignedDuration::try_from(since.elapsed()).unwrap_or_default();
        down.get_or_insert_with(|| (since, Timestamp::now() - ago)).1
    }

    pub(super) fn reconnecting(&self, since: Instant, reason: String) {
        let since = self.began(since);
        self.output.state(&RelayState::Reconnecting { since, reason });
    }

    pub(super) fn draining(&self) {
        self.began(Instant::now());
        self.output.state(&RelayState::Draining);
    }

    pub(super) fn unreachable(&self, reason: String) {
        let since = self.began(Instant::now());
        self.output.state(&RelayState::Unreachable { since, reason });
    }

    pub(super) fn agent_lost(&self, reason: String) {
        let since = self.began(Instant::now());
        self.output.state(&RelayState::AgentLost { since, reason });
    }

    pub(super) fn over(&self) {
        let since = self.since.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.output.state(&RelayState::Ready { down: since.map(|(since, _)| since.elapsed()) });
    }
}
