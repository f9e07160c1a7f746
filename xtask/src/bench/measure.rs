//! One measurement: start the load, wait for its figures, look at what everybody used meanwhile.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::process;
use super::report::Results;
use super::rows::Group;
use super::stage::Stage;
use super::tools::{Running, Tool};
use crate::test::Runner;

const MIB: u64 = 1024 * 1024;
const GIB: f64 = 1024.0 * 1024.0 * 1024.0;
/// No single measurement takes longer, whatever a tool does.
const LIMIT: Duration = Duration::from_secs(60);
/// The parts of the node that carry a port-forward's bytes.
const CARRIERS: [&str; 3] = ["kube-apiserver", "kubelet", "containerd"];

/// Sizes and lengths of the measurements.
#[derive(Debug, Clone, Copy)]
pub(super) struct Effort {
    bulk: u64,
    round_trips: u32,
    seconds: f64,
    connections: u32,
}

impl Effort {
    /// For figures to be published.
    pub(super) const FULL: Self =
        Self { bulk: 512 * MIB, round_trips: 5000, seconds: 2.0, connections: 4000 };
    /// For a look while working.
    pub(super) const QUICK: Self =
        Self { bulk: 128 * MIB, round_trips: 1000, seconds: 1.0, connections: 2000 };
}

/// What every measurement needs.
pub(super) struct Bench<'a> {
    pub(super) stage: &'a Stage,
    pub(super) runner: &'a Runner,
    pub(super) effort: Effort,
}

type Figures = BTreeMap<String, f64>;

impl Bench<'_> {
    /// Measures one group with one tool.
    pub(super) fn measure(&self, group: Group, running: &Running, results: &mut Results) -> Result<()> {
        let (tool, offer, effort) = (running.tool, &running.offer, self.effort);
        let seconds = effort.seconds.to_string();
        match group {
            Group::Start => {
                if let Some(time) = running.started_in {
                    results.add("start", tool, time.as_secs_f64() * 1e3);
                }
                if tool == Tool::Relay
                    && let Some(age) = self.stage.agent().and_then(process::age)
                    && let Some(ready) = running.ready_at
                {
                    let over = age.saturating_sub(ready.elapsed());
                    results.add("start_after_agent", tool, over.as_secs_f64() * 1e3);
                }
            }
            Group::Echo => {
                let count = effort.round_trips.to_string();
                let found = self.load(
                    tool,
                    &["echo", "--address", &offer.echo, "--count", &count, "--seconds", &seconds],
                )?;
                results.add("echo_p50", tool, figure(&found, "p50_us")?);
                results.add("echo_p99", tool, figure(&found, "p99_us")?);
            }
            Group::Busy => {
                let bytes = effort.bulk.to_string();
                let arguments =
                    ["echo", "--address", &offer.echo, "--source", &offer.source, "--bytes", &bytes];
                let found = self.load(tool, &arguments)?;
                results.add("busy_p50", tool, figure(&found, "p50_us")?);
                results.add("busy_p99", tool, figure(&found, "p99_us")?);
            }
            Group::Download => self.bulk("download", &offer.source, running, results)?,
            Group::Upload => self.bulk("upload", &offer.sink, running, results)?,
            Group::End => {
                let found =
                    self.load(tool, &["end", "--address", &offer.source, "--bytes", "1024", "--count", "3"])?;
                results.add("end", tool, figure(&found, "end_ms")?);
            }
            Group::Connections => {
                for streams in ["1", "16"] {
                    let count = effort.connections.to_string();
                    let found = self.load(
                        tool,
                        &[
                            "connections",
                            "--address",
                            &offer.echo,
                            "--streams",
                            streams,
                            "--count",
                            &count,
                            "--seconds",
                            &seconds,
                        ],
                    )?;
                    results.add(format!("connections_{streams}"), tool, figure(&found, "per_s")?);
                }
            }
            Group::Udp => {
                if let Some(address) = &offer.udp {
                    let found = self.load(tool, &["udp", "--address", address, "--seconds", &seconds])?;
                    results.add("udp_rate", tool, figure(&found, "per_s")?);
                    results.add("udp_loss", tool, figure(&found, "loss_percent")?);
                    results.add("udp_duplicates", tool, figure(&found, "duplicates")?);
                }
            }
            // Looked at before and after the others.
            Group::Memory => {}
        }
        Ok(())
    }

    fn bulk(&self, direction: &str, address: &str, running: &Running, results: &mut Results) -> Result<()> {
        let tool = running.tool;
        for streams in [1, 8, 64] {
            let (count, bytes) = (streams.to_string(), self.effort.bulk.to_string());
            let before = self.processor_times(running);
            let found =
                self.load(tool, &[direction, "--address", address, "--streams", &count, "--bytes", &bytes])?;
            results.add(format!("{direction}_{streams}"), tool, figure(&found, "mib_s")?);
            if streams == 1 {
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
        }
        Ok(())
    }

    /// Processor time so far of everybody on the way.
    fn processor_times(&self, running: &Running) -> BTreeMap<&'static str, f64> {
        let agent = if running.tool == Tool::Relay { self.stage.agent() } else { None };
        let mut processes = vec![("client", running.pid()), ("agent", agent)];
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
        if running.tool == Tool::Relay
            && let Some(mib) = self.stage.agent().and_then(process::cgroup_memory_mib)
        {
            results.add(agent, running.tool, mib);
        }
    }

    fn load(&self, tool: Tool, arguments: &[&str]) -> Result<Figures> {
        Load::start(self, tool, arguments)?.figures(self)
    }
}

fn figure(figures: &Figures, name: &str) -> Result<f64> {
    figures.get(name).copied().with_context(|| format!("the load gives no {name}"))
}

/// A running load process; it ends with this.
struct Load {
    child: Child,
    /// Some loads run until it is closed.
    _stdin: Option<ChildStdin>,
    lines: mpsc::Receiver<String>,
}

impl Load {
    fn start(bench: &Bench<'_>, tool: Tool, arguments: &[&str]) -> Result<Self> {
        let program = std::env::current_exe()?;
        let mut command = if tool == Tool::Straight {
            let mut command = Command::new("nsenter");
            command.args(["--target", &bench.stage.node.to_string(), "--net", "--"]).arg(program);
            command
        } else {
            Command::new(program)
        };
        command.args(["bench", "load"]).args(arguments);
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
    fn figures(&mut self, bench: &Bench<'_>) -> Result<Figures> {
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
