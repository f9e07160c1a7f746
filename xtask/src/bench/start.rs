//! Time to the first Forwarding line: with an agent that has to be started, from its image or carried along, and with
//! one that is there already, each beside `kubectl port-forward` or beside each other.
//!
//! What the pod itself needs is seen from outside: the making of the Job by a watch on it, the start of the container in
//! the runtime's own events.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};

use super::measure::Bench;
use super::process;
use super::report::Results;
use super::stage::NAMESPACE;
use super::tools::{Running, Tool};

/// What was seen is told within this time.
const TOLD: Duration = Duration::from_secs(5);

/// Starts each tool several times, in turns.
pub(super) fn measure(
    bench: &Bench<'_>,
    plugin: &Path,
    logs: &Path,
    number: usize,
    results: &mut Results,
) -> Result<()> {
    let start = |tool| Running::start(tool, bench.stage, bench.client, plugin, logs);
    let repetitions = bench.effort.starts;
    for turn in 0..repetitions * 2 {
        let mut pair = [Tool::PortForward, Tool::Shared];
        pair.rotate_left((number + turn) % 2);
        for tool in pair {
            let time = milliseconds(start(tool)?.started_in)?;
            match tool {
                Tool::PortForward => {
                    results.add("start", tool, time);
                    results.add("start_shared", tool, time);
                }
                _ => results.add("start_shared", Tool::Relay, time),
            }
        }
    }
    let seen = Seen::watch(bench)?;
    for turn in 0..repetitions {
        let mut pair = [Tool::Relay, Tool::Carried];
        pair.rotate_left((number + turn) % 2);
        let mut times = Vec::new();
        for tool in pair {
            bench.stage.wait_until_no_agent()?;
            seen.forget();
            let running = start(tool)?;
            let time = milliseconds(running.started_in)?;
            times.push((tool, time));
            let key = if tool == Tool::Relay { "start" } else { "start_carried" };
            results.add(key, Tool::Relay, time);
            let pod = seen.pod(bench)?;
            let of_pod = between(pod.job_made, pod.container_runs);
            results.add(format!("{key}_over_pod"), Tool::Relay, time - of_pod);
            if tool == Tool::Relay {
                let ready = running.ready_at.context("no Forwarding line")?;
                results.add("start_after_agent", tool, between(pod.container_runs, ready));
            }
        }
        let time_of = |wanted| times.iter().find(|(tool, _)| *tool == wanted).map(|(_, time)| *time);
        if let (Some(image), Some(carried)) = (time_of(Tool::Relay), time_of(Tool::Carried)) {
            results.add("start_carried_later", Tool::Relay, carried - image);
        }
    }
    bench.stage.wait_until_no_agent()
}

fn milliseconds(time: Option<Duration>) -> Result<f64> {
    Ok(time.context("no Forwarding line")?.as_secs_f64() * 1e3)
}

/// In milliseconds; negative where the later was seen first.
fn between(earlier: SystemTime, later: SystemTime) -> f64 {
    match later.duration_since(earlier) {
        Ok(time) => time.as_secs_f64() * 1e3,
        Err(error) => -error.duration().as_secs_f64() * 1e3,
    }
}

/// An agent's way into the world.
struct Pod {
    /// When a watch on Jobs told of it.
    job_made: SystemTime,
    /// When the runtime has started its container.
    container_runs: SystemTime,
}

/// Watches on what is made in the cluster.
struct Seen {
    jobs: Lines,
    containers: Lines,
}

impl Seen {
    fn watch(bench: &Bench<'_>) -> Result<Self> {
        // On this side of a link, whatever the client's is: the pod's own time is meant.
        let mut jobs = bench.stage.kubectl(&["get", "jobs", "-n", NAMESPACE, "--watch", "-o", "name"]);
        Ok(Self { jobs: Lines::of(&mut jobs)?, containers: Lines::of(&mut bench.stage.container_events())? })
    }

    /// What was told of until now belongs to an earlier measurement.
    fn forget(&self) {
        while self.jobs.receive.try_recv().is_ok() || self.containers.receive.try_recv().is_ok() {}
    }

    /// What was seen of the one agent that is there.
    fn pod(&self, bench: &Bench<'_>) -> Result<Pod> {
        let (job_made, _) = self.jobs.next("the making of a Job")?;
        let pods = bench.stage.agent_pods()?;
        let container = pods.iter().find_map(|uid| process::container_of_pod(uid));
        let container = container.context("the agent's container is not found")?;
        loop {
            let (_, line) = self.containers.next("the start of the agent's container")?;
            if line.contains(" /tasks/start ") && line.contains(&container) {
                return Ok(Pod { job_made, container_runs: time_of_event(&line)? });
            }
        }
    }
}

/// The time that a line of `ctr events` begins with: `2026-01-31 23:59:59.123456789 +0000 UTC …`.
fn time_of_event(line: &str) -> Result<SystemTime> {
    let mut words = line.split(' ');
    let (Some(day), Some(time), Some("+0000")) = (words.next(), words.next(), words.next()) else {
        bail!("no time in {line:?}");
    };
    let parse = || {
        let mut date = day.split('-').map(|part| part.parse::<i64>().ok());
        let (year, month, day) = (date.next()??, date.next()??, date.next()??);
        let (clock, fraction) = time.split_once('.').unwrap_or((time, "0"));
        let mut clock = clock.split(':').map(|part| part.parse::<u64>().ok());
        let (hours, minutes, seconds) = (clock.next()??, clock.next()??, clock.next()??);
        let nanoseconds: u64 = format!("{fraction:0<9}").get(..9)?.parse().ok()?;
        let day_seconds = u64::try_from(days_since_1970(year, month, day)).ok()? * 86_400;
        let seconds = day_seconds + hours * 3_600 + minutes * 60 + seconds;
        Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds) + Duration::from_nanos(nanoseconds))
    };
    parse().with_context(|| format!("no time in {line:?}"))
}

/// Of the Gregorian calendar: years begin in March, so that the leap day is their last one.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1 - 719_468
}

/// The lines of a program that goes on until this is dropped, each with the time at which it came.
struct Lines {
    child: Child,
    receive: mpsc::Receiver<(SystemTime, String)>,
}

impl Lines {
    fn of(command: &mut Command) -> Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().context("start a watch")?;
        let stdout = child.stdout.take().context("a watch's output")?;
        let (send, receive) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let _ = send.send((SystemTime::now(), line));
            }
        });
        Ok(Self { child, receive })
    }

    fn next(&self, what: &str) -> Result<(SystemTime, String)> {
        self.receive.recv_timeout(TOLD).with_context(|| format!("{what} was not seen"))
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_events_time_is_read_to_the_nanosecond() {
        let time = |text: &str| {
            let since = time_of_event(text).unwrap().duration_since(SystemTime::UNIX_EPOCH).unwrap();
            (since.as_secs(), since.subsec_nanos())
        };
        assert_eq!(time("1970-01-02 00:00:01.5 +0000 UTC k8s.io /tasks/start {}"), (86_401, 500_000_000));
        assert_eq!(time("2000-02-29 12:00:00.000000001 +0000 UTC x"), (951_825_600, 1));
        assert_eq!(time("2026-11-27 01:19:08 +0000 UTC x"), (1_795_742_348, 0));
        assert!(time_of_event("yesterday").is_err());
    }
}
