//! From a typed resource type to the API's own: a table for what everybody uses, the cluster's discovery for the rest.

use std::time::Duration;

use http::Request;
use kube::{
    Client,
    core::{
        ApiResource, GroupVersionKind,
        discovery::v2::{ACCEPT_AGGREGATED_DISCOVERY_V2, APIGroupDiscoveryList},
    },
};

use super::api::{ApiError, Call, made};
use crate::target::Kind;

/// A resource type that the API serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Served {
    /// How to address its objects.
    pub resource: ApiResource,
    /// Whether they live in namespaces.
    pub namespaced: bool,
}

/// Names, then group, version, kind, plural.
const WELL_KNOWN: &[(&[&str], &str, &str, &str, &str)] = &[
    (&["deploy", "deployment", "deployments"], "apps", "v1", "Deployment", "deployments"),
    (&["sts", "statefulset", "statefulsets"], "apps", "v1", "StatefulSet", "statefulsets"),
    (&["ds", "daemonset", "daemonsets"], "apps", "v1", "DaemonSet", "daemonsets"),
    (&["rs", "replicaset", "replicasets"], "apps", "v1", "ReplicaSet", "replicasets"),
    (&["job", "jobs"], "batch", "v1", "Job", "jobs"),
    (
        &["rc", "replicationcontroller", "replicationcontrollers"],
        "",
        "v1",
        "ReplicationController",
        "replicationcontrollers",
    ),
];

/// Finds the resource type that `kind` means.
///
/// # Errors
/// When discovery is refused, or knows no such type.
pub async fn served(client: &Client, kind: &Kind, limit: Duration) -> Result<Option<Served>, ApiError> {
    if let Some(known) = well_known(kind) {
        return Ok(Some(known));
    }
    let groups = tokio::try_join!(list(client, "/api", limit), list(client, "/apis", limit))?;
    Ok(find(kind, &groups.0).or_else(|| find(kind, &groups.1)))
}

fn well_known(kind: &Kind) -> Option<Served> {
    let (_, group, version, name, plural) = WELL_KNOWN.iter().find(|(names, group, version, ..)| {
        names.contains(&kind.name.as_str()) && group_fits(kind, group, version)
    })?;
    let resource = ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, name), plural);
    Some(Served { resource, namespaced: true })
}

fn group_fits(kind: &Kind, group: &str, version: &str) -> bool {
    match kind.group.as_deref() {
        None => true,
        Some(asked) => asked == group || asked == format!("{version}.{group}"),
    }
}

async fn list(client: &Client, path: &str, limit: Duration) -> Result<APIGroupDiscoveryList, ApiError> {
    let call = Call::cluster_wide("get", "", path);
    let request = Request::get(path)
        .header(http::header::ACCEPT, ACCEPT_AGGREGATED_DISCOVERY_V2)
        .body(Vec::new())
        .map_err(kube::Error::HttpError);
    made(call, limit, async { client.request(request?).await }).await
}

/// The first match wins: the API server lists groups and versions in the order of preference.
fn find(kind: &Kind, list: &APIGroupDiscoveryList) -> Option<Served> {
    for group in &list.items {
        let group_name = group.metadata.as_ref().and_then(|meta| meta.name.as_deref()).unwrap_or_default();
        for version in &group.versions {
            let version_name = version.version.as_deref().unwrap_or_default();
            if !group_fits(kind, group_name, version_name) {
                continue;
            }
            for resource in &version.resources {
                let plural = resource.resource.as_deref().unwrap_or_default();
                let served_kind =
                    resource.response_kind.as_ref().and_then(|kind| kind.kind.as_deref()).unwrap_or_default();
                let named = plural == kind.name
                    || resource.singular_resource.as_deref() == Some(kind.name.as_str())
                    || resource.short_names.contains(&kind.name)
                    || served_kind.eq_ignore_ascii_case(&kind.name);
                if named && resource.verbs.iter().any(|verb| verb == "get") {
                    let gvk = GroupVersionKind::gvk(group_name, version_name, served_kind);
                    return Some(Served {
                        resource: ApiResource::from_gvk_with_plural(&gvk, plural),
                        namespaced: resource.scope.as_deref() != Some("Cluster"),
                    });
                }
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::target::Target;

    fn kind(typed: &str) -> Kind {
        match format!("{typed}/x").parse() {
            Ok(Target::Workload(kind, _)) => kind,
            other => panic!("{other:?}"),
        }
    }

    fn discovered() -> APIGroupDiscoveryList {
        let resource = |plural: &str, singular: &str, kind: &str, short: &[&str], scope: &str| {
            json!({"resource": plural, "singularResource": singular, "scope": scope, "shortNames": short,
                   "verbs": ["get", "list"], "responseKind": {"group": "", "version": "", "kind": kind}})
        };
        serde_json::from_value(json!({
            "items": [
                {"metadata": {"name": "argoproj.io"}, "versions": [
                    {"version": "v1alpha1", "resources": [resource("rollouts", "rollout", "Rollout", &["ro"], "Namespaced")]}]},
                {"metadata": {"name": "other.io"}, "versions": [
                    {"version": "v1", "resources": [resource("rollouts", "rollout", "Rollout", &[], "Cluster")]}]},
            ]
        }))
        .unwrap()
    }

    #[test]
    fn common_kinds_need_no_discovery() {
        for typed in ["deploy", "deployment", "Deployments", "deployments.apps", "deployments.v1.apps"] {
            assert_eq!(well_known(&kind(typed)).unwrap().resource.kind, "Deployment", "{typed}");
        }
        assert_eq!(well_known(&kind("rc")).unwrap().resource.api_version, "v1");
        assert_eq!(well_known(&kind("deployments.extensions")), None);
    }

    #[test]
    fn other_kinds_are_found_by_any_of_their_names() {
        for typed in
            ["rollouts", "rollout", "ro", "Rollout", "rollouts.argoproj.io", "ro.v1alpha1.argoproj.io"]
        {
            let served = find(&kind(typed), &discovered()).unwrap();
            assert_eq!(served.resource.api_version, "argoproj.io/v1alpha1", "{typed}");
            assert!(served.namespaced);
        }
        let other = find(&kind("rollouts.other.io"), &discovered()).unwrap();
        assert_eq!(other.resource.group, "other.io");
        assert!(!other.namespaced);
        assert_eq!(find(&kind("widgets"), &discovered()), None);
    }
}
