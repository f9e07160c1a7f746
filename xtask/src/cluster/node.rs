//! What makes the machine's namespaces a node: containerd, kubelet, kube-proxy, and images.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;

use super::binaries::Binaries;
use super::plan::Plan;
use super::sandbox::Sandbox;
use crate::image::{self, Image};
use crate::{paths, shell};

/// The image of the first process of every pod.
const PAUSE: &str = "relay.test/pause:1";
/// The image of the test services.
pub(crate) const WORKLOAD: &str = "relay.test/workload:1";
/// The image of the cluster's name server.
const COREDNS: &str = "relay.test/coredns:1";

/// Starts containerd and waits for its socket.
pub(crate) fn ensure_containerd(plan: &Plan, sandbox: &Sandbox) -> Result<()> {
    fs::create_dir_all(plan.path("cni"))?;
    fs::write(plan.path("cni/10-relay.conflist"), cni(plan).to_string())?;
    fs::write(plan.path("containerd.toml"), containerd_settings(plan))?;
    let arguments = ["--config".to_owned(), plan.text("containerd.toml")];
    sandbox.ensure_service("containerd", Path::new("/usr/bin/containerd"), &arguments)?;
    shell::until(Duration::from_secs(30), || shell::output(ctr(plan, sandbox).arg("version"))).with_context(
        || format!("containerd does not answer; see {}", sandbox.log("containerd").display()),
    )?;
    Ok(())
}

/// Gives the node the images that its own pods need. The result changes when the workload does.
pub(crate) fn ensure_images(
    plan: &Plan,
    sandbox: &Sandbox,
    binaries: &Binaries,
    workload: &Path,
) -> Result<String> {
    let coredns = binaries.coredns();
    let wanted = [
        Image { name: PAUSE, program: workload, entrypoint: &["/relay-workload", "pause"] },
        Image { name: WORKLOAD, program: workload, entrypoint: &["/relay-workload"] },
    ];
    let digest = image::sha256(&fs::read(workload).with_context(|| format!("read {}", workload.display()))?);
    let note = plan.path("images");
    if fs::read_to_string(&note).is_ok_and(|text| text == digest) {
        return Ok(digest);
    }
    let folder = plan.path("archives");
    let mut archives: Vec<PathBuf> = Vec::new();
    for (number, image) in wanted.iter().enumerate() {
        let archive = folder.join(format!("{number}.tar"));
        image::write(image, &archive)?;
        archives.push(archive);
    }
    // Large, and the same for every cluster: it stays beside the program in the cache.
    let archive = coredns.with_extension("tar");
    if !archive.exists() {
        let image = Image { name: COREDNS, program: &coredns, entrypoint: &["/coredns"] };
        image::write(&image, &archive)?;
    }
    archives.push(archive);
    import(plan, sandbox, &archives)?;
    fs::remove_dir_all(&folder)?;
    fs::write(&note, &digest)?;
    Ok(digest)
}

/// Loads image archives into the node.
pub(crate) fn import(plan: &Plan, sandbox: &Sandbox, archives: &[PathBuf]) -> Result<()> {
    for archive in archives {
        let archive =
            archive.canonicalize().with_context(|| format!("no archive at {}", archive.display()))?;
        shell::output(ctr(plan, sandbox).args(["-n", "k8s.io", "images", "import"]).arg(&archive))
            .with_context(|| format!("load {}", archive.display()))?;
    }
    Ok(())
}

/// Starts kubelet and kube-proxy.
pub(crate) fn ensure_agents(plan: &Plan, sandbox: &Sandbox, binaries: &Binaries) -> Result<()> {
    fs::write(plan.path("kubelet.json"), kubelet_settings(plan).to_string())?;
    // Pods get the cluster's name server; this is for pods that ask for the node's.
    fs::write(plan.path("resolv.conf"), format!("nameserver {}\n", plan.dns_ip()))?;
    let kubelet = [
        format!("--config={}", plan.text("kubelet.json")),
        format!("--kubeconfig={}", plan.text("kubelet.kubeconfig")),
        format!("--hostname-override={}", plan.node()),
        format!("--node-ip={},{}", plan.node_ip(), plan.node_ip6()),
    ];
    sandbox.ensure_service("kubelet", &binaries.kubernetes("kubelet"), &kubelet)?;
    let proxy = [
        format!("--kubeconfig={}", plan.text("proxy.kubeconfig")),
        format!("--hostname-override={}", plan.node()),
        format!("--cluster-cidr={},{}", plan.pod_cidr(), plan.pod_cidr6()),
        "--proxy-mode=iptables".to_owned(),
        "--bind-address=127.0.0.1".to_owned(),
        "--metrics-bind-address=127.0.0.1:10249".to_owned(),
        // These belong to the whole machine, and are read-only in a network of one's own.
        "--conntrack-max-per-core=0".to_owned(),
        "--conntrack-tcp-timeout-established=0".to_owned(),
        "--conntrack-tcp-timeout-close-wait=0".to_owned(),
    ];
    sandbox.ensure_service("kube-proxy", &binaries.kubernetes("kube-proxy"), &proxy)
}

fn ctr(plan: &Plan, sandbox: &Sandbox) -> std::process::Command {
    let mut command = sandbox.enter("ctr");
    command.args(["--address", &plan.runtime_socket()]);
    command
}

/// Every pod gets a routed link of its own. On a bridge, answers between two pods would pass below
/// iptables, and undoing a service's address would hang on a setting of the whole machine.
fn cni(plan: &Plan) -> serde_json::Value {
    json!({
        "cniVersion": "0.4.0",
        "name": "relay",
        "plugins": [
            {
                "type": "ptp",
                "ipMasq": true,
                "mtu": 1500,
                "ipam": {
                    "type": "host-local",
                    "dataDir": "/var/lib/cni/networks",
                    "ranges": [[{ "subnet": plan.pod_cidr() }], [{ "subnet": plan.pod_cidr6() }]],
                    "routes": [{ "dst": "0.0.0.0/0" }, { "dst": "::/0" }],
                },
            },
            { "type": "portmap", "capabilities": { "portMappings": true } },
        ],
    })
}

fn containerd_settings(plan: &Plan) -> String {
    format!(
        r#"version = 2
root = "{root}"
state = "{state}"
disabled_plugins = [
  "io.containerd.internal.v1.opt",
  "io.containerd.internal.v1.tracing",
  "io.containerd.tracing.processor.v1.otlp",
  "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs",
]

[grpc]
  address = "{socket}"

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE}"
  # Without CAP_SYS_RESOURCE a lower value than our own cannot be set, and runc fails.
  restrict_oom_score_adj = true
  tolerate_missing_hugetlb_controller = true
  stream_server_address = "127.0.0.1"

  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"

    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"

      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false

  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{cni}"
"#,
        root = plan.text("containerd/root"),
        state = plan.text("containerd/state"),
        socket = plan.runtime_socket(),
        cni = plan.text("cni"),
    )
}

fn kubelet_settings(plan: &Plan) -> serde_json::Value {
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "containerRuntimeEndpoint": format!("unix://{}", plan.runtime_socket()),
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": format!("/{}", plan.cgroup()),
        "failCgroupV1": false,
        "failSwapOn": false,
        "resolvConf": plan.text("resolv.conf"),
        "clusterDomain": "cluster.local",
        "clusterDNS": [plan.dns_ip()],
        "authentication": {
            "anonymous": { "enabled": false },
            "webhook": { "enabled": true },
            "x509": { "clientCAFile": plan.text("pki/ca.crt") },
        },
        "authorization": { "mode": "Webhook" },
        "tlsCertFile": plan.text("pki/kubelet.crt"),
        "tlsPrivateKeyFile": plan.text("pki/kubelet.key"),
        // The disk is the developer's, and mostly full of other things.
        "evictionHard": {
            "memory.available": "50Mi",
            "nodefs.available": "1%",
            "nodefs.inodesFree": "1%",
            "imagefs.available": "1%",
            "imagefs.inodesFree": "1%",
        },
        // No image could be fetched again.
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "serializeImagePulls": false,
        "registryPullQPS": 0,
        "eventRecordQPS": 0,
    })
}

/// Builds the test services.
pub(crate) fn build_workload() -> Result<PathBuf> {
    image::build_static("relay-workload", "fast")
}

/// Where the agent's image archive lies after `cargo xtask image`.
pub(crate) fn server_archive() -> PathBuf {
    paths::target().join("image/relay-server.tar")
}
