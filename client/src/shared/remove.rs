//! Removing what install has made: found by its labels, and gone when this ends.

use std::{future::Future, time::Duration};

use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Namespace, Pod, ServiceAccount},
    networking::v1::NetworkPolicy,
    policy::v1::PodDisruptionBudget,
    rbac::v1::{Role, RoleBinding},
};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams},
    core::{ApiResource, DynamicObject},
    discovery::{Discovery, Scope, verbs},
    runtime::watcher,
};
use tokio::time::{Instant, timeout_at};

use super::{Cluster, SharedError, apply::is_ours, args::UninstallArgs, objects::shown};
use crate::{
    agent::{
        found::{COMPONENT, selector},
        identity::MANAGED_BY,
    },
    cluster::{
        api::{ApiError, Call, made},
        follow::Follow,
    },
};

/// What every namespace has without anybody's doing.
const BY_THEMSELVES: &[(&str, &str)] = &[("ConfigMap", "kube-root-ca.crt"), ("ServiceAccount", "default")];

/// Removes it, and waits until it is gone.
pub(super) async fn uninstall(cluster: &Cluster, args: &UninstallArgs) -> Result<(), SharedError> {
    let deadline = Instant::now() + args.timeout;
    let client = cluster.access.client();
    let pods = Follow::<Pod>::start(
        &cluster.access,
        Api::namespaced(client.clone(), &cluster.namespace),
        watcher::Config::default().labels(&selector()),
        Call::new("list", "", "pods", &cluster.namespace),
    );
    let resources = [
        ApiResource::erase::<Deployment>(&()),
        ApiResource::erase::<PodDisruptionBudget>(&()),
        ApiResource::erase::<NetworkPolicy>(&()),
        ApiResource::erase::<RoleBinding>(&()),
        ApiResource::erase::<Role>(&()),
        ApiResource::erase::<ServiceAccount>(&()),
    ];
    let mut removed = 0;
    for resource in &resources {
        removed += remove_kind(cluster, resource).await?;
    }
    // With the Deployment its pods are asked to end, and their streams may finish.
    let mut left = pods.subscribe();
    let gone = async {
        pods.synced().await?;
        // Closed it cannot be: the follower lives as long as the wait.
        let _ = left.wait_for(|pods| pods.synced && pods.objects.is_empty()).await;
        Ok(())
    };
    in_time(deadline, args.timeout, "a pod of the shared agent", gone).await?;
    if !remove_namespace(cluster, deadline, args.timeout).await? && removed == 0 {
        cluster.output.note(&format!("there was no shared agent in namespace \"{}\"", cluster.namespace));
    }
    Ok(())
}

async fn in_time(
    deadline: Instant,
    waited: Duration,
    what: &str,
    gone: impl Future<Output = Result<(), ApiError>>,
) -> Result<(), SharedError> {
    let still_there = || SharedError::StillThere { what: what.into(), waited };
    Ok(timeout_at(deadline, gone).await.map_err(|_| still_there())??)
}

async fn remove_kind(cluster: &Cluster, resource: &ApiResource) -> Result<usize, SharedError> {
    let Cluster { namespace, limit, .. } = cluster;
    let call = |verb| Call::new(verb, &resource.group, &resource.plural, namespace);
    let api: Api<DynamicObject> = Api::namespaced_with(cluster.access.client(), namespace, resource);
    let ours = format!("{}={},{}={}", MANAGED_BY.0, MANAGED_BY.1, COMPONENT.0, COMPONENT.1);
    let list = made(call("list"), *limit, api.list_metadata(&ListParams::default().labels(&ours))).await?;
    for object in &list.items {
        let name = object.name_any();
        let params = DeleteParams::background();
        match made(call("delete").on(&name), *limit, api.delete(&name, &params)).await {
            Ok(_) => cluster.output.answer(&format!("{}/{name} deleted", shown(resource))),
            Err(ApiError::NotFound { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(list.items.len())
}

/// Removes the namespace if install has made it and nobody has put anything else into it. Whether it was there.
async fn remove_namespace(
    cluster: &Cluster,
    deadline: Instant,
    waited: Duration,
) -> Result<bool, SharedError> {
    let Cluster { namespace: name, limit, .. } = cluster;
    let namespaces: Api<Namespace> = Api::all(cluster.access.client());
    let call = |verb| Call::cluster_wide(verb, "", "namespaces").on(name);
    let namespace = match made(call("get"), *limit, namespaces.get_opt(name)).await {
        Ok(namespace) => namespace.filter(is_ours),
        // Who may not look has not made it either.
        Err(ApiError::Denied { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    if namespace.is_none() {
        return Ok(false);
    }
    if let Some(other) = anything_else(cluster).await? {
        cluster.output.note(&format!("namespace \"{name}\" stays: {other} is in it"));
        return Ok(true);
    }
    let follow = Follow::<Namespace>::start(
        &cluster.access,
        namespaces.clone(),
        watcher::Config::default().fields(&format!("metadata.name={name}")),
        Call::cluster_wide("list", "", "namespaces"),
    );
    made(call("delete"), *limit, namespaces.delete(name, &DeleteParams::background())).await?;
    let mut left = follow.subscribe();
    let gone = async {
        follow.synced().await?;
        let _ = left.wait_for(|namespaces| namespaces.synced && namespaces.objects.is_empty()).await;
        Ok(())
    };
    in_time(deadline, waited, &format!("namespace \"{name}\""), gone).await?;
    cluster.output.answer(&format!("namespace/{name} deleted"));
    Ok(true)
}

/// Something in the namespace that was there before, or came later. What may not be looked at counts.
async fn anything_else(cluster: &Cluster) -> Result<Option<String>, SharedError> {
    let client = cluster.access.client();
    let discovered = made(
        Call::cluster_wide("get", "", "/apis"),
        cluster.limit,
        Discovery::new(client.clone()).run_aggregated(),
    );
    let discovered = discovered.await?;
    let resources = discovered.groups().flat_map(kube::discovery::ApiGroup::recommended_resources);
    let listable =
        resources.filter(|(_, can)| can.scope == Scope::Namespaced && can.supports_operation(verbs::LIST));
    for (resource, _) in
        listable.filter(|(resource, _)| !["Event", "PodMetrics"].contains(&resource.kind.as_str()))
    {
        let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), &cluster.namespace, &resource);
        let call = Call::new("list", &resource.group, &resource.plural, &cluster.namespace);
        let list = made(call, cluster.limit, api.list_metadata(&ListParams::default().limit(10))).await?;
        let other = list.items.iter().find(|object| {
            !BY_THEMSELVES.contains(&(resource.kind.as_str(), object.name_any().as_str()))
                && object.metadata.deletion_timestamp.is_none()
                && object.metadata.owner_references.is_none()
        });
        if let Some(other) = other {
            return Ok(Some(format!("{}/{}", shown(&resource), other.name_any())));
        }
    }
    Ok(None)
}
