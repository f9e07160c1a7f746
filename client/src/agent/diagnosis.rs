//! Why the agent's pod does not run, in sentences: from the pod's status and from the events of the Job and the pod.

use k8s_openapi::api::core::v1::{ContainerStatus, Event, Pod};

use super::spec::{CONTAINER, VOLUME};
use crate::cluster::ready::phase;

/// Something that keeps the agent from running.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// What is wrong, and why.
    pub what: String,
    /// What to do about it.
    pub hint: String,
    /// Waiting cannot help: the run ends at once.
    pub fatal: bool,
    /// What could be changed about the agent, where that may help.
    pub other: Option<Other>,
}

/// What another attempt could do differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Other {
    /// This image cannot be had.
    Image,
    /// No node is such as was asked for.
    Node,
    /// The namespace lets no such pod in: a quota or a rule.
    Admission,
}

/// How far a pod is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PodState {
    /// On its way, perhaps with something in the way.
    Waiting(Option<Trouble>),
    /// The agent's container runs.
    Running,
    /// It runs, and was asked to end.
    Ending,
    /// It was asked to end before its status told that it runs.
    Withdrawn(Trouble),
    /// It has ended, or cannot ever run.
    Ended(Trouble),
}

/// Reads a pod's status.
pub fn of_pod(pod: &Pod) -> PodState {
    let status = pod.status.as_ref();
    let containers = status.and_then(|status| status.container_statuses.as_deref()).unwrap_or_default();
    let inits = status.and_then(|status| status.init_container_statuses.as_deref()).unwrap_or_default();
    let agent = containers.iter().find(|container| container.name == CONTAINER);
    if let Some(ended) = agent.and_then(|agent| ended(agent, is_carried(pod))) {
        return PodState::Ended(ended);
    }
    if phase(pod) == "Failed" || phase(pod) == "Succeeded" {
        return PodState::Ended(pod_failed(pod));
    }
    let running = agent.and_then(|agent| agent.state.as_ref()).is_some_and(|state| state.running.is_some());
    let leaving = pod.metadata.deletion_timestamp.is_some();
    match (running, leaving) {
        (true, true) => return PodState::Ending,
        (true, false) => return PodState::Running,
        (false, true) => {
            return PodState::Withdrawn(Trouble {
                what: "the agent's pod was deleted before it ran".into(),
                hint: "find out who deletes pods in this namespace, or use another with --server.namespace"
                    .into(),
                fatal: true,
                other: None,
            });
        }
        (false, false) => {}
    }
    let waiting = containers.iter().chain(inits).find_map(waiting);
    PodState::Waiting(waiting.or_else(|| unschedulable(pod)))
}

fn waiting(container: &ContainerStatus) -> Option<Trouble> {
    let waiting = container.state.as_ref()?.waiting.as_ref()?;
    let message = one_line(waiting.message.as_deref().unwrap_or_default());
    let said = if message.is_empty() { String::new() } else { format!(": {message}") };
    let image = &container.image;
    let pull_hint = "name an image that the nodes can pull with --server.image, with --server.pull-secret if it \
                     needs credentials";
    let trouble =
        |what: String, hint: &str, fatal| Some(Trouble { what, hint: hint.into(), fatal, other: None });
    let no_image =
        |trouble: Option<Trouble>| trouble.map(|trouble| Trouble { other: Some(Other::Image), ..trouble });
    let reason = match waiting.reason.as_deref().unwrap_or_default() {
        // Some runtimes find out only when they pull.
        "ErrImagePull" | "ImagePullBackOff" if message.contains("invalid reference format") => {
            "InvalidImageName"
        }
        reason => reason,
    };
    match reason {
        "ErrImagePull" | "ImagePullBackOff" | "RegistryUnavailable" => {
            no_image(trouble(format!("the image {image} cannot be pulled{said}"), pull_hint, false))
        }
        "InvalidImageName" => no_image(trouble(
            format!("the image name {image} is not valid{said}"),
            "write it as REGISTRY/NAME:TAG with --server.image",
            true,
        )),
        "ErrImageNeverPull" => no_image(trouble(
            format!("the image {image} is not on the node, and the pull policy is Never{said}"),
            "load it onto the nodes, or let it be pulled by patching imagePullPolicy",
            true,
        )),
        "CreateContainerConfigError" | "CreateContainerError" | "RunContainerError" => trouble(
            format!("the agent's container cannot be made from {image}{said}"),
            "check the image with --server.image, and the patch if you gave one",
            true,
        ),
        "CrashLoopBackOff" => trouble(
            format!("a container of the agent's pod keeps failing{said}"),
            "check the image, and the patch if you gave one",
            true,
        ),
        _ => None,
    }
}

/// Whether the agent's program comes from a ConfigMap.
fn is_carried(pod: &Pod) -> bool {
    let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.as_deref()).unwrap_or_default();
    volumes.iter().any(|volume| volume.name == VOLUME)
}

fn ended(container: &ContainerStatus, carried: bool) -> Option<Trouble> {
    let ended = container.state.as_ref()?.terminated.as_ref()?;
    let message = one_line(ended.message.as_deref().unwrap_or_default());
    let said = if message.is_empty() { String::new() } else { format!(": {message}") };
    let what = match ended.reason.as_deref() {
        Some("OOMKilled") => "the agent used up its memory and was ended by the node".to_owned(),
        Some("StartError" | "ContainerCannotRun") => {
            format!("the agent's program cannot be run from {}{said}", container.image)
        }
        Some("Completed") => "the agent has ended".to_owned(),
        // What it logged before has nothing to do with it.
        _ if let signal @ 1..=64 = ended.exit_code - 128 => {
            format!("the agent was killed by signal {signal}")
        }
        _ => format!("the agent ended with exit code {}{said}", ended.exit_code),
    };
    let hint = match ended.reason.as_deref() {
        Some("OOMKilled") => "give it more memory with --server.limits memory=256Mi",
        _ if carried => {
            "start it under another image with --server.image, or from an image of its own with --agent-source image"
        }
        _ => "check that --server.image is an agent of this version, made for the node's architecture",
    };
    Some(Trouble { what, hint: hint.into(), fatal: true, other: None })
}

fn pod_failed(pod: &Pod) -> Trouble {
    let status = pod.status.as_ref();
    let reason = status.and_then(|status| status.reason.as_deref()).unwrap_or("it ended");
    let message = one_line(status.and_then(|status| status.message.as_deref()).unwrap_or_default());
    let said = if message.is_empty() { String::new() } else { format!(": {message}") };
    Trouble {
        what: format!("the agent's pod is over ({reason}){said}"),
        hint: "run the command again; kubectl get events says more".into(),
        fatal: true,
        other: None,
    }
}

fn unschedulable(pod: &Pod) -> Option<Trouble> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let scheduled = conditions.iter().find(|condition| condition.type_ == "PodScheduled")?;
    if scheduled.status != "False" {
        return None;
    }
    let message = one_line(scheduled.message.as_deref().unwrap_or("the scheduler gives no reason"));
    Some(Trouble {
        what: format!("no node takes the agent's pod: {message}"),
        hint: "steer it with --server.node-selector, --server.toleration or --server.requests".into(),
        fatal: false,
        // The scheduler's words for nodes whose labels do not fit; older ones leave "Pod's" out.
        other: message.contains("node affinity/selector").then_some(Other::Node),
    })
}

/// Whether an event tells that this pod's agent has been started. The node says so at once, where the pod's status follows
/// the node's next look at its containers, up to a second later.
pub fn is_start(event: &Event, pod: &Pod) -> bool {
    let of = &event.involved_object;
    event.reason.as_deref() == Some("Started")
        && of.uid.is_some()
        && of.uid == pod.metadata.uid
        && of.field_path.as_deref() == Some(&format!("spec.containers{{{CONTAINER}}}"))
}

/// Whether an event tells of something that a namespace just made has a moment later: its service account.
pub fn is_of_a_new_namespace(event: &Event) -> bool {
    event.reason.as_deref() == Some("FailedCreate")
        && event.message.as_deref().is_some_and(lacks_service_account)
}

/// The words of the API server's ServiceAccount admission.
fn lacks_service_account(message: &str) -> bool {
    message.contains("error looking up service account") && message.contains("not found")
}

/// Reads an event of the agent's Job or pod.
pub fn of_event(event: &Event) -> Option<Trouble> {
    let message = one_line(event.message.as_deref().unwrap_or_default());
    let trouble =
        |what: String, hint: &str, fatal| Some(Trouble { what, hint: hint.into(), fatal, other: None });
    let not_admitted = |trouble: Option<Trouble>| {
        trouble.map(|trouble| Trouble { other: Some(Other::Admission), ..trouble })
    };
    match event.reason.as_deref().unwrap_or_default() {
        "FailedCreate" if message.contains("exceeded quota") => not_admitted(trouble(
            format!("a quota leaves no room for the agent's pod: {}", after_forbidden(&message)),
            "free some of it (kubectl describe quota), ask for less with --server.requests and --server.limits, or \
             use another namespace with --server.namespace",
            false,
        )),
        "FailedCreate" if message.contains("violates PodSecurity") => not_admitted(trouble(
            format!("Pod Security does not admit the agent's pod: {}", after_forbidden(&message)),
            "the agent itself fits \"restricted\": take from the patch what the rule names, or use another namespace \
             with --server.namespace",
            true,
        )),
        "FailedCreate" if lacks_service_account(&message) => not_admitted(trouble(
            format!("the agent's pod waits for its service account: {}", after_forbidden(&message)),
            "kubectl get serviceaccounts lists those there are; the cluster makes \"default\" with each namespace, and \
             another name comes from your patch",
            false,
        )),
        "FailedCreate" if message.contains("denied the request") || message.contains("is forbidden") => {
            not_admitted(trouble(
                format!("the cluster does not admit the agent's pod: {}", after_forbidden(&message)),
                "change the pod with -p/--patch as the rule asks, or use another namespace with --server.namespace",
                true,
            ))
        }
        "FailedCreate" => trouble(
            format!("the agent's pod cannot be made: {message}"),
            "kubectl get events says more",
            false,
        ),
        // The node's own look at the ConfigMap took more than a second, and it looks again half a second later.
        "FailedMount" if message.contains("failed to sync") && message.contains("timed out") => None,
        "FailedMount" if message.contains(&format!("volume \"{VOLUME}\"")) => trouble(
            format!("the node cannot have the agent that this plugin carries: {message}"),
            "kubectl get events says more; --server.node-selector picks another node",
            false,
        ),
        "FailedMount" | "FailedAttachVolume" => trouble(
            format!("a volume of the agent's pod cannot be had: {message}"),
            "check the volumes in your patch",
            false,
        ),
        "FailedCreatePodSandBox" => trouble(
            format!("the node cannot make the agent's pod: {message}"),
            "kubectl describe node says more; --server.node-selector picks another one",
            false,
        ),
        _ => None,
    }
}

/// `pods "x" is forbidden: why` without its beginning, which says nothing to a user.
fn after_forbidden(message: &str) -> &str {
    message.split_once("is forbidden: ").map_or(message, |(_, why)| why)
}

/// On one line, and without what a terminal would obey: some of it is what a pod has said.
fn one_line(text: &str) -> String {
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    words.chars().filter(|letter| !letter.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(status: Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "a"}, "status": status})).unwrap()
    }

    fn container(state: Value) -> Pod {
        pod(json!({"phase": "Pending", "containerStatuses": [
            {"name": "agent", "image": "r/i:1", "imageID": "", "ready": false, "restartCount": 0, "state": state}]}))
    }

    fn event(reason: &str, message: &str) -> Event {
        serde_json::from_value(
            json!({"metadata": {}, "involvedObject": {}, "reason": reason, "message": message}),
        )
        .unwrap()
    }

    #[test]
    fn an_image_that_cannot_be_pulled_is_waited_for() {
        let state =
            of_pod(&container(json!({"waiting": {"reason": "ErrImagePull", "message": "not  found"}})));
        let PodState::Waiting(Some(trouble)) = state else { panic!("{state:?}") };
        assert_eq!(trouble.what, "the image r/i:1 cannot be pulled: not found");
        assert!(!trouble.fatal);
        assert_eq!(trouble.other, Some(Other::Image));
    }

    #[test]
    fn an_image_that_cannot_be_used_ends_the_run() {
        for reason in ["InvalidImageName", "ErrImageNeverPull", "RunContainerError"] {
            let state = of_pod(&container(json!({"waiting": {"reason": reason}})));
            assert!(
                matches!(&state, PodState::Waiting(Some(trouble)) if trouble.fatal),
                "{reason}: {state:?}"
            );
        }
        let ended = of_pod(&container(
            json!({"terminated": {"exitCode": 128, "reason": "StartError", "message": "exec format error"}}),
        ));
        let PodState::Ended(trouble) = ended else { panic!("{ended:?}") };
        assert_eq!(trouble.what, "the agent's program cannot be run from r/i:1: exec format error");
    }

    #[test]
    fn a_pod_that_no_node_takes_is_told_in_the_schedulers_words() {
        let state = of_pod(&pod(json!({"phase": "Pending", "conditions": [
            {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes are available: 1 Insufficient cpu."}]})));
        let PodState::Waiting(Some(trouble)) = state else { panic!("{state:?}") };
        assert_eq!(
            trouble.what,
            "no node takes the agent's pod: 0/1 nodes are available: 1 Insufficient cpu."
        );
        assert!(!trouble.fatal);
    }

    #[test]
    fn a_pod_that_fits_no_nodes_labels_may_fit_with_others() {
        let message = "0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector.";
        let state = of_pod(&pod(json!({"phase": "Pending", "conditions": [
            {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}]})));
        let PodState::Waiting(Some(trouble)) = state else { panic!("{state:?}") };
        assert_eq!(trouble.other, Some(Other::Node));
    }

    #[test]
    fn a_carried_agent_that_ends_is_not_blamed_on_its_image() {
        let mut pod =
            container(json!({"terminated": {"exitCode": 126, "reason": "Error", "message": "launcher: no"}}));
        pod.spec = serde_json::from_value(json!({"containers": [], "volumes": [{"name": VOLUME}]})).unwrap();
        let PodState::Ended(trouble) = of_pod(&pod) else { panic!("it has ended") };
        assert_eq!(trouble.what, "the agent ended with exit code 126: launcher: no");
        assert!(trouble.hint.starts_with("start it under another image"), "{}", trouble.hint);
    }

    #[test]
    fn a_running_container_is_what_we_wait_for() {
        assert_eq!(of_pod(&container(json!({"running": {}}))), PodState::Running);
        assert_eq!(of_pod(&pod(json!({"phase": "Pending"}))), PodState::Waiting(None));
        let mut leaving = container(json!({"running": {}}));
        leaving.metadata.deletion_timestamp = serde_json::from_value(json!("2030-01-01T00:00:00Z")).unwrap();
        assert_eq!(of_pod(&leaving), PodState::Ending);
    }

    #[test]
    fn a_killed_agent_is_told_by_its_signal_and_not_by_its_log() {
        let killed =
            json!({"terminated": {"exitCode": 137, "reason": "Error", "message": "0.000 INFO listening"}});
        let PodState::Ended(trouble) = of_pod(&container(killed)) else { panic!("it has ended") };
        assert_eq!(trouble.what, "the agent was killed by signal 9");
        let failed = json!({"terminated": {"exitCode": 2, "reason": "Error", "message": "no such flag"}});
        let PodState::Ended(trouble) = of_pod(&container(failed)) else { panic!("it has ended") };
        assert_eq!(trouble.what, "the agent ended with exit code 2: no such flag");
    }

    #[test]
    fn an_agents_last_words_do_not_command_the_terminal() {
        let said = "bad\u{1b}]0;title\u{7} \u{9b}2J flag";
        let failed = json!({"terminated": {"exitCode": 2, "reason": "Error", "message": said}});
        let PodState::Ended(trouble) = of_pod(&container(failed)) else { panic!("it has ended") };
        assert_eq!(trouble.what, "the agent ended with exit code 2: bad]0;title 2J flag");
    }

    #[test]
    fn an_evicted_pod_is_over() {
        let state = of_pod(&pod(
            json!({"phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: memory."}),
        ));
        let PodState::Ended(trouble) = state else { panic!("{state:?}") };
        assert_eq!(trouble.what, "the agent's pod is over (Evicted): The node was low on resource: memory.");
    }

    #[test]
    fn the_start_of_another_container_or_of_an_earlier_pod_is_not_the_agents() {
        let mut pod = pod(json!({}));
        pod.metadata.uid = Some("u".into());
        let tells = |reason: &str, uid: Option<&str>, path: &str| {
            let of = json!({"uid": uid, "fieldPath": path});
            let event = json!({"metadata": {}, "involvedObject": of, "reason": reason});
            is_start(&serde_json::from_value(event).unwrap(), &pod)
        };
        assert!(tells("Started", Some("u"), "spec.containers{agent}"));
        assert!(!tells("Created", Some("u"), "spec.containers{agent}"));
        assert!(!tells("Started", Some("u"), "spec.containers{sidecar}"));
        assert!(!tells("Started", Some("u"), "spec.initContainers{agent}"));
        assert!(!tells("Started", Some("v"), "spec.containers{agent}"));
        assert!(!tells("Started", None, "spec.containers{agent}"));
    }

    #[test]
    fn a_volume_is_blamed_on_a_patch_only_if_it_comes_from_one_and_not_while_the_node_looks_again() {
        let of_mount = |volume: &str, why: &str| {
            let message = format!("MountVolume.SetUp failed for volume \"{volume}\" : {why}");
            of_event(&event("FailedMount", &message))
        };
        let slow = "failed to sync configmap cache: timed out waiting for the condition";
        assert_eq!(of_mount(VOLUME, slow), None);
        let absent = "configmap \"c\" not found";
        let ours = of_mount(VOLUME, absent).unwrap();
        assert!(ours.what.ends_with(absent), "{}", ours.what);
        assert!(!ours.hint.contains("patch"), "{}", ours.hint);
        assert_eq!(of_mount("data", absent).unwrap().hint, "check the volumes in your patch");
    }

    #[test]
    fn a_refused_pod_is_told_from_the_jobs_events() {
        let quota = of_event(&event(
            "FailedCreate",
            "Error creating: pods \"a-1\" is forbidden: exceeded quota: q, requested: pods=1, used: pods=0, limited: pods=0",
        ))
        .unwrap();
        assert_eq!(
            quota.what,
            "a quota leaves no room for the agent's pod: exceeded quota: q, requested: pods=1, used: pods=0, limited: pods=0"
        );
        assert!(!quota.fatal);

        let security = of_event(&event(
            "FailedCreate",
            "Error creating: pods \"a-1\" is forbidden: violates PodSecurity \"restricted:latest\": host namespaces (hostNetwork=true)",
        ))
        .unwrap();
        assert_eq!(
            security.what,
            "Pod Security does not admit the agent's pod: violates PodSecurity \"restricted:latest\": host namespaces (hostNetwork=true)"
        );
        assert!(security.fatal);

        let early = event(
            "FailedCreate",
            "Error creating: pods \"a-\" is forbidden: error looking up service account n/default: \
             serviceaccount \"default\" not found",
        );
        assert!(is_of_a_new_namespace(&early));
        let early = of_event(&early).unwrap();
        assert_eq!(
            early.what,
            "the agent's pod waits for its service account: error looking up service account n/default: \
             serviceaccount \"default\" not found"
        );
        assert!(!early.fatal);

        let webhook = of_event(&event(
            "FailedCreate",
            "Error creating: admission webhook \"w\" denied the request: no",
        ))
        .unwrap();
        assert!(webhook.fatal);
        assert!(!is_of_a_new_namespace(&event("FailedCreate", "admission webhook \"w\" denied the request")));
        assert_eq!(of_event(&event("SuccessfulCreate", "Created pod: a-1")), None);
    }
}
