//! The plugin as a user runs it.

use std::cell::RefCell;
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

pub use rustix::process::Signal;
use rustix::process::{Pid, kill_process};
use serde_json::Value;

use crate::schema;

/// How long the plugin may take until traffic flows.
const START: Duration = Duration::from_secs(60);
/// How long it may take to leave in good order.
const STOP: Duration = Duration::from_secs(15);

/// What was left when the plugin ended.
#[derive(Debug)]
pub struct Exited {
    /// Its exit code; `None` where a signal killed it.
    pub code: Option<i32>,
    /// All it said on stdout that was not read before.
    pub stdout: String,
    /// All it said on stderr.
    pub stderr: String,
    /// How long it took to end, since it was asked to or waited for.
    pub took: Duration,
}

/// One line of stdout.
struct Line {
    at: Instant,
    text: String,
}

/// One event of `-o json`.
#[derive(Clone, Debug)]
pub struct Event {
    /// When it came.
    pub at: Instant,
    /// What it says.
    pub value: Value,
}

impl Event {
    /// Whether it tells that the relay is in this state now.
    pub fn is_state(&self, state: &str) -> bool {
        self.value["event"] == "state" && self.value["state"] == state
    }

    /// Whether it tells that a stream ended with this status.
    pub fn is_stream_end(&self, status: u64) -> bool {
        self.value["event"] == "stream" && self.value["status"] == status
    }
}

/// A running plugin; ended when dropped.
pub struct Relay {
    child: Child,
    lines: Receiver<Line>,
    /// What was read of `-o json` so far.
    events: RefCell<Vec<Event>>,
    stderr: Arc<Mutex<String>>,
    stderr_reader: Option<JoinHandle<()>>,
    started: Instant,
}

impl Relay {
    /// The program under test.
    pub fn program() -> PathBuf {
        let program = std::env::var_os("RELAY_BIN");
        program.map(PathBuf::from).expect("RELAY_BIN is not set: run these tests with `cargo xtask test`")
    }

    /// Starts the plugin as the administrator.
    pub fn spawn(args: &[&str]) -> Self {
        Self::spawn_as(&super::admin_kubeconfig(), args)
    }

    /// Starts the plugin with another kubeconfig.
    pub fn spawn_as(kubeconfig: &Path, args: &[&str]) -> Self {
        let mut command = Command::new(Self::program());
        command.args(args).env("KUBECONFIG", kubeconfig);
        Self::spawn_command(command)
    }

    /// Starts the plugin by a command that names it.
    pub fn spawn_command(mut command: Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the plugin runs");
        let (sender, lines) = channel();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        thread::spawn(move || {
            let mut lines =
                stdout.lines().map_while(Result::ok).map(|text| Line { at: Instant::now(), text });
            lines.try_for_each(|line| sender.send(line))
        });
        let stderr = Arc::new(Mutex::new(String::new()));
        let (sink, mut source) = (stderr.clone(), child.stderr.take().unwrap());
        let stderr_reader = Some(thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(len @ 1..) = source.read(&mut buffer) {
                sink.lock().unwrap().push_str(&String::from_utf8_lossy(&buffer[..len]));
            }
        }));
        Self { child, lines, events: RefCell::default(), stderr, stderr_reader, started: Instant::now() }
    }

    /// Starts the plugin and waits until it forwards: gives the first forward's IPv4 address.
    pub fn start(args: &[&str]) -> (Self, SocketAddr) {
        let relay = Self::spawn(args);
        let address = relay.next_forward();
        (relay, address)
    }

    /// As [`Relay::start`], with another kubeconfig.
    pub fn start_as(kubeconfig: &Path, args: &[&str]) -> (Self, SocketAddr) {
        let relay = Self::spawn_as(kubeconfig, args);
        let address = relay.next_forward();
        (relay, address)
    }

    /// The next forward on IPv4 that the plugin announces, as text or as an event.
    pub fn next_forward(&self) -> SocketAddr {
        loop {
            let line = self.next_line(START);
            let address: SocketAddr = match line.strip_prefix("Forwarding from ") {
                Some(rest) => rest.split(" -> ").next().unwrap().parse().expect("an address"),
                None => match serde_json::from_str::<Value>(&line) {
                    Ok(event) if event["event"] == "forwarding" => {
                        let ip =
                            event["address"].as_str().and_then(|ip| ip.parse().ok()).expect("an address");
                        let port = event["port"].as_u64().and_then(|port| u16::try_from(port).ok());
                        SocketAddr::new(ip, port.expect("a port"))
                    }
                    _ => continue,
                },
            };
            if address.is_ipv4() {
                return address;
            }
        }
    }

    /// Every event of `-o json` so far.
    pub fn events(&self) -> Vec<Event> {
        while let Ok(line) = self.lines.try_recv() {
            self.remember(&line);
        }
        self.events.borrow().clone()
    }

    /// Waits for an event of `-o json` that came, or comes, after `since`.
    pub fn wait_event(
        &self,
        what: &str,
        since: Instant,
        limit: Duration,
        wanted: impl Fn(&Event) -> bool,
    ) -> Event {
        let deadline = Instant::now() + limit;
        loop {
            let found = self.events().into_iter().find(|event| event.at >= since && wanted(event));
            if let Some(event) = found {
                return event;
            }
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => self.remember(&line),
                Err(error) => panic!(
                    "no event within {limit:?}: {what} ({error}); events: {:#?}; stderr:\n{}",
                    self.events(),
                    self.stderr()
                ),
            }
        }
    }

    /// Waits until `-o json` tells of a state, after `since`.
    pub fn wait_state(&self, state: &str, since: Instant, limit: Duration) -> Event {
        self.wait_event(state, since, limit, |event| event.is_state(state))
    }

    /// How long after its start `-o json` told that traffic flows.
    pub fn first_ready(&self) -> Option<Duration> {
        let ready = self.events().into_iter().find(|event| event.is_state("ready"))?;
        Some(ready.at - self.started)
    }

    fn remember(&self, line: &Line) {
        if let Ok(value) = serde_json::from_str::<Value>(&line.text) {
            if value.get("event").is_some() {
                schema::check(&value);
            }
            self.events.borrow_mut().push(Event { at: line.at, value });
        }
    }

    /// The next line of stdout.
    pub fn next_line(&self, limit: Duration) -> String {
        match self.lines.recv_timeout(limit) {
            Ok(line) => {
                self.remember(&line);
                line.text
            }
            Err(RecvTimeoutError::Timeout) => {
                panic!("nothing on stdout for {limit:?}; stderr:\n{}", self.stderr())
            }
            Err(RecvTimeoutError::Disconnected) => panic!("the plugin has ended; stderr:\n{}", self.stderr()),
        }
    }

    /// What it has said on stderr so far.
    pub fn stderr(&self) -> String {
        self.stderr.lock().unwrap().clone()
    }

    /// Waits until stderr holds a text, and tells how long after the start that was.
    pub fn wait_stderr(&self, text: &str, limit: Duration) -> Duration {
        let said = self.said(text, limit);
        said.unwrap_or_else(|| panic!("{text:?} is not said within {limit:?}; stderr:\n{}", self.stderr()))
    }

    /// As [`Relay::wait_stderr`]; nothing where the text does not come in time.
    pub fn said(&self, text: &str, limit: Duration) -> Option<Duration> {
        let since = Instant::now();
        while !self.stderr().contains(text) {
            if since.elapsed() >= limit {
                return None;
            }
            thread::sleep(Duration::from_millis(10));
        }
        Some(self.started.elapsed())
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its resident memory, in bytes.
    pub fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS")).expect("a running process");
        let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        kib * 1024
    }

    /// How many files it has open.
    pub fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid())).expect("a running process").count()
    }

    /// How many threads it has.
    pub fn threads(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/task", self.pid())).expect("a running process").count()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id() as i32).expect("a process id");
        kill_process(pid, signal).expect("the plugin runs");
    }

    /// Sends a signal and waits for the end.
    pub fn stop(self, signal: Signal) -> Exited {
        self.signal(signal);
        self.wait(STOP)
    }

    /// Waits for the plugin to end by itself.
    pub fn wait(mut self, limit: Duration) -> Exited {
        let since = Instant::now();
        let status = self.wait_status(limit);
        let took = since.elapsed();
        let status =
            status.unwrap_or_else(|| panic!("still running after {limit:?}; stderr:\n{}", self.stderr()));
        let mut stdout = String::new();
        while let Ok(line) = self.lines.recv_timeout(Duration::from_secs(5)) {
            stdout += &line.text;
            stdout.push('\n');
        }
        // The end of the process is seen before the last of what it said is read.
        self.stderr_reader.take().expect("joined once").join().expect("the reader of stderr");
        Exited { code: status.code(), stdout, stderr: self.stderr(), took }
    }

    /// How long after its start the plugin is now.
    pub fn age(&self) -> Duration {
        self.started.elapsed()
    }

    fn wait_status(&mut self, limit: Duration) -> Option<ExitStatus> {
        let since = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return Some(status);
            }
            if since.elapsed() > limit {
                return None;
            }
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|status| status.is_some()) {
            return;
        }
        if let Some(pid) = Pid::from_raw(self.child.id() as i32) {
            let _ = kill_process(pid, Signal::INT);
        }
        if self.wait_status(STOP).is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        if thread::panicking() {
            eprintln!("the plugin said:\n{}", self.stderr());
        }
    }
}
