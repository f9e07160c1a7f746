//! etcd, API server, controller manager and scheduler.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use rustix::process::Signal;

use super::binaries::{ApiVersion, Binaries};
use super::kubectl::Kubectl;
use super::plan::Plan;
use super::sandbox::Sandbox;
use crate::shell;

/// The API server's name among the node's services.
pub(crate) const API_SERVER: &str = "kube-apiserver";
const READY: Duration = Duration::from_secs(90);

/// Starts etcd.
pub(crate) fn ensure_etcd(plan: &Plan, sandbox: &Sandbox, binaries: &Binaries) -> Result<()> {
    let arguments = [
        format!("--data-dir={}", plan.text("etcd")),
        "--name=default".to_owned(),
        "--listen-client-urls=http://127.0.0.1:2379".to_owned(),
        "--advertise-client-urls=http://127.0.0.1:2379".to_owned(),
        "--listen-peer-urls=http://127.0.0.1:2380".to_owned(),
        "--initial-advertise-peer-urls=http://127.0.0.1:2380".to_owned(),
        "--initial-cluster=default=http://127.0.0.1:2380".to_owned(),
        // The data never outlives the cluster.
        "--unsafe-no-fsync".to_owned(),
        "--log-level=warn".to_owned(),
    ];
    sandbox.ensure_service("etcd", &binaries.etcd(), &arguments)
}

/// Starts the API server of the given version, unless one runs, and waits until it is ready.
pub(crate) fn ensure_api_server(
    plan: &Plan,
    sandbox: &Sandbox,
    binaries: &Binaries,
    version: ApiVersion,
) -> Result<()> {
    let program = binaries.api_server(version)?;
    sandbox.ensure_service(API_SERVER, &program, &api_server_arguments(plan))?;
    wait_for_api_server(plan, sandbox)
}

/// Waits until the API server says of itself that it is ready.
pub(crate) fn wait_for_api_server(plan: &Plan, sandbox: &Sandbox) -> Result<()> {
    let kubectl = Kubectl::new(plan)?;
    shell::until(READY, || {
        match kubectl.output(&["get", "--raw", "/readyz", "--request-timeout=2s"]) {
            // Waiting on for a process that has ended would be in vain, and hide why it did.
            Err(_) if sandbox.service(API_SERVER).is_none() => Ok(Err(anyhow!("the API server has ended"))),
            answer => answer.map(Ok),
        }
    })
    .flatten()
    .with_context(|| format!("the API server is not ready; see {}", sandbox.log(API_SERVER).display()))?;
    Ok(())
}

/// Ends the API server as an orderly shutdown does. With watches open it would take a minute; what
/// then follows in a real cluster is the supervisor's SIGKILL.
pub(crate) fn stop_api_server(sandbox: &Sandbox) -> Result<()> {
    sandbox.stop_service(API_SERVER, Signal::TERM, Duration::from_secs(5))
}

/// Ends the API server as a crash does.
pub(crate) fn kill_api_server(sandbox: &Sandbox) -> Result<()> {
    sandbox.stop_service(API_SERVER, Signal::KILL, Duration::from_secs(10))
}

/// Starts controller manager and scheduler.
pub(crate) fn ensure_controllers(plan: &Plan, sandbox: &Sandbox, binaries: &Binaries) -> Result<()> {
    let manager = [
        // Where the API server is killed again and again, the only node must not count as lost: its pods would leave their
        // Services for a minute or more, long after the server is back.
        "--node-monitor-grace-period=1h".to_owned(),
        format!("--kubeconfig={}", plan.text("controller-manager.kubeconfig")),
        format!("--root-ca-file={}", plan.text("pki/ca.crt")),
        format!("--service-account-private-key-file={}", plan.text("pki/service-account.key")),
        format!("--cluster-signing-cert-file={}", plan.text("pki/ca.crt")),
        format!("--cluster-signing-key-file={}", plan.text("pki/ca.key")),
        "--use-service-account-credentials=true".to_owned(),
        "--leader-elect=false".to_owned(),
        "--bind-address=127.0.0.1".to_owned(),
    ];
    let program = "kube-controller-manager";
    sandbox.ensure_service(program, &binaries.kubernetes(program), &manager)?;
    let scheduler = [
        format!("--kubeconfig={}", plan.text("scheduler.kubeconfig")),
        "--leader-elect=false".to_owned(),
        "--bind-address=127.0.0.1".to_owned(),
    ];
    let program = "kube-scheduler";
    sandbox.ensure_service(program, &binaries.kubernetes(program), &scheduler)
}

fn api_server_arguments(plan: &Plan) -> Vec<String> {
    let file = |name: &str| plan.text(&format!("pki/{name}"));
    vec![
        "--etcd-servers=http://127.0.0.1:2379".to_owned(),
        "--bind-address=::".to_owned(),
        "--secure-port=6443".to_owned(),
        format!("--advertise-address={}", plan.node_ip()),
        format!("--service-cluster-ip-range={},{}", plan.service_cidr(), plan.service_cidr6()),
        "--authorization-mode=Node,RBAC".to_owned(),
        "--enable-admission-plugins=NodeRestriction".to_owned(),
        "--allow-privileged=true".to_owned(),
        format!("--client-ca-file={}", file("ca.crt")),
        format!("--tls-cert-file={}", file("apiserver.crt")),
        format!("--tls-private-key-file={}", file("apiserver.key")),
        format!("--kubelet-certificate-authority={}", file("ca.crt")),
        format!("--kubelet-client-certificate={}", file("apiserver-kubelet.crt")),
        format!("--kubelet-client-key={}", file("apiserver-kubelet.key")),
        "--kubelet-preferred-address-types=InternalIP".to_owned(),
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local".to_owned(),
        format!("--service-account-key-file={}", file("service-account.pub")),
        format!("--service-account-signing-key-file={}", file("service-account.key")),
    ]
}

/// The version that runs, or ran last: kept so that a restart keeps it.
pub(crate) fn remembered_version(plan: &Plan) -> ApiVersion {
    match std::fs::read_to_string(version_file(plan)) {
        Ok(text) if text.trim() == "1.36" => ApiVersion::V1_36,
        _ => ApiVersion::V1_34,
    }
}

/// Remembers the version for [`remembered_version`].
pub(crate) fn remember_version(plan: &Plan, version: ApiVersion) -> Result<()> {
    let text = match version {
        ApiVersion::V1_34 => "1.34",
        ApiVersion::V1_36 => "1.36",
    };
    Ok(std::fs::write(version_file(plan), text)?)
}

fn version_file(plan: &Plan) -> PathBuf {
    plan.path("api-version")
}
