//! The cluster that is measured on, with a namespace, a pod and a target of the bench's own.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::process;
use crate::cluster;
use crate::shell::{self, step};

/// Nothing else lives here, so its pods are those of this run.
pub(super) const NAMESPACE: &str = "relay-bench";
/// A shared agent's place, where the others do not find it by themselves.
pub(super) const SHARED_NAMESPACE: &str = "relay-bench-shared";
/// The pod in whose network the target listens.
pub(super) const POD: &str = "target";

/// The ports of the target's services.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ports {
    pub(super) echo: u16,
    pub(super) source: u16,
    pub(super) sink: u16,
    pub(super) udp: u16,
}

/// Everything that the tools and the load need to know.
pub(super) struct Stage {
    /// Variables with which programs find the cluster.
    pub(super) environment: Vec<(&'static str, String)>,
    /// The cluster's own kubectl.
    pub(super) kubectl: PathBuf,
    /// The node's first process: its network has a way to pods.
    pub(super) node: u32,
    /// The target's address in the cluster.
    pub(super) pod_ip: String,
    /// The target's ports.
    pub(super) ports: Ports,
    /// The cluster's own folder.
    folder: PathBuf,
    target: Child,
}

impl Stage {
    /// Puts the target into the running cluster called `name`.
    pub(super) fn set(name: &str) -> Result<Self> {
        let environment = cluster::environment_of(name)?;
        let kubectl = variable(&environment, "RELAY_KUBECTL")?;
        let folder = Path::new(&variable(&environment, "KUBECONFIG")?).with_file_name("");
        let node = first_process(&folder).with_context(|| {
            format!("cluster {name:?} is not running; `cargo xtask cluster up` starts it")
        })?;
        let made = step("namespace, pod and target", || {
            let (pod_ip, uid) = make_pod(&environment, &kubectl)?;
            let (target, ports) = start_target(&uid)?;
            Ok((pod_ip, target, ports))
        });
        let (pod_ip, target, ports) = match made {
            Ok(made) => made,
            Err(error) => {
                remove(&environment, &kubectl);
                return Err(error);
            }
        };
        Ok(Self { environment, kubectl: kubectl.into(), node, pod_ip, ports, folder, target })
    }

    /// A kubectl command on this cluster.
    pub(super) fn kubectl(&self, arguments: &[&str]) -> Command {
        kubectl(&self.environment, &self.kubectl, arguments)
    }

    /// The target's process.
    pub(super) fn target(&self) -> u32 {
        self.target.id()
    }

    /// The agents' processes in our namespace.
    pub(super) fn agents(&self) -> Vec<u32> {
        let uids = self.agent_pods().unwrap_or_default();
        uids.iter().filter_map(|uid| process::in_pod(uid, "relay-server")).collect()
    }

    /// The uids of the agents' pods in our namespace.
    pub(super) fn agent_pods(&self) -> Result<Vec<String>> {
        let label = "app.kubernetes.io/name=relay-server";
        let uid = "jsonpath={.items[*].metadata.uid}";
        let query = ["get", "pods", "-n", NAMESPACE, "-l", label, "-o", uid, "--request-timeout=5s"];
        let uids = shell::output(&mut self.kubectl(&query))?;
        Ok(uids.split_whitespace().map(str::to_owned).collect())
    }

    /// Waits until no agent of an earlier measurement is about to end.
    pub(super) fn wait_until_no_agent(&self) -> Result<()> {
        shell::until(Duration::from_secs(30), || match self.agent_pods()?.len() {
            0 => Ok(()),
            left => bail!("{left} agents of an earlier measurement are still there"),
        })
    }

    /// Installs a shared agent of one pod beside the target, removed with the stage.
    pub(super) fn install_shared(&self, plugin: &Path) -> Result<()> {
        let mut command = Command::new(plugin);
        command.envs(self.environment.iter().map(|(key, value)| (key, value)));
        command.args(["agent", "install", "--replicas=1", "-n", SHARED_NAMESPACE]);
        step("a shared agent", || shell::output(&mut command)).map(drop)
    }

    /// A command that tells of the containers which the node starts, one event per line.
    pub(super) fn container_events(&self) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.node.to_string(), "--mount", "--", "ctr", "--address"]);
        command.arg(self.folder.join("containerd.sock")).args(["--namespace", "k8s.io", "events"]);
        command
    }

    /// Makes the pod's answers over the link take cubic too, whatever this machine uses, and remember nothing.
    pub(super) fn answer_over_link(&self, client: &str) -> Result<()> {
        let script = format!(
            "set -e
             echo 1 >/proc/sys/net/ipv4/tcp_no_metrics_save
             gateway=$(ip route show default | cut -d ' ' -f 3)
             ip route replace {client} via $gateway congctl cubic"
        );
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.target().to_string(), "--net", "--", "sh", "-c", &script]);
        shell::output(&mut command).context("route the pod's answers over the link")?;
        Ok(())
    }

    /// A program of the node, such as `kubelet`.
    pub(super) fn on_node(&self, name: &str) -> Option<u32> {
        process::on_node(self.node, name)
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = self.target.kill();
        let _ = self.target.wait();
        remove(&self.environment, self.kubectl.to_string_lossy().as_ref());
    }
}

/// Whether the cluster called `name` runs.
pub(super) fn is_running(name: &str) -> Result<bool> {
    let config = variable(&cluster::environment_of(name)?, "KUBECONFIG")?;
    Ok(first_process(&Path::new(&config).with_file_name("")).is_some())
}

fn variable(environment: &[(&'static str, String)], key: &str) -> Result<String> {
    let found = environment.iter().find(|(name, _)| *name == key);
    Ok(found.with_context(|| format!("the cluster's environment has no {key}"))?.1.clone())
}

fn first_process(folder: &Path) -> Option<u32> {
    let text = fs::read_to_string(folder.join("init")).ok()?;
    let pid: u32 = text.split_whitespace().next()?.parse().ok()?;
    let program = fs::read_link(format!("/proc/{pid}/exe")).ok()?;
    program.starts_with(folder).then_some(pid)
}

fn kubectl(environment: &[(&'static str, String)], program: impl AsRef<Path>, arguments: &[&str]) -> Command {
    let mut command = Command::new(program.as_ref());
    command.args(arguments).stdin(Stdio::null());
    command.envs(environment.iter().map(|(key, value)| (key, value)));
    command.env("NO_PROXY", "*").env("no_proxy", "*");
    command
}

fn make_pod(environment: &[(&'static str, String)], program: &str) -> Result<(String, String)> {
    let run = |arguments: &[&str]| shell::output(&mut kubectl(environment, program, arguments));
    // What a killed run has left behind goes first.
    remove(environment, program);
    run(&["create", "namespace", NAMESPACE])?;
    // As strict as a cluster can be: what is measured shall not rest on anything else.
    run(&["label", "namespace", NAMESPACE, "pod-security.kubernetes.io/enforce=restricted"])?;
    let overrides = serde_json::json!({
        "spec": {
            "terminationGracePeriodSeconds": 1,
            "securityContext": {
                "runAsNonRoot": true,
                "runAsUser": 65532,
                "seccompProfile": { "type": "RuntimeDefault" },
            },
            "containers": [{
                "name": POD,
                "image": "relay.test/workload:1",
                "imagePullPolicy": "IfNotPresent",
                "command": ["/relay-workload", "pause"],
                "securityContext": {
                    "allowPrivilegeEscalation": false,
                    "capabilities": { "drop": ["ALL"] },
                },
            }],
        }
    });
    let overrides = format!("--overrides={overrides}");
    let create = ["run", POD, "-n", NAMESPACE, "--image=relay.test/workload:1", &overrides];
    // The namespace's service account comes a moment after the namespace.
    shell::until(Duration::from_secs(10), || run(&create))?;
    run(&["wait", "-n", NAMESPACE, "--for=condition=Ready", "--timeout=60s", &format!("pod/{POD}")])?;
    let query = "jsonpath={.status.podIP} {.metadata.uid}";
    let text = run(&["get", "pod", POD, "-n", NAMESPACE, "-o", query])?;
    let (address, uid) = text.trim().split_once(' ').context("the target's pod has no address")?;
    Ok((address.to_owned(), uid.to_owned()))
}

fn start_target(uid: &str) -> Result<(Child, Ports)> {
    let pod = shell::until(Duration::from_secs(5), || {
        process::in_pod(uid, "relay-workload").context("no process of the target's pod")
    })?;
    let mut command = Command::new("nsenter");
    command.args(["--target", &pod.to_string(), "--net", "--"]);
    command.arg(std::env::current_exe()?).args(["bench", "target"]);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("start the target")?;
    let read = || {
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("the target's output")?).read_line(&mut line)?;
        let ports: serde_json::Value = serde_json::from_str(&line).context("the target says no ports")?;
        let port = |name: &str| match ports[name].as_u64().and_then(|port| u16::try_from(port).ok()) {
            Some(port) => Ok(port),
            None => bail!("the target has no port for {name}"),
        };
        Ok(Ports { echo: port("echo")?, source: port("source")?, sink: port("sink")?, udp: port("udp")? })
    };
    let ports = { read }();
    match ports {
        Ok(ports) => Ok((child, ports)),
        Err(error) => {
            let _ = child.kill();
            let _ = child.wait();
            Err(error)
        }
    }
}

fn remove(environment: &[(&'static str, String)], program: impl AsRef<Path>) {
    let namespaces = ["delete", "namespace", NAMESPACE, SHARED_NAMESPACE];
    let arguments = [&namespaces[..], &["--ignore-not-found", "--timeout=60s"]].concat();
    let mut command = kubectl(environment, program, &arguments);
    if let Err(error) = shell::output(&mut command) {
        shell::say(format!("the namespaces {NAMESPACE} and {SHARED_NAMESPACE} may be left over: {error:#}"));
    }
}
