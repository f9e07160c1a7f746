//! What the figures depend on besides the tools: the machine, and who else uses it.

use std::fs;
use std::process::Command;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use super::stage::Stage;
use crate::shell;

/// Busier than this before anything of ours runs, and the figures say more about the others.
const BUSY_LIMIT: f64 = 0.10;

/// The machine at the beginning of a run.
#[derive(Debug)]
pub(super) struct Machine {
    pub(super) facts: Value,
    /// The part of the processors' time that was in use before the run.
    pub(super) busy: f64,
}

impl Machine {
    /// Looks for two seconds how busy it is.
    pub(super) fn look(stage: &Stage, plugin: &std::path::Path) -> Self {
        let busy = busy_part(Duration::from_secs(2));
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpuinfo
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
            .map_or("unknown", |(_, model)| model);
        let version = shell::output(&mut stage.kubectl(&["version", "-o", "json"])).unwrap_or_default();
        let version: Value = serde_json::from_str(&version).unwrap_or_default();
        let line = |command: &mut Command| shell::output(command).unwrap_or_default().trim().to_owned();
        let facts = json!({
            "processor": model.trim(),
            "cores": thread::available_parallelism().map_or(0, usize::from),
            "kernel": fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim(),
            "congestion_control":
                fs::read_to_string("/proc/sys/net/ipv4/tcp_congestion_control").unwrap_or_default().trim(),
            "date": line(Command::new("date").args(["-u", "+%Y-%m-%d %H:%M UTC"])),
            "kubectl": version["clientVersion"]["gitVersion"],
            "api_server": version["serverVersion"]["gitVersion"],
            "relay": line(Command::new(plugin).arg("--version")),
            "commit": line(Command::new("git").args(["rev-parse", "--short", "HEAD"]).current_dir(crate::paths::root())),
            "load_average": load_average(),
            "busy_before_percent": (busy * 100.0).round(),
        });
        Self { facts, busy }
    }

    /// A sentence about a machine that is not ours alone.
    pub(super) fn warning(&self) -> Option<String> {
        (self.busy > BUSY_LIMIT).then(|| {
            format!(
                "other programs used {:.0} % of the processors before the run (load average {}): \
                 the figures are indicative only",
                self.busy * 100.0,
                load_average(),
            )
        })
    }
}

/// The three load averages.
pub(super) fn load_average() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().take(3).collect::<Vec<_>>().join(" ")
}

fn busy_part(span: Duration) -> f64 {
    let before = processor_times();
    thread::sleep(span);
    let after = processor_times();
    match (before, after) {
        (Some((busy_before, all_before)), Some((busy, all))) if all > all_before => {
            (busy - busy_before) / (all - all_before)
        }
        _ => 0.0,
    }
}

/// Busy and whole time of all processors, in ticks.
fn processor_times() -> Option<(f64, f64)> {
    let text = fs::read_to_string("/proc/stat").ok()?;
    let times: Vec<f64> =
        text.lines().next()?.split_whitespace().skip(1).map_while(|word| word.parse().ok()).collect();
    // user nice system idle iowait irq softirq steal; guest times are part of user.
    let all: f64 = times.iter().take(8).sum();
    Some((all - times.get(3)? - times.get(4)?, all))
}
