//! From nothing to a running agent: from its image, or from this plugin when no image of it can be had.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, api::ListParams};
use tokio::sync::Mutex;

use super::{
    attempt::Attempt,
    borrow::{Borrowed, images_in_use},
    diagnosis::{self, Other, PodState, Trouble},
    embedded::{self, Embedded},
    found::Finder,
    identity::{Owner, job_name},
    jobs::Jobs,
    patch::PatchError,
    spec::Program,
};
use crate::{
    cli::{args::AgentSource, settings::AgentSettings},
    cluster::{access::Access, api::ApiError, follow::Follow, ready::phase, resolve::TargetPods},
    ledger::{AgentName, AgentOrigin},
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
    /// The agents that this plugin carries.
    pub embedded: Vec<Embedded>,
    /// The targets' pods, each with its namespace: their images are those that the cluster surely has.
    pub targets: Vec<(String, TargetPods)>,
    /// The images that a carried agent was started under: the next ones are started so too.
    pub borrowed: Arc<Mutex<Vec<Borrowed>>>,
    /// Looks for a shared agent.
    pub shared: Finder,
}

/// A running agent.
pub struct Running {
    /// Its Job; `None`: it is shared, and not this run's to remove.
    pub job: Option<String>,
    /// Where it comes from.
    pub origin: AgentOrigin,
    /// Its namespace.
    pub namespace: String,
    /// Its pod.
    pub pod: String,
    /// The pod's uid: a session is tied to it.
    pub uid: String,
    /// Where it runs.
    pub node: Option<String>,
    pub(super) pods: Follow<Pod>,
    /// Whether the pod was ever seen to run.
    pub(super) seen: AtomicBool,
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
    /// There is no agent in this plugin.
    #[error("this plugin was built without an agent inside")]
    NotEmbedded,
    /// Nobody wants one.
    #[error("no agent is to be started (--agent-source none)")]
    NotWanted,
    /// There is no image for an agent without one.
    #[error("no pod runs in namespace \"{0}\" whose image the agent could be started under")]
    NoImage(String),
    /// There is no shared agent where one was looked for.
    #[error("there is no shared agent in namespace {}{}", quoted(namespaces), denied.as_ref().map(|error| format!(": {error}")).unwrap_or_default())]
    NoShared {
        /// Where was looked.
        namespaces: Vec<String>,
        /// Why it might be there all the same.
        denied: Option<ApiError>,
    },
    /// The shared agent has no pod that is ready.
    #[error("no pod of the shared agent in namespace \"{namespace}\" is ready after {}", crate::cli::duration::show_duration(*waited))]
    SharedNotReady {
        /// Where it is.
        namespace: String,
        /// `--pod-running-timeout`.
        waited: Duration,
    },
    /// The system gives no random numbers.
    #[error("the system has no randomness to give: {0}")]
    Random(#[from] getrandom::Error),
}

fn because(trouble: Option<&Trouble>) -> String {
    trouble.map(|trouble| format!(": {}", trouble.what)).unwrap_or_default()
}

fn quoted(names: &[String]) -> String {
    names.iter().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(" or ")
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
            Self::NotEmbedded => {
                "build it with `cargo xtask plugin`, or use --agent-source image with an image that the nodes can pull"
                    .into()
            }
            Self::NotWanted => "leave --agent-source none away".into(),
            Self::NoImage(_) => {
                "name any image that the nodes have or can pull: --agent-source embedded --server.image IMAGE".into()
            }
            Self::NoShared { denied: Some(error), .. } => error.shared_hint(),
            Self::NoShared { denied: None, .. } => {
                "an administrator makes one with kubectl relay agent install; --server.namespace names where it is"
                    .into()
            }
            Self::SharedNotReady { namespace, .. } => {
                format!("see why with kubectl relay agent status -n {namespace}")
            }
            Self::Random(_) => "wait until the system has started completely".into(),
        }
    }

    /// Whether the API server said no. One that has just started says so for a few seconds without meaning it.
    pub fn is_refusal(&self) -> bool {
        matches!(
            self,
            Self::PortForward { .. }
                | Self::Api(ApiError::Denied { .. } | ApiError::Unauthorized { .. })
                | Self::NoShared { denied: Some(_), .. }
        )
    }

    /// Whether the cluster lets nobody like this user have an agent in this namespace: for want of a right or of room, or
    /// because of a rule.
    pub fn is_for_want_of_leave(&self) -> bool {
        let refused = |trouble: &Trouble| trouble.other == Some(Other::Admission);
        match self {
            Self::Api(error) => {
                matches!(error, ApiError::Denied { .. } | ApiError::Quota { .. } | ApiError::Rejected { .. })
            }
            Self::Trouble(trouble) | Self::TimedOut { trouble: Some(trouble), .. } => refused(trouble),
            _ => false,
        }
    }

    /// Whether trying again later may help without anybody changing anything.
    pub fn is_transient(&self) -> bool {
        match self {
            // A credential plugin may need the network that is away.
            Self::Api(error) => error.is_transient() || matches!(error, ApiError::Credentials { .. }),
            Self::TimedOut { .. }
            | Self::Unreached { .. }
            | Self::NoShared { denied: None, .. }
            | Self::SharedNotReady { .. } => true,
            _ => false,
        }
    }
}

impl Launcher {
    /// Gives an agent that runs, on another node than `avoid` if there is one: a pod of the shared agent, or one that is
    /// started and waited for. What was created is removed again when that fails.
    ///
    /// # Errors
    /// See [`LaunchError`].
    pub async fn launch(&self, avoid: Option<&str>) -> Result<Running, LaunchError> {
        let found = match self.settings.source {
            AgentSource::Shared => self.shared.find(avoid, self.timeout).await.map(Some)?,
            AgentSource::Auto => self.shared.find_if_any(avoid).await?,
            AgentSource::Image | AgentSource::Embedded | AgentSource::None => None,
        };
        match found {
            Some(found) => {
                tracing::info!(pod = found.pod, namespace = found.namespace, "the shared agent is used");
                if self.settings.source == AgentSource::Auto && self.shared.is_news() {
                    let namespace = &found.namespace;
                    self.output.note(&format!("going through the shared agent in namespace \"{namespace}\""));
                }
                Ok(found)
            }
            None => self.start(avoid).await,
        }
    }

    /// Starts an agent of this run's own.
    async fn start(&self, avoid: Option<&str>) -> Result<Running, LaunchError> {
        let has_fallen_back = !self.borrowed.lock().await.is_empty();
        match self.settings.source {
            AgentSource::Auto if self.embedded.is_empty() => self.start_image(avoid).await,
            AgentSource::Auto if !has_fallen_back => self.start_either(avoid).await,
            AgentSource::Image => self.start_image(avoid).await,
            AgentSource::None => Err(LaunchError::NotWanted),
            AgentSource::Embedded | AgentSource::Auto | AgentSource::Shared => {
                let images = self.images().await?;
                self.start_embedded(&images, avoid).await
            }
        }
    }

    async fn start_image(&self, avoid: Option<&str>) -> Result<Running, LaunchError> {
        Attempt::start(self, Program::Image, avoid).await?.run(&[]).await
    }

    /// The image is given up for what this plugin carries as soon as it is known not to come, and not before it is known
    /// that the other way is open.
    async fn start_either(&self, avoid: Option<&str>) -> Result<Running, LaunchError> {
        let mut attempt = Attempt::start(self, Program::Image, avoid).await?;
        let trouble = match attempt.wait(&[Other::Image]).await {
            Ok(placed) => return Ok(attempt.running(placed)),
            Err(LaunchError::Trouble(trouble)) if trouble.other == Some(Other::Image) => trouble,
            Err(error) => return Err(attempt.undo(error).await),
        };
        match self.images_if_allowed().await {
            Ok(images) => {
                self.output.note(&format!("{}; starting the agent that this plugin carries", trouble.what));
                let undo = attempt.undo(LaunchError::Trouble(trouble));
                tokio::join!(undo, self.start_embedded(&images, avoid)).1
            }
            Err(error) => {
                let message =
                    format!("the agent that this plugin carries cannot be started instead: {error}");
                self.output.warning(&message, Some(&error.hint()));
                attempt.run(&[]).await
            }
        }
    }

    /// The same trouble, with what would help if this plugin carried an agent.
    pub(super) fn advised(&self, mut trouble: Trouble) -> Trouble {
        let is_alone = self.settings.source == AgentSource::Auto && self.embedded.is_empty();
        if is_alone && trouble.other == Some(Other::Image) {
            trouble.hint += "; this plugin carries no agent to start instead: `cargo xtask plugin` builds one that \
                             does, and --agent-source none goes without";
        }
        trouble
    }

    /// Tries each image with each processor's program until the cluster has both. Which processor its nodes have is
    /// seen by the scheduler, so that nobody needs a right to look at nodes.
    async fn start_embedded(&self, images: &[Borrowed], avoid: Option<&str>) -> Result<Running, LaunchError> {
        let mut failed = None;
        for (place, embedded) in self.embedded.iter().enumerate() {
            let has_next = place + 1 < self.embedded.len();
            for (number, image) in images.iter().enumerate() {
                let is_last = !has_next && number + 1 == images.len() && failed.is_none();
                let until: &[Other] = match (has_next, is_last) {
                    (true, _) => &[Other::Image, Other::Node],
                    (false, false) => &[Other::Image],
                    (false, true) => &[],
                };
                if let Some(of) = &image.of {
                    tracing::info!(
                        image = image.image,
                        pod = of,
                        embedded.processor,
                        "an image in use is borrowed"
                    );
                }
                let attempt = Attempt::start(self, Program::Carried(*embedded, image), avoid).await?;
                match attempt.run(until).await {
                    Err(LaunchError::Trouble(trouble)) if trouble.other == Some(Other::Image) => {
                        failed = failed.or(Some(LaunchError::Trouble(trouble)));
                    }
                    Err(LaunchError::Trouble(trouble)) if trouble.other == Some(Other::Node) => break,
                    Ok(running) => {
                        *self.borrowed.lock().await = images.to_vec();
                        return Ok(running);
                    }
                    Err(error) => return Err(failed.unwrap_or(error)),
                }
            }
        }
        Err(failed.unwrap_or(LaunchError::NotEmbedded))
    }

    /// Images that a carried agent can be started under.
    async fn images(&self) -> Result<Vec<Borrowed>, LaunchError> {
        if self.embedded.is_empty() {
            return Err(LaunchError::NotEmbedded);
        }
        if self.settings.source == AgentSource::Embedded
            && let Some(image) = &self.settings.pod.image
        {
            return Ok(vec![Borrowed { image: image.clone(), pull_secrets: vec![], node: None, of: None }]);
        }
        let images = images_in_use(&self.access, &self.namespace, &self.targets, self.jobs.limit()).await?;
        if !images.is_empty() {
            return Ok(images);
        }
        // What was good before is on its node still.
        let before = self.borrowed.lock().await.clone();
        if before.is_empty() { Err(LaunchError::NoImage(self.namespace.clone())) } else { Ok(before) }
    }

    async fn images_if_allowed(&self) -> Result<Vec<Borrowed>, LaunchError> {
        let probe = embedded::config_map(&job_name()?, &self.namespace, &self.owner, b"");
        let allowed = async { Ok(self.jobs.may_have_config_maps(&probe).await?) };
        let (images, ()) = tokio::try_join!(self.images(), allowed)?;
        Ok(images)
    }

    /// Whether the API server answers now, whatever it says.
    pub async fn is_answered(&self) -> bool {
        let pods: Api<Pod> = Api::namespaced(self.access.client(), &self.namespace);
        let list = ListParams::default().labels("job-name=").limit(1);
        let answer = tokio::time::timeout(ANSWER, pods.list_metadata(&list)).await;
        matches!(answer, Ok(Ok(_) | Err(kube::Error::Api(_))))
    }
}

/// What became of a running agent's pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// It was asked to end: streams may go on for the grace.
    Ending,
    /// It is no more.
    Gone(String),
    /// It has ended without ever having been seen to run: another one would do the same.
    Failed(Trouble),
}

impl Running {
    /// For whoever wants to know which it is.
    pub(super) fn name(&self) -> AgentName {
        let (namespace, pod) = (self.namespace.clone(), self.pod.clone());
        AgentName { namespace, pod, origin: self.origin }
    }

    /// Whether others use it too.
    pub fn is_shared(&self) -> bool {
        self.job.is_none()
    }

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
            PodState::Ended(trouble) | PodState::Withdrawn(trouble) if !self.seen.load(Ordering::Relaxed) => {
                Some(Fate::Failed(trouble))
            }
            PodState::Ending | PodState::Withdrawn(_) => Some(Fate::Ending),
            PodState::Ended(trouble) => Some(Fate::Gone(trouble.what)),
            PodState::Running => {
                self.was_seen();
                None
            }
            PodState::Waiting(_) => None,
        }
    }

    /// The agent works, whatever its pod's status says yet.
    pub fn was_seen(&self) {
        self.seen.store(true, Ordering::Relaxed);
    }

    /// Whether the cluster holds the pod for not ready, or it should have ended by now: with an agent that is not
    /// reached, the sign that its node is gone. Its object stays for minutes, or for ever. Of one that has just been started
    /// nobody knows yet.
    pub fn is_given_up(&self, now: Timestamp) -> bool {
        let snapshot = self.pods.snapshot();
        let Some(pod) = snapshot.objects.get(&self.pod) else { return snapshot.synced };
        let status = pod.status.as_ref().filter(|_| phase(pod) != "Pending");
        let conditions = status.and_then(|status| status.conditions.as_deref());
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
