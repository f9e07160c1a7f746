//! A local copy of some objects, kept by list and watch: an expired watch lists again, a broken one is tried again. Who
//! may not watch asks again and again, where that is asked for.

use std::{collections::BTreeMap, fmt::Debug, sync::Arc, time::Duration};

use futures_util::StreamExt;
use kube::{
    Api, Resource, ResourceExt,
    api::ListParams,
    runtime::watcher::{self, Event, watcher},
};
use serde::de::DeserializeOwned;
use tokio::sync::{Notify, watch};
use tokio_util::task::AbortOnDropHandle;

use super::{
    access::Access,
    api::{ApiError, Call},
};

/// The first pause after a failed list or watch; doubled up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Where nobody may watch, the objects are asked for this often, and sooner where there is doubt.
const ASK_EVERY: Duration = Duration::from_secs(5);
/// And so often at most.
const ASK_PAUSE: Duration = Duration::from_millis(500);

/// How to ask for objects that may not be watched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    /// For the one of this name, which needs no right to list.
    ForOne(String),
    /// For all, by the same selectors.
    ForAll,
}

impl Ask {
    /// Whether the API server may answer this way, having refused the other.
    fn may_help(&self, refusal: &ApiError) -> bool {
        match (refusal, self) {
            (ApiError::Denied { .. }, Self::ForOne(_)) => true,
            (ApiError::Denied { call, .. }, Self::ForAll) => call.verb == "watch",
            _ => false,
        }
    }
}

/// What is known of the objects.
#[derive(Debug, Clone)]
pub struct Snapshot<K> {
    /// Whether they were listed at least once.
    pub synced: bool,
    /// By name.
    pub objects: Arc<BTreeMap<String, Arc<K>>>,
    /// Why the last list or watch failed, until one works again.
    pub error: Option<ApiError>,
}

impl<K> Default for Snapshot<K> {
    fn default() -> Self {
        Self { synced: false, objects: Arc::default(), error: None }
    }
}

/// Keeps a [`Snapshot`] up to date for as long as it lives.
#[derive(Debug)]
pub struct Follow<K> {
    snapshots: watch::Receiver<Snapshot<K>>,
    doubts: Arc<Notify>,
    _task: AbortOnDropHandle<()>,
}

impl<K> Follow<K>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    /// Starts following. `call` is what a refusal is reported as; its verb is set to the one that was refused.
    pub fn start(access: &Access, api: Api<K>, config: watcher::Config, call: Call) -> Self {
        Self::with(access, api, config, call, None)
    }

    /// As [`Self::start`], and asks again and again where list or watch are denied.
    pub fn start_or_ask(access: &Access, api: Api<K>, config: watcher::Config, call: Call, ask: Ask) -> Self {
        Self::with(access, api, config, call, Some(ask))
    }

    fn with(access: &Access, api: Api<K>, config: watcher::Config, call: Call, ask: Option<Ask>) -> Self {
        let (sender, snapshots) = watch::channel(Snapshot::default());
        let doubts = Arc::<Notify>::default();
        let (renewals, asked) = (access.renewals(), Arc::clone(&doubts));
        let task = tokio::spawn(async move {
            let list = ListParams {
                label_selector: config.label_selector.clone(),
                field_selector: config.field_selector.clone(),
                ..ListParams::default()
            };
            let denied = follow(renewals, api.clone(), config, call.clone(), &sender, ask.as_ref()).await;
            if let (Some(denied), Some(ask)) = (denied, ask) {
                tracing::info!(%denied, "asking instead of watching");
                Asking { api, call, list, ask, denied }.keep(&sender, &asked).await;
            }
        });
        Self { snapshots, doubts, _task: AbortOnDropHandle::new(task) }
    }

    /// What is known turned out to be wrong: where it is not watched it is asked for again at once.
    pub fn doubt(&self) {
        self.doubts.notify_one();
    }

    /// The latest state.
    pub fn snapshot(&self) -> Snapshot<K> {
        self.snapshots.borrow().clone()
    }

    /// A receiver of one's own that notices every change after this call.
    pub fn subscribe(&self) -> watch::Receiver<Snapshot<K>> {
        let mut snapshots = self.snapshots.clone();
        snapshots.mark_unchanged();
        snapshots
    }

    /// Waits until the objects were listed once.
    ///
    /// # Errors
    /// What the API server refuses; what is only broken is tried again without end.
    pub async fn synced(&self) -> Result<Snapshot<K>, ApiError> {
        let mut snapshots = self.subscribe();
        loop {
            {
                let snapshot = snapshots.borrow_and_update();
                if snapshot.synced {
                    return Ok(snapshot.clone());
                }
                if let Some(error) = snapshot.error.as_ref().filter(|error| !error.is_transient()) {
                    return Err(error.clone());
                }
            }
            if snapshots.changed().await.is_err() {
                // The task lives as long as `self`; it cannot end before.
                std::future::pending::<()>().await;
            }
        }
    }
}

/// Follows until the objects may not be listed or watched, and asking may help: gives the refusal.
async fn follow<K>(
    mut renewals: watch::Receiver<u64>,
    api: Api<K>,
    config: watcher::Config,
    call: Call,
    sender: &watch::Sender<Snapshot<K>>,
    ask: Option<&Ask>,
) -> Option<ApiError>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    let mut events = std::pin::pin!(watcher(api, config));
    let mut listing = BTreeMap::new();
    let mut pause = FIRST_PAUSE;
    while let Some(event) = events.next().await {
        let event = match event {
            Ok(event) => event,
            Err(error) => {
                let Some(error) = watch_error(&call, error) else { continue };
                tracing::debug!(%error, "watch failed");
                if ask.is_some_and(|ask| ask.may_help(&error)) {
                    return Some(error);
                }
                sender.send_modify(|snapshot| snapshot.error = Some(error));
                tokio::select! {
                    () = tokio::time::sleep(pause) => pause = (pause * 2).min(LONGEST_PAUSE),
                    // The path is back, or the address is another one.
                    Ok(()) = renewals.changed() => pause = FIRST_PAUSE,
                }
                continue;
            }
        };
        pause = FIRST_PAUSE;
        match event {
            Event::Init => listing.clear(),
            Event::InitApply(object) => {
                listing.insert(object.name_any(), Arc::new(object));
            }
            Event::InitDone => {
                let objects = Arc::new(std::mem::take(&mut listing));
                sender.send_modify(|snapshot| {
                    *snapshot = Snapshot { synced: true, objects, error: None };
                });
            }
            Event::Apply(object) => sender.send_modify(|snapshot| {
                Arc::make_mut(&mut snapshot.objects).insert(object.name_any(), Arc::new(object));
                snapshot.error = None;
            }),
            Event::Delete(object) => sender.send_modify(|snapshot| {
                Arc::make_mut(&mut snapshot.objects).remove(&object.name_any());
                snapshot.error = None;
            }),
        }
    }
    None
}

/// Objects that may not be watched.
struct Asking<K> {
    api: Api<K>,
    call: Call,
    list: ListParams,
    ask: Ask,
    /// What the API server said to list or watch: the better answer where this way is closed too.
    denied: ApiError,
}

impl<K> Asking<K>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    async fn keep(self, sender: &watch::Sender<Snapshot<K>>, doubts: &Notify) {
        loop {
            match self.once().await {
                Ok(objects) => sender.send_modify(|snapshot| {
                    *snapshot = Snapshot { synced: true, objects: Arc::new(objects), error: None };
                }),
                Err(error) => {
                    tracing::debug!(%error, "the objects are not known to be as they were");
                    let is_denied = matches!(error, ApiError::Denied { .. });
                    let error = if is_denied { self.denied.clone() } else { error };
                    sender.send_modify(|snapshot| snapshot.error = Some(error));
                }
            }
            tokio::time::sleep(ASK_PAUSE).await;
            let _ = tokio::time::timeout(ASK_EVERY, doubts.notified()).await;
        }
    }

    async fn once(&self) -> Result<BTreeMap<String, Arc<K>>, ApiError> {
        let objects = match &self.ask {
            Ask::ForOne(name) => match self.api.get_opt(name).await {
                Ok(object) => object.into_iter().collect(),
                Err(error) => return Err(ApiError::new(Call { verb: "get", ..self.call.clone() }, error)),
            },
            Ask::ForAll => match self.api.list(&self.list).await {
                Ok(list) => list.items,
                Err(error) => return Err(ApiError::new(Call { verb: "list", ..self.call.clone() }, error)),
            },
        };
        Ok(objects.into_iter().map(|object| (object.name_any(), Arc::new(object))).collect())
    }
}

/// An expired watch is no error: the watcher lists again.
fn watch_error(call: &Call, error: watcher::Error) -> Option<ApiError> {
    let verb = |verb| Call { verb, ..call.clone() };
    match error {
        watcher::Error::InitialListFailed(error) => Some(ApiError::new(verb("list"), error)),
        watcher::Error::WatchStartFailed(error) | watcher::Error::WatchFailed(error) => {
            Some(ApiError::new(verb("watch"), error))
        }
        watcher::Error::WatchError(status) if status.code == 410 => None,
        watcher::Error::WatchError(status) => Some(ApiError::from_status(verb("watch"), &status)),
        watcher::Error::NoResourceVersion => Some(ApiError::Other {
            call: verb("watch"),
            message: "this kind of object cannot be watched".into(),
        }),
    }
}
