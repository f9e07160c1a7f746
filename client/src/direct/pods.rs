//! The pods behind a forward, one by one: for connections that go to a pod itself.

use std::{
    fmt,
    net::IpAddr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use k8s_openapi::api::core::v1::Pod;
use relay_protocol::header::Address;

use super::DirectError;
use crate::cluster::{
    follow::{Follow, Snapshot},
    ready::{Choice, Destination, EndpointPort, destination_of, is_ready, single_pod},
};

/// A port of one pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodPort {
    /// The pod's namespace.
    pub namespace: String,
    /// Its name.
    pub pod: String,
    /// Its uid: another pod of the same name is another pod.
    pub uid: String,
    /// Its address.
    pub ip: IpAddr,
    /// What it listens on.
    pub port: u16,
}

/// The pods that a forward's connections may go to.
pub struct Pods {
    namespace: String,
    source: Source,
    port: EndpointPort,
    turn: AtomicUsize,
}

/// How the pods are known.
pub enum Source {
    /// One pod, as long as it lives.
    One {
        /// Its watch.
        follow: Arc<Follow<Pod>>,
        /// Its name.
        name: String,
        /// Its uid.
        uid: Option<String>,
    },
    /// Those of a selector.
    Selected(Arc<Follow<Pod>>),
    /// Those of a selector, which nobody follows until they are needed.
    Later(Later),
}

/// A watch that begins when it is needed.
pub struct Later {
    start: Box<dyn Fn() -> Follow<Pod> + Send + Sync>,
    follow: OnceLock<Arc<Follow<Pod>>>,
}

impl Later {
    /// `start` is called once at most, within a runtime.
    pub fn new(start: impl Fn() -> Follow<Pod> + Send + Sync + 'static) -> Self {
        Self { start: Box::new(start), follow: OnceLock::new() }
    }
}

impl fmt::Debug for Pods {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pods")
            .field("namespace", &self.namespace)
            .field("port", &self.port)
            .finish_non_exhaustive()
    }
}

impl Pods {
    /// Pods of one namespace, each with its own number for the port where it has a name.
    pub fn new(namespace: &str, source: Source, port: EndpointPort) -> Self {
        Self { namespace: namespace.into(), source, port, turn: AtomicUsize::default() }
    }

    fn follow(&self) -> &Arc<Follow<Pod>> {
        match &self.source {
            Source::One { follow, .. } | Source::Selected(follow) => follow,
            Source::Later(later) => later.follow.get_or_init(|| Arc::new((later.start)())),
        }
    }

    /// Those that could take a connection now, as far as anybody follows them.
    pub(super) fn ready(&self) -> Vec<PodPort> {
        if matches!(&self.source, Source::Later(later) if later.follow.get().is_none()) {
            return Vec::new();
        }
        self.ready_in(&self.follow().snapshot()).unwrap_or_default()
    }

    /// Waits for a pod that can take a connection, and gives one after the other. Cancellation safe.
    ///
    /// # Errors
    /// There never will be one, or nobody may ask.
    pub(super) async fn next(&self) -> Result<PodPort, DirectError> {
        let mut snapshots = self.follow().subscribe();
        loop {
            let snapshot = self.follow().snapshot();
            let ready = self.ready_in(&snapshot).map_err(DirectError::Gone)?;
            if !ready.is_empty() {
                let turn = self.turn.fetch_add(1, Ordering::Relaxed);
                return Ok(ready[turn % ready.len()].clone());
            }
            if !snapshot.synced
                && let Some(error) = snapshot.error.filter(|error| !error.is_transient())
            {
                return Err(DirectError::Api(error.into()));
            }
            if snapshots.changed().await.is_err() {
                return Err(DirectError::Ending);
            }
        }
    }

    /// The pod that an agent meant by a destination; without one of that address, as behind a Service's, any.
    pub(super) async fn behind(&self, destination: &Destination) -> Result<PodPort, DirectError> {
        let next = self.next().await?;
        let same = |pod: &PodPort| Address::Ip(pod.ip) == destination.address;
        Ok(self.ready().into_iter().find(same).unwrap_or(next))
    }

    /// A pod was not where it is said to be.
    pub(super) fn doubt(&self) {
        self.follow().doubt();
    }

    /// Those that could take a connection, or why there never will be one.
    fn ready_in(&self, snapshot: &Snapshot<Pod>) -> Result<Vec<PodPort>, String> {
        let port_of = |pod: &Pod| {
            let Destination { address: Address::Ip(ip), port } = destination_of(pod, &self.port)? else {
                return None;
            };
            Some(PodPort {
                namespace: self.namespace.clone(),
                pod: pod.metadata.name.clone()?,
                uid: pod.metadata.uid.clone().unwrap_or_default(),
                ip,
                port,
            })
        };
        match &self.source {
            Source::One { name, uid, .. } => match single_pod(snapshot, name, uid.as_deref(), &self.port) {
                Choice::Gone(reason) => Err(reason),
                Choice::Wait => Ok(Vec::new()),
                Choice::Go(_) => {
                    Ok(snapshot.objects.get(name).and_then(|pod| port_of(pod)).into_iter().collect())
                }
            },
            Source::Selected(_) | Source::Later(_) => {
                let ready = snapshot.objects.values().filter(|pod| is_ready(pod));
                Ok(ready.filter_map(|pod| port_of(pod)).collect())
            }
        }
    }
}
