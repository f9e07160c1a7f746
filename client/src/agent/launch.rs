//! From nothing to a running agent: creates the Job, watches its pod and the events, says what is in the way.

use std::{collections::HashSet, sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::{Api, api::ListParams, runtime::watcher};
use tokio::{sync::watch, time::Instant};

use super::{
    diagnosis::{self, PodState, Trouble},
    identity::{Owner, job_name},
    jobs::Jobs,
    patch::PatchError,
    spec,
};
use crate::{
    cli::settings::AgentSettings,
    cluster::{
        access::Access,
        api::{ApiError, Call},
        follow::{Follow, Snapshot},
    },
    output::Output,
};

/// An API server that works answers a small question within this time.
const ANSWER: Duration = Duration::from_secs(3);

/// What a launch needs.
#[derive(Clone)]
pub struct Launcher {
    /// The API server.
    pub access: Access,
    /// The agent's namespace.
    pub namespace: String,
    /// What to start.
    pub settings: AgentSettings,
    /// Who starts it.
    pub owner: Owner,
    /// Where created Jobs are remembered.
    pub jobs: Jobs,
    /// `--pod-running-timeout`.
    pub timeout: Duration,
    /// Where troubles are told.
    pub output: Arc<Output>,
}

/// A running agent.
pub struct Running {
    /// Its Job.
    pub job: String,
    /// Its pod.
    pub pod: String,
    /// The pod's uid: a session is tied to it.
    pub uid: String,
    /// Where it runs.
    pub node: Option<String>,
    pods: Follow<Pod>,
}

/// An agent that does not come to run.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LaunchError {
    /// The API server says no, or nothing.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// The user's patch does not fit.
    #[error("{message}")]
    Patch {
        /// What is wrong with it.
        message: String,
        /// What to type instead.
        hint: String,
    },
    /// The pod cannot run, whatever one waits for.
    #[error("{}", .0.what)]
    Trouble(Trouble),
    /// It did not run in time.
    #[error("the agent's pod does not run after {}{}", crate::cli::duration::show_duration(*waited), because(trouble.as_ref()))]
    TimedOut {
        /// `--pod-running-timeout`.
        waited: Duration,
        /// What was in the way.
        trouble: Option<Trouble>,
    },
    /// The API server refuses the port-forward to the agent.
    #[error("{message}")]
    PortForward {
        /// What it says.
        message: String,
        /// What to do about it.
        hint: String,
    },
    /// The agent runs, and no session with it comes about.
    #[error("the agent runs, but gives no session: {0}")]
    NoSession(String),
    /// The agent runs, and is not reached.
    #[error("the agent runs, but is not reached after {}{}", crate::cli::duration::show_duration(*waited), reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default())]
    Unreached {
        /// `--pod-running-timeout`.
        waited: Duration,
        /// What the last attempt said.
        reason: Option<String>,
    },
    /// The system gives no random numbers.
    #[error("the system has no randomness to give: {0}")]
    Random(#[from] getrandom::Error),
}

fn because(trouble: Option<&Trouble>) -> String {
    trouble.map(|trouble| format!(": {}", trouble.what)).unwrap_or_default()
}

impl From<PatchError> for LaunchError {
    fn from(error: PatchError) -> Self {
        Self::Patch { message: error.to_string(), hint: error.hint() }
    }
}

impl LaunchError {
    /// What to do about it.
    pub fn hint(&self) -> String {
        match self {
            Self::Api(error) => error.hint(),
            Self::Patch { hint, .. } | Self::PortForward { hint, .. } => hint.clone(),
            Self::Trouble(trouble) | Self::TimedOut { trouble: Some(trouble), .. } => trouble.hint.clone(),
            Self::TimedOut { trouble: None, .. } => {
                "--pod-running-timeout gives it longer; kubectl get events says more".into()
            }
            Self::NoSession(_) => {
                "check that --server.image is an agent of this version; kubectl relay --version tells ours"
                    .into()
            }
            Self::Unreached { .. } => {
                "try --transport spdy or --transport websocket; -v=4 shows the attempts".into()
            }
            Self::Random(_) => "wait until the system has started completely".into(),
        }
    }

    /// Whether the API server said no. One that has just started says so for a few seconds without meaning it.
    pub fn is_refusal(&self) -> bool {
        matches!(
            self,
            Self::PortForward { .. } | Self::Api(ApiError::Denied { .. } | ApiError::Unauthorized { .. })
        )
    }

    /// Whether trying again later may help without anybody changing anything.
    pub fn is_transient(&self) -> bool {
        match self {
            // A credential plugin may need the network that is away.
            Self::Api(error) => error.is_transient() || matches!(error, ApiError::Credentials { .. }),
            Self::TimedOut { .. } | Self::Unreached { .. } => true,
            _ => false,
        }
    }
}

impl Launcher {
    /// Starts an agent and waits until it runs, on another node than `avoid` if there is one. What was created is
    /// removed again when that fails.
    ///
    /// # Errors
    /// See [`LaunchError`].
    pub async fn launch(&self, avoid: Option<&str>) -> Result<Running, LaunchError> {
        let name = job_name()?;
        let job = spec::job(&name, &self.namespace, &self.settings, &self.owner, avoid)?;
        let pods = Follow::start(
            &self.access,
            Api::namespaced(self.access.client(), &self.namespace),
            watcher::Config::default().labels(&format!("job-name={name}")),
            Call::new("list", "", "pods", &self.namespace),
        );
        let events = self.events("Job", &name);

        let launched = async {
            self.jobs.create(job).await?;
            self.wait(&pods, &events).await
        };
        match launched.await {
            Ok(Placed { pod, uid, node }) => Ok(Running { job: name, pod, uid, node, pods }),
            Err(error) => {
                let removed = tokio::time::timeout(Duration::from_secs(5), self.jobs.remove(&name)).await;
                if let Ok(Err(remove)) = removed
                    && !matches!(error, LaunchError::Api(_))
                {
                    self.output.warning(&remove.to_string(), Some(&remove.hint()));
                }
                Err(error)
            }
        }
    }

    /// Whether the API server answers now, whatever it says.
    pub async fn is_answered(&self) -> bool {
        let pods: Api<Pod> = Api::namespaced(self.access.client(), &self.namespace);
        let list = ListParams::default().labels("job-name=").limit(1);
        let answer = tokio::time::timeout(ANSWER, pods.list_metadata(&list)).await;
        matches!(answer, Ok(Ok(_) | Err(kube::Error::Api(_))))
    }

    fn events(&self, kind: &str, name: &str) -> Follow<Event> {
        Follow::start(
            &self.access,
            Api::namespaced(self.access.client(), &self.namespace),
            watcher::Config::default()
                .fields(&format!("involvedObject.kind={kind},involvedObject.name={name}")),
            Call::new("list", "", "events", &self.namespace),
        )
    }

    async fn wait(&self, pods: &Follow<Pod>, job_events: &Follow<Event>) -> Result<Placed, LaunchError> {
        let deadline = Instant::now() + self.timeout;
        let mut watch = Watch {
            pods: pods.subscribe(),
            job_events: job_events.subscribe(),
            pod_events: None,
            told: HashSet::new(),
            events_refused: false,
        };
        let mut pod_events: Option<Follow<Event>> = None;
        let mut last = None;
        loop {
            let snapshot = pods.snapshot();
            if let Some(error) = snapshot.error.filter(|error| !error.is_transient()) {
                return Err(error.into());
            }
            let pod = snapshot.objects.values().next().cloned();
            let state = pod.as_deref().map(diagnosis::of_pod);
            if let (Some(PodState::Running), Some(pod)) = (&state, &pod) {
                return Ok(Placed {
                    pod: pod.metadata.name.clone().unwrap_or_default(),
                    uid: pod.metadata.uid.clone().unwrap_or_default(),
                    node: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
                });
            }
            if pod_events.is_none()
                && let Some(name) = pod.as_ref().and_then(|pod| pod.metadata.name.as_deref())
            {
                let follow = self.events("Pod", name);
                watch.pod_events = Some(follow.subscribe());
                pod_events = Some(follow);
            }
            let mut troubles = watch.troubles(&self.output, pod.is_some());
            match state {
                Some(PodState::Ended(trouble)) => return Err(LaunchError::Trouble(trouble)),
                Some(PodState::Waiting(trouble)) => troubles.extend(trouble),
                _ => {}
            }
            for trouble in troubles {
                if trouble.fatal {
                    return Err(LaunchError::Trouble(trouble));
                }
                // Kubernetes words one trouble in several ways; what to do about it stays the same.
                if watch.told.insert(trouble.hint.clone()) {
                    self.output.warning(&trouble.what, Some(&trouble.hint));
                }
                last = Some(trouble);
            }
            if tokio::time::timeout_at(deadline, watch.changed()).await.is_err() {
                return Err(LaunchError::TimedOut { waited: self.timeout, trouble: last });
            }
        }
    }
}

/// A pod that runs.
struct Placed {
    pod: String,
    uid: String,
    node: Option<String>,
}

struct Watch {
    pods: watch::Receiver<Snapshot<Pod>>,
    job_events: watch::Receiver<Snapshot<Event>>,
    pod_events: Option<watch::Receiver<Snapshot<Event>>>,
    told: HashSet<String>,
    events_refused: bool,
}

impl Watch {
    async fn changed(&mut self) {
        let pod_events = async {
            match &mut self.pod_events {
                Some(events) => events.changed().await.is_ok(),
                None => std::future::pending().await,
            }
        };
        // A closed channel cannot be: the followers live as long as the wait.
        tokio::select! {
            _ = self.pods.changed() => {}
            _ = self.job_events.changed() => {}
            _ = pod_events => {}
        }
    }

    /// What the events say. The Job's own complaints are over once there is a pod.
    fn troubles(&mut self, output: &Output, has_pod: bool) -> Vec<Trouble> {
        let job_events = self.job_events.borrow().clone();
        if let Some(error) = job_events.error.filter(|error| !error.is_transient() && !self.events_refused) {
            self.events_refused = true;
            output.warning(
                &format!("{error}; should a pod be refused, the reason will not show"),
                Some(&error.hint()),
            );
        }
        let pod_events = self.pod_events.as_ref().map(|events| Arc::clone(&events.borrow().objects));
        let job_objects = (!has_pod).then_some(job_events.objects);
        [job_objects, pod_events]
            .into_iter()
            .flatten()
            .flat_map(|objects| {
                objects.values().filter_map(|event| diagnosis::of_event(event)).collect::<Vec<_>>()
            })
            .collect()
    }
}

/// What became of a running agent's pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// It was asked to end: streams may go on for the grace.
    Ending,
    /// It is no more.
    Gone(String),
}

impl Running {
    /// The pod's fate, if it has met one.
    pub fn fate(&self) -> Option<Fate> {
        let snapshot = self.pods.snapshot();
        let Some(pod) = snapshot.objects.get(&self.pod) else {
            return snapshot.synced.then(|| Fate::Gone(format!("its pod {} was deleted", self.pod)));
        };
        if pod.metadata.uid.as_deref() != Some(self.uid.as_str()) {
            return Some(Fate::Gone(format!("its pod {} was replaced", self.pod)));
        }
        match diagnosis::of_pod(pod) {
            PodState::Ending => Some(Fate::Ending),
            PodState::Ended(trouble) => Some(Fate::Gone(trouble.what)),
            PodState::Running | PodState::Waiting(_) => None,
        }
    }

    /// Whether the cluster holds the pod for not ready, or it should have ended by now: with an agent that is not
    /// reached, the sign that its node is gone. Its object stays for minutes, or for ever.
    pub fn is_given_up(&self, now: Timestamp) -> bool {
        let snapshot = self.pods.snapshot();
        let Some(pod) = snapshot.objects.get(&self.pod) else { return snapshot.synced };
        let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_deref());
        let mut conditions = conditions.unwrap_or_default().iter();
        // The time of the deletion is that of the end of the grace.
        let overdue = pod.metadata.deletion_timestamp.as_ref().is_some_and(|time| time.0 < now);
        overdue || conditions.any(|condition| condition.type_ == "Ready" && condition.status != "True")
    }

    /// How it is said that the agent went with its node.
    pub fn node_is_gone(&self) -> String {
        match &self.node {
            Some(node) => format!("its node {node} does not answer"),
            None => "its node does not answer".into(),
        }
    }

    /// Waits until the pod's fate differs from `known`. Cancellation safe.
    pub async fn fate_after(&self, known: Option<&Fate>) -> Fate {
        let mut snapshots = self.pods.subscribe();
        loop {
            if let Some(fate) = self.fate()
                && Some(&fate) != known
            {
                return fate;
            }
            if snapshots.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}
