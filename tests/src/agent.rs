//! The agent of a namespace as the machine sees it: what its cgroup is charged for (its own memory and the kernel's
//! buffers for its sockets) and what it holds open. The nodes of the test cluster are this machine.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::process::{Pid, Signal, kill_process};

use crate::kubectl::kubectl;

/// The label by which the plugin's Jobs and pods are found.
pub const AGENT_LABEL: &str = "app.kubernetes.io/managed-by=kubectl-relay";

/// A running agent.
pub struct Agent {
    /// `/proc/PID`.
    process: PathBuf,
    /// The folder of its cgroup's memory controller, and whether that is version 2.
    cgroup: (PathBuf, bool),
}

impl Agent {
    /// The one agent of a namespace, which must run.
    pub fn of(namespace: &str) -> Self {
        let uid = kubectl(&[
            "get",
            "pods",
            "-n",
            namespace,
            "-l",
            AGENT_LABEL,
            "-o",
            "jsonpath={.items[0].metadata.uid}",
        ]);
        // A cgroup driver may write the hyphens as underscores.
        let names = [uid.clone(), uid.replace('-', "_")];
        let processes = fs::read_dir("/proc").unwrap().filter_map(Result::ok).map(|entry| entry.path());
        let agents = processes.filter(|process| {
            fs::read_to_string(process.join("cmdline")).is_ok_and(|line| line.starts_with("/relay-server"))
        });
        let found = agents.filter_map(|process| {
            let groups = fs::read_to_string(process.join("cgroup")).ok()?;
            let ours = names.iter().any(|name| groups.contains(name.as_str()));
            let cgroup = ours.then(|| memory_folder(&groups)).flatten()?;
            Some(Self { process, cgroup })
        });
        found.into_iter().next().expect("the agent's process and cgroup")
    }

    /// The most memory, in bytes, that it has been charged for so far.
    pub fn peak_memory(&self) -> u64 {
        self.figure("memory.max_usage_in_bytes", "memory.peak")
    }

    /// The memory, in bytes, that it is charged for now.
    pub fn memory(&self) -> u64 {
        self.figure("memory.usage_in_bytes", "memory.current")
    }

    /// How many files it has open: listeners, lanes, targets.
    pub fn descriptors(&self) -> usize {
        fs::read_dir(self.process.join("fd")).expect("the agent runs").count()
    }

    /// Ends it as the kernel ends processes when memory is short.
    pub fn kill(&self) {
        let id = self.process.file_name().and_then(|id| id.to_str()).and_then(|id| id.parse().ok());
        let id = id.and_then(Pid::from_raw).expect("a process id");
        kill_process(id, Signal::KILL).expect("the agent runs");
    }

    fn figure(&self, version_1: &str, version_2: &str) -> u64 {
        let (folder, is_version_2) = &self.cgroup;
        let file = folder.join(if *is_version_2 { version_2 } else { version_1 });
        fs::read_to_string(file).unwrap().trim().parse().expect("a number of bytes")
    }
}

/// The cgroup's folder with figures of memory, from the lines of `/proc/PID/cgroup`, for either version of cgroups.
fn memory_folder(groups: &str) -> Option<(PathBuf, bool)> {
    groups.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, group) = (fields.next()?, fields.next()?.trim_start_matches('/'));
        let (folder, is_version_2, file) = match controllers {
            "" => (Path::new("/sys/fs/cgroup").join(group), true, "memory.peak"),
            "memory" => (Path::new("/sys/fs/cgroup/memory").join(group), false, "memory.max_usage_in_bytes"),
            _ => return None,
        };
        folder.join(file).exists().then_some((folder, is_version_2))
    })
}
