//! The Jobs that this run has made, and the ConfigMaps of those that bring their own program: none is left behind, not
//! even one whose creation was still on its way.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use http::{
    HeaderValue, StatusCode,
    header::{ACCEPT, CONTENT_TYPE},
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::{batch::v1::Job, core::v1::ConfigMap};
use kube::{
    Api, Resource,
    api::{DeleteParams, ListParams, PostParams, Request},
};
use tokio::{sync::Mutex, time::timeout};
use tokio_util::sync::CancellationToken;

use super::{
    embedded::owned_by,
    identity::{MANAGED_BY, Owner},
    wire,
};
use crate::cluster::{
    access::Access,
    api::{ApiError, Call, made},
};

/// An own Job without a pod is left alone so long: its pod may be about to be made.
const OLD: SignedDuration = SignedDuration::from_mins(10);
/// How long to wait for a creation on its way before looking whether it has made something already: its answer may be
/// lost.
const CREATION_GRACE: Duration = Duration::from_secs(1);
/// Nobody needs the megabyte that was sent in the answer too.
const METADATA: HeaderValue =
    HeaderValue::from_static("application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json");

/// Makes and removes Jobs in one namespace. Cheap to clone.
#[derive(Clone)]
pub struct Jobs {
    api: Api<Job>,
    config_maps: Api<ConfigMap>,
    namespace: String,
    limit: Duration,
    made: Arc<Mutex<BTreeMap<String, Made>>>,
}

/// What was created, or is being created, under one name.
#[derive(Clone)]
struct Made {
    /// Cancelled when the creation has ended, one way or the other.
    created: CancellationToken,
    has_config_map: bool,
}

/// A creation that did not work out.
struct NotMade {
    error: Box<ApiError>,
    /// The Job is there all the same.
    has_job: bool,
}

impl Jobs {
    /// `limit` is `--request-timeout`.
    pub fn new(access: &Access, namespace: &str, limit: Duration) -> Self {
        Self {
            api: Api::namespaced(access.client(), namespace),
            config_maps: Api::namespaced(access.client(), namespace),
            namespace: namespace.into(),
            limit,
            made: Arc::default(),
        }
    }

    /// `--request-timeout`.
    pub fn limit(&self) -> Duration {
        self.limit
    }

    fn call(&self, verb: &'static str) -> Call {
        Call::new(verb, "batch", "jobs", &self.namespace)
    }

    fn config_map_call(&self, verb: &'static str) -> Call {
        Call::new(verb, "", "configmaps", &self.namespace)
    }

    /// Creates a Job, and then the ConfigMap that it is to own, if it needs one: what is owned cannot outlive its owner,
    /// whatever becomes of this run, and the pod waits for it. The creation goes on when the caller stops waiting, so
    /// that it can be undone.
    ///
    /// # Errors
    /// What the API server says. The Job may be there all the same.
    pub async fn create(&self, job: Job, config_map: Option<ConfigMap>) -> Result<(), ApiError> {
        let name = job.metadata.name.clone().unwrap_or_default();
        let has_config_map = config_map.is_some();
        let (sender, answer) = tokio::sync::oneshot::channel();
        let (this, created) = (self.clone(), CancellationToken::new());
        // Known before it is under way: the caller may stop waiting at any time.
        let made = Made { created: created.clone(), has_config_map };
        self.made.lock().await.insert(name.clone(), made);
        tokio::spawn(async move {
            let _ended = created.drop_guard();
            // Nobody waits any more when the run is ending.
            let _ = sender.send(this.create_both(&job, config_map).await);
        });
        let ending = || ApiError::Other { call: self.call("create"), message: "the run is ending".into() };
        match answer.await.unwrap_or_else(|_| Err(NotMade { error: ending().into(), has_job: false })) {
            Ok(()) => Ok(()),
            Err(NotMade { error, has_job }) => {
                if !has_job && !error.is_transient() {
                    self.made.lock().await.remove(&name);
                }
                Err(*error)
            }
        }
    }

    async fn create_both(&self, job: &Job, config_map: Option<ConfigMap>) -> Result<(), NotMade> {
        let created = made(self.call("create"), self.limit, self.api.create(&params(), job)).await;
        let job = created.map_err(|error| NotMade { error: error.into(), has_job: false })?.metadata;
        let Some(mut config_map) = config_map else { return Ok(()) };
        let owner = owned_by(&job.name.unwrap_or_default(), &job.uid.unwrap_or_default());
        config_map.metadata.owner_references = Some(owner);
        let created = made(self.config_map_call("create"), self.limit, self.upload(&config_map)).await;
        created.map_err(|error| NotMade { error: error.into(), has_job: true })
    }

    /// Creates a ConfigMap before the kubelet asks for it, if that can be done: one that it does not find it looks for again
    /// half a second later.
    async fn upload(&self, config_map: &ConfigMap) -> Result<(), kube::Error> {
        let path = ConfigMap::url_path(&(), Some(&self.namespace));
        let request = Request::new(path).create(&params(), wire::encode(config_map));
        let mut request = request.map_err(kube::Error::BuildRequest)?;
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(wire::MEDIA_TYPE));
        request.headers_mut().insert(ACCEPT, METADATA);
        match self.config_maps.clone().into_client().request_text(request).await {
            // Not the API server that everybody has.
            Err(kube::Error::Api(status)) if status.code == StatusCode::UNSUPPORTED_MEDIA_TYPE => {
                self.config_maps.create(&params(), config_map).await.map(drop)
            }
            answer => answer.map(drop),
        }
    }

    /// Asks whether a ConfigMap might be created, without creating any.
    ///
    /// # Errors
    /// Why not.
    pub async fn may_have_config_maps(&self, config_map: &ConfigMap) -> Result<(), ApiError> {
        let params = PostParams { dry_run: true, ..params() };
        made(self.config_map_call("create"), self.limit, self.config_maps.create(&params, config_map))
            .await
            .map(drop)
    }

    /// Removes a Job with its pod and its ConfigMap. One that is gone already counts as removed; one that may still come
    /// is waited for, for as long as its creation takes. Cancellation safe.
    ///
    /// # Errors
    /// What the API server says.
    pub async fn remove(&self, name: &str) -> Result<(), ApiError> {
        let made = self.made.lock().await.get(name).cloned();
        let has_config_map = made.as_ref().is_some_and(|made| made.has_config_map);
        let is_removed = match made {
            Some(Made { created, .. }) if timeout(CREATION_GRACE, created.cancelled()).await.is_err() => {
                let was_there = self.delete(name).await?;
                if !was_there {
                    created.cancelled().await;
                }
                was_there
            }
            _ => false,
        };
        let job = async { if is_removed { Ok(true) } else { self.delete(name).await } };
        let config_map = async {
            if has_config_map && let Err(error) = self.delete_config_map(name).await {
                // Without its owner it goes by itself, a little later.
                tracing::info!(%error, name, "the agent's ConfigMap is left to the cluster");
            }
        };
        let (removed, ()) = tokio::join!(job, config_map);
        removed?;
        self.made.lock().await.remove(name);
        Ok(())
    }

    /// Whether there was such a Job.
    async fn delete(&self, name: &str) -> Result<bool, ApiError> {
        let call = self.call("delete").on(name);
        gone(made(call, self.limit, self.api.delete(name, &DeleteParams::background())).await)
    }

    async fn delete_config_map(&self, name: &str) -> Result<bool, ApiError> {
        let call = self.config_map_call("delete").on(name);
        gone(made(call, self.limit, self.config_maps.delete(name, &DeleteParams::default())).await)
    }

    /// Whether this run has Jobs.
    pub async fn has_made_any(&self) -> bool {
        !self.made.lock().await.is_empty()
    }

    /// The names of the Jobs that this run has made and not removed.
    pub async fn names(&self) -> Vec<String> {
        self.made.lock().await.keys().cloned().collect()
    }

    /// Removes every Job of this run, all at once: none waits for the creation of another.
    ///
    /// # Errors
    /// The last thing that went wrong; the others are tried all the same.
    pub async fn remove_all(&self) -> Result<(), ApiError> {
        let names = self.names().await;
        let removed = futures_util::future::join_all(names.iter().map(|name| self.remove(name))).await;
        removed.into_iter().rfold(Ok(()), Result::and)
    }

    /// Removes the owner's Jobs of earlier runs that have had no pod for ten minutes.
    ///
    /// # Errors
    /// What the API server says.
    pub async fn remove_old(&self, owner: &Owner, now: Timestamp) -> Result<usize, ApiError> {
        let list = ListParams::default().labels(&owner.selector());
        let jobs = made(self.call("list"), self.limit, self.api.list(&list)).await?;
        let mut removed = 0;
        for job in jobs.items.iter().filter(|job| is_old(job, now)) {
            let Some(name) = &job.metadata.name else { continue };
            self.delete(name).await?;
            removed += 1;
        }
        Ok(removed)
    }
}

fn params() -> PostParams {
    PostParams { field_manager: Some(MANAGED_BY.1.into()), ..PostParams::default() }
}

/// Whether there was anything to remove.
fn gone<T>(answer: Result<T, ApiError>) -> Result<bool, ApiError> {
    match answer {
        Ok(_) => Ok(true),
        Err(ApiError::NotFound { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

fn is_old(job: &Job, now: Timestamp) -> bool {
    let status = job.status.as_ref();
    if status.and_then(|status| status.active).unwrap_or(0) > 0 {
        return false;
    }
    let ended = status
        .and_then(|status| status.conditions.as_ref())
        .into_iter()
        .flatten()
        .filter(|condition| matches!(condition.type_.as_str(), "Complete" | "Failed"))
        .filter_map(|condition| condition.last_transition_time.as_ref())
        .map(|time| time.0)
        .max();
    let since = ended.or_else(|| job.metadata.creation_timestamp.as_ref().map(|time| time.0));
    since.is_some_and(|since| now.duration_since(since) >= OLD)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn job(value: serde_json::Value) -> Job {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn only_own_jobs_without_a_pod_for_ten_minutes_are_old() {
        let now: Timestamp = "2030-01-01T01:00:00Z".parse().unwrap();
        let cases = [
            (json!({"metadata": {"creationTimestamp": "2030-01-01T00:49:00Z"}}), true),
            (json!({"metadata": {"creationTimestamp": "2030-01-01T00:51:00Z"}}), false),
            (
                json!({"metadata": {"creationTimestamp": "2030-01-01T00:00:00Z"}, "status": {"active": 1}}),
                false,
            ),
            (
                json!({"metadata": {"creationTimestamp": "2030-01-01T00:00:00Z"}, "status": {"conditions": [
                    {"type": "Failed", "status": "True", "lastTransitionTime": "2030-01-01T00:55:00Z"}]}}),
                false,
            ),
            (json!({"metadata": {}}), false),
        ];
        for (value, old) in cases {
            assert_eq!(is_old(&job(value.clone()), now), old, "{value}");
        }
    }
}
