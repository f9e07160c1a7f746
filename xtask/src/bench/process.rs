//! What processes use: processor time, memory, and which of them are whose.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

const KIB: f64 = 1024.0;
/// Clock ticks per second in /proc/PID/stat; the same on every Linux that programs can see.
const TICKS: f64 = 100.0;

/// Lets this process open as many files as it may.
pub(super) fn allow_many_files() {
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

/// Processor time of a process so far, in user and kernel mode, in seconds.
pub(super) fn cpu_seconds(pid: u32) -> Option<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may hold anything; user time is field 14, system time 15.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((user + system) / TICKS)
}

/// Resident memory of a process, in MiB: `VmRSS` now or `VmHWM` at its highest.
pub(super) fn memory_mib(pid: u32, field: &str) -> Option<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    let kib: f64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib / KIB)
}

/// Memory that a process's cgroup is charged for, kernel buffers included, in MiB.
pub(super) fn cgroup_memory_mib(pid: u32) -> Option<f64> {
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let mut files = groups.lines().filter_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, parts.next()?.trim_start_matches('/'));
        match controllers {
            "memory" => Some(PathBuf::from("/sys/fs/cgroup/memory").join(path).join("memory.usage_in_bytes")),
            "" => Some(PathBuf::from("/sys/fs/cgroup").join(path).join("memory.current")),
            _ => None,
        }
    });
    let text = files.find_map(|file| fs::read_to_string(file).ok())?;
    Some(text.trim().parse::<f64>().ok()? / KIB / KIB)
}

/// The program of this name in the same network as `init`.
pub(super) fn on_node(init: u32, name: &str) -> Option<u32> {
    let network = namespace(init)?;
    all().find(|pid| namespace(*pid) == Some(network) && self::name(*pid).as_deref() == Some(name))
}

/// The program of this name in the pod with this uid.
pub(super) fn in_pod(uid: &str, name: &str) -> Option<u32> {
    all_in_pod(uid).find(|pid| self::name(*pid).as_deref() == Some(name))
}

/// The container in the pod with this uid, as the runtime calls it, that is not the pod's own.
pub(super) fn container_of_pod(uid: &str) -> Option<String> {
    let pid = all_in_pod(uid).find(|pid| !only_pauses(*pid))?;
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    // With systemd as the driver its name has the runtime's before it and a suffix behind.
    let last = groups.lines().find(|line| line.contains("pod"))?.rsplit('/').next()?;
    Some(last.rsplit('-').next()?.trim_end_matches(".scope").to_owned())
}

/// Whether a program is the pod's own, which holds its network: Kubernetes' `pause`, or a program told to do the same, as
/// the test clusters have it.
fn only_pauses(pid: u32) -> bool {
    let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    words.split(|byte| *byte == 0).take(2).any(|word| word == b"pause" || word.ends_with(b"/pause"))
}

fn all_in_pod(uid: &str) -> impl Iterator<Item = u32> {
    // The cgroup driver may write the hyphens as underscores.
    let spellings = [uid.to_owned(), uid.replace('-', "_")];
    all().filter(move |pid| {
        fs::read_to_string(format!("/proc/{pid}/cgroup"))
            .is_ok_and(|groups| spellings.iter().any(|uid| groups.contains(uid)))
    })
}

fn all() -> impl Iterator<Item = u32> {
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn namespace(pid: u32) -> Option<u64> {
    Some(fs::metadata(format!("/proc/{pid}/ns/net")).ok()?.ino())
}

/// As the kernel keeps it: the first 15 bytes.
fn name(pid: u32) -> Option<String> {
    Some(fs::read_to_string(format!("/proc/{pid}/comm")).ok()?.trim_end().to_owned())
}
