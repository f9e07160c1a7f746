//! Counters and gauges, as Prometheus reads them.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};

use relay_protocol::{Protocol, Status};

/// What has been counted since the agent began.
#[derive(Debug, Default)]
pub struct Metrics {
    streams: AtomicU64,
    flows: AtomicU64,
    sent: AtomicU64,
    received: AtomicU64,
    /// By the status' place in [`Status::ALL`].
    dials: [AtomicU64; Status::ALL.len()],
    refused_sessions: AtomicU64,
    refused_streams: AtomicU64,
}

/// What others know, at the time of asking.
#[derive(Clone, Debug, Default)]
pub struct Gauges {
    /// Sessions that exist.
    pub sessions: u64,
    /// Pools: name, bytes that are reserved, and bytes in all.
    pub memory: Vec<(&'static str, u64, u64)>,
}

impl Metrics {
    fn open(&self, protocol: Protocol) -> &AtomicU64 {
        if protocol == Protocol::Udp { &self.flows } else { &self.streams }
    }

    pub(crate) fn opened(&self, protocol: Protocol) {
        self.open(protocol).fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn closed(&self, protocol: Protocol) {
        self.open(protocol).fetch_sub(1, Ordering::Relaxed);
    }

    pub(crate) fn moved(&self, sent: u64, received: u64) {
        self.sent.fetch_add(sent, Ordering::Relaxed);
        self.received.fetch_add(received, Ordering::Relaxed);
    }

    pub(crate) fn dialled(&self, status: Status) {
        self.dials[usize::from(status.as_u8()) - 1].fetch_add(1, Ordering::Relaxed);
    }

    /// A session was refused by a limit.
    pub fn session_refused(&self) {
        self.refused_sessions.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn stream_refused(&self) {
        self.refused_streams.fetch_add(1, Ordering::Relaxed);
    }

    /// Everything in Prometheus' text format, version 0.0.4.
    pub fn render(&self, version: &str, gauges: &Gauges) -> String {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let mut out = Text(String::with_capacity(4_096));
        out.family("build_info", "gauge", "The agent's version; always 1.");
        out.sample("build_info", &[("version", version)], 1);
        out.family("sessions", "gauge", "Sessions that exist.");
        out.sample("sessions", &[], gauges.sessions);
        out.family("streams", "gauge", "TCP streams that are open or being dialled.");
        out.sample("streams", &[], get(&self.streams));
        out.family("flows", "gauge", "UDP flows that are open or being dialled.");
        out.sample("flows", &[], get(&self.flows));
        out.family("bytes_total", "counter", "Bytes carried, by direction.");
        out.sample("bytes_total", &[("direction", "to_target")], get(&self.sent));
        out.sample("bytes_total", &[("direction", "from_target")], get(&self.received));
        out.family("dials_total", "counter", "Targets that were asked for, by what came of it.");
        for (status, count) in Status::ALL.into_iter().zip(&self.dials) {
            // Those that say nothing of a dial stay out as long as they never come.
            if get(count) > 0 || status == Status::Ok {
                out.sample("dials_total", &[("status", &label(status))], get(count));
            }
        }
        out.family("denied_total", "counter", "Targets that the policy denied.");
        out.sample("denied_total", &[], get(&self.dials[usize::from(Status::Denied.as_u8()) - 1]));
        out.family("refused_total", "counter", "What a limit refused, by what it was.");
        out.sample("refused_total", &[("what", "session")], get(&self.refused_sessions));
        out.sample("refused_total", &[("what", "stream")], get(&self.refused_streams));
        out.family("memory_bytes", "gauge", "Bytes that are reserved, by pool.");
        for (pool, used, _) in &gauges.memory {
            out.sample("memory_bytes", &[("pool", pool)], *used);
        }
        out.family("memory_limit_bytes", "gauge", "Bytes that there are, by pool.");
        for (pool, _, limit) in &gauges.memory {
            out.sample("memory_limit_bytes", &[("pool", pool)], *limit);
        }
        out.0
    }
}

fn label(status: Status) -> String {
    status.to_string().replace(' ', "_")
}

struct Text(String);

impl Text {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a string does not fail.
        let _ = write!(self.0, "# HELP relay_agent_{name} {help}\n# TYPE relay_agent_{name} {kind}\n");
    }

    /// Labels hold neither quotes nor backslashes nor line feeds.
    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: u64) {
        self.0.push_str("relay_agent_");
        self.0.push_str(name);
        for (at, (label, text)) in labels.iter().enumerate() {
            let _ = write!(self.0, "{}{label}=\"{text}\"", if at == 0 { '{' } else { ',' });
        }
        let _ = writeln!(self.0, "{} {value}", if labels.is_empty() { "" } else { "}" });
    }
}
