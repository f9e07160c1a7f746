//! The Jobs that this run has made: none is left behind, not even one whose creation was still on its way.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::Job;
use kube::{
    Api,
    api::{DeleteParams, ListParams, PostParams},
};
use tokio::{sync::Mutex, time::timeout};
use tokio_util::sync::CancellationToken;

use super::identity::Owner;
use crate::cluster::{
    access::Access,
    api::{ApiError, Call, made},
};

/// An own Job without a pod is left alone so long: its pod may be about to be made.
const OLD: SignedDuration = SignedDuration::from_mins(10);
/// How long to wait for a creation on its way before looking whether it has made something already: its answer may be
/// lost.
const CREATION_GRACE: Duration = Duration::from_secs(1);

/// Makes and removes Jobs in one namespace. Cheap to clone.
#[derive(Clone)]
pub struct Jobs {
    api: Api<Job>,
    namespace: String,
    limit: Duration,
    /// Each with a token that is cancelled when its creation has ended, one way or the other.
    made: Arc<Mutex<BTreeMap<String, CancellationToken>>>,
}

impl Jobs {
    /// `limit` is `--request-timeout`.
    pub fn new(access: &Access, namespace: &str, limit: Duration) -> Self {
        Self {
            api: Api::namespaced(access.client(), namespace),
            namespace: namespace.into(),
            limit,
            made: Arc::default(),
        }
    }

    fn call(&self, verb: &'static str) -> Call {
        Call::new(verb, "batch", "jobs", &self.namespace)
    }

    /// Creates a Job. The creation goes on when the caller stops waiting, so that it can be undone.
    ///
    /// # Errors
    /// What the API server says.
    pub async fn create(&self, job: Job) -> Result<(), ApiError> {
        let name = job.metadata.name.clone().unwrap_or_default();
        let (sender, answer) = tokio::sync::oneshot::channel();
        let (this, created) = (self.clone(), CancellationToken::new());
        // Known before it is under way: the caller may stop waiting at any time.
        self.made.lock().await.insert(name.clone(), created.clone());
        tokio::spawn(async move {
            let _ended = created.drop_guard();
            let params = PostParams { field_manager: Some("kubectl-relay".into()), ..PostParams::default() };
            let created = made(this.call("create"), this.limit, this.api.create(&params, &job));
            // Nobody waits any more when the run is ending.
            let _ = sender.send(created.await.map(drop));
        });
        let answer = answer.await.unwrap_or_else(|_| {
            Err(ApiError::Other { call: self.call("create"), message: "the run is ending".into() })
        });
        if answer.as_ref().is_err_and(|error| !error.is_transient()) {
            self.made.lock().await.remove(&name);
        }
        answer
    }

    /// Removes a Job with its pod. One that is gone already counts as removed; one that may still come is waited for,
    /// for as long as its creation takes. Cancellation safe.
    ///
    /// # Errors
    /// What the API server says.
    pub async fn remove(&self, name: &str) -> Result<(), ApiError> {
        let creation = self.made.lock().await.get(name).cloned();
        let is_removed = match creation {
            Some(creation) if timeout(CREATION_GRACE, creation.cancelled()).await.is_err() => {
                let was_there = self.delete(name).await?;
                if !was_there {
                    creation.cancelled().await;
                }
                was_there
            }
            _ => false,
        };
        if !is_removed {
            self.delete(name).await?;
        }
        self.made.lock().await.remove(name);
        Ok(())
    }

    /// Whether there was such a Job.
    async fn delete(&self, name: &str) -> Result<bool, ApiError> {
        let call = self.call("delete").on(name);
        match made(call, self.limit, self.api.delete(name, &DeleteParams::background())).await {
            Ok(_) => Ok(true),
            Err(ApiError::NotFound { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Removes every Job of this run, all at once: none waits for the creation of another.
    ///
    /// # Errors
    /// The last thing that went wrong; the others are tried all the same.
    pub async fn remove_all(&self) -> Result<(), ApiError> {
        let names: Vec<String> = self.made.lock().await.keys().cloned().collect();
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
