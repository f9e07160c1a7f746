//! Images that the cluster has already, for an agent that brings its own program: those of the targets' pods first, then
//! of any pod in the namespace. Of the image nothing is used; it only has to be there.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::{Api, api::ListParams};

use super::identity::MANAGED_BY;
use crate::cluster::{
    access::Access,
    api::{ApiError, Call, made},
    resolve::TargetPods,
};

/// So many pods are looked at.
const PODS: u32 = 50;
/// So many images are tried.
const IMAGES: usize = 3;
/// The annotation that names the container that matters.
const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";

/// An image to start a carried agent under.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Borrowed {
    /// The image.
    pub image: String,
    /// What it was pulled with.
    pub pull_secrets: Vec<String>,
    /// A node that has it.
    pub node: Option<String>,
    /// The pod whose image it is; `None`: the user named it.
    pub of: Option<String>,
}

/// Images in use now, the best ones first: in the agent's namespace those of the targets, then all; then those of targets
/// elsewhere, whose secrets are not at hand.
///
/// # Errors
/// What the API server says to listing the agent's namespace.
pub async fn images_in_use(
    access: &Access,
    namespace: &str,
    targets: &[(String, TargetPods)],
    limit: Duration,
) -> Result<Vec<Borrowed>, ApiError> {
    let lent = |pods: &[Pod], secrets: bool| -> Vec<_> {
        pods.iter().filter_map(|pod| lend(pod, secrets)).collect()
    };
    let (mut at_home, mut elsewhere) = (Vec::new(), Vec::new());
    for (theirs, target) in targets {
        // What may not be seen there is no worse than what is not there.
        let pods = list(access, theirs, Some(target), limit).await.unwrap_or_default();
        if theirs == namespace {
            at_home.extend(lent(&pods, true));
        } else {
            elsewhere.extend(lent(&pods, false));
        }
    }
    let all = lent(&list(access, namespace, None, limit).await?, true);
    let in_order = [at_home, all, elsewhere];
    let mut images: Vec<Borrowed> = Vec::new();
    for borrowed in in_order.into_iter().flatten() {
        if images.len() < IMAGES && images.iter().all(|known| known.image != borrowed.image) {
            images.push(borrowed);
        }
    }
    Ok(images)
}

async fn list(
    access: &Access,
    namespace: &str,
    target: Option<&TargetPods>,
    limit: Duration,
) -> Result<Vec<Pod>, ApiError> {
    let running = ListParams::default().limit(PODS);
    let params = match target {
        None => running.fields("status.phase=Running"),
        Some(TargetPods::Selected(selector)) => running.fields("status.phase=Running").labels(selector),
        Some(TargetPods::Named(name)) => {
            running.fields(&format!("status.phase=Running,metadata.name={name}"))
        }
    };
    let pods: Api<Pod> = Api::namespaced(access.client(), namespace);
    Ok(made(Call::new("list", "", "pods", namespace), limit, pods.list(&params)).await?.items)
}

/// The image of a pod's container that runs, so that its node surely has it.
fn lend(pod: &Pod, secrets: bool) -> Option<Borrowed> {
    // An agent of ours has the image that is missing, or borrows itself.
    if pod
        .metadata
        .labels
        .as_ref()
        .and_then(|labels| labels.get(MANAGED_BY.0))
        .is_some_and(|by| by == MANAGED_BY.1)
    {
        return None;
    }
    let spec = pod.spec.as_ref()?;
    let windows = |os: &str| os == "windows";
    let selected = spec.node_selector.as_ref().and_then(|selector| selector.get("kubernetes.io/os"));
    if spec.os.as_ref().is_some_and(|os| windows(&os.name)) || selected.is_some_and(|os| windows(os)) {
        return None;
    }
    let statuses = pod.status.as_ref()?.container_statuses.as_deref()?;
    let runs = |name: &str| {
        let state = statuses.iter().find(|status| status.name == name)?.state.as_ref()?;
        state.running.as_ref()
    };
    let main = pod.metadata.annotations.as_ref().and_then(|annotations| annotations.get(DEFAULT_CONTAINER));
    let mut running: Vec<_> =
        spec.containers.iter().filter(|container| runs(&container.name).is_some()).collect();
    running.sort_by_key(|container| main != Some(&container.name));
    let image = running.first()?.image.clone()?;
    let pull_secrets = spec.image_pull_secrets.iter().flatten().filter(|_| secrets);
    Some(Borrowed {
        image,
        pull_secrets: pull_secrets.map(|secret| secret.name.clone()).collect(),
        node: spec.node_name.clone(),
        of: pod.metadata.name.clone(),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(changes: impl FnOnce(&mut Value)) -> Pod {
        let mut pod = json!({
            "metadata": {"name": "web-1"},
            "spec": {
                "nodeName": "node-1",
                "imagePullSecrets": [{"name": "s"}],
                "containers": [{"name": "sidecar", "image": "r/sidecar:1"}, {"name": "web", "image": "r/web:1"}],
            },
            "status": {"containerStatuses": [
                {"name": "sidecar", "image": "", "imageID": "", "ready": true, "restartCount": 0, "state": {"running": {}}},
                {"name": "web", "image": "", "imageID": "", "ready": true, "restartCount": 0, "state": {"running": {}}}]},
        });
        changes(&mut pod);
        serde_json::from_value(pod).unwrap()
    }

    #[test]
    fn the_image_of_a_running_container_is_lent_with_its_secrets_and_its_node() {
        let lent = lend(&pod(|_| {}), true).unwrap();
        assert_eq!(
            lent,
            Borrowed {
                image: "r/sidecar:1".into(),
                pull_secrets: vec!["s".into()],
                node: Some("node-1".into()),
                of: Some("web-1".into()),
            }
        );
        assert_eq!(lend(&pod(|_| {}), false).unwrap().pull_secrets, [""; 0]);
    }

    #[test]
    fn the_container_that_matters_comes_first_if_it_runs() {
        let main = |pod: &mut Value| pod["metadata"]["annotations"] = json!({DEFAULT_CONTAINER: "web"});
        assert_eq!(lend(&pod(main), true).unwrap().image, "r/web:1");
        let waits = |pod: &mut Value| {
            main(pod);
            pod["status"]["containerStatuses"][1]["state"] = json!({"waiting": {}});
        };
        assert_eq!(lend(&pod(waits), true).unwrap().image, "r/sidecar:1");
    }

    #[test]
    fn nothing_is_lent_by_agents_of_ours_by_windows_and_by_pods_that_do_not_run() {
        let ours = |pod: &mut Value| pod["metadata"]["labels"] = json!({MANAGED_BY.0: MANAGED_BY.1});
        let windows = |pod: &mut Value| pod["spec"]["os"] = json!({"name": "windows"});
        let selects_windows =
            |pod: &mut Value| pod["spec"]["nodeSelector"] = json!({"kubernetes.io/os": "windows"});
        let starts = |pod: &mut Value| pod["status"]["containerStatuses"] = json!([]);
        for none in [pod(ours), pod(windows), pod(selects_windows), pod(starts)] {
            assert_eq!(lend(&none, true), None);
        }
    }
}
