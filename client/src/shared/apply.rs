//! Applying objects, by server-side apply, and telling what became of each.

use k8s_openapi::api::{apps::v1::Deployment, core::v1::Namespace};
use kube::{
    Api,
    api::{Patch, PatchParams, ValidationDirective},
    core::DynamicObject,
};
use serde_json::Value;

use super::{
    Cluster, SharedError,
    args::WantedArgs,
    objects::{AGENT, Object, RECORD, own_namespace},
};
use crate::{
    agent::identity::MANAGED_BY,
    cluster::api::{ApiError, Call, made},
};

/// Whether anything is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DryRun {
    No,
    Server,
}

/// Applies.
pub(super) struct Applier<'a> {
    pub(super) cluster: &'a Cluster,
    pub(super) dry_run: DryRun,
    /// Takes fields over from others.
    pub(super) force: bool,
}

/// What an object's call is named.
pub(super) fn call(verb: &'static str, object: &Object) -> Call {
    let resource = &object.resource;
    match &object.namespace {
        Some(namespace) => Call::new(verb, &resource.group, &resource.plural, namespace),
        None => Call::cluster_wide(verb, &resource.group, &resource.plural),
    }
    .on(&object.name)
}

/// The objects of one kind, where this one is.
pub(super) fn api(cluster: &Cluster, object: &Object) -> Api<DynamicObject> {
    match &object.namespace {
        Some(namespace) => Api::namespaced_with(cluster.access.client(), namespace, &object.resource),
        None => Api::all_with(cluster.access.client(), &object.resource),
    }
}

/// What was installed, as it was wanted.
pub(super) async fn recorded(cluster: &Cluster) -> Result<WantedArgs, SharedError> {
    let deployments: Api<Deployment> = Api::namespaced(cluster.access.client(), &cluster.namespace);
    let call = Call::new("get", "apps", "deployments", &cluster.namespace).on(AGENT);
    let deployment = made(call, cluster.limit, deployments.get_opt(AGENT)).await?;
    let not_installed = || SharedError::NotInstalled(cluster.namespace.clone());
    let annotations = deployment.ok_or_else(not_installed)?.metadata.annotations.unwrap_or_default();
    let record = annotations.get(RECORD).ok_or_else(|| SharedError::NotOurs(cluster.namespace.clone()))?;
    serde_json::from_str(record).map_err(SharedError::Record)
}

impl Applier<'_> {
    /// Applies all of them, in their order; gives the Deployment's generation, unless it is a dry run.
    pub(super) async fn all(&self, objects: &[Object]) -> Result<Option<i64>, SharedError> {
        let has_namespace = self.namespace().await?;
        let mut generation = None;
        for object in objects.iter().filter(|object| object.namespace.is_some()) {
            if !has_namespace {
                self.cluster.output.answer(&format!("{object} not checked: its namespace is not there"));
                continue;
            }
            let applied = self.one(object).await?;
            if object.resource.kind == "Deployment" && self.dry_run == DryRun::No {
                generation = applied.metadata.generation;
            }
        }
        Ok(generation)
    }

    /// Makes the namespace where it is not there. One that is somebody else's is left as it is. Whether it is there now.
    async fn namespace(&self) -> Result<bool, SharedError> {
        let name = &self.cluster.namespace;
        let namespaces: Api<Namespace> = Api::all(self.cluster.access.client());
        let call = Call::cluster_wide("get", "", "namespaces").on(name);
        let there = made(call, self.cluster.limit, namespaces.get_opt(name)).await;
        match there {
            Ok(Some(namespace)) if !is_ours(&namespace) => return Ok(true),
            // Who may not look finds out with the first object.
            Err(ApiError::Denied { .. }) => return Ok(true),
            Ok(Some(_) | None) => {}
            Err(error) => return Err(error.into()),
        }
        self.one(&own_namespace(name)?).await?;
        Ok(self.dry_run == DryRun::No || there.is_ok_and(|there| there.is_some()))
    }

    async fn one(&self, object: &Object) -> Result<DynamicObject, SharedError> {
        let api = api(self.cluster, object);
        let limit = self.cluster.limit;
        // Who may not look is only told less.
        let before = made(call("get", object), limit, api.get_opt(&object.name)).await;
        let params = PatchParams {
            dry_run: self.dry_run == DryRun::Server,
            force: self.force,
            field_manager: Some(MANAGED_BY.1.into()),
            field_validation: Some(ValidationDirective::Strict),
        };
        let patch = Patch::Apply(&object.value);
        let applied = made(call("patch", object), limit, api.patch(&object.name, &params, &patch)).await;
        let applied = applied.map_err(|error| match error {
            ApiError::Other { message, .. } if message.starts_with("Apply failed with") => {
                SharedError::Conflict { object: object.to_string(), message }
            }
            error => error.into(),
        })?;
        let what = match before {
            Ok(None) => "created",
            Ok(Some(before)) if substance(&before) == substance(&applied) => "unchanged",
            Ok(Some(_)) => "configured",
            Err(_) => "applied",
        };
        let dry = if self.dry_run == DryRun::Server { " (server dry run)" } else { "" };
        self.cluster.output.answer(&format!("{object} {what}{dry}"));
        Ok(applied)
    }
}

pub(super) fn is_ours(namespace: &Namespace) -> bool {
    let labels = namespace.metadata.labels.as_ref();
    labels.and_then(|labels| labels.get(MANAGED_BY.0)).is_some_and(|by| by == MANAGED_BY.1)
}

/// An object without what the API server notes about it.
fn substance(object: &DynamicObject) -> Value {
    let mut value = serde_json::to_value(object).unwrap_or_default();
    if let Some(object) = value.as_object_mut() {
        object.remove("status");
    }
    if let Some(metadata) = value["metadata"].as_object_mut() {
        for noted in ["managedFields", "resourceVersion", "generation"] {
            metadata.remove(noted);
        }
    }
    value
}
