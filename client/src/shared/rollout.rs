//! Waiting until a Deployment has become what was applied, with a word on what stands in the way.

use std::{collections::HashSet, time::Duration};

use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Event, Pod},
};
use kube::{Api, ResourceExt, runtime::watcher};
use tokio::time::{Instant, timeout_at};

use super::{Cluster, SharedError, objects::AGENT};
use crate::{
    agent::{
        diagnosis::{PodState, Trouble, of_event, of_pod},
        found::selector,
    },
    cluster::{api::Call, follow::Follow},
};

/// The label by which a Deployment tells its pods of one template from those of another.
const TEMPLATE: &str = "pod-template-hash";

/// Waits until every replica is of this generation and ready.
pub(super) async fn finished(
    cluster: &Cluster,
    generation: i64,
    timeout: Duration,
) -> Result<(), SharedError> {
    let (access, namespace) = (&cluster.access, &cluster.namespace);
    let by_name = watcher::Config::default().fields(&format!("metadata.name={AGENT}"));
    let deployments = Follow::<Deployment>::start(
        access,
        Api::namespaced(access.client(), namespace),
        by_name,
        Call::new("list", "apps", "deployments", namespace),
    );
    let pods = Follow::<Pod>::start(
        access,
        Api::namespaced(access.client(), namespace),
        watcher::Config::default().labels(&selector()),
        Call::new("list", "", "pods", namespace),
    );
    let (mut deployment_changes, mut pod_changes) = (deployments.subscribe(), pods.subscribe());
    let deadline = Instant::now() + timeout;
    let (mut told, mut last) = (HashSet::new(), None);
    loop {
        let (known, known_pods) = (deployments.snapshot(), pods.snapshot());
        if let Some(error) = known.error.or(known_pods.error).filter(|error| !error.is_transient()) {
            return Err(error.into());
        }
        if let Some(deployment) = known.objects.values().next().filter(|known| is_seen(known, generation)) {
            if is_finished(deployment) {
                return Ok(());
            }
            let pods: Vec<&Pod> = known_pods.objects.values().map(AsRef::as_ref).collect();
            for trouble in troubles(deployment, &pods) {
                if trouble.fatal {
                    return Err(SharedError::Trouble(trouble));
                }
                if told.insert(trouble.hint.clone()) {
                    cluster.output.warning(&trouble.what, Some(&trouble.hint));
                }
                last = Some(trouble);
            }
        }
        let changed = async {
            // Closed they cannot be: the followers live as long as the wait.
            tokio::select! {
                _ = deployment_changes.changed() => {}
                _ = pod_changes.changed() => {}
            }
        };
        if timeout_at(deadline, changed).await.is_err() {
            return Err(SharedError::NotReady { waited: timeout, trouble: last });
        }
    }
}

/// Whether the status is about this generation already.
fn is_seen(deployment: &Deployment, generation: i64) -> bool {
    let seen = deployment.status.as_ref().and_then(|status| status.observed_generation);
    seen.is_some_and(|seen| seen >= generation)
}

fn is_finished(deployment: &Deployment) -> bool {
    let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    let Some(status) = &deployment.status else { return false };
    let number = |number: Option<i32>| number.unwrap_or(0);
    number(status.updated_replicas) == wanted
        && number(status.replicas) == wanted
        && number(status.available_replicas) == wanted
}

/// What keeps pods of the latest template from being made, or from running.
fn troubles(deployment: &Deployment, pods: &[&Pod]) -> Vec<Trouble> {
    let conditions = deployment.status.as_ref().and_then(|status| status.conditions.as_deref());
    let refused = conditions.unwrap_or_default().iter().filter_map(|condition| {
        let is_refusal = condition.type_ == "ReplicaFailure" && condition.status == "True";
        let message = condition.message.clone().filter(|_| is_refusal);
        of_event(&Event { reason: Some("FailedCreate".into()), message: Some(message?), ..Event::default() })
    });
    let living = || pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none());
    let template = |pod: &Pod| pod.labels().get(TEMPLATE).cloned();
    let latest =
        living().max_by_key(|pod| pod.creation_timestamp().map(|time| time.0)).map(|pod| template(pod));
    let waiting = living().filter(|pod| Some(template(pod)) == latest).filter_map(|pod| match of_pod(pod) {
        PodState::Waiting(trouble) => trouble,
        // It is started again.
        PodState::Ended(trouble) => Some(Trouble { fatal: false, ..trouble }),
        PodState::Running | PodState::Ending | PodState::Withdrawn(_) => None,
    });
    refused.chain(waiting).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn deployment(status: serde_json::Value) -> Deployment {
        serde_json::from_value(
            json!({"spec": {"replicas": 2, "selector": {}, "template": {}}, "status": status}),
        )
        .unwrap()
    }

    #[test]
    fn it_is_finished_when_only_ready_pods_of_the_new_template_are_there() {
        let whole =
            json!({"observedGeneration": 2, "replicas": 2, "updatedReplicas": 2, "availableReplicas": 2});
        assert!(is_finished(&deployment(whole.clone())));
        for (field, number) in [("replicas", 3), ("updatedReplicas", 1), ("availableReplicas", 1)] {
            let mut status = whole.clone();
            status[field] = number.into();
            assert!(!is_finished(&deployment(status)), "{field}");
        }
        assert!(is_seen(&deployment(whole.clone()), 2) && !is_seen(&deployment(whole), 3));
    }

    #[test]
    fn what_ails_an_old_pod_is_not_told() {
        let pod = |hash: &str, created: &str, reason: &str| -> Pod {
            serde_json::from_value(json!({
                "metadata": {"name": hash, "creationTimestamp": created, "labels": {TEMPLATE: hash}},
                "status": {"phase": "Pending", "containerStatuses": [{"name": "agent", "image": "r/i:1", "imageID": "",
                    "ready": false, "restartCount": 0, "state": {"waiting": {"reason": reason}}}]},
            }))
            .unwrap()
        };
        let old = pod("a", "2030-01-01T00:00:00Z", "CrashLoopBackOff");
        let new = pod("b", "2030-01-02T00:00:00Z", "ErrImagePull");
        let troubles = troubles(&deployment(json!({})), &[&new, &old]);
        assert_eq!(troubles.len(), 1);
        assert!(troubles[0].what.contains("cannot be pulled"), "{}", troubles[0].what);
    }

    #[test]
    fn a_pod_that_is_not_admitted_is_told_from_the_deployment() {
        let message = "pods \"x\" is forbidden: violates PodSecurity \"restricted:latest\": hostNetwork";
        let condition = json!({"type": "ReplicaFailure", "status": "True", "message": message});
        let troubles = troubles(&deployment(json!({"conditions": [condition]})), &[]);
        assert!(troubles[0].fatal && troubles[0].what.contains("Pod Security"), "{}", troubles[0].what);
    }
}
