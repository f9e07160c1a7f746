//! `kubectl relay agent status`: each replica on a line.

use futures_util::future::join_all;
use jiff::Timestamp;
use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};
use kube::{Api, ResourceExt, api::ListParams};
use serde::Serialize;

use super::{
    Cluster, SharedError,
    args::StatusArgs,
    metrics::{self, Metrics},
    objects::{AGENT, VERSION},
};
use crate::{
    agent::{
        diagnosis::{PodState, of_pod},
        found::selector,
    },
    cluster::{
        api::{ApiError, Call, made},
        ready::is_ready,
    },
    error::Error,
    version::Format,
};

/// Everything that is told.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    namespace: String,
    /// So many there shall be; `None`: one who may not read Deployments asks.
    #[serde(skip_serializing_if = "Option::is_none")]
    wanted: Option<i32>,
    ready: usize,
    replicas: Vec<Replica>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Replica {
    pod: String,
    state: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<String>,
    age_seconds: u64,
    restarts: i32,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    counts: Option<Counts>,
    /// Why there are no counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

#[derive(Debug, Serialize)]
struct Counts {
    sessions: u64,
    streams: u64,
    flows: u64,
    bytes: u64,
    denied: u64,
}

/// Prints it.
pub(super) async fn tell(cluster: &Cluster, args: &StatusArgs) -> Result<(), Error> {
    let status = gather(cluster).await?;
    match args.output {
        Format::Json => {
            let json = serde_json::to_string(&status).map_err(SharedError::Record)?;
            cluster.output.answer(&json);
        }
        Format::Text => {
            cluster.output.answer(&status.text());
            for replica in &status.replicas {
                if let Some(error) = &replica.error {
                    let hint = "kubectl logs and kubectl describe pod say more";
                    cluster.output.warning(&format!("{}: {error}", replica.pod), Some(hint));
                }
            }
        }
    }
    Ok(())
}

async fn gather(cluster: &Cluster) -> Result<Status, SharedError> {
    let (client, namespace, limit) = (cluster.access.client(), &cluster.namespace, cluster.limit);
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), namespace);
    let get = Call::new("get", "apps", "deployments", namespace).on(AGENT);
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let list = Call::new("list", "", "pods", namespace);
    let params = ListParams::default().labels(&selector());
    let (deployment, pods) =
        tokio::join!(made(get, limit, deployments.get_opt(AGENT)), made(list, limit, pods.list(&params)));
    let deployment = match deployment {
        Err(ApiError::Denied { .. }) => None,
        deployment => deployment?,
    };
    let pods = pods?.items;
    if deployment.is_none() && pods.is_empty() {
        return Err(SharedError::NotInstalled(namespace.clone()));
    }
    let replicas = join_all(pods.iter().map(|pod| replica(cluster, pod))).await;
    Ok(Status {
        namespace: namespace.clone(),
        wanted: deployment.and_then(|deployment| deployment.spec?.replicas),
        ready: pods.iter().filter(|pod| is_ready(pod)).count(),
        replicas,
    })
}

async fn replica(cluster: &Cluster, pod: &Pod) -> Replica {
    let name = pod.name_any();
    let state = of_pod(pod);
    let measured = match state {
        PodState::Running | PodState::Ending => {
            Some(metrics::of_pod(&cluster.access.client(), &cluster.namespace, &name).await)
        }
        _ => None,
    };
    let (metrics, error) = match measured {
        Some(Ok(metrics)) => (Some(metrics), None),
        Some(Err(error)) => (None, Some(error.to_string())),
        None => (None, None),
    };
    let (state, trouble) = match state {
        PodState::Running if is_ready(pod) => ("ready", None),
        PodState::Running => ("starting", None),
        PodState::Ending => ("draining", None),
        PodState::Waiting(trouble) => ("waiting", trouble.map(|trouble| trouble.what)),
        PodState::Ended(trouble) | PodState::Withdrawn(trouble) => ("ended", Some(trouble.what)),
    };
    let created = pod.creation_timestamp().map(|time| time.0);
    let age = created.map(|created| Timestamp::now().duration_since(created).as_secs()).unwrap_or_default();
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_deref());
    let version = metrics.as_ref().and_then(|metrics| metrics.version.clone());
    Replica {
        pod: name,
        state: state.into(),
        version: version.or_else(|| pod.labels().get(VERSION).cloned()),
        node: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
        age_seconds: u64::try_from(age).unwrap_or_default(),
        restarts: statuses.unwrap_or_default().iter().map(|status| status.restart_count).sum(),
        counts: metrics.map(Counts::from),
        error: trouble.or(error),
    }
}

impl From<Metrics> for Counts {
    fn from(metrics: Metrics) -> Self {
        let Metrics { sessions, streams, flows, bytes, denied, .. } = metrics;
        Self { sessions, streams, flows, bytes, denied }
    }
}

impl Status {
    fn text(&self) -> String {
        let heads = [
            "POD", "STATE", "VERSION", "NODE", "AGE", "RESTARTS", "SESSIONS", "STREAMS", "FLOWS", "BYTES",
            "DENIED",
        ];
        let mut rows = vec![heads.map(str::to_owned)];
        rows.extend(self.replicas.iter().map(Replica::row));
        let widths: Vec<usize> = (0..heads.len())
            .map(|column| rows.iter().map(|row| row[column].len()).max().unwrap_or(0))
            .collect();
        let line = |row: &[String; 11]| {
            let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
            cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
        };
        let of = self.wanted.map(|wanted| format!(" of {wanted}")).unwrap_or_default();
        let head = format!("shared agent in namespace {}: {}{of} ready", self.namespace, self.ready);
        [head].into_iter().chain(rows.iter().map(line)).collect::<Vec<_>>().join("\n")
    }
}

impl Replica {
    fn row(&self) -> [String; 11] {
        let text = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".into());
        let count = |of: fn(&Counts) -> u64| match &self.counts {
            Some(counts) => of(counts).to_string(),
            None => "-".into(),
        };
        [
            self.pod.clone(),
            self.state.clone(),
            text(&self.version),
            text(&self.node),
            show_age(self.age_seconds),
            self.restarts.to_string(),
            count(|counts| counts.sessions),
            count(|counts| counts.streams),
            count(|counts| counts.flows),
            self.counts.as_ref().map_or_else(|| "-".into(), |counts| show_bytes(counts.bytes)),
            count(|counts| counts.denied),
        ]
    }
}

/// Coarse, as kubectl's.
fn show_age(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7_200 => format!("{}m", seconds / 60),
        7_200..172_800 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

fn show_bytes(bytes: u64) -> String {
    let unit = |shift: u32| bytes >> shift;
    match bytes {
        0..10_240 => format!("{bytes}B"),
        10_240..10_485_760 => format!("{}KiB", unit(10)),
        10_485_760..10_737_418_240 => format!("{}MiB", unit(20)),
        _ => format!("{}GiB", unit(30)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_replica_is_a_line_whose_columns_are_aligned() {
        let counts = Counts { sessions: 2, streams: 30, flows: 0, bytes: 3 << 20, denied: 1 };
        let replica = |pod: &str, counts| Replica {
            pod: pod.into(),
            state: "ready".into(),
            version: Some("0.1.0".into()),
            node: Some("node-1".into()),
            age_seconds: 7_300,
            restarts: 0,
            counts,
            error: None,
        };
        let replicas = vec![replica("relay-agent-abc", Some(counts)), replica("relay-agent-d", None)];
        let status = Status { namespace: "tools".into(), wanted: Some(2), ready: 2, replicas };
        assert_eq!(
            status.text(),
            "shared agent in namespace tools: 2 of 2 ready\n\
             POD              STATE  VERSION  NODE    AGE  RESTARTS  SESSIONS  STREAMS  FLOWS  BYTES    DENIED\n\
             relay-agent-abc  ready  0.1.0    node-1  2h   0         2         30       0      3072KiB  1\n\
             relay-agent-d    ready  0.1.0    node-1  2h   0         -         -        -      -        -"
        );
        let json = serde_json::to_value(&status).unwrap();
        assert_eq!(json["replicas"][0]["streams"], 30);
        assert!(json["replicas"][1].get("streams").is_none());
    }
}
