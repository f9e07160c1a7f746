//! Agents and their tunnels: one for each context and agent namespace, started for the first forward that goes through it,
//! shared by all, and removed some time after the last one is gone.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::watch, time::sleep};
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use super::{contexts::Opened, told::Told, wish::Wish};
use crate::{
    cluster::resolve::{Forward, TargetPods},
    ledger::Ledger,
    output::Output,
    run::{
        context::Context,
        way::{Way, start},
    },
};

/// An agent without forwards stays so long: a file that is being edited may want it again at once.
const GRACE: Duration = Duration::from_secs(5);

/// What sets agents apart.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    context: Option<String>,
    namespace: String,
    means: Arc<str>,
}

/// All of them. Cheap to clone.
#[derive(Clone)]
pub(super) struct Ways(Arc<Inner>);

struct Inner {
    ledger: Ledger,
    network: watch::Receiver<u64>,
    output: Arc<Output>,
    running: Mutex<HashMap<Key, Arc<Running>>>,
    /// Those that are being removed.
    removing: TaskTracker,
}

/// One that runs.
pub(super) struct Running {
    pub(super) way: Way,
    /// Told once there is no way any more.
    failed: watch::Receiver<Option<Told>>,
    /// Of everything that goes through it.
    forwards: Mutex<Vec<Arc<Forward>>>,
    keeper: Mutex<Option<AbortOnDropHandle<()>>>,
}

/// A forward's part in a way.
pub(super) struct Share {
    pub(super) running: Arc<Running>,
    forward: Arc<Forward>,
    key: Key,
    ways: Ways,
}

impl Ways {
    pub(super) fn new(ledger: Ledger, network: watch::Receiver<u64>, output: Arc<Output>) -> Self {
        let (running, removing) = (Mutex::default(), TaskTracker::new());
        Self(Arc::new(Inner { ledger, network, output, running, removing }))
    }

    fn running(&self) -> MutexGuard<'_, HashMap<Key, Arc<Running>>> {
        self.0.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes part in the way of a forward, which is begun if there is none.
    pub(super) fn share(&self, wish: &Wish, opened: &Opened, forward: &Arc<Forward>) -> Share {
        let settings = &wish.means.settings;
        let targets = wish.wanted.namespace.clone().unwrap_or_else(|| opened.config.namespace.clone());
        let namespace = settings.agent.namespace.clone().unwrap_or_else(|| targets.clone());
        let key =
            Key { context: opened.config.context.clone(), namespace, means: Arc::clone(&wish.means.key) };
        let running = {
            let mut running = self.running();
            let there = running.get(&key).filter(|running| running.failed.borrow().is_none());
            let there = there.map(Arc::clone);
            there.unwrap_or_else(|| {
                let pods = forward.pods.clone().map(|pods| (targets, pods));
                let begun = self.begin(&key, wish, opened, pods.into_iter().collect());
                if let Some(failed) = running.insert(key.clone(), Arc::clone(&begun)) {
                    self.remove(&failed);
                }
                begun
            })
        };
        running.forwards().push(Arc::clone(forward));
        Share { running, forward: Arc::clone(forward), key, ways: self.clone() }
    }

    fn begin(
        &self,
        key: &Key,
        wish: &Wish,
        opened: &Opened,
        pods: Vec<(String, TargetPods)>,
    ) -> Arc<Running> {
        let Inner { ledger, network, output, .. } = &*self.0;
        let settings = Arc::clone(&wish.means.settings);
        let mut config = opened.config.clone();
        config.namespace.clone_from(&key.namespace);
        let output = match &config.context {
            Some(name) => Arc::new(output.about_context(name)),
            None => Arc::clone(output),
        };
        let context = Context::alone(config, opened.access.clone(), &settings, output);
        let (supervisor, way) = start(&context, &settings, &TaskTracker::new(), network, ledger, pods);
        let (failing, failed) = watch::channel(None);
        let (forwards, keeper) = (Mutex::default(), Mutex::default());
        let running = Arc::new(Running { way, failed, forwards, keeper });
        // It ends with its keeper, which ends with it.
        let kept = Arc::downgrade(&running);
        let keeping = async move {
            let Some(running) = kept.upgrade() else { return };
            let forwards = || running.forwards().clone();
            let removing = running.way.remove_old(&context.output, settings.agent.source);
            let keeping = running.way.keep(supervisor, &settings.agent, forwards);
            tokio::select! {
                error = keeping => { failing.send_replace(Some(error.into())); }
                ((), ()) = async { (removing.await, std::future::pending().await) } => {}
            }
        };
        *lock(&running.keeper) = Some(AbortOnDropHandle::new(tokio::spawn(keeping)));
        running
    }

    /// Says goodbye and removes what there is in the cluster, whoever waits for it or not.
    fn remove(&self, running: &Arc<Running>) {
        let (running, ledger) = (Arc::clone(running), self.0.ledger.clone());
        self.0.removing.spawn(async move {
            drop(lock(&running.keeper).take());
            let held = running.way.held.clone();
            let output = Arc::clone(&held.output);
            if let Err(error) = held.clean_up().await {
                output.warning(&error.to_string(), Some(&error.hint()));
            }
            ledger.remove_agent(running.way.account.id());
        });
    }

    /// Removes all of them, and waits until that is done.
    pub(super) async fn end(&self) {
        let all: Vec<_> = self.running().drain().map(|(_, running)| running).collect();
        all.iter().for_each(|running| self.remove(running));
        self.0.removing.close();
        self.0.removing.wait().await;
    }
}

impl Running {
    fn forwards(&self) -> MutexGuard<'_, Vec<Arc<Forward>>> {
        lock(&self.forwards)
    }

    /// Waits until there is no way any more.
    pub(super) async fn failed(&self) -> Told {
        let mut failed = self.failed.clone();
        match failed.wait_for(Option::is_some).await {
            Ok(told) => told.clone().unwrap_or_else(ending),
            Err(_) => ending(),
        }
    }
}

fn ending() -> Told {
    Told::new("the agent is being removed", "start the forward again")
}

impl Drop for Share {
    fn drop(&mut self) {
        let is_last = {
            let mut forwards = self.running.forwards();
            if let Some(own) = forwards.iter().position(|other| Arc::ptr_eq(other, &self.forward)) {
                forwards.swap_remove(own);
            }
            forwards.is_empty()
        };
        if !is_last || tokio::runtime::Handle::try_current().is_err() {
            return;
        }
        let (ways, key, running) = (self.ways.clone(), self.key.clone(), Arc::clone(&self.running));
        let has_failed = running.failed.borrow().is_some();
        tokio::spawn(async move {
            if !has_failed {
                sleep(GRACE).await;
            }
            let mut all = ways.running();
            let is_there = all.get(&key).is_some_and(|there| Arc::ptr_eq(there, &running));
            if is_there && running.forwards().is_empty() {
                all.remove(&key);
                ways.remove(&running);
            }
        });
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
