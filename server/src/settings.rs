//! What the agent was told on its command line, and the limits that are not flags.
//!
//! Agent and plugin may be of different age, and krelay's clients start the agent with arguments of their own: so a
//! flag nobody here knows is said and skipped, while a bad value for a known one is an error.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::str::FromStr;
use std::time::Duration;

use relay_policy::{Policy, Rule, RuleError};
use relay_protocol::AGENT_PORT;
use relay_tunnel::AgentConfig;

/// The command line, understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Only ask the running agent whether it listens, and exit 0 or 1.
    pub health: bool,
    /// Port on 127.0.0.1 and ::1; 0 takes a free one.
    pub port: u16,
    /// The agent ends after this long with nothing to do; `None` never.
    pub idle: Option<Duration>,
    /// How long a session with open streams lives without any lane.
    pub session_life: Duration,
    /// A lane that brought nothing for this long is asked for a sign of life; zero never asks.
    pub ping: Duration,
    /// A lane with something outstanding that brought nothing for this long is given up.
    pub dead_after: Duration,
    /// How long streams may take to finish after SIGTERM.
    pub drain_grace: Duration,
    /// End at a client's GOODBYE: for an agent that has one user.
    pub exit_on_goodbye: bool,
    /// Serves many users, and so never ends by itself.
    pub shared: bool,
    /// What may be reached.
    pub policy: Policy,
    /// Sessions at a time.
    pub max_sessions: usize,
    /// Streams of one session at a time; `None` is the mode's own number.
    pub max_streams: Option<usize>,
    /// Streams of all sessions and direct streams at a time; `None` is the mode's own number.
    pub max_streams_total: Option<usize>,
    /// Writes the beginning and end of each stream and flow to stdout.
    pub audit: bool,
    /// Where metrics are served beyond loopback.
    pub metrics_listen: Option<SocketAddr>,
    /// 0 to 3 shows what happens, 4 also addresses, 5 and more also packets.
    pub verbosity: u8,
    /// Arguments that mean nothing to this version.
    pub unknown: Vec<String>,
}

impl Default for Settings {
    fn default() -> Self {
        let sessions = AgentConfig::default();
        Self {
            health: false,
            port: AGENT_PORT,
            idle: Some(Duration::from_secs(5 * 60)),
            session_life: sessions.session_life,
            ping: sessions.ping,
            dead_after: sessions.dead_after,
            drain_grace: Duration::from_secs(30),
            exit_on_goodbye: false,
            shared: false,
            policy: Policy::default(),
            max_sessions: 256,
            max_streams: None,
            max_streams_total: None,
            audit: false,
            metrics_listen: None,
            verbosity: 0,
            unknown: Vec::new(),
        }
    }
}

impl Settings {
    /// Reads arguments (without the program's name): `--flag value`, `--flag=value`, and `-v4` too.
    ///
    /// # Errors
    /// A sentence that names the flag and what it takes.
    pub fn parse(args: impl IntoIterator<Item = String>) -> Result<Self, String> {
        let mut settings = Self::default();
        let mut args = args.into_iter().peekable();
        while let Some(arg) = args.next() {
            let (flag, inline) = match arg.split_once('=') {
                Some((flag, value)) => (flag, Some(value.to_owned())),
                None if arg.starts_with("-v") && arg.len() > 2 => ("-v", Some(arg[2..].to_owned())),
                None => (arg.as_str(), None),
            };
            let mut value =
                || inline.clone().or_else(|| args.next()).ok_or_else(|| format!("{flag} needs a value"));
            match flag {
                "--health" => settings.health = switch(flag, inline)?,
                "--exit-on-goodbye" => settings.exit_on_goodbye = switch(flag, inline)?,
                "--shared" => settings.shared = switch(flag, inline)?,
                "--audit" => settings.audit = switch(flag, inline)?,
                "--allow" => settings.policy.allow.push(rule(flag, &value()?)?),
                "--deny" => settings.policy.deny.push(rule(flag, &value()?)?),
                "--max-sessions" => settings.max_sessions = count(flag, &value()?)?,
                "--max-streams" => settings.max_streams = Some(count(flag, &value()?)?),
                "--max-streams-total" => settings.max_streams_total = Some(count(flag, &value()?)?),
                "--metrics-listen" => {
                    let what = "an address and a port such as 0.0.0.0:9090";
                    settings.metrics_listen = Some(number(flag, &value()?, what)?);
                }
                "--port" => settings.port = number(flag, &value()?, "a port from 0 to 65535")?,
                "-v" | "--v" => settings.verbosity = number(flag, &value()?, "a number from 0 to 255")?,
                "--session-life" => settings.session_life = time(flag, &value()?)?,
                "--ping" => settings.ping = time(flag, &value()?)?,
                "--dead-after" => settings.dead_after = time(flag, &value()?)?,
                "--drain-grace" => settings.drain_grace = time(flag, &value()?)?,
                "--idle" | "--idle-timeout" => {
                    settings.idle = Some(time(flag, &value()?)?).filter(|idle| !idle.is_zero());
                }
                _ => {
                    // Its value, if it has one, is no flag of ours either.
                    let value = args.next_if(|next| inline.is_none() && !next.starts_with('-'));
                    settings.unknown.extend([Some(arg), value].into_iter().flatten());
                }
            }
        }
        if settings.shared {
            if settings.port == u16::MAX {
                return Err(
                    "--port leaves none for the metrics of a shared agent, which are served one above".into(),
                );
            }
            // Whoever leaves, others may be there or come.
            settings.idle = None;
            settings.exit_on_goodbye = false;
        }
        Ok(settings)
    }

    /// Streams of one session at a time.
    pub fn max_streams(&self) -> usize {
        self.max_streams.unwrap_or(if self.shared { 1_024 } else { AgentConfig::default().max_streams })
    }

    /// Streams of all sessions, and direct ones, at a time.
    pub fn max_streams_total(&self) -> usize {
        self.max_streams_total.unwrap_or(if self.shared { 4_096 } else { usize::MAX })
    }
}

fn rule(flag: &str, value: &str) -> Result<Rule, String> {
    value.parse().map_err(|error: RuleError| format!("{flag} {value:?}: {error}; hint: {}", error.hint()))
}

fn count(flag: &str, value: &str) -> Result<usize, String> {
    number(flag, value, "a number from 1").map(NonZeroUsize::get)
}

fn switch(flag: &str, value: Option<String>) -> Result<bool, String> {
    match value.as_deref() {
        None | Some("true") => Ok(true),
        Some("false") => Ok(false),
        Some(other) => Err(format!("{flag} takes true or false, not {other:?}")),
    }
}

fn number<T: FromStr>(flag: &str, value: &str, what: &str) -> Result<T, String> {
    value.parse().map_err(|_| format!("{flag} takes {what}, not {value:?}"))
}

fn time(flag: &str, value: &str) -> Result<Duration, String> {
    parse_duration(value)
        .ok_or_else(|| format!("{flag} takes a time such as 90s, 5m or 1h30m, not {value:?}"))
}

/// A time as Go writes it: numbers with the units h, m, s and ms, in a row. A bare 0 is allowed.
fn parse_duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let (mut rest, mut total) = (text, Duration::ZERO);
    while !rest.is_empty() {
        let (number, tail) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit() && c != '.')?);
        let unit_len = tail.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(tail.len());
        let unit = match &tail[..unit_len] {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 0.001,
            _ => return None,
        };
        let seconds = number.parse::<f64>().ok()? * unit;
        total = total.checked_add(Duration::try_from_secs_f64(seconds).ok()?)?;
        rest = &tail[unit_len..];
    }
    (!text.is_empty()).then_some(total)
}

/// Limits that are no flags. Tests shorten them.
#[derive(Clone, Debug)]
pub struct Limits {
    /// A header or hello must be whole within this time.
    pub greeting: Duration,
    /// Connections that may be without one at the same time.
    pub greeting_connections: usize,
    /// Direct streams and flows at the same time.
    pub direct_streams: usize,
    /// UDP flows at the same time; then the one that has been quiet for longest goes.
    pub flows: usize,
    /// What the process and the kernel's buffers for it may use, in bytes.
    pub memory: u64,
    /// Reaching a target.
    pub dial: relay_dial::Limits,
}

impl Limits {
    /// As this process's container has them: its memory limit counts, if it has one.
    pub fn of_this_container() -> Self {
        let files = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];
        let memory = files.iter().find_map(|file| std::fs::read_to_string(file).ok()?.trim().parse().ok());
        let usual = Self::default();
        Self { memory: memory.unwrap_or(usual.memory), ..usual }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            greeting: Duration::from_secs(10),
            greeting_connections: 32,
            direct_streams: 512,
            flows: 1024,
            memory: 128 << 20,
            dial: relay_dial::Limits::default(),
        }
    }
}
