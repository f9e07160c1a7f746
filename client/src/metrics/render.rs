//! Prometheus' text format, version 0.0.4, from a snapshot.

use std::fmt::{Display, Write as _};

use crate::ledger::{AgentSnapshot, AgentState, ForwardSnapshot, ForwardState, ProxySnapshot, Snapshot};

/// Names and values of labels; those without a value are left out.
type Labels<'a> = Vec<(&'static str, String)>;

/// A number of a forward.
type Number = fn(&ForwardSnapshot) -> u64;

/// Everything, each family with its help and type.
pub fn render(snapshot: &Snapshot, version: &str) -> String {
    let mut out = Text(String::with_capacity(8_192));
    out.family("build_info", "gauge", "The plugin's version; always 1.");
    out.sample("build_info", &[("version", version.to_owned())], 1);
    out.family("start_time_seconds", "gauge", "When the run began, in seconds since 1970.");
    out.sample("start_time_seconds", &[], snapshot.started.as_millisecond() as f64 / 1000.0);
    forwards(&mut out, &snapshot.forwards);
    if let Some(snapshot) = &snapshot.proxy {
        proxy(&mut out, snapshot);
    }
    agents(&mut out, &snapshot.agents);
    out.0
}

fn forwards(out: &mut Text, forwards: &[ForwardSnapshot]) {
    let all: Vec<_> = forwards.iter().map(|forward| (forward, labels(forward))).collect();
    let numbers: [(&str, &str, &str, Number); 3] = [
        (
            "connections_total",
            "counter",
            "Local connections and UDP flows that there were, those that are open among them.",
            |forward| forward.connections.total,
        ),
        (
            "failed_connections_total",
            "counter",
            "Those that ended otherwise than well, and not by the local program.",
            |forward| forward.connections.failed,
        ),
        ("open_connections", "gauge", "Local connections and UDP flows that are open.", |forward| {
            forward.connections.open
        }),
    ];
    for (name, kind, help, value) in numbers {
        out.family(name, kind, help);
        for (forward, labels) in &all {
            out.sample(name, labels, value(forward));
        }
    }
    out.family("bytes_total", "counter", "Bytes carried: sent by local programs, or received by them.");
    for (forward, labels) in &all {
        for (direction, bytes) in [("sent", forward.bytes.sent), ("received", forward.bytes.received)] {
            out.sample("bytes_total", &with(labels, "direction", direction), bytes);
        }
    }
    out.family("forward_state", "gauge", "1 for the state that a forward is in, 0 for the others.");
    for (forward, labels) in &all {
        for state in ForwardState::ALL {
            let labels = with(labels, "state", state.as_str());
            out.sample("forward_state", &labels, u8::from(state == forward.state));
        }
    }
}

fn labels(forward: &ForwardSnapshot) -> Labels<'_> {
    let mut labels = vec![
        ("forward", forward.id.to_string()),
        ("namespace", forward.namespace.clone()),
        ("target", forward.target.clone()),
        ("port", forward.remote_port.to_string()),
        ("protocol", forward.protocol.clone()),
    ];
    let optional = [("name", &forward.name), ("group", &forward.group), ("context", &forward.context)];
    labels.extend(optional.into_iter().filter_map(|(label, value)| Some((label, value.clone()?))));
    labels
}

fn proxy(out: &mut Text, ProxySnapshot { connections, bytes, .. }: &ProxySnapshot) {
    let numbers = [
        ("proxy_connections_total", "counter", "What the proxy's clients asked for.", connections.total),
        (
            "proxy_failed_connections_total",
            "counter",
            "What they asked for, and there was no connection.",
            connections.failed,
        ),
        ("proxy_open_connections", "gauge", "The proxy's connections and UDP flows.", connections.open),
    ];
    for (name, kind, help, value) in numbers {
        out.family(name, kind, help);
        out.sample(name, &[], value);
    }
    out.family(
        "proxy_bytes_total",
        "counter",
        "Bytes that the proxy carried: sent by clients, or received by them.",
    );
    for (direction, bytes) in [("sent", bytes.sent), ("received", bytes.received)] {
        out.sample("proxy_bytes_total", &[("direction", direction.to_owned())], bytes);
    }
}

fn agents(out: &mut Text, agents: &[AgentSnapshot]) {
    let all: Vec<_> = agents
        .iter()
        .map(|agent| {
            let mut labels = vec![("agent", agent.id.to_string()), ("namespace", agent.namespace.clone())];
            labels.extend(agent.context.clone().map(|context| ("context", context)));
            (agent, labels)
        })
        .collect();
    out.family("agent_info", "gauge", "An agent's pod, and where it comes from; always 1.");
    for (agent, labels) in &all {
        let source = agent.source.and_then(|source| serde_json::to_value(source).ok());
        let source = source.as_ref().and_then(|source| source.as_str()).unwrap_or_default();
        let labels = with(&with(labels, "source", source), "pod", agent.pod.as_deref().unwrap_or_default());
        out.sample("agent_info", &labels, 1);
    }
    out.family("agent_state", "gauge", "1 for the state that an agent's session is in, 0 for the others.");
    for (agent, labels) in &all {
        for state in AgentState::ALL {
            let labels = with(labels, "state", state.as_str());
            out.sample("agent_state", &labels, u8::from(state == agent.state));
        }
    }
    out.family("agent_lanes", "gauge", "Connections to the API server that carry an agent's session.");
    for (agent, labels) in &all {
        out.sample("agent_lanes", labels, agent.lanes);
    }
    out.family("agent_round_trip_seconds", "gauge", "A round trip to the agent, once it was measured.");
    for (agent, labels) in &all {
        if let Some(millis) = agent.latency_millis {
            out.sample("agent_round_trip_seconds", labels, millis / 1000.0);
        }
    }
}

fn with(labels: &Labels<'_>, name: &'static str, value: &str) -> Labels<'static> {
    let mut labels = labels.clone();
    labels.push((name, value.to_owned()));
    labels
}

struct Text(String);

impl Text {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a string does not fail.
        let _ = write!(self.0, "# HELP kubectl_relay_{name} {help}\n# TYPE kubectl_relay_{name} {kind}\n");
    }

    fn sample(&mut self, name: &str, labels: &[(&'static str, String)], value: impl Display) {
        let _ = write!(self.0, "kubectl_relay_{name}");
        for (at, (label, value)) in labels.iter().enumerate() {
            let value = escaped(value);
            let _ = write!(self.0, "{}{label}=\"{value}\"", if at == 0 { '{' } else { ',' });
        }
        let _ = writeln!(self.0, "{} {value}", if labels.is_empty() { "" } else { "}" });
    }
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests;
