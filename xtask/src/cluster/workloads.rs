//! What runs in the cluster from the start: its name server and the test services.

use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::kubectl::Kubectl;
use super::plan::Plan;
use crate::{image, shell};

const DNS: &str = include_str!("../../manifests/dns.yaml");
const WORKLOADS: &str = include_str!("../../manifests/workloads.yaml");

/// Creates or updates them.
pub(crate) fn apply(plan: &Plan, image_digest: &str) -> Result<()> {
    let kubectl = Kubectl::new(plan)?;
    let fill = |manifest: &str| {
        manifest
            .replace("{{DNS_IP}}", plan.dns_ip())
            .replace("{{HOST_IP}}", &plan.host_ip())
            .replace("{{DNS_DIGEST}}", &image::sha256(DNS.as_bytes())[..12])
            .replace("{{IMAGE_DIGEST}}", &image_digest[..12])
    };
    kubectl.apply(&fill(DNS)).context("the name server")?;
    // Pods are refused until the controllers have made this.
    shell::until(Duration::from_secs(60), || kubectl.output(&["get", "serviceaccount", "default"]))?;
    // A bare pod and a Job keep the program that they began with; only new ones have the new program.
    for object in ["pod/pod-echo", "job/job-echo"] {
        let note = if object.starts_with("pod") { ".metadata" } else { ".spec.template.metadata" };
        let query = format!("jsonpath={{{note}.annotations.relay\\.test/digest}}");
        let digest = kubectl.output(&["get", object, "--ignore-not-found", "-o", &query])?;
        if !digest.is_empty() && digest != image_digest[..12] {
            kubectl.output(&["delete", object, "--wait"])?;
        }
    }
    kubectl.apply(&fill(WORKLOADS)).context("the test services")
}

/// Waits until the node is ready, names are resolved and every test service answers.
pub(crate) fn wait(plan: &Plan) -> Result<()> {
    let kubectl = Kubectl::new(plan)?;
    let node = format!("node/{}", plan.node());
    shell::until(Duration::from_secs(60), || kubectl.output(&["get", &node]))?;
    kubectl.output(&["wait", "--for=condition=Ready", &node, "--timeout=120s"])?;
    kubectl.output(&["-n", "kube-system", "rollout", "status", "deployment/coredns", "--timeout=120s"])?;
    for workload in ["deployment/web", "statefulset/sts", "daemonset/ds"] {
        kubectl.output(&["rollout", "status", workload, "--timeout=120s"])?;
    }
    let bare = ["wait", "--for=condition=Ready", "pod", "-l", "app in (pod-echo,job-echo)", "--timeout=120s"];
    // Nothing to wait for is an error of `kubectl wait`, and the Job's pod comes a moment after the Job.
    shell::until(Duration::from_secs(30), || {
        kubectl
            .output(&["get", "pod", "-l", "app=job-echo", "-o", "name"])
            .and_then(|pods| if pods.is_empty() { bail!("the Job job-echo has no pod") } else { Ok(()) })
    })?;
    kubectl.output(&bare)?;
    // Ready pods are not yet reachable ones: kube-proxy writes its rules a moment later.
    shell::until(Duration::from_secs(60), || {
        let get = ["exec", "pod-echo", "--", "/relay-workload", "get", "web.default.svc.cluster.local:80"];
        let page = kubectl.output(&get)?;
        if page.contains("host: web-") { Ok(()) } else { bail!("unexpected page: {page}") }
    })
    .context("the service web, by its name, from a pod")
}
