//! Whether there is room for the agent's pod: its namespace, what is admitted there, what quotas leave, and the nodes.

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::{
    api::{
        batch::v1::Job,
        core::v1::{Container, LimitRange, Namespace, Node, Pod, ResourceQuota},
    },
    apimachinery::pkg::api::resource::Quantity,
};
use kube::{
    Api, Client, ResourceExt,
    api::{ListParams, ObjectMeta, PostParams},
};

use super::{
    quantity::parse,
    report::{Line, Report},
};
use crate::{
    agent::embedded::EMBEDDED,
    cluster::api::{ApiError, Call, made},
};

/// The label that says what pods must be like.
const POD_SECURITY: &str = "pod-security.kubernetes.io/enforce";

/// The agent that is to be started, and where.
pub(super) struct Room<'a> {
    pub(super) client: Client,
    pub(super) namespace: &'a str,
    pub(super) job: &'a Job,
    /// It may be tried whether a pod would be admitted.
    pub(super) may_try_pods: bool,
    /// The agent may come out of this plugin.
    pub(super) embedded_only: bool,
    pub(super) limit: Duration,
}

impl Room<'_> {
    /// False where nothing can be started.
    pub(super) async fn examine(&self, report: &Report) -> bool {
        let mut unread = Vec::new();
        let is_there = self.namespace(&mut unread, report).await;
        let is_admitted = is_there && self.admission(&mut unread, report).await;
        if is_there {
            self.nodes(&mut unread, report).await;
        }
        if !unread.is_empty() {
            let message = format!("not readable for you, and not needed: {}", unread.join(", "));
            report.tell(Line::note("unread", message));
        }
        is_admitted
    }

    fn call(&self, verb: &'static str, group: &str, resource: &str) -> Call {
        Call::new(verb, group, resource, self.namespace)
    }

    async fn namespace(&self, unread: &mut Vec<&'static str>, report: &Report) -> bool {
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        let call = Call::cluster_wide("get", "", "namespaces").on(self.namespace);
        match made(call, self.limit, namespaces.get(self.namespace)).await {
            Ok(namespace) => {
                let level = namespace.labels().get(POD_SECURITY);
                let level = level.map_or_else(
                    || "has no Pod Security level".to_owned(),
                    |level| format!("enforces Pod Security \"{level}\", which the agent fits"),
                );
                report.tell(Line::ok("namespace", format!("\"{}\" {level}", self.namespace)));
            }
            Err(ApiError::NotFound { .. } | ApiError::NoNamespace(_)) => {
                let message = format!("there is no namespace \"{}\"", self.namespace);
                report.tell(Line::failed(
                    "namespace",
                    message,
                    "name another one with -n or --server.namespace",
                ));
                return false;
            }
            Err(ApiError::Denied { .. }) => unread.push("namespaces"),
            Err(error) => report.tell(Line::warning("namespace", error.to_string(), error.hint())),
        }
        true
    }

    /// Creates the agent's Job, and its pod where that is allowed, without creating them.
    async fn admission(&self, unread: &mut Vec<&'static str>, report: &Report) -> bool {
        let params = PostParams { dry_run: true, ..PostParams::default() };
        let jobs: Api<Job> = Api::namespaced(self.client.clone(), self.namespace);
        let tried = made(self.call("create", "batch", "jobs"), self.limit, jobs.create(&params, self.job));
        match tried.await {
            Ok(_) => {}
            Err(error) => {
                report.tell(Line::failed("admission", error.to_string(), error.hint()));
                return false;
            }
        }
        if !self.may_try_pods {
            report
                .tell(Line::ok("admission", "the agent's Job would be admitted (its pod may not be tried)"));
            let has_room = self.quotas(unread, report).await;
            return self.limit_ranges(unread, report).await && has_room;
        }
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), self.namespace);
        let pod = self.pod();
        match made(self.call("create", "", "pods"), self.limit, pods.create(&params, &pod)).await {
            Ok(_) => {
                report.tell(Line::ok("admission", "the agent's Job and its pod would be admitted"));
                true
            }
            Err(error) => {
                report.tell(Line::failed("admission", error.to_string(), error.hint()));
                false
            }
        }
    }

    /// The pod that the Job would have.
    fn pod(&self) -> Pod {
        let template = self.job.spec.as_ref().map(|spec| spec.template.clone()).unwrap_or_default();
        let metadata = template.metadata.unwrap_or_default();
        let name = self.job.metadata.name.clone();
        let metadata = ObjectMeta { name, namespace: Some(self.namespace.into()), ..metadata };
        Pod { metadata, spec: template.spec, status: None }
    }

    fn containers(&self) -> Vec<Container> {
        self.pod().spec.map(|spec| spec.containers).unwrap_or_default()
    }

    async fn quotas(&self, unread: &mut Vec<&'static str>, report: &Report) -> bool {
        let quotas: Api<ResourceQuota> = Api::namespaced(self.client.clone(), self.namespace);
        let call = self.call("list", "", "resourcequotas");
        let Ok(quotas) = made(call, self.limit, quotas.list(&ListParams::default())).await else {
            unread.push("resourcequotas");
            return true;
        };
        let asks = asked_of_quotas(&self.containers());
        let full: Vec<String> = quotas.iter().flat_map(|quota| used_up(quota, &asks)).collect();
        let hint = format!(
            "free some of it (kubectl describe quota -n {}), ask for less with --server.requests and --server.limits, \
             or use another namespace with --server.namespace",
            self.namespace
        );
        match (quotas.items.len(), full.is_empty()) {
            (0, _) => {}
            (_, true) => report.tell(Line::ok("quota", "it leaves room for the agent's pod")),
            (_, false) => report.tell(Line::failed("quota", full.join("; "), hint)),
        }
        full.is_empty()
    }

    async fn limit_ranges(&self, unread: &mut Vec<&'static str>, report: &Report) -> bool {
        let ranges: Api<LimitRange> = Api::namespaced(self.client.clone(), self.namespace);
        let call = self.call("list", "", "limitranges");
        let Ok(ranges) = made(call, self.limit, ranges.list(&ListParams::default())).await else {
            unread.push("limitranges");
            return true;
        };
        let containers = self.containers();
        let broken: Vec<String> = ranges.iter().flat_map(|range| outside(range, &containers)).collect();
        match (ranges.items.len(), broken.is_empty()) {
            (0, _) => {}
            (_, true) => report.tell(Line::ok("limits", "the agent's pod keeps to the limit ranges")),
            (_, false) => {
                let hint = "ask for what fits with --server.requests and --server.limits";
                report.tell(Line::failed("limits", broken.join("; "), hint));
            }
        }
        broken.is_empty()
    }

    async fn nodes(&self, unread: &mut Vec<&'static str>, report: &Report) {
        let nodes: Api<Node> = Api::all(self.client.clone());
        let call = Call::cluster_wide("list", "", "nodes");
        let Ok(nodes) = made(call, self.limit, nodes.list(&ListParams::default())).await else {
            unread.push("nodes");
            return;
        };
        let carried: Vec<&str> = EMBEDDED.iter().map(|(processor, _)| *processor).collect();
        report.tell(of_nodes(&nodes.items, &carried, self.embedded_only));
    }
}

fn of_nodes(nodes: &[Node], carried: &[&str], embedded_only: bool) -> Line {
    let mut processors: BTreeMap<&str, usize> = BTreeMap::new();
    for node in nodes {
        let info = node.status.as_ref().and_then(|status| status.node_info.as_ref());
        *processors.entry(info.map_or("unknown", |info| info.architecture.as_str())).or_default() += 1;
    }
    let counted: Vec<_> =
        processors.iter().map(|(processor, count)| format!("{count} {processor}")).collect();
    let agents =
        if carried.is_empty() { "no agent".into() } else { format!("agents for {}", carried.join(", ")) };
    let message = format!("{}; this plugin carries {agents}", counted.join(", "));
    if embedded_only && !processors.keys().any(|processor| carried.contains(processor)) {
        let hint = "use --agent-source image with an image for these processors";
        return Line::failed("nodes", message, hint);
    }
    Line::ok("nodes", message)
}

/// What a pod with these containers counts for in a quota.
fn asked_of_quotas(containers: &[Container]) -> BTreeMap<String, f64> {
    let mut asks: BTreeMap<String, f64> =
        ["pods", "count/pods", "count/jobs.batch"].map(|one| (one.to_owned(), 1.0)).into();
    for container in containers {
        let Some(resources) = &container.resources else { continue };
        let kinds = [("requests", &resources.requests), ("limits", &resources.limits)];
        for (kind, quantities) in kinds {
            for (name, quantity) in quantities.iter().flatten() {
                let amount = parse(&quantity.0).unwrap_or_default();
                *asks.entry(format!("{kind}.{name}")).or_default() += amount;
                if kind == "requests" {
                    *asks.entry(name.clone()).or_default() += amount;
                }
            }
        }
    }
    asks
}

fn used_up(quota: &ResourceQuota, asks: &BTreeMap<String, f64>) -> Vec<String> {
    let spec = quota.spec.as_ref();
    // The agent's pod has requests, and no deadline; what is chosen by priority is left to the API server.
    let ours = ["NotBestEffort", "NotTerminating"];
    let scopes = spec.and_then(|spec| spec.scopes.as_deref()).unwrap_or_default();
    if !scopes.iter().all(|scope| ours.contains(&scope.as_str()))
        || spec.is_some_and(|spec| spec.scope_selector.is_some())
    {
        return Vec::new();
    }
    let Some(status) = &quota.status else { return Vec::new() };
    let empty = BTreeMap::new();
    let (hard, used) = (status.hard.as_ref().unwrap_or(&empty), status.used.as_ref().unwrap_or(&empty));
    let full = |(name, hard): (&String, &Quantity)| {
        let ask = asks.get(name)?;
        let zero = Quantity("0".into());
        let used = used.get(name).unwrap_or(&zero);
        let (limit, taken) = (parse(&hard.0)?, parse(&used.0)?);
        // What is computed in binary fractions is not exact.
        let is_over = taken + ask > limit * (1.0 + 1e-9);
        is_over.then(|| format!("quota \"{}\" has {} of {} {name} in use", quota.name_any(), used.0, hard.0))
    };
    hard.iter().filter_map(full).collect()
}

fn outside(range: &LimitRange, containers: &[Container]) -> Vec<String> {
    let mut broken = Vec::new();
    let items = range.spec.iter().flat_map(|spec| &spec.limits).filter(|item| item.type_ == "Container");
    for item in items {
        let resources = containers.iter().filter_map(|container| container.resources.as_ref());
        for resources in resources {
            let mut compare = |bounds: &Option<BTreeMap<String, Quantity>>,
                               ours: &Option<BTreeMap<String, Quantity>>,
                               is_broken: fn(f64, f64) -> bool,
                               what: &str| {
                for (name, bound) in bounds.iter().flatten() {
                    let Some(asked) = ours.as_ref().and_then(|ours| ours.get(name)) else { continue };
                    if let (Some(asked_for), Some(limit)) = (parse(&asked.0), parse(&bound.0))
                        && is_broken(asked_for, limit)
                    {
                        let (range, bound) = (range.name_any(), &bound.0);
                        broken.push(format!(
                            "limit range \"{range}\": {name} {what} {bound}, and the agent's is {}",
                            asked.0
                        ));
                    }
                }
            };
            compare(&item.max, &resources.limits, |asked, max| asked > max, "is at most");
            compare(&item.min, &resources.requests, |asked, min| asked < min, "is at least");
        }
    }
    broken
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn containers() -> Vec<Container> {
        let container = json!({"name": "agent", "resources": {
            "requests": {"cpu": "20m", "memory": "32Mi"}, "limits": {"cpu": "1", "memory": "128Mi"}}});
        vec![serde_json::from_value(container).unwrap()]
    }

    fn quota(spec: serde_json::Value, hard: serde_json::Value, used: serde_json::Value) -> Vec<String> {
        let quota = json!({"metadata": {"name": "q"}, "spec": spec, "status": {"hard": hard, "used": used}});
        used_up(&serde_json::from_value(quota).unwrap(), &asked_of_quotas(&containers()))
    }

    #[test]
    fn a_quota_without_room_is_told_with_what_is_used() {
        assert_eq!(
            quota(
                json!({}),
                json!({"pods": "3", "limits.memory": "1Gi"}),
                json!({"pods": "3", "limits.memory": "1G"})
            ),
            ["quota \"q\" has 1G of 1Gi limits.memory in use", "quota \"q\" has 3 of 3 pods in use"]
        );
        let full = [""; 0];
        assert_eq!(quota(json!({}), json!({"cpu": "100m"}), json!({"cpu": "80m"})), full);
        assert_eq!(quota(json!({}), json!({"services": "0"}), json!({})), full);
        assert_eq!(
            quota(json!({"scopes": ["BestEffort"]}), json!({"pods": "0"}), json!({"pods": "0"})),
            full
        );
        assert_eq!(quota(json!({"scopes": ["NotBestEffort"]}), json!({"pods": "0"}), json!({})).len(), 1);
    }

    #[test]
    fn a_limit_range_that_the_agent_breaks_is_told() {
        let range = |limits| {
            let range = json!({"metadata": {"name": "r"}, "spec": {"limits": [limits]}});
            outside(&serde_json::from_value(range).unwrap(), &containers())
        };
        assert_eq!(
            range(json!({"type": "Container", "max": {"memory": "64Mi"}, "min": {"cpu": "50m"}})),
            [
                "limit range \"r\": memory is at most 64Mi, and the agent's is 128Mi",
                "limit range \"r\": cpu is at least 50m, and the agent's is 20m"
            ]
        );
        assert!(range(json!({"type": "Container", "max": {"memory": "1Gi", "cpu": "1"}})).is_empty());
        assert!(range(json!({"type": "PersistentVolumeClaim", "max": {"storage": "1"}})).is_empty());
    }

    #[test]
    fn nodes_are_held_against_the_agents_that_are_carried() {
        let node = |processor: &str| -> Node {
            let info = json!({"architecture": processor, "bootID": "", "containerRuntimeVersion": "",
                "kernelVersion": "", "kubeProxyVersion": "", "kubeletVersion": "", "machineID": "",
                "operatingSystem": "", "osImage": "", "systemUUID": ""});
            serde_json::from_value(json!({"metadata": {"name": "n"}, "status": {"nodeInfo": info}})).unwrap()
        };
        let nodes = [node("amd64"), node("arm64"), node("amd64")];
        let line = of_nodes(&nodes, &["amd64"], true);
        assert_eq!(line, Line::ok("nodes", "2 amd64, 1 arm64; this plugin carries agents for amd64"));
        assert!(of_nodes(&[node("riscv64")], &["amd64"], true).hint.is_some());
        assert!(of_nodes(&[node("riscv64")], &[], false).hint.is_none());
    }
}
