//! The ways to the target that are compared, and their processes.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use super::stage::{NAMESPACE, POD, SHARED_NAMESPACE, Stage};
use crate::shell;

/// One way to the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Tool {
    /// Plain TCP and UDP from the node to the pod: the limit.
    Straight,
    /// `kubectl port-forward`.
    PortForward,
    /// `kubectl relay`.
    Relay,
    /// `kubectl relay proxy`: not in turns with the others, its figures are the relay's in rows of their own.
    Proxy,
    /// `kubectl relay` with the agent that it carries; as the proxy.
    Carried,
    /// `kubectl relay` with an agent that is there already; as the proxy.
    Shared,
    /// `kubectl relay` whose agent has twice the memory, for very many streams; as the proxy.
    Roomy,
}

impl Tool {
    pub(super) const ALL: [Self; 3] = [Self::Straight, Self::PortForward, Self::Relay];

    /// As in tables and JSON.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Straight => "straight",
            Self::PortForward => "port-forward",
            Self::Relay => "relay",
            Self::Proxy => "relay proxy",
            Self::Carried => "relay with the carried agent",
            Self::Shared => "relay with a shared agent",
            Self::Roomy => "relay with a larger agent",
        }
    }
}

/// In whose network clients run.
#[derive(Debug, Clone, Copy)]
pub(super) enum Client {
    /// This machine's.
    Here,
    /// That of this process, behind a link.
    Of(u32),
}

impl Client {
    /// The same command in the client's network; it keeps its process id.
    pub(super) fn run(self, command: &Command) -> Command {
        let program = command.get_program();
        let mut inside = match self {
            Self::Here => Command::new(program),
            Self::Of(pid) => {
                let mut inside = Command::new("nsenter");
                inside.args(["--target", &pid.to_string(), "--net", "--"]).arg(program);
                inside
            }
        };
        inside.args(command.get_args());
        for (key, value) in command.get_envs() {
            match value {
                Some(value) => inside.env(key, value),
                None => inside.env_remove(key),
            };
        }
        inside
    }
}

/// The target's services as a tool offers them, as `address:port`.
#[derive(Debug, Clone, Default)]
pub(super) struct Offer {
    pub(super) echo: String,
    pub(super) source: String,
    pub(super) sink: String,
    /// None where the tool cannot carry UDP.
    pub(super) udp: Option<String>,
    /// Where the tool is a proxy: its own address; the others are what it is asked for.
    pub(super) proxy: Option<String>,
}

/// A tool that is ready.
pub(super) struct Running {
    pub(super) tool: Tool,
    pub(super) offer: Offer,
    /// From the start of its process to the first line that says traffic can flow.
    pub(super) started_in: Option<Duration>,
    /// When that line came.
    pub(super) ready_at: Option<SystemTime>,
    /// The process of its own agent, if it has one.
    pub(super) agent: Option<u32>,
    child: Option<Child>,
}

const READY_LIMIT: Duration = Duration::from_secs(60);
/// The plugin itself gives up cleaning up after 5 s.
const END_LIMIT: Duration = Duration::from_secs(8);

impl Running {
    /// Starts a tool and waits until it forwards every port.
    pub(super) fn start(
        tool: Tool,
        stage: &Stage,
        client: Client,
        plugin: &Path,
        logs: &Path,
    ) -> Result<Self> {
        let ports = stage.ports;
        let others = stage.agents();
        let at = |port: u16| format!("{}:{port}", stage.pod_ip);
        let straight = Offer {
            echo: at(ports.echo),
            source: at(ports.source),
            sink: at(ports.sink),
            udp: Some(at(ports.udp)),
            proxy: None,
        };
        let command = match tool {
            Tool::Straight => {
                let (started_in, ready_at, agent, child) = (None, None, None, None);
                return Ok(Self { tool, offer: straight, started_in, ready_at, agent, child });
            }
            Tool::PortForward => {
                let mut command = stage.kubectl(&["port-forward", "-n", NAMESPACE, "--address=127.0.0.1"]);
                command.arg(format!("pod/{POD}"));
                command.args([ports.echo, ports.source, ports.sink].map(|port| format!(":{port}")));
                command
            }
            Tool::Relay | Tool::Carried | Tool::Shared | Tool::Roomy => {
                let mut command = Command::new(plugin);
                command.envs(stage.environment.iter().map(|(key, value)| (key, value)));
                command.args(["-n", NAMESPACE, "--address=127.0.0.1"]).args(match tool {
                    Tool::Carried => &["--agent-source=embedded"][..],
                    Tool::Shared => &["--agent-source=shared", "--server.namespace", SHARED_NAMESPACE],
                    Tool::Roomy => &["--server.limits=memory=256Mi"],
                    _ => &[],
                });
                command.arg(format!("pod/{POD}"));
                command.args([ports.echo, ports.source, ports.sink].map(|port| format!(":{port}@tcp")));
                command.arg(format!(":{}@udp", ports.udp));
                command
            }
            Tool::Proxy => {
                let mut command = Command::new(plugin);
                command.envs(stage.environment.iter().map(|(key, value)| (key, value)));
                command.args(["-n", NAMESPACE, "proxy", "--listen", "127.0.0.1:0"]);
                command
            }
        };
        let mut command = client.run(&command);
        let log =
            File::options().create(true).append(true).open(logs.join(format!("{}.log", tool.name())))?;
        // A group of its own: Ctrl-C is for the bench, which then ends it in order.
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).process_group(0);
        let start = Instant::now();
        let child = command.spawn().with_context(|| format!("start `{}`", shell::line(&command)))?;
        let mut running = Self {
            tool,
            offer: if tool == Tool::Proxy { straight } else { Offer::default() },
            started_in: None,
            ready_at: None,
            agent: None,
            child: Some(child),
        };
        running.wait_until_ready(start, stage)?;
        if matches!(tool, Tool::Relay | Tool::Roomy) {
            running.agent = stage.agents().into_iter().find(|agent| !others.contains(agent));
        }
        Ok(running)
    }

    fn wait_until_ready(&mut self, start: Instant, stage: &Stage) -> Result<()> {
        let ports = stage.ports;
        let stdout =
            self.child.as_mut().and_then(|child| child.stdout.take()).context("the tool's output")?;
        let (send, receive) = mpsc::channel();
        // Reads on for as long as the tool lives: a full pipe would stop it.
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let _ = send.send((Instant::now(), SystemTime::now(), line));
            }
        });
        let mut missing = match self.tool {
            Tool::Straight | Tool::PortForward => 3,
            Tool::Relay | Tool::Carried | Tool::Shared | Tool::Roomy => 4,
            Tool::Proxy => 1,
        };
        while missing > 0 {
            let left = READY_LIMIT.saturating_sub(start.elapsed());
            let (when, clock, line) = match receive.recv_timeout(left) {
                Ok(line) => line,
                Err(mpsc::RecvTimeoutError::Timeout) => bail!("{} is not ready after 60 s", self.tool.name()),
                Err(mpsc::RecvTimeoutError::Disconnected) => bail!("{} has ended", self.tool.name()),
            };
            if let Some(rest) = line.strip_prefix("Proxy listening on ") {
                self.offer.proxy = rest.split(' ').next().map(str::to_owned);
                return Ok(());
            }
            let Some((local, remote)) =
                line.strip_prefix("Forwarding from ").and_then(|rest| rest.split_once(" -> "))
            else {
                continue;
            };
            self.started_in.get_or_insert(when - start);
            self.ready_at.get_or_insert(clock);
            let local = local.to_owned();
            match remote.trim().strip_suffix("/udp") {
                Some(_) => self.offer.udp = Some(local),
                None => match remote.trim().parse::<u16>() {
                    Ok(port) if port == ports.echo => self.offer.echo = local,
                    Ok(port) if port == ports.source => self.offer.source = local,
                    Ok(port) if port == ports.sink => self.offer.sink = local,
                    _ => bail!("unexpected line of {}: {line:?}", self.tool.name()),
                },
            }
            missing -= 1;
        }
        Ok(())
    }

    /// The client's process.
    pub(super) fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Whether it has not ended by itself.
    pub(super) fn is_alive(&mut self) -> bool {
        self.child.as_mut().is_none_or(|child| matches!(child.try_wait(), Ok(None)))
    }
}

impl Drop for Running {
    /// As Ctrl-C would end it; by force if that takes too long.
    fn drop(&mut self) {
        let Some(child) = &mut self.child else { return };
        if let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw)
            && matches!(child.try_wait(), Ok(None))
        {
            let _ = kill_process(pid, Signal::INT);
        }
        let start = Instant::now();
        while matches!(child.try_wait(), Ok(None)) {
            if start.elapsed() > END_LIMIT {
                shell::say(format!("{} does not end; killed", self.tool.name()));
                let _ = child.kill();
                let _ = child.wait();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}
