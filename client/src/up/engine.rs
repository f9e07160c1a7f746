//! Forwards that come and go while others run. Each has a task of its own; what fails is told and tried again, and never
//! ends another.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use relay_protocol::header::Protocol;
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};
use tokio_util::task::AbortOnDropHandle;

use super::{
    contexts::Contexts,
    forward::{Forwarding, Progress},
    ways::Ways,
    wish::Wish,
};
use crate::{
    ledger::{About, ForwardAccount, Ledger, Snapshot},
    network,
    output::Output,
    port::RemotePort,
};

/// Pauses between attempts of a forward that has failed.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// One that worked for so long is tried again as if it were new.
const STEADY: Duration = Duration::from_secs(60);

/// What the tasks of all forwards share.
pub(super) struct Shared {
    pub(super) contexts: Contexts,
    pub(super) ways: Ways,
    pub(super) network: watch::Receiver<u64>,
    pub(super) output: Arc<Output>,
}

/// All forwards. Cheap to clone.
#[derive(Clone)]
pub struct Engine(Arc<Inner>);

struct Inner {
    shared: Arc<Shared>,
    ledger: Ledger,
    units: Mutex<BTreeMap<u64, Unit>>,
}

/// A forward.
struct Unit {
    wish: Arc<Wish>,
    account: Arc<ForwardAccount>,
    progress: watch::Sender<Progress>,
    listened: Arc<Mutex<Vec<SocketAddr>>>,
    task: Option<AbortOnDropHandle<()>>,
}

impl Engine {
    /// Without any forward. Must be called within a runtime.
    pub fn new(output: Arc<Output>) -> Self {
        let (ledger, network) = (Ledger::new(), network::changes());
        let ways = Ways::new(ledger.clone(), network.clone(), Arc::clone(&output));
        let shared = Arc::new(Shared { contexts: Contexts::default(), ways, network, output });
        Self(Arc::new(Inner { shared, ledger, units: Mutex::default() }))
    }

    fn units(&self) -> MutexGuard<'_, BTreeMap<u64, Unit>> {
        self.0.units.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes it exactly these. What is there and wanted goes on untouched, whatever it is doing, but what has failed is
    /// tried again at once. Gives the numbers of all, in the order of the wishes.
    pub fn apply(&self, wishes: Vec<Wish>) -> Vec<u64> {
        let mut units = self.units();
        let mut there: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        for (id, unit) in units.iter().rev() {
            there.entry(unit.wish.key()).or_default().push(*id);
        }
        let found: Vec<_> = wishes
            .into_iter()
            .map(|wish| {
                let id = there.get_mut(&wish.key()).and_then(Vec::pop);
                (wish, id)
            })
            .collect();
        // A port is given up before another forward may want it.
        for id in there.into_values().flatten() {
            units.remove(&id);
            self.0.ledger.remove_forward(id);
        }
        let mut ids = Vec::new();
        for (wish, id) in found {
            match id.and_then(|id| units.get_mut(&id).map(|unit| (id, unit))) {
                Some((id, unit)) => {
                    unit.wish = Arc::new(wish);
                    if matches!(&*unit.progress.borrow(), Progress::Failed(_)) && unit.task.is_some() {
                        unit.task = None;
                        unit.task = Some(self.begin(unit));
                    }
                    ids.push(id);
                }
                None => ids.push(self.insert(&mut units, wish)),
            }
        }
        ids
    }

    fn insert(&self, units: &mut BTreeMap<u64, Unit>, wish: Wish) -> u64 {
        let ledger = &self.0.ledger;
        let remote = wish.wanted.spec.ports.first();
        let about = About {
            name: Some(wish.name.clone()),
            group: wish.group.clone(),
            context: wish.wanted.context.clone(),
            namespace: wish.wanted.namespace.clone().unwrap_or_default(),
            target: wish.wanted.spec.typed.clone(),
            remote_port: match remote.map(|port| &port.remote) {
                Some(RemotePort::Number(number)) => number.get(),
                _ => 0,
            },
            protocol: remote.and_then(|port| port.protocol).unwrap_or(Protocol::Tcp),
        };
        // Until it has one, it goes through an agent that nobody sees.
        let nowhere = ledger.add_agent(None, "");
        ledger.remove_agent(nowhere.id());
        let account = ledger.add_forward(about, &nowhere);
        let id = account.id();
        let progress = watch::Sender::new(Progress::Starting);
        let mut unit = Unit { wish: Arc::new(wish), account, progress, listened: Arc::default(), task: None };
        unit.task = Some(self.begin(&unit));
        units.insert(id, unit);
        id
    }

    /// The task of a forward that has none.
    fn begin(&self, unit: &Unit) -> AbortOnDropHandle<()> {
        unit.progress.send_replace(Progress::Starting);
        let forwarding = Forwarding {
            wish: Arc::clone(&unit.wish),
            account: Arc::clone(&unit.account),
            progress: unit.progress.clone(),
            shared: Arc::clone(&self.0.shared),
            listened: Arc::clone(&unit.listened),
        };
        AbortOnDropHandle::new(tokio::spawn(again_and_again(forwarding)))
    }

    /// Ends a forward, which stays to be started again. False where there is none.
    pub fn stop(&self, id: u64) -> bool {
        let mut units = self.units();
        let Some(unit) = units.get_mut(&id) else { return false };
        unit.task = None;
        unit.progress.send_replace(Progress::Stopped);
        unit.account.stopped();
        true
    }

    /// Starts a forward that was stopped, or that waits after a failure. False where there is none.
    pub fn start(&self, id: u64) -> bool {
        let mut units = self.units();
        let Some(unit) = units.get_mut(&id) else { return false };
        let waits = !matches!(&*unit.progress.borrow(), Progress::Starting | Progress::Ready(_));
        if waits {
            unit.task = None;
            unit.task = Some(self.begin(unit));
        }
        true
    }

    /// Ends a forward and starts it anew. False where there is none.
    pub fn restart(&self, id: u64) -> bool {
        self.stop(id) && self.start(id)
    }

    /// How a forward gets on; the channel closes when it is removed.
    pub fn progress(&self, id: u64) -> Option<watch::Receiver<Progress>> {
        self.units().get(&id).map(|unit| unit.progress.subscribe())
    }

    /// Each forward's number and what it is.
    pub fn all(&self) -> Vec<(u64, Arc<Wish>)> {
        self.units().iter().map(|(id, unit)| (*id, Arc::clone(&unit.wish))).collect()
    }

    /// Everything as it is now.
    pub fn snapshot(&self) -> Snapshot {
        self.0.ledger.snapshot()
    }

    /// The ledger of all forwards.
    pub fn ledger(&self) -> &Ledger {
        &self.0.ledger
    }

    /// Ends every forward, and removes every agent.
    pub async fn end(&self) {
        self.apply(Vec::new());
        self.0.shared.ways.end().await;
    }
}

/// Carries a forward; when it fails, tells so, waits and begins anew.
async fn again_and_again(forwarding: Forwarding) {
    let mut pause = FIRST_PAUSE;
    let mut network = forwarding.shared.network.clone();
    let mut last = None;
    loop {
        let began = Instant::now();
        let told = forwarding.once().await;
        if began.elapsed() > STEADY {
            pause = FIRST_PAUSE;
        }
        // It does not listen any more.
        forwarding.account.starting(Vec::new());
        forwarding.account.failed(&told.message);
        if last.as_ref() != Some(&told) {
            let message = format!("{}: {}", forwarding.wish.name, told.message);
            forwarding.shared.output.warning(&message, Some(&told.hint));
        }
        last = Some(told.clone());
        forwarding.progress.send_replace(Progress::Failed(told));
        network.mark_unchanged();
        tokio::select! {
            () = sleep(pause) => pause = (pause * 2).min(LONGEST_PAUSE),
            Ok(()) = network.changed() => {}
        }
    }
}
