//! A local copy of some objects, kept by list and watch: an expired watch lists again, a broken one is tried again.

use std::{collections::BTreeMap, fmt::Debug, sync::Arc, time::Duration};

use futures_util::StreamExt;
use kube::{
    Api, Resource, ResourceExt,
    runtime::watcher::{self, Event, watcher},
};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use super::{
    access::Access,
    api::{ApiError, Call},
};

/// The first pause after a failed list or watch; doubled up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

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
    _task: AbortOnDropHandle<()>,
}

impl<K> Follow<K>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    /// Starts following. `call` is what a refusal is reported as; its verb is set to the one that was refused.
    pub fn start(access: &Access, api: Api<K>, config: watcher::Config, call: Call) -> Self {
        let (sender, snapshots) = watch::channel(Snapshot::default());
        let task = tokio::spawn(follow(access.renewals(), api, config, call, sender));
        Self { snapshots, _task: AbortOnDropHandle::new(task) }
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

async fn follow<K>(
    mut renewals: watch::Receiver<u64>,
    api: Api<K>,
    config: watcher::Config,
    call: Call,
    sender: watch::Sender<Snapshot<K>>,
) where
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
