//! What a new agent waits for, in the words of somebody who waits too.

use k8s_openapi::api::core::v1::{Event, Pod};

/// How far the pod is, told by its object and the names of its events.
pub(super) fn waits_for<'a>(pod: Option<&Pod>, events: impl Iterator<Item = &'a Event>) -> String {
    let Some(pod) = pod else { return "waiting for the agent's pod".into() };
    let Some(node) = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) else {
        return "waiting for a node that takes the agent's pod".into();
    };
    let (mut pulls, mut pulled) = (false, false);
    for event in events {
        match event.reason.as_deref() {
            Some("Pulling") => pulls = true,
            Some("Pulled" | "Created" | "Started") => pulled = true,
            _ => {}
        }
    }
    if pulls && !pulled {
        format!("waiting for node {node} to pull the agent's image")
    } else {
        format!("waiting for node {node} to start the agent")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_step_is_told() {
        let pod = |node: Option<&str>| -> Pod {
            serde_json::from_value(json!({"metadata": {}, "spec": {"containers": [], "nodeName": node}}))
                .unwrap()
        };
        let events = |reasons: &[&str]| -> Vec<Event> {
            let event = |reason| json!({"metadata": {}, "involvedObject": {}, "reason": reason});
            reasons.iter().map(|reason| serde_json::from_value(event(reason)).unwrap()).collect()
        };
        let told = |pod: Option<Pod>, reasons: &[&str]| waits_for(pod.as_ref(), events(reasons).iter());
        assert_eq!(told(None, &[]), "waiting for the agent's pod");
        assert_eq!(told(Some(pod(None)), &[]), "waiting for a node that takes the agent's pod");
        assert_eq!(told(Some(pod(Some("n1"))), &["Scheduled"]), "waiting for node n1 to start the agent");
        let pulling = told(Some(pod(Some("n1"))), &["Scheduled", "Pulling"]);
        assert_eq!(pulling, "waiting for node n1 to pull the agent's image");
        let pulled = told(Some(pod(Some("n1"))), &["Pulling", "Pulled"]);
        assert_eq!(pulled, "waiting for node n1 to start the agent");
    }
}
