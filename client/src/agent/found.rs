//! The shared agent: which of its pods there are, and which one this run goes through. Nothing is created for it.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::future::join_all;
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, api::ListParams, runtime::watcher};
use tokio::{sync::Mutex as AsyncMutex, time::Instant};
use tokio_util::task::AbortOnDropHandle;

use super::{
    diagnosis::{PodState, of_pod},
    identity::NAME,
    launch::{LaunchError, Running},
};
use crate::{
    cli::{args::AgentSource, settings::AgentSettings},
    cluster::{
        access::Access,
        api::{ApiError, Call, made},
        follow::{Ask, Follow},
        ready::is_ready,
    },
    ledger::AgentOrigin,
};

/// Where a shared agent is installed when nobody says otherwise.
pub const NAMESPACE: &str = "kubectl-relay";
/// The label that tells the shared agent's pods from those of people's own agents.
pub const COMPONENT: (&str, &str) = ("app.kubernetes.io/component", "shared-agent");

/// So many replicas are looked at.
const REPLICAS: u32 = 100;
/// Who would take another agent instead waits so long for one that is about to be ready.
const PATIENCE: Duration = Duration::from_secs(5);

/// The selector of the shared agent's pods.
pub fn selector() -> String {
    format!("{}={},{}={}", NAME.0, NAME.1, COMPONENT.0, COMPONENT.1)
}

/// Finds pods of the shared agent. Clones share what is known.
#[derive(Clone)]
pub struct Finder(Arc<Inner>);

struct Inner {
    access: Access,
    /// Where to look, in the order of preference.
    namespaces: Vec<String>,
    limit: Duration,
    /// The look that began with the run.
    first: AsyncMutex<Option<AbortOnDropHandle<Seen>>>,
    /// When this run went to which pod last, by uid.
    used: Mutex<HashMap<String, Instant>>,
    /// Whether it was said that there is one.
    told: AtomicBool,
    /// The uids of those that could be used at the last look.
    ready: Mutex<Vec<String>>,
}

/// What a look has shown.
#[derive(Default)]
struct Seen {
    /// The pods of the first namespace that has any.
    pods: Vec<Pod>,
    namespace: String,
    /// Why a namespace could not be looked into.
    error: Option<ApiError>,
}

impl Finder {
    /// Begins to look at once, beside whatever else a run has to ask at its start. To be called within a runtime.
    /// `current` is the current namespace, `limit` is `--request-timeout`.
    pub fn start(access: &Access, settings: &AgentSettings, current: &str, limit: Duration) -> Self {
        let namespaces = match &settings.namespace {
            Some(namespace) => vec![namespace.clone()],
            None if current == NAMESPACE => vec![NAMESPACE.to_owned()],
            None => vec![current.to_owned(), NAMESPACE.to_owned()],
        };
        let inner = Arc::new(Inner {
            access: access.clone(),
            namespaces,
            limit,
            first: AsyncMutex::default(),
            used: Mutex::default(),
            told: AtomicBool::default(),
            ready: Mutex::default(),
        });
        if matches!(settings.source, AgentSource::Auto | AgentSource::Shared) {
            access.connect_ahead();
            let looking = Arc::clone(&inner);
            let look = tokio::spawn(async move { looking.look().await });
            if let Ok(mut first) = inner.first.try_lock() {
                *first = Some(AbortOnDropHandle::new(look));
            }
        }
        Self(inner)
    }

    /// A pod of the shared agent that is ready, rather not on the node `avoid`; waits for one up to `timeout` where the
    /// agent is there and none is.
    ///
    /// # Errors
    /// When there is no shared agent, or it may not be looked for.
    pub async fn find(&self, avoid: Option<&str>, timeout: Duration) -> Result<Running, LaunchError> {
        let seen = self.0.seen().await;
        if let Some(running) = self.0.choose(&seen, avoid)? {
            return Ok(running);
        }
        if seen.pods.is_empty() {
            return Err(match seen.error {
                Some(error) if error.is_transient() => error.into(),
                denied => LaunchError::NoShared { namespaces: self.0.namespaces.clone(), denied },
            });
        }
        self.wait(&seen.namespace, avoid, timeout)
            .await?
            .ok_or(LaunchError::SharedNotReady { namespace: seen.namespace, waited: timeout })
    }

    /// The same for whoever takes another agent where there is none: that it may not be looked for is no error, and
    /// waiting is short.
    ///
    /// # Errors
    /// When the system gives no random numbers.
    pub async fn find_if_any(&self, avoid: Option<&str>) -> Result<Option<Running>, LaunchError> {
        let seen = self.0.seen().await;
        if let Some(running) = self.0.choose(&seen, avoid)? {
            return Ok(Some(running));
        }
        if seen.pods.iter().all(|pod| pod.metadata.deletion_timestamp.is_some()) {
            return Ok(None);
        }
        self.wait(&seen.namespace, avoid, PATIENCE).await
    }

    /// Whether the last look has shown a pod that this run has not gone to yet.
    pub fn has_untried(&self) -> bool {
        let (ready, used) = (lock(&self.0.ready), lock(&self.0.used));
        ready.iter().any(|uid| !used.contains_key(uid))
    }

    /// Whether this is the first time that it is asked.
    pub fn is_news(&self) -> bool {
        !self.0.told.swap(true, Ordering::Relaxed)
    }

    async fn wait(
        &self,
        namespace: &str,
        avoid: Option<&str>,
        timeout: Duration,
    ) -> Result<Option<Running>, LaunchError> {
        let config = watcher::Config::default().labels(&selector());
        let pods = self.0.follow(namespace, config);
        let mut changes = pods.subscribe();
        let deadline = Instant::now() + timeout;
        loop {
            let snapshot = pods.snapshot();
            if let Some(error) = snapshot.error.filter(|error| !error.is_transient()) {
                return Err(error.into());
            }
            let pods = snapshot.objects.values().map(|pod| Pod::clone(pod)).collect();
            let seen = Seen { pods, namespace: namespace.to_owned(), error: None };
            if let Some(running) = self.0.choose(&seen, avoid)? {
                return Ok(Some(running));
            }
            if tokio::time::timeout_at(deadline, changes.changed()).await.is_err() {
                return Ok(None);
            }
        }
    }
}

impl Inner {
    async fn seen(&self) -> Seen {
        let first = self.first.lock().await.take();
        match first {
            // A look that was broken off says nothing.
            Some(first) => first.await.unwrap_or_default(),
            None => self.look().await,
        }
    }

    async fn look(&self) -> Seen {
        let params = ListParams::default().labels(&selector()).limit(REPLICAS);
        let lists = self.namespaces.iter().map(async |namespace| {
            let pods: Api<Pod> = Api::namespaced(self.access.client(), namespace);
            made(call("list", namespace), self.limit, pods.list(&params)).await
        });
        let mut seen = Seen::default();
        for (namespace, list) in self.namespaces.iter().zip(join_all(lists).await) {
            match list {
                Ok(list) if !list.items.is_empty() => {
                    return Seen { pods: list.items, namespace: namespace.clone(), error: None };
                }
                Ok(_) => {}
                // The last one is where it would be installed.
                Err(error) => seen.error = Some(error),
            }
        }
        seen
    }

    /// One of those that are ready: rather one that this run has not been at, and not on the node to avoid, else any.
    fn choose(&self, seen: &Seen, avoid: Option<&str>) -> Result<Option<Running>, getrandom::Error> {
        let usable = |pod: &&Pod| is_ready(pod) && of_pod(pod) == PodState::Running;
        let uid = |pod: &Pod| pod.metadata.uid.clone().unwrap_or_default();
        let node = |pod: &Pod| pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
        let ready: Vec<&Pod> = seen.pods.iter().filter(usable).collect();
        *lock(&self.ready) = ready.iter().map(|pod| uid(pod)).collect();
        let mut used = lock(&self.used);
        let mut order = Vec::with_capacity(ready.len());
        for pod in ready {
            let is_avoided = avoid.is_some() && node(pod).as_deref() == avoid;
            // Everybody else chooses too: at random they spread.
            order.push(((is_avoided, used.get(&uid(pod)).copied(), random()?), pod));
        }
        let Some((_, pod)) = order.into_iter().min_by_key(|(rank, _)| *rank) else { return Ok(None) };
        used.insert(uid(pod), Instant::now());
        let name = pod.metadata.name.clone().unwrap_or_default();
        let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
        Ok(Some(Running {
            job: None,
            origin: AgentOrigin::Shared,
            namespace: seen.namespace.clone(),
            pods: self.follow(&seen.namespace, config),
            uid: uid(pod),
            node: node(pod),
            pod: name,
            seen: true.into(),
        }))
    }

    fn follow(&self, namespace: &str, config: watcher::Config) -> Follow<Pod> {
        let pods = Api::namespaced(self.access.client(), namespace);
        Follow::start_or_ask(&self.access, pods, config, call("list", namespace), Ask::ForAll)
    }
}

fn call(verb: &'static str, namespace: &str) -> Call {
    Call::new(verb, "", "pods", namespace)
}

fn random() -> Result<u64, getrandom::Error> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
