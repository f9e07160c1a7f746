use std::collections::{BTreeMap, BTreeSet};

use relay_protocol::{Status, header::Protocol};

use super::*;
use crate::{
    ledger::{About, AgentName, AgentOrigin, Bytes, Connections, Ledger, ProxySnapshot},
    output::{EndedBy, RelayState},
};

/// A sample: its name, its labels, its value.
type Sample = (String, BTreeMap<String, String>, f64);

/// Reads the text format as strictly as Prometheus does, and checks what its linter asks for.
fn read(text: &str) -> Vec<Sample> {
    assert!(text.ends_with('\n') && !text.contains("\n\n"));
    let (mut families, mut samples, mut current) = (BTreeSet::new(), Vec::new(), String::new());
    let mut kind = String::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap();
            assert!(families.insert(name.to_owned()), "{name} twice");
            assert!(!help.is_empty() && help.ends_with('.'), "{line}");
            let typed = lines.next().unwrap().strip_prefix("# TYPE ").unwrap().to_owned();
            let (same, its_kind) = typed.split_once(' ').unwrap();
            assert_eq!(same, name);
            assert_eq!(name.ends_with("_total"), its_kind == "counter", "{typed}");
            assert!(["counter", "gauge"].contains(&its_kind), "{typed}");
            (current, kind) = (name.to_owned(), its_kind.to_owned());
            continue;
        }
        let (name, labels, value) = sample(line);
        assert_eq!(name, current, "a sample outside its family");
        assert!(kind != "counter" || value >= 0.0);
        samples.push((name, labels, value));
    }
    let mut seen = BTreeSet::new();
    for (name, labels, _) in &samples {
        assert!(seen.insert((name, labels)), "{name}{labels:?} twice");
    }
    samples
}

fn is_name(text: &str) -> bool {
    text.chars().all(|letter| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '_')
        && text.starts_with(|letter: char| letter.is_ascii_lowercase())
}

fn sample(line: &str) -> Sample {
    let end = line.find(['{', ' ']).unwrap();
    let (name, mut rest) = line.split_at(end);
    assert!(is_name(name), "{line}");
    let mut labels = BTreeMap::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        loop {
            let (label, after) = rest.split_once("=\"").unwrap();
            assert!(is_name(label), "{line}");
            let (mut value, mut letters) = (String::new(), after.char_indices());
            let end = loop {
                match letters.next().unwrap() {
                    (_, '\\') => match letters.next().unwrap().1 {
                        'n' => value.push('\n'),
                        letter @ ('\\' | '"') => value.push(letter),
                        other => panic!("\\{other} in {line}"),
                    },
                    (at, '"') => break at,
                    (_, letter) => value.push(letter),
                }
            };
            assert_eq!(labels.insert(label.to_owned(), value), None, "{line}");
            rest = &after[end + 1..];
            match rest.strip_prefix(',') {
                Some(more) => rest = more,
                None => break,
            }
        }
        rest = rest.strip_prefix('}').unwrap();
    }
    (name.to_owned(), labels, rest.strip_prefix(' ').unwrap().parse().unwrap())
}

fn value(samples: &[Sample], name: &str, wanted: &[(&str, &str)]) -> f64 {
    let has = |labels: &BTreeMap<String, String>| {
        wanted.iter().all(|(label, value)| labels.get(*label).is_some_and(|found| found == value))
    };
    let found: Vec<_> = samples.iter().filter(|(its, labels, _)| its == name && has(labels)).collect();
    assert_eq!(found.len(), 1, "{name}{wanted:?}: {found:?}");
    found[0].2
}

fn about(target: &str, name: Option<&str>) -> About {
    About {
        name: name.map(Into::into),
        group: None,
        context: Some("a \"b\"\\\n".into()),
        namespace: "dev".into(),
        target: target.into(),
        remote_port: 80,
        protocol: Protocol::Tcp,
    }
}

#[test]
fn an_empty_run_has_families_without_samples() {
    let samples = read(&render(&Ledger::new().snapshot(), "0.1.0"));
    assert_eq!(value(&samples, "kubectl_relay_build_info", &[("version", "0.1.0")]), 1.0);
    assert_eq!(samples.len(), 2);
}

#[test]
fn a_proxy_has_families_of_its_own() {
    let ledger = Ledger::new();
    let connections = Connections { open: 2, total: 7, failed: 3 };
    let bytes = Bytes { sent: 11, received: 13 };
    ledger.add_proxy(move || ProxySnapshot { local: Vec::new(), connections, bytes });
    let samples = read(&render(&ledger.snapshot(), "0.1.0"));
    let of = |name: &str, labels| value(&samples, &format!("kubectl_relay_proxy_{name}"), labels);
    assert_eq!(of("connections_total", &[]), 7.0);
    assert_eq!(of("failed_connections_total", &[]), 3.0);
    assert_eq!(of("open_connections", &[]), 2.0);
    assert_eq!(of("bytes_total", &[("direction", "sent")]), 11.0);
    assert_eq!(of("bytes_total", &[("direction", "received")]), 13.0);
}

#[test]
fn what_the_ledger_counts_is_told_with_its_forward() {
    let ledger = Ledger::new();
    let agent = ledger.add_agent(Some("a \"b\"\\\n"), "dev");
    let (web, again) = (
        ledger.add_forward(about("svc/web", None), &agent),
        ledger.add_forward(about("svc/web", None), &agent),
    );
    let named = ledger.add_forward(about("svc/db", Some("db")), &agent);
    web.ready();
    agent.told(&RelayState::Ready { down: None });
    agent.is(AgentName { namespace: "dev".into(), pod: "relay-0".into(), origin: AgentOrigin::Embedded });
    let open = web.begin();
    open.moved(7, 1 << 40);
    again.begin().ended(Status::Refused, EndedBy::Remote);
    named.stopped();

    let samples = read(&render(&ledger.snapshot(), "0.1.0"));
    let of = |id: u64| id.to_string();
    let (first, second) = (of(web.id()), of(again.id()));
    let bytes = |direction| {
        let labels = [("forward", first.as_str()), ("direction", direction)];
        value(&samples, "kubectl_relay_bytes_total", &labels)
    };
    assert_eq!((bytes("sent"), bytes("received")), (7.0, (1u64 << 40) as f64));
    let of_second = [("forward", second.as_str()), ("target", "svc/web"), ("port", "80")];
    assert_eq!(value(&samples, "kubectl_relay_connections_total", &of_second), 1.0);
    assert_eq!(value(&samples, "kubectl_relay_failed_connections_total", &of_second), 1.0);
    assert_eq!(value(&samples, "kubectl_relay_open_connections", &[("forward", first.as_str())]), 1.0);
    let state = |labels: &[(&str, &str)]| value(&samples, "kubectl_relay_forward_state", labels);
    assert_eq!(state(&[("forward", &first), ("state", "ready")]), 1.0);
    assert_eq!(state(&[("forward", &first), ("state", "stopped")]), 0.0);
    assert_eq!(state(&[("name", "db"), ("state", "stopped"), ("context", "a \"b\"\\\n")]), 1.0);
    assert_eq!(value(&samples, "kubectl_relay_agent_state", &[("state", "ready")]), 1.0);
    let info = [("pod", "relay-0"), ("source", "embedded"), ("namespace", "dev")];
    assert_eq!(value(&samples, "kubectl_relay_agent_info", &info), 1.0);
    assert!(samples.iter().all(|(name, ..)| name != "kubectl_relay_agent_round_trip_seconds"));
}
