//! One Job and the wait for its pod: creates the one, watches the other and the events, says what is in the way.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::Duration,
};

use k8s_openapi::api::core::v1::{Event, Pod};
use kube::{Api, runtime::watcher};
use tokio::{sync::watch, time::Instant};

use super::{
    diagnosis::{self, Other, PodState, Trouble},
    embedded,
    identity::job_name,
    launch::{LaunchError, Launcher, Running},
    progress::waits_for,
    spec::{self, Program},
};
use crate::{
    cluster::{
        api::Call,
        follow::{Follow, Snapshot},
    },
    ledger::AgentOrigin,
    output::Output,
};

/// What was made is removed within this time, or left to end by itself.
const REMOVAL: Duration = Duration::from_secs(5);

/// A namespace that has just been made is whole after this time at the latest. The Job's controller tries again each second
/// until then, and there is nothing to say.
const WHOLE: Duration = Duration::from_secs(5);

/// The seconds that are waited for are told anew so often,
const SECOND: Duration = Duration::from_secs(1);
/// and from this number on: nobody counts less.
const LONG: u64 = 3;

/// A Job whose pod does not run yet.
pub(super) struct Attempt<'a> {
    launcher: &'a Launcher,
    name: String,
    pods: Follow<Pod>,
    _job_events: Follow<Event>,
    _pod_events: Option<Follow<Event>>,
    watch: Watch,
}

impl<'a> Attempt<'a> {
    /// Creates the Job.
    pub(super) async fn start(
        launcher: &'a Launcher,
        program: Program<'_>,
        avoid: Option<&str>,
    ) -> Result<Self, LaunchError> {
        let Launcher { namespace, settings, owner, .. } = launcher;
        launcher.output.waiting("starting an agent");
        let name = job_name()?;
        let job = spec::job(&name, namespace, settings, owner, avoid, program)?;
        let config_map = match program {
            Program::Image => None,
            Program::Carried(agent, _) => Some(embedded::config_map(&name, namespace, owner, agent.file)),
        };
        let pods = Follow::start(
            &launcher.access,
            Api::namespaced(launcher.access.client(), namespace),
            watcher::Config::default().labels(&format!("job-name={name}")),
            Call::new("list", "", "pods", namespace),
        );
        let job_events = events(launcher, "Job", &name);
        let watch = Watch {
            config_map: config_map.is_some().then(|| name.clone()),
            pods: pods.subscribe(),
            job_events: job_events.subscribe(),
            pod_events: None,
            since: Instant::now(),
            told: HashSet::new(),
            events_refused: false,
        };
        let attempt = Self { launcher, name, pods, _job_events: job_events, _pod_events: None, watch };
        match launcher.jobs.create(job, config_map).await {
            Ok(()) => Ok(attempt),
            Err(error) => Err(attempt.undo(error.into()).await),
        }
    }

    /// Waits until the pod runs; removes the Job when it does not come to that.
    pub(super) async fn run(mut self, until: &[Other]) -> Result<Running, LaunchError> {
        match self.wait(until).await {
            Ok(placed) => Ok(self.running(placed)),
            Err(error) => Err(self.undo(error).await),
        }
    }

    /// The agent, whose pod runs now.
    pub(super) fn running(self, Placed { pod, uid, node, seen }: Placed) -> Running {
        self.launcher.output.waiting("connecting to the agent");
        let namespace = self.launcher.namespace.clone();
        let is_carried = self.watch.config_map.is_some();
        let origin = if is_carried { AgentOrigin::Embedded } else { AgentOrigin::Image };
        Running {
            job: Some(self.name),
            origin,
            namespace,
            pod,
            uid,
            node,
            pods: self.pods,
            seen: seen.into(),
        }
    }

    /// Removes what was created; gives the error that was the reason.
    pub(super) async fn undo(self, error: LaunchError) -> LaunchError {
        let removed = tokio::time::timeout(REMOVAL, self.launcher.jobs.remove(&self.name)).await;
        if let Ok(Err(remove)) = removed
            && !matches!(error, LaunchError::Api(_))
        {
            self.launcher.output.warning(&remove.to_string(), Some(&remove.hint()));
        }
        error
    }

    /// Waits until the pod runs, or its agent has been started at least. What stands in the way is told and waited for, and
    /// ends the wait where it is one of `until`, which another attempt would do otherwise.
    pub(super) async fn wait(&mut self, until: &[Other]) -> Result<Placed, LaunchError> {
        let Self { launcher, pods, watch, _pod_events: pod_events, .. } = self;
        let began = Instant::now();
        let deadline = began + launcher.timeout;
        let mut last = None;
        loop {
            let snapshot = pods.snapshot();
            if let Some(error) = snapshot.error.filter(|error| !error.is_transient()) {
                return Err(error.into());
            }
            let pod = snapshot.objects.values().next().cloned();
            let state = pod.as_deref().map(diagnosis::of_pod);
            let placed = |pod: &Pod, seen| Placed {
                pod: pod.metadata.name.clone().unwrap_or_default(),
                uid: pod.metadata.uid.clone().unwrap_or_default(),
                node: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
                seen,
            };
            match (&state, &pod) {
                (Some(PodState::Running), Some(pod)) => return Ok(placed(pod, true)),
                (Some(PodState::Waiting(_)), Some(pod)) if watch.has_started(pod) => {
                    return Ok(placed(pod, false));
                }
                _ => {}
            }
            if pod_events.is_none()
                && let Some(name) = pod.as_ref().and_then(|pod| pod.metadata.name.as_deref())
            {
                launcher.access.connect_ahead();
                let follow = events(launcher, "Pod", name);
                watch.pod_events = Some(follow.subscribe());
                *pod_events = Some(follow);
            }
            let waits_for = watch.waits_for(pod.as_deref());
            launcher.output.waiting(&match began.elapsed().as_secs() {
                0..LONG => waits_for,
                seconds => format!("{seconds} s: {waits_for}"),
            });
            let mut troubles = watch.troubles(&launcher.output, pod.is_some());
            match state {
                Some(PodState::Ended(trouble) | PodState::Withdrawn(trouble)) => {
                    return Err(LaunchError::Trouble(trouble));
                }
                Some(PodState::Waiting(trouble)) => troubles.extend(trouble),
                _ => {}
            }
            for trouble in troubles.into_iter().map(|trouble| launcher.advised(trouble)) {
                if trouble.fatal || trouble.other.is_some_and(|other| until.contains(&other)) {
                    return Err(LaunchError::Trouble(trouble));
                }
                // Kubernetes words one trouble in several ways; what to do about it stays the same.
                if watch.told.insert(trouble.hint.clone()) {
                    launcher.output.warning(&trouble.what, Some(&trouble.hint));
                }
                last = Some(trouble);
            }
            let next = deadline.min(Instant::now() + SECOND);
            let has_changed = tokio::time::timeout_at(next, watch.changed()).await.is_ok();
            if !has_changed && Instant::now() >= deadline {
                return Err(LaunchError::TimedOut { waited: launcher.timeout, trouble: last });
            }
        }
    }
}

fn events(launcher: &Launcher, kind: &str, name: &str) -> Follow<Event> {
    Follow::start(
        &launcher.access,
        Api::namespaced(launcher.access.client(), &launcher.namespace),
        watcher::Config::default().fields(&format!("involvedObject.kind={kind},involvedObject.name={name}")),
        Call::new("list", "", "events", &launcher.namespace),
    )
}

/// A pod that runs.
pub(super) struct Placed {
    pod: String,
    uid: String,
    node: Option<String>,
    /// Its status says so; else an event does, which comes earlier.
    seen: bool,
}

/// What an attempt is waiting for, and what it has said already.
struct Watch {
    config_map: Option<String>,
    pods: watch::Receiver<Snapshot<Pod>>,
    job_events: watch::Receiver<Snapshot<Event>>,
    pod_events: Option<watch::Receiver<Snapshot<Event>>>,
    since: Instant,
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

    /// The pod's own events so far, once they are looked at.
    fn events_of_pod(&self) -> Option<Arc<BTreeMap<String, Arc<Event>>>> {
        self.pod_events.as_ref().map(|events| Arc::clone(&events.borrow().objects))
    }

    /// What the pod is waiting for, when nothing is wrong.
    fn waits_for(&self, pod: Option<&Pod>) -> String {
        let events = self.events_of_pod();
        waits_for(pod, events.iter().flat_map(|events| events.values()).map(|event| &**event))
    }

    fn has_started(&self, pod: &Pod) -> bool {
        self.events_of_pod()
            .is_some_and(|events| events.values().any(|event| diagnosis::is_start(event, pod)))
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
        let pod_events = self.events_of_pod();
        let job_objects = (!has_pod).then_some(job_events.objects);
        [job_objects, pod_events]
            .into_iter()
            .flatten()
            .flat_map(|objects| {
                let worth = objects.values().filter(|event| !self.is_on_its_way(event));
                worth.filter_map(|event| diagnosis::of_event(event)).collect::<Vec<_>>()
            })
            .collect()
    }

    /// The pod may be there before its ConfigMap, and the Job before its namespace's service account: they wait for it.
    fn is_on_its_way(&self, event: &Event) -> bool {
        if diagnosis::is_of_a_new_namespace(event) && self.since.elapsed() < WHOLE {
            return true;
        }
        let missing = |name: &String| format!("configmap \"{name}\" not found");
        let message = event.message.as_deref().unwrap_or_default();
        self.config_map.as_ref().is_some_and(|name| message.contains(&missing(name)))
    }
}
