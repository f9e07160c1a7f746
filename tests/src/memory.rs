//! What the agent's cgroup is charged for: its own memory and the kernel's buffers for its sockets.

use std::fs;
use std::path::{Path, PathBuf};

use crate::kubectl::kubectl;

/// The most memory, in bytes, that the one agent in a namespace has been charged for so far.
pub fn agent_memory(namespace: &str) -> u64 {
    let selector = "app.kubernetes.io/managed-by=kubectl-relay";
    let uid =
        kubectl(&["get", "pods", "-n", namespace, "-l", selector, "-o", "jsonpath={.items[0].metadata.uid}"]);
    // The nodes of the test cluster are this machine; a cgroup driver may write the hyphens as underscores.
    let names = [uid.clone(), uid.replace('-', "_")];
    let processes = fs::read_dir("/proc").unwrap().filter_map(Result::ok).map(|entry| entry.path());
    let agents = processes.filter(|process| {
        fs::read_to_string(process.join("cmdline")).is_ok_and(|line| line.starts_with("/relay-server"))
    });
    let files = agents.filter_map(|process| fs::read_to_string(process.join("cgroup")).ok());
    let groups = files.filter(|groups| names.iter().any(|name| groups.contains(name.as_str())));
    let path = groups.filter_map(|groups| peak_file(&groups)).next().expect("the agent's cgroup");
    fs::read_to_string(path).unwrap().trim().parse().expect("a number of bytes")
}

/// The file with the peak, from the lines of `/proc/PID/cgroup`, for either version of cgroups.
fn peak_file(groups: &str) -> Option<PathBuf> {
    groups.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, group) = (fields.next()?, fields.next()?.trim_start_matches('/'));
        let file = match controllers {
            "" => Path::new("/sys/fs/cgroup").join(group).join("memory.peak"),
            "memory" => Path::new("/sys/fs/cgroup/memory").join(group).join("memory.max_usage_in_bytes"),
            _ => return None,
        };
        file.exists().then_some(file)
    })
}
