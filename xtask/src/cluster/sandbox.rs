//! The node: a set of namespaces in which every process of the cluster lives.
//!
//! Its own network keeps two clusters' iptables rules apart, its own mounts keep those of kubelet
//! and containerd off this machine, and its own process ids make the end simple: when the first
//! process dies the kernel ends all others, and network, mounts and processes are gone together.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use super::plan::Plan;
use crate::shell;

/// A running node.
#[derive(Debug)]
pub(crate) struct Sandbox {
    plan: Plan,
    init: u32,
}

/// One process of the node.
#[derive(Debug)]
pub(crate) struct Process {
    /// Its id on this machine.
    pub(crate) host: u32,
    /// Its id inside.
    pub(crate) inside: u32,
}

impl Sandbox {
    /// The node, if it runs.
    pub(crate) fn find(plan: &Plan) -> Option<Self> {
        let text = fs::read_to_string(plan.path("init")).ok()?;
        let (init, start) = text.trim().split_once(' ')?;
        let init: u32 = init.parse().ok()?;
        // The id may belong to somebody else by now; the start time tells.
        (start_time(init).as_deref() == Some(start)).then(|| Self { plan: plan.clone(), init })
    }

    /// The node, or an error that says how to get one.
    pub(crate) fn require(plan: &Plan) -> Result<Self> {
        let name = &plan.name;
        Self::find(plan).with_context(|| {
            format!("no cluster {name:?} is running; start it with `cargo xtask cluster up --name {name}`")
        })
    }

    /// Makes the namespaces, with `init` (which must wait and reap) as their first process.
    pub(crate) fn start(plan: &Plan, init: &Path) -> Result<Self> {
        let own_init = plan.path("bin/init");
        fs::create_dir_all(plan.path("bin"))?;
        fs::copy(init, &own_init).with_context(|| format!("copy {}", init.display()))?;
        let log = fs::File::create(plan.path("logs/init.log"))?;
        let mut command = Command::new("setsid");
        command.args(["unshare", "--net", "--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child"]);
        command.args(["--mount-proc", "--"]).arg(&own_init).arg("pause").current_dir("/");
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let mut unshare = command.spawn().context("start the node's namespaces")?;
        let children = format!("/proc/{0}/task/{0}/children", unshare.id());
        let found = shell::until(Duration::from_secs(10), || {
            if let Some(status) = unshare.try_wait()? {
                bail!("unshare ended with {status}; see {}", plan.text("logs/init.log"));
            }
            let text = fs::read_to_string(&children)?;
            let init: u32 = text.split_whitespace().next().context("no first process yet")?.parse()?;
            // Before the program is running, the namespaces may not be complete.
            if fs::read_link(format!("/proc/{init}/exe"))? != own_init {
                bail!("the first process has not started yet");
            }
            Ok((init, start_time(init).context("the first process is gone")?))
        });
        let (init, start) = match found {
            Ok(found) => found,
            Err(error) => {
                let _ = unshare.kill();
                let _ = unshare.wait();
                return Err(error);
            }
        };
        fs::write(plan.path("init"), format!("{init} {start}\n"))?;
        let sandbox = Self { plan: plan.clone(), init };
        if let Err(error) = sandbox.furnish() {
            sandbox.end()?;
            return Err(error);
        }
        Ok(sandbox)
    }

    /// Host name, and private folders at the places that runtimes write to whatever their settings
    /// say. Nothing is made at those places on the machine itself: removing such a folder later
    /// would take the mount on it from every other cluster.
    fn furnish(&self) -> Result<()> {
        let folder = self.plan.folder.display();
        let mut script = format!(
            "set -e
             hostname {node}
             mount -t tmpfs -o mode=0755 tmpfs /run
             mkdir -p /run/node/folder /run/node/upper /run/node/work
             mount --bind {folder} /run/node/folder
             mount -t overlay -o lowerdir=/var/lib,upperdir=/run/node/upper,workdir=/run/node/work node /var/lib
             mount --bind /run/node/folder {folder}
            ",
            node = self.plan.node()
        );
        for (place, own) in FIXED_FOLDERS {
            let own = self.plan.path(own);
            fs::create_dir_all(&own)?;
            script.push_str(&format!("mkdir -p {place}\nmount --bind {} {place}\n", own.display()));
        }
        for (number, (file, value)) in KUBELET_SETTINGS.iter().enumerate() {
            let own = format!("/run/node/setting-{number}");
            script.push_str(&format!(
                "if [ -e {file} ]; then echo {value} >{own}; mount --bind {own} {file}; fi\n"
            ));
        }
        script.push_str("mount --make-rshared /\n");
        shell::output(self.enter("sh").args(["-c", &script])).context("prepare the node's mounts")?;
        Ok(())
    }

    /// The first process's id on this machine.
    pub(crate) fn init(&self) -> u32 {
        self.init
    }

    /// A command that runs on the node.
    pub(crate) fn enter(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.init.to_string()]);
        command.args(["--net", "--mount", "--pid", "--uts", "--ipc", "--wd=/", "--"]).arg(program);
        command
    }

    /// Starts a service on the node, unless it is running; its output goes to `logs/NAME.log`.
    pub(crate) fn ensure_service(&self, name: &str, program: &Path, arguments: &[String]) -> Result<()> {
        if self.service(name).is_some() {
            return Ok(());
        }
        let script = "exec >>\"$1\" 2>&1 </dev/null; file=$2; shift 2; setsid \"$@\" & echo $! >\"$file\"";
        let mut start = self.enter("sh");
        start.args(["-c", script, "start"]).arg(self.log(name)).arg(self.pid_file(name));
        start.arg(program).args(arguments);
        // Programs of the node find runc, shims and iptables here, whatever the caller's PATH is.
        start.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        for proxy in ["HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "ALL_PROXY", "all_proxy"] {
            start.env_remove(proxy);
        }
        shell::output(&mut start).with_context(|| format!("start {name}"))?;
        Ok(())
    }

    /// The process of a service that [`Self::ensure_service`] started, if it still runs.
    pub(crate) fn service(&self, name: &str) -> Option<Process> {
        let inside: u32 = fs::read_to_string(self.pid_file(name)).ok()?.trim().parse().ok()?;
        self.processes().into_iter().find(|process| process.inside == inside)
    }

    /// Sends a signal to a service.
    pub(crate) fn signal(&self, name: &str, signal: Signal) -> Result<()> {
        let process = self.service(name).with_context(|| format!("{name} is not running"))?;
        send(process.host, signal)
    }

    /// Ends a service and waits until it is gone: first asked, after `patience` forced.
    pub(crate) fn stop_service(&self, name: &str, signal: Signal, patience: Duration) -> Result<()> {
        let Some(process) = self.service(name) else { return Ok(()) };
        send(process.host, signal)?;
        let gone = || if has_threads(process.host) { bail!("{name} is still running") } else { Ok(()) };
        if shell::until(patience, gone).is_err() {
            send(process.host, Signal::KILL)?;
            shell::until(Duration::from_secs(10), gone)?;
        }
        let _ = fs::remove_file(self.pid_file(name));
        Ok(())
    }

    /// Where a service's output goes.
    pub(crate) fn log(&self, name: &str) -> PathBuf {
        self.plan.path(&format!("logs/{name}.log"))
    }

    fn pid_file(&self, name: &str) -> PathBuf {
        self.plan.path(&format!("logs/{name}.pid"))
    }

    /// All living processes on the node but those inside pods, which have namespaces of their own.
    pub(crate) fn processes(&self) -> Vec<Process> {
        let Some(ours) = namespace(self.init) else { return Vec::new() };
        let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
        let ids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        ids.filter(|id| namespace(*id) == Some(ours))
            .filter_map(|host| Some(Process { host, inside: inside_id(host)? }))
            .collect()
    }

    /// Ends everything: the kernel takes all processes with the first, then network and mounts.
    pub(crate) fn end(&self) -> Result<()> {
        let parent = parent(self.init);
        send(self.init, Signal::KILL)?;
        shell::until(Duration::from_secs(60), || {
            // The first process stays until all others have ended.
            if is_alive(self.init) || parent.is_some_and(is_unshare) {
                bail!("the node's processes are still ending");
            }
            Ok(())
        })?;
        let _ = fs::remove_file(self.plan.path("init"));
        Ok(())
    }
}

/// Folders that kubelet, containerd and CNI use whatever their settings say, and what stands for
/// them on the node.
const FIXED_FOLDERS: [(&str, &str); 3] =
    [("/var/log", "var/log"), ("/var/lib/cni", "var/cni"), ("/var/lib/kubelet", "var/kubelet")];

/// Settings of the whole machine that kubelet changes where it finds other values: it is shown these.
const KUBELET_SETTINGS: [(&str, u32); 6] = [
    ("/proc/sys/vm/overcommit_memory", 1),
    ("/proc/sys/vm/panic_on_oom", 0),
    ("/proc/sys/kernel/panic", 10),
    ("/proc/sys/kernel/panic_on_oops", 1),
    ("/proc/sys/kernel/keys/root_maxkeys", 1_000_000),
    ("/proc/sys/kernel/keys/root_maxbytes", 25_000_000),
];

fn send(pid: u32, signal: Signal) -> Result<()> {
    let id =
        i32::try_from(pid).ok().and_then(Pid::from_raw).with_context(|| format!("{pid} is no process id"))?;
    match kill_process(id, signal) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("signal process {pid}")),
    }
}

/// Which process namespace a process is in.
fn namespace(pid: u32) -> Option<u64> {
    Some(fs::metadata(format!("/proc/{pid}/ns/pid")).ok()?.ino())
}

fn inside_id(pid: u32) -> Option<u32> {
    if !is_alive(pid) {
        return None;
    }
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("NSpid:"))?;
    line.split_whitespace().last()?.parse().ok()
}

/// Whether it exists and is more than a zombie.
fn is_alive(pid: u32) -> bool {
    stat_field(pid, 3).is_some_and(|state| state != "Z" && state != "X")
}

/// Whether any of its threads is alive. They hold its sockets, also when the first of them is a zombie already: who
/// starts the same service before the last has ended finds the port taken.
fn has_threads(pid: u32) -> bool {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return false };
    threads.flatten().filter_map(|thread| thread.file_name().to_str()?.parse().ok()).any(is_alive)
}

fn start_time(pid: u32) -> Option<String> {
    stat_field(pid, 22)
}

fn parent(pid: u32) -> Option<u32> {
    stat_field(pid, 4)?.parse().ok()
}

fn is_unshare(pid: u32) -> bool {
    is_alive(pid)
        && fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "unshare")
}

/// A field of /proc/PID/stat, counted from 1 as in proc(5); the name in field 2 may hold anything.
fn stat_field(pid: u32, field: usize) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let rest = stat.rsplit_once(')')?.1;
    rest.split_whitespace().nth(field - 3).map(str::to_owned)
}
