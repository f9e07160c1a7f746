//! What the forwards of a run are doing, at any moment: written by whatever carries them, read by whatever shows them.
//! Counting costs a connection two additions, and nothing is held up by whoever reads.

mod agent;
mod forward;
mod snapshot;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use jiff::{Timestamp, Unit};
use tokio::sync::watch;

pub use self::{
    agent::{AgentAccount, AgentName},
    forward::{About, ForwardAccount, Tally},
    snapshot::{
        AgentOrigin, AgentSnapshot, AgentState, Bytes, Connections, Failure, ForwardSnapshot, ForwardState,
        ProxySnapshot, Snapshot, VERSION,
    },
};

/// The accounts of all forwards and agents. Clones share them.
#[derive(Clone)]
pub struct Ledger(Arc<Inner>);

struct Inner {
    started: Timestamp,
    /// Of forwards and agents together: a number is never given twice.
    next: AtomicU64,
    book: Mutex<Book>,
    /// Looks at the proxy, which counts for itself.
    proxy: OnceLock<Box<dyn Fn() -> ProxySnapshot + Send + Sync>>,
    changes: watch::Sender<u64>,
}

#[derive(Default)]
struct Book {
    forwards: BTreeMap<u64, Arc<ForwardAccount>>,
    agents: BTreeMap<u64, Arc<AgentAccount>>,
}

impl Default for Ledger {
    fn default() -> Self {
        Self(Arc::new(Inner {
            started: now(),
            next: AtomicU64::new(1),
            book: Mutex::default(),
            proxy: OnceLock::new(),
            changes: watch::Sender::new(0),
        }))
    }
}

impl Ledger {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// Opens the account of an agent that is to be; `namespace` is where it will run.
    pub fn add_agent(&self, context: Option<&str>, namespace: &str) -> Arc<AgentAccount> {
        let id = self.number();
        let account = Arc::new(AgentAccount::new(id, context, namespace, self.0.changes.clone()));
        self.book().agents.insert(id, Arc::clone(&account));
        self.changed();
        account
    }

    /// Opens the account of a forward, which is starting.
    pub fn add_forward(&self, about: About, agent: &Arc<AgentAccount>) -> Arc<ForwardAccount> {
        let id = self.number();
        let changes = self.0.changes.clone();
        let account = Arc::new(ForwardAccount::new(id, about, Arc::clone(agent), changes));
        self.book().forwards.insert(id, Arc::clone(&account));
        self.changed();
        account
    }

    /// Shows the proxy of this process, of which there is one at most; `look` tells how it does.
    pub fn add_proxy(&self, look: impl Fn() -> ProxySnapshot + Send + Sync + 'static) {
        let _ = self.0.proxy.set(Box::new(look));
        self.changed();
    }

    /// Shows a forward no more. Its last connections may still be counted, where nobody sees it. False where there is
    /// none with this number.
    pub fn remove_forward(&self, id: u64) -> bool {
        let removed = self.book().forwards.remove(&id).is_some();
        if removed {
            self.changed();
        }
        removed
    }

    /// Shows an agent no more. False where there is none with this number.
    pub fn remove_agent(&self, id: u64) -> bool {
        let removed = self.book().agents.remove(&id).is_some();
        if removed {
            self.changed();
        }
        removed
    }

    /// The account of a forward.
    pub fn forward(&self, id: u64) -> Option<Arc<ForwardAccount>> {
        self.book().forwards.get(&id).cloned()
    }

    /// Everything as it is now, in the order in which it was added.
    pub fn snapshot(&self) -> Snapshot {
        let (forwards, agents): (Vec<_>, Vec<_>) = {
            let book = self.book();
            (book.forwards.values().cloned().collect(), book.agents.values().cloned().collect())
        };
        Snapshot {
            version: VERSION,
            pid: std::process::id(),
            started: self.0.started,
            forwards: forwards.iter().map(|forward| forward.snapshot()).collect(),
            agents: agents.iter().map(|agent| agent.snapshot()).collect(),
            proxy: self.0.proxy.get().map(|look| look()),
        }
    }

    /// Tells of everything that changes but numbers: what there is, where it listens, states, the last errors.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }

    fn number(&self) -> u64 {
        self.0.next.fetch_add(1, Ordering::Relaxed)
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        lock(&self.0.book)
    }

    fn changed(&self) {
        changed(&self.0.changes);
    }
}

fn changed(changes: &watch::Sender<u64>) {
    changes.send_modify(|times| *times = times.wrapping_add(1));
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing done under these locks can leave an account half changed.
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

/// To the millisecond: nobody reads more.
fn now() -> Timestamp {
    let now = Timestamp::now();
    now.round(Unit::Millisecond).unwrap_or(now)
}

#[cfg(test)]
mod tests;
