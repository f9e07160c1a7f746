//! The contract with the terminal: results on stdout (Forwarding lines, or one JSON event per line), all else on
//! stderr, hints on lines of their own. A closed pipe ends nothing.

mod connection;
mod event;
mod passed;
mod redirect;
mod sink;
mod style;

use std::{
    io::{self, Write},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use jiff::{Timestamp, Unit};
use relay_protocol::{Status, header::Protocol};

pub use connection::Connection;
use event::{Event, Stamped};
pub use passed::{Passed, What};
use sink::{Repeated, Sink};
use style::Role;
pub use style::Style;

use crate::{
    cluster::ready::Destination,
    dial_failure,
    direct::DirectError,
    ledger::{AgentAccount, AgentName},
};

/// A repeated failure of one forward is told once in this time, with the number of times it happened.
const REPEAT: Duration = Duration::from_secs(10);

/// What a forward listens on and leads to, for its line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForwardLine {
    /// The bound address.
    pub local: SocketAddr,
    /// The port that the agent dials.
    pub remote: u16,
    /// What is forwarded.
    pub protocol: Protocol,
    /// The target as typed.
    pub target: String,
}

/// Where the relay is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RelayState {
    /// No agent yet, or no connection to it yet.
    Connecting,
    /// Traffic flows.
    Ready {
        /// How long it did not; `None` for the first time.
        down: Option<Duration>,
    },
    /// The connection is lost; open connections wait for it to come back.
    Reconnecting {
        /// Since when nothing works.
        since: Timestamp,
        /// Why.
        reason: String,
    },
    /// The agent is asked to end; a new one is started.
    Draining,
    /// The API server does not reach the agent's node; open connections wait, a new agent is started for new ones.
    Unreachable {
        /// Since when nothing works.
        since: Timestamp,
        /// Why.
        reason: String,
    },
    /// The agent is gone with its connections; a new one is started.
    AgentLost {
        /// Since when nothing works.
        since: Timestamp,
        /// Why.
        reason: String,
    },
}

/// Which side ended a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndedBy {
    /// The local program.
    Local,
    /// The target, the agent, or the relay itself: the status tells.
    Remote,
}

/// The terminal.
pub struct Output {
    json: bool,
    verbosity: u8,
    /// stdout is a command's: everything goes to stderr.
    beside_a_command: bool,
    log_connections: bool,
    /// Which of several contexts it is about.
    context: Option<String>,
    /// The account of the agent that it is about.
    account: Option<Arc<AgentAccount>>,
    style: Style,
    sink: Arc<Mutex<Sink>>,
}

impl Output {
    /// The process's own stdout and stderr.
    pub fn new(json: bool, verbosity: u8) -> Self {
        let sink = Sink::new(Box::new(io::stdout()), Box::new(io::stderr()));
        // Logs would come between.
        let sink = if json || verbosity > 1 { sink } else { sink.with_progress() };
        Self { style: Style::of_stderr(), ..Self::with_sink(json, verbosity, sink) }
    }

    /// Anywhere.
    pub fn to(
        json: bool,
        verbosity: u8,
        stdout: Box<dyn Write + Send>,
        stderr: Box<dyn Write + Send>,
    ) -> Self {
        Self::with_sink(json, verbosity, Sink::new(stdout, stderr))
    }

    fn with_sink(json: bool, verbosity: u8, sink: Sink) -> Self {
        Self {
            json,
            verbosity,
            beside_a_command: false,
            log_connections: false,
            context: None,
            account: None,
            style: Style::PLAIN,
            sink: Arc::new(Mutex::new(sink)),
        }
    }

    /// Leaves stdout to a command: lines or events go to stderr, and with events nothing else does.
    #[must_use]
    pub fn beside_a_command(self) -> Self {
        Self { beside_a_command: true, ..self }
    }

    /// Tells of every connection at its end.
    #[must_use]
    pub fn log_connections(self) -> Self {
        Self { log_connections: true, ..self }
    }

    /// The same terminal, for what is about one of several contexts.
    #[must_use]
    pub fn about_context(&self, name: &str) -> Self {
        let (account, sink) = (self.account.clone(), Arc::clone(&self.sink));
        Self { context: Some(name.into()), account, sink, ..*self }
    }

    /// The same terminal, for what is about one agent: its account is told too.
    #[must_use]
    pub fn about_agent(&self, account: Arc<AgentAccount>) -> Self {
        let (context, sink) = (self.context.clone(), Arc::clone(&self.sink));
        Self { context, account: Some(account), sink, ..*self }
    }

    /// Which agent is used from now on, for whoever wants to know.
    pub fn agent(&self, name: AgentName) {
        if let Some(account) = &self.account {
            account.is(name);
        }
    }

    /// There is no agent, and will be none.
    pub fn without_agent(&self) {
        if let Some(account) = &self.account {
            account.is_none();
        }
    }

    /// What a verb was asked for.
    pub fn answer(&self, text: &str) {
        self.write_stdout(text);
    }

    /// A forward's line, at the moment traffic can flow.
    pub fn forwarding(&self, line: &ForwardLine) {
        self.event(|| Event::Forwarding {
            target: &line.target,
            address: line.local.ip().to_string(),
            port: line.local.port(),
            remote_port: line.remote,
            protocol: line.protocol.to_string(),
        });
        if !self.json {
            let suffix = match line.protocol {
                Protocol::Tcp => "",
                Protocol::Udp => "/udp",
            };
            self.result(&format!("Forwarding from {} -> {}{suffix}", line.local, line.remote));
        }
    }

    /// Where a proxy listens, at the moment traffic can flow.
    pub fn proxying(&self, local: SocketAddr) {
        self.event(|| Event::Proxy {
            address: local.ip().to_string(),
            port: local.port(),
            protocols: &["socks5", "socks4a", "http"],
        });
        if !self.json {
            self.result(&format!("Proxy listening on {local} (SOCKS5, SOCKS4a, HTTP)"));
        }
    }

    /// A name server's address, at the moment traffic can flow.
    pub fn answering(&self, local: SocketAddr) {
        self.event(|| Event::Dns { address: local.ip().to_string(), port: local.port() });
        if !self.json {
            self.result(&format!("DNS listening on {local} (UDP, TCP)"));
        }
    }

    /// Where the metrics are, as soon as they are there.
    pub fn metrics(&self, local: SocketAddr) {
        self.event(|| Event::Metrics { address: local.ip().to_string(), port: local.port() });
        self.stderr(&format!("Metrics at http://{local}/metrics"));
    }

    /// What to type, for people only.
    pub fn usage(&self, text: &str) {
        if !self.json && !self.beside_a_command {
            self.stderr(text);
        }
    }

    /// The whole of what stdout is for, and its end: whoever waits for that goes on, and this process too.
    pub fn hand_over(&self, text: &str) {
        self.write_stdout(text.trim_end());
        self.sink().end_stdout();
        // Elsewhere nobody is handed anything over.
        #[cfg(unix)]
        {
            let closed = std::fs::OpenOptions::new().write(true).open("/dev/null");
            if let Err(error) = closed.and_then(|nothing| Ok(rustix::stdio::dup2_stdout(nothing)?)) {
                tracing::debug!(%error, "stdout stays open");
            }
        }
    }

    /// Of `-v`.
    pub fn verbosity(&self) -> u8 {
        self.verbosity
    }

    /// A change of the relay's state.
    pub fn state(&self, state: &RelayState) {
        if let Some(account) = &self.account {
            account.told(state);
        }
        let (word, why) = match state {
            RelayState::Connecting => ("connecting", None),
            RelayState::Ready { .. } => ("ready", None),
            RelayState::Reconnecting { since, reason } => ("reconnecting", Some((since, reason))),
            RelayState::Draining => ("draining", None),
            RelayState::Unreachable { since, reason } => ("unreachable", Some((since, reason))),
            RelayState::AgentLost { since, reason } => ("agentLost", Some((since, reason))),
        };
        let down = match state {
            RelayState::Ready { down } => *down,
            _ => None,
        };
        self.event(|| Event::State {
            state: word,
            since: why.map(|(since, _)| since.to_string()),
            reason: why.map(|(_, reason)| reason.as_str()),
            down_seconds: down.map(|down| (down.as_secs_f64() * 1000.0).round() / 1000.0),
        });
        let text = match state {
            RelayState::Connecting if self.verbosity < 2 => return,
            RelayState::Connecting => "connecting".to_owned(),
            // The first time, the Forwarding lines say it.
            RelayState::Ready { down: None } => return,
            RelayState::Ready { down: Some(down) } => {
                format!("ready again after {:.1} s", down.as_secs_f64())
            }
            RelayState::Reconnecting { since, reason } => {
                format!("reconnecting since {}: {reason}; open connections are kept", clock(*since))
            }
            RelayState::Draining => "the agent is asked to end; starting another one".to_owned(),
            RelayState::Unreachable { since, reason } => format!(
                "agent not reached since {}: {reason}; open connections are kept, starting another agent for new ones",
                clock(*since)
            ),
            RelayState::AgentLost { since, reason } => format!(
                "agent lost, down since {}: {reason}; its connections are reset, starting another one",
                clock(*since)
            ),
        };
        self.stderr(&self.about(&text));
    }

    /// A connection that ended otherwise than well. The terminal is not told of each: a program knows its own.
    pub fn stream_ended(&self, target: &str, status: Status, by: EndedBy, sent: u64, received: u64) {
        self.event(|| Event::Stream {
            target,
            status: status.as_u8(),
            reason: status.to_string(),
            by: by.as_str(),
            sent,
            received,
        });
    }

    /// A connection or flow that has ended, for whoever asked to be told of each.
    pub fn connection(&self, ended: &Connection<'_>) {
        if !self.log_connections {
            return;
        }
        if !self.json {
            self.stderr(&ended.line(self.context.as_deref()));
        }
        self.event(|| ended.event());
    }

    /// What has passed a forward, for whoever asked to see it.
    pub fn passed(&self, passed: &Passed<'_>) {
        if !self.json {
            self.result(&passed.line(self.context.as_deref()));
        }
        self.event(|| passed.event());
    }

    /// A question for whoever sits at the terminal. The answer is typed behind it.
    pub fn question(&self, text: &str) {
        self.sink().question(text);
    }

    /// What is waited for, on a line that goes when anything else is said: for a terminal alone.
    pub fn waiting(&self, text: &str) {
        let text = self.about(text);
        self.sink().progress(&text);
    }

    /// Nothing is waited for any more: the terminal may be somebody else's now.
    pub fn waiting_is_over(&self) {
        self.sink().end_progress();
    }

    /// Something worth knowing.
    pub fn note(&self, message: &str) {
        self.event(|| Event::Note { message });
        self.stderr(&self.labelled(Role::Note, message, None));
    }

    /// Something is wrong, and the run goes on.
    pub fn warning(&self, message: &str, hint: Option<&str>) {
        self.event(|| Event::Warning { message, hint });
        self.stderr(&self.labelled(Role::Warning, message, hint));
    }

    /// Why the run ends.
    pub fn error(&self, message: &str, hint: Option<&str>) {
        self.event(|| Event::Error { message, hint });
        self.stderr(&self.labelled(Role::Error, message, hint));
    }

    fn labelled(&self, role: Role, message: &str, hint: Option<&str>) -> String {
        let message = format!("{}{}", self.style.label(role), self.about(message));
        match hint {
            Some(hint) if !hint.is_empty() => format!("{message}\n{}{hint}", self.style.label(Role::Hint)),
            _ => message,
        }
    }

    /// A connection that the agent could not make. The same failure of the same target is told once in ten seconds.
    pub fn dial_failed(&self, target: &str, destination: &Destination, status: Status) {
        let (message, hint) = dial_failure::sentence(target, destination, status);
        self.repeated(target, &message, &hint, Instant::now());
    }

    /// A connection that the agent could not make, and that could not be made without it either.
    pub fn dial_failed_twice(&self, target: &str, destination: &Destination, error: &DirectError) {
        let (message, _) = dial_failure::sentence(target, destination, Status::Refused);
        let message = format!("{message}, and the pod's loopback was not tried: {error}");
        self.repeated(target, &message, &error.hint(), Instant::now());
    }

    /// A connection that could not even be tried.
    pub fn not_forwarded(&self, target: &str, reason: &str, hint: &str) {
        self.repeated(target, &format!("{target}: {reason}"), hint, Instant::now());
    }

    /// A connection of a target that failed for a reason of its own. The same is told once in ten seconds.
    pub fn connection_failed(&self, target: &str, message: &str, hint: &str) {
        self.repeated(target, message, hint, Instant::now());
    }

    fn repeated(&self, target: &str, message: &str, hint: &str, now: Instant) {
        let key = (self.about(target), message.to_owned());
        let times = {
            let mut sink = self.sink();
            match sink.failures.get_mut(&key) {
                Some(repeated) if now.duration_since(repeated.told) < REPEAT => {
                    repeated.since += 1;
                    return;
                }
                Some(repeated) => {
                    repeated.told = now;
                    std::mem::take(&mut repeated.since)
                }
                None => {
                    sink.failures.insert(key, Repeated { told: now, since: 0 });
                    0
                }
            }
        };
        match times {
            0 => self.warning(message, Some(hint)),
            times => {
                self.warning(
                    &format!("{message} (and {times} times more since the last report)"),
                    Some(hint),
                );
            }
        }
    }

    fn event<'a>(&self, event: impl FnOnce() -> Event<'a>) {
        if !self.json {
            return;
        }
        let context = self.context.as_deref();
        let stamped = Stamped { time: Timestamp::now().to_string(), context, event: event() };
        // Strings and numbers always make JSON.
        if let Ok(line) = serde_json::to_string(&stamped) {
            self.result(&line);
        }
    }

    fn about(&self, text: &str) -> String {
        match &self.context {
            Some(name) => format!("context {name}: {text}"),
            None => text.to_owned(),
        }
    }

    fn sink(&self) -> MutexGuard<'_, Sink> {
        self.sink.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn result(&self, line: &str) {
        if self.beside_a_command { self.write_stderr(line) } else { self.write_stdout(line) }
    }

    fn write_stdout(&self, line: &str) {
        self.sink().line(line);
    }

    fn stderr(&self, text: &str) {
        // The event beside it says the same.
        if !(self.beside_a_command && self.json) {
            self.write_stderr(text);
        }
    }

    fn write_stderr(&self, text: &str) {
        self.sink().message(text);
    }
}

impl EndedBy {
    fn as_str(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Remote => "remote",
        }
    }
}

/// A time for people, to the second.
fn clock(time: Timestamp) -> String {
    time.round(Unit::Second).unwrap_or(time).to_string()
}

#[cfg(test)]
pub(crate) mod tests {
    use relay_protocol::header::Address;

    use super::*;
    pub(crate) use crate::captured::Captured;

    pub(crate) fn captured(json: bool) -> (Output, Captured, Captured) {
        let (out, err) = (Captured::default(), Captured::default());
        (Output::to(json, 0, Box::new(out.clone()), Box::new(err.clone())), out, err)
    }

    fn line(local: &str, remote: u16, protocol: Protocol) -> ForwardLine {
        ForwardLine { local: local.parse().unwrap(), remote, protocol, target: "svc/web".into() }
    }

    fn destination() -> Destination {
        Destination { address: Address::Ip("10.96.0.7".parse().unwrap()), port: 80 }
    }

    #[test]
    fn forwarding_lines_are_those_that_scripts_parse() {
        let (output, out, err) = captured(false);
        output.forwarding(&line("127.0.0.1:8080", 80, Protocol::Tcp));
        output.forwarding(&line("[::1]:5353", 53, Protocol::Udp));
        output.note("svc/dns has port 53 as tcp and as udp");
        output.warning("the image i:1 cannot be pulled", Some("name another one"));
        assert_eq!(
            out.text(),
            "Forwarding from 127.0.0.1:8080 -> 80\nForwarding from [::1]:5353 -> 53/udp\n"
        );
        assert_eq!(
            err.text(),
            "note: svc/dns has port 53 as tcp and as udp\nwarning: the image i:1 cannot be pulled\nhint: name another one\n"
        );
    }

    #[test]
    fn json_output_carries_only_events() {
        let (output, out, err) = captured(true);
        output.state(&RelayState::Connecting);
        output.forwarding(&line("127.0.0.1:8080", 80, Protocol::Tcp));
        let since = "2030-01-01T12:00:00.25Z".parse().unwrap();
        output.state(&RelayState::Reconnecting { since, reason: "no answer".into() });
        output.state(&RelayState::Ready { down: Some(Duration::from_millis(3210)) });
        output.stream_ended("svc/web", Status::AgentLost, EndedBy::Remote, 7, 9);
        output.error("broken", Some("mend it"));
        let events: Vec<serde_json::Value> = out
            .text()
            .lines()
            .map(|line| {
                let mut event: serde_json::Value = serde_json::from_str(line).unwrap();
                assert!(
                    event.as_object_mut().unwrap().remove("time").unwrap().as_str().unwrap().ends_with('Z')
                );
                event
            })
            .collect();
        assert_eq!(
            events,
            [
                serde_json::json!({"event": "state", "state": "connecting"}),
                serde_json::json!({"event": "forwarding", "target": "svc/web", "address": "127.0.0.1", "port": 8080,
                                   "remotePort": 80, "protocol": "tcp"}),
                serde_json::json!({"event": "state", "state": "reconnecting", "since": "2030-01-01T12:00:00.25Z",
                                   "reason": "no answer"}),
                serde_json::json!({"event": "state", "state": "ready", "downSeconds": 3.21}),
                serde_json::json!({"event": "stream", "target": "svc/web", "status": 13, "reason": "agent lost",
                                   "by": "remote", "sent": 7, "received": 9}),
                serde_json::json!({"event": "error", "message": "broken", "hint": "mend it"}),
            ]
        );
        assert_eq!(
            err.text().lines().take(2).collect::<Vec<_>>(),
            [
                "reconnecting since 2030-01-01T12:00:00Z: no answer; open connections are kept",
                "ready again after 3.2 s"
            ]
        );
        assert!(err.text().ends_with("error: broken\nhint: mend it\n"));
    }

    #[test]
    fn beside_a_command_stdout_stays_clean() {
        let (output, out, err) = captured(false);
        let output = output.beside_a_command();
        output.forwarding(&line("127.0.0.1:8080", 80, Protocol::Tcp));
        output.note("n");
        assert_eq!(
            (out.text().as_str(), err.text().as_str()),
            ("", "Forwarding from 127.0.0.1:8080 -> 80\nnote: n\n")
        );

        let (output, out, err) = captured(true);
        let output = output.beside_a_command();
        output.forwarding(&line("127.0.0.1:8080", 80, Protocol::Tcp));
        output.error("broken", Some("mend it"));
        assert_eq!(out.text(), "");
        let events = err.text();
        let events: Vec<_> =
            events.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()).collect();
        assert_eq!((&events[0]["event"], &events[1]["event"]), (&"forwarding".into(), &"error".into()));
        assert_eq!(events.len(), 2);
    }

    #[test]
    fn of_several_contexts_each_is_named() {
        let (output, out, err) = captured(false);
        let (one, two) = (output.about_context("one"), output.log_connections().about_context("two"));
        one.forwarding(&line("127.0.0.1:8080", 80, Protocol::Tcp));
        one.state(&RelayState::Draining);
        one.warning("slow", None);
        two.connection(&connection::tests::ended(Status::Ok));
        assert_eq!(out.text(), "Forwarding from 127.0.0.1:8080 -> 80\n");
        let err = err.text();
        let lines: Vec<_> = err.lines().collect();
        assert_eq!(lines[0], "context one: the agent is asked to end; starting another one");
        assert_eq!(lines[1], "warning: context one: slow");
        assert!(lines[2].ends_with(" context=two"), "{err}");

        let (output, out, _) = captured(true);
        output.about_context("one").state(&RelayState::Connecting);
        assert_eq!(serde_json::from_str::<serde_json::Value>(&out.text()).unwrap()["context"], "one");
    }

    #[test]
    fn a_failure_that_repeats_is_told_once_and_counted() {
        let (output, _, err) = captured(false);
        let start = Instant::now();
        for seconds in [0, 1, 2, 11] {
            output.repeated("svc/web", "refused", "h", start + Duration::from_secs(seconds));
        }
        assert_eq!(
            err.text(),
            "warning: refused\nhint: h\nwarning: refused (and 2 times more since the last report)\nhint: h\n"
        );
    }

    #[test]
    fn a_closed_stdout_ends_nothing() {
        struct Closed;
        impl Write for Closed {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let err = Captured::default();
        let output = Output::to(false, 0, Box::new(Closed), Box::new(err.clone()));
        output.forwarding(&line("127.0.0.1:8080", 80, Protocol::Tcp));
        output.dial_failed("svc/web", &destination(), Status::Refused);
        assert!(err.text().contains("refuses the connection"));
    }
}
