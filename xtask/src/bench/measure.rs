//! One measurement: start the load, wait for its figures, look at what everybody used meanwhile.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::place::Place;
use super::process;
use super::report::Results;
use super::rows::Group;
use super::stage::Stage;
use super::tools::{Client, Running, Tool};
use crate::test::Runner;

const MIB: u64 = 1024 * 1024;
const GIB: f64 = 1024.0 * 1024.0 * 1024.0;
/// No single measurement takes longer, whatever a tool does.
const LIMIT: Duration = Duration::from_secs(150);
/// The parts of the node that carry a port-forward's bytes.
const CARRIERS: [&str; 3] = ["kube-apiserver", "kubelet", "containerd"];

/// Sizes and lengths of the measurements.
#[derive(Debug, Clone, Copy)]
pub(super) struct Effort {
    pub(super) bulk: u64,
    round_trips: u32,
    pub(super) seconds: f64,
    pub(super) connections: u32,
    /// Agents that are started anew, of each kind.
    pub(super) starts: usize,
    /// The factor for times over a link.
    patience: f64,
}

impl Effort {
    /// For figures to be published.
    pub(super) const FULL: Self = Self {
        bulk: 512 * MIB,
        round_trips: 5000,
        seconds: 2.0,
        connections: 4000,
        starts: 2,
        patience: 1.0,
    };
    /// For a look while working.
    pub(super) const QUICK: Self = Self {
        bulk: 128 * MIB,
        round_trips: 1000,
        seconds: 1.0,
        connections: 2000,
        starts: 1,
        patience: 0.5,
    };
}

/// What every measurement needs.
pub(super) struct Bench<'a> {
    pub(super) stage: &'a Stage,
    pub(super) runner: &'a Runner,
    pub(super) effort: Effort,
    /// In whose network tools and load run.
    pub(super) client: Client,
    pub(super) place: Place,
}

pub(super) type Figures = BTreeMap<String, f64>;

impl Bench<'_> {
    /// Measures one group with one tool.
    pub(super) fn measure(&self, group: Group, running: &Running, results: &mut Results) -> Result<()> {
        let (tool, offer, effort) = (running.tool, &running.offer, self.effort);
        let here = matches!(self.client, Client::Here);
        match group {
            Group::First => {
                let found = self.load(tool, &["first", "--address", &offer.echo, "--count", "10"])?;
                results.add("first", tool, self.time(&found, "p50_us")?);
            }
            Group::Echo => {
                let count = effort.round_trips.to_string();
                let seconds = self.seconds(effort.seconds, 10.0);
                let found = self.load(
                    tool,
                    &["echo", "--address", &offer.echo, "--count", &count, "--seconds", &seconds],
                )?;
                results.add("echo_p50", tool, self.time(&found, "p50_us")?);
                results.add("echo_p99", tool, self.time(&found, "p99_us")?);
            }
            Group::Busy => {
                let (option, amount) = self.bulk_amount(8.0);
                let found = self.load(
                    tool,
                    &["echo", "--address", &offer.echo, "--source", &offer.source, option, &amount],
                )?;
                results.add("busy_p50", tool, self.time(&found, "p50_us")?);
                results.add("busy_p99", tool, self.time(&found, "p99_us")?);
            }
            Group::Download1 => self.bulk("download", 1, running, results)?,
            Group::Download8 => self.bulk("download", 8, running, results)?,
            Group::Download64 => self.bulk("download", 64, running, results)?,
            Group::Upload1 => self.bulk("upload", 1, running, results)?,
            Group::Upload8 => self.bulk("upload", 8, running, results)?,
            Group::Upload64 => self.bulk("upload", 64, running, results)?,
            Group::End => {
                let found =
                    self.load(tool, &["end", "--address", &offer.source, "--bytes", "1024", "--count", "3"])?;
                results.add("end", tool, figure(&found, "end_ms")?);
            }
            Group::Connections1 => self.connections("1", running, results)?,
            Group::Connections16 => self.connections("16", running, results)?,
            Group::Udp => {
                let Some(address) = &offer.udp else { return Ok(()) };
                let seconds = self.seconds(effort.seconds, 10.0);
                let kind = if here { "udp" } else { "udp-paced" };
                let found = self.load(tool, &[kind, "--address", address, "--seconds", &seconds])?;
                if here {
                    results.add("udp_rate", tool, figure(&found, "per_s")?);
                } else {
                    results.add("udp_p50", tool, self.time(&found, "p50_us")?);
                    results.add("udp_p99", tool, self.time(&found, "p99_us")?);
                }
                results.add("udp_loss", tool, figure(&found, "loss_percent")?);
                results.add("udp_duplicates", tool, figure(&found, "duplicates")?);
            }
            Group::Busy1000 => {
                let seconds = effort.seconds.to_string();
                let many = ["busy", "--address", &offer.echo, "--streams", "1000", "--seconds", &seconds];
                let found = self.load(tool, &many)?;
                results.add("busy_1000_rate", tool, figure(&found, "per_s")?);
                results.add("busy_1000_p50", tool, figure(&found, "p50_us")? / 1e3);
                results.add("busy_1000_p99", tool, figure(&found, "p99_us")? / 1e3);
            }
            // Looked at before and after the others; with processes of their own.
            Group::Start | Group::Memory | Group::Proxy | Group::Many => {}
        }
        Ok(())
    }

    fn connections(&self, streams: &str, running: &Running, results: &mut Results) -> Result<()> {
        let count = self.effort.connections.to_string();
        let seconds = self.seconds(self.effort.seconds, self.effort.seconds);
        let echo = &running.offer.echo;
        let arguments = ["connections", "--address", echo, "--streams", streams, "--count", &count];
        let found = self.load(running.tool, &[&arguments[..], &["--seconds", &seconds]].concat())?;
        results.add(format!("connections_{streams}"), running.tool, figure(&found, "per_s")?);
        Ok(())
    }

    fn bulk(&self, direction: &str, streams: usize, running: &Running, results: &mut Results) -> Result<()> {
        let tool = running.tool;
        let address = if direction == "download" { &running.offer.source } else { &running.offer.sink };
        // Many streams take longer to find what the path carries; with loss what is buffered takes longer to get through.
        let is_lossy = matches!(self.place, Place::Behind(link) if link.loss > 0.0);
        let (option, amount) = self.bulk_amount(if streams == 1 || is_lossy { 6.0 } else { 12.0 });
        let count = streams.to_string();
        let before = self.processor_times(running);
        let found =
            self.load(tool, &[direction, "--address", address, "--streams", &count, option, &amount])?;
        results.add(format!("{direction}_{streams}"), tool, figure(&found, "mib_s")?);
        if streams == 1 && matches!(self.client, Client::Here) {
            let carried = figure(&found, "bytes")? / GIB;
            let mut load = found.get("load_cpu_s").copied().unwrap_or_default();
            for (name, after) in self.processor_times(running) {
                let used = after - before.get(name).copied().unwrap_or_default();
                match name {
                    "target" => load += used,
                    // Straight traffic passes none of them.
                    _ if tool == Tool::Straight => {}
                    _ => results.add(format!("{direction}_cpu_{name}"), tool, used / carried),
                }
            }
            results.add(format!("{direction}_cpu_load"), tool, load / carried);
        }
        Ok(())
    }

    /// What plain TCP gets over the link as it is set, in MiB/s: down and up.
    pub(super) fn ceiling(&self, straight: &Running) -> Result<(f64, f64)> {
        let bytes = self.effort.bulk.to_string();
        let get = |direction, address: &str| {
            let found = self.load(Tool::Straight, &[direction, "--address", address, "--bytes", &bytes])?;
            figure(&found, "mib_s")
        };
        Ok((get("download", &straight.offer.source)?, get("upload", &straight.offer.sink)?))
    }

    /// How much a stream carries, as an option of the load: over a link what fits into a time.
    fn bulk_amount(&self, seconds_over_link: f64) -> (&'static str, String) {
        match self.client {
            Client::Here => ("--bytes", self.effort.bulk.to_string()),
            Client::Of(_) => ("--seconds", (seconds_over_link * self.effort.patience).to_string()),
        }
    }

    fn seconds(&self, here: f64, over_link: f64) -> String {
        match self.client {
            Client::Here => here.to_string(),
            Client::Of(_) => (over_link * self.effort.patience).to_string(),
        }
    }

    /// A time in the unit of the place's rows: microseconds here, milliseconds over a link.
    fn time(&self, figures: &Figures, name: &str) -> Result<f64> {
        let microseconds = figure(figures, name)?;
        Ok(if let Client::Here = self.client { microseconds } else { microseconds / 1e3 })
    }

    /// Processor time so far of everybody on the way.
    fn processor_times(&self, running: &Running) -> BTreeMap<&'static str, f64> {
        let mut processes = vec![("client", running.pid()), ("agent", running.agent)];
        processes.push(("target", Some(self.stage.target())));
        processes.extend(CARRIERS.map(|name| (name, self.stage.on_node(name))));
        processes.into_iter().filter_map(|(name, pid)| Some((name, process::cpu_seconds(pid?)?))).collect()
    }

    /// Memory before any traffic.
    pub(super) fn idle_memory(&self, running: &Running, results: &mut Results) {
        self.memory(running, results, "VmRSS", "client_idle", "agent_idle");
    }

    /// Memory after all other measurements, then with a thousand connections that only stay open.
    pub(super) fn loaded_memory(&self, running: &Running, results: &mut Results) -> Result<()> {
        if running.pid().is_none() {
            return Ok(());
        }
        self.memory(running, results, "VmHWM", "client_peak", "agent_after");
        let arguments = ["hold", "--address", &running.offer.echo, "--count", "1000"];
        let mut load = Load::start(self, running.tool, &arguments)?;
        let found = load.figures(self)?;
        results.add("open_1000", running.tool, figure(&found, "opened_s")?);
        self.memory(running, results, "VmRSS", "client_1000", "agent_1000");
        Ok(())
    }

    fn memory(&self, running: &Running, results: &mut Results, field: &str, client: &str, agent: &str) {
        let memory = running.pid().and_then(|pid| process::memory_mib(pid, field));
        if let Some(mib) = memory {
            results.add(client, running.tool, mib);
        }
        if let Some(mib) = running.agent.and_then(process::cgroup_memory_mib) {
            results.add(agent, running.tool, mib);
        }
    }

    pub(super) fn load(&self, tool: Tool, arguments: &[&str]) -> Result<Figures> {
        Load::start(self, tool, arguments)?.figures(self)
    }
}

pub(super) fn figure(figures: &Figures, name: &str) -> Result<f64> {
    figures.get(name).copied().with_context(|| format!("the load gives no {name}"))
}

/// A running load process; it ends with this.
pub(super) struct Load {
    child: Child,
    /// Some loads run until it is closed.
    _stdin: Option<ChildStdin>,
    lines: mpsc::Receiver<String>,
}

impl Load {
    pub(super) fn start(bench: &Bench<'_>, tool: Tool, arguments: &[&str]) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["bench", "load"]).args(arguments);
        // Only the node has a way to pods, and who is behind a link.
        let client = match (tool, bench.client) {
            (Tool::Straight, Client::Here) => Client::Of(bench.stage.node),
            (_, client) => client,
        };
        let mut command = client.run(&command);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().context("start the load")?;
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (send, lines) = mpsc::channel();
        std::thread::spawn(move || {
            let mut line = String::new();
            if let Some(stdout) = stdout {
                let _ = BufReader::new(stdout).read_line(&mut line);
            }
            if line.is_empty()
                && let Some(mut stderr) = stderr
            {
                let _ = stderr.read_to_string(&mut line);
            }
            let _ = send.send(line);
        });
        Ok(Self { child, _stdin: stdin, lines })
    }

    /// Waits for the line of figures.
    pub(super) fn figures(&mut self, bench: &Bench<'_>) -> Result<Figures> {
        let end = Instant::now() + LIMIT;
        let line = loop {
            match self.lines.recv_timeout(Duration::from_millis(200)) {
                Ok(line) => break line,
                Err(_) if bench.runner.interrupted() => bail!("interrupted"),
                Err(_) if Instant::now() > end => bail!("no result after {} s", LIMIT.as_secs()),
                Err(_) => {}
            }
        };
        let figures = serde_json::from_str(&line);
        figures.map_err(|_| anyhow::anyhow!("{}", line.split_whitespace().collect::<Vec<_>>().join(" ")))
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
