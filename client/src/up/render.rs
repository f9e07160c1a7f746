//! What there is, as `ls` prints it.

use std::{fmt::Write, path::PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{args::ListFormat, told::Told};
use crate::ledger::{ForwardSnapshot, ForwardState, Snapshot};

/// The forwards of the background process, and the files that they come from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Listing {
    #[serde(flatten)]
    pub(super) snapshot: Snapshot,
    pub(super) files: Vec<ListedFile>,
}

/// A file in use.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ListedFile {
    pub(super) path: PathBuf,
    /// What is wrong with it as it is now; its last state without anything wrong is what runs.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(super) error: Option<Told>,
}

impl Listing {
    pub(super) fn new(snapshot: Snapshot, files: Vec<(PathBuf, Option<Told>)>) -> Self {
        let files = files.into_iter().map(|(path, error)| ListedFile { path, error }).collect();
        Self { snapshot, files }
    }

    /// In a format, without the end of the last line.
    pub(super) fn show(&self, format: ListFormat) -> String {
        match format {
            // Strings and numbers always make JSON and YAML.
            ListFormat::Json => serde_json::to_string_pretty(self).unwrap_or_default(),
            ListFormat::Yaml => serde_yaml::to_string(self).unwrap_or_default().trim_end().to_owned(),
            ListFormat::Name => {
                let names = self.snapshot.forwards.iter().map(|forward| name(forward).to_owned());
                names.collect::<Vec<_>>().join("\n")
            }
            ListFormat::Text => self.table(false, Timestamp::now()),
            ListFormat::Wide => self.table(true, Timestamp::now()),
        }
    }

    fn table(&self, is_wide: bool, now: Timestamp) -> String {
        let mut rows: Vec<Vec<String>> = Vec::new();
        let mut head = vec!["ID", "NAME", "LOCAL", "TARGET", "STATE", "AGE"];
        if is_wide {
            head.extend(["GROUP", "CONTEXT", "NAMESPACE", "AGENT", "CONNECTIONS", "SENT", "RECEIVED"]);
        }
        rows.push(head.into_iter().map(str::to_owned).collect());
        rows.extend(self.snapshot.forwards.iter().map(|forward| self.row(forward, is_wide, now)));
        let columns = rows[0].len();
        let widths: Vec<usize> = (0..columns)
            .map(|column| rows.iter().map(|row| row[column].len()).max().unwrap_or_default())
            .collect();
        let mut text = String::new();
        for row in rows {
            let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{}", cells.collect::<Vec<_>>().join("  ").trim_end());
        }
        text.trim_end().to_owned()
    }

    fn row(&self, forward: &ForwardSnapshot, is_wide: bool, now: Timestamp) -> Vec<String> {
        let dash = || "-".to_owned();
        let local = forward.local.first().map_or_else(dash, ToString::to_string);
        let port = if forward.remote_port == 0 { "?".to_owned() } else { forward.remote_port.to_string() };
        let suffix = if forward.protocol == "udp" { "/udp" } else { "" };
        let mut row = vec![
            forward.id.to_string(),
            name(forward).to_owned(),
            local,
            format!("{}:{port}{suffix}", forward.target),
            forward.state.as_str().to_owned(),
            age(forward.since, now),
        ];
        if is_wide {
            let agent = self.snapshot.agents.iter().find(|agent| agent.id == forward.agent);
            let agent = agent.and_then(|agent| agent.pod.clone());
            let namespace = if forward.namespace.is_empty() { dash() } else { forward.namespace.clone() };
            row.extend([
                forward.group.clone().unwrap_or_else(dash),
                forward.context.clone().unwrap_or_else(dash),
                namespace,
                agent.unwrap_or_else(dash),
                format!("{}/{}", forward.connections.open, forward.connections.total),
                forward.bytes.sent.to_string(),
                forward.bytes.received.to_string(),
            ]);
        }
        row
    }

    /// What is wrong, one after the other: what it is about, and why.
    pub(super) fn troubles(&self) -> Vec<(String, String)> {
        let failed = self.snapshot.forwards.iter().filter(|forward| forward.state == ForwardState::Failed);
        let failed = failed.map(|forward| {
            let message = format!("{}: {}", name(forward), forward.reason.as_deref().unwrap_or("failed"));
            (message, "it is tried again by itself, and at once when its file changes".to_owned())
        });
        let wrong = self.files.iter().filter_map(|file| file.error.as_ref());
        let wrong =
            wrong.map(|told| (format!("{}; its last good state runs", told.message), told.hint.clone()));
        failed.chain(wrong).collect()
    }
}

fn name(forward: &ForwardSnapshot) -> &str {
    forward.name.as_deref().unwrap_or(&forward.target)
}

/// The Forwarding lines of a forward.
pub(super) fn forwarding(forward: &ForwardSnapshot) -> Vec<String> {
    let suffix = if forward.protocol == "udp" { "/udp" } else { "" };
    let line = |local: &std::net::SocketAddr| {
        format!("Forwarding from {local} -> {}{suffix} ({})", forward.remote_port, name(forward))
    };
    forward.local.iter().map(line).collect()
}

/// As kubectl shows ages: the two largest units at most.
fn age(since: Timestamp, now: Timestamp) -> String {
    let seconds = now.duration_since(since).as_secs().max(0);
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7200 => format!("{}m", seconds / 60),
        7200..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn listing() -> Listing {
        let forward = |id: u64, name: &str, state: &str, local: &[&str], reason: Option<&str>| {
            json!({
                "id": id, "name": name, "group": "data", "namespace": "shop", "target": "svc/web", "local": local,
                "remotePort": 80, "protocol": "tcp", "state": state, "since": "2026-01-02T03:04:05Z", "reason": reason,
                "connections": {"open": 1, "total": 3, "failed": 0}, "bytes": {"sent": 10, "received": 2000}, "agent": 9,
            })
        };
        serde_json::from_value(json!({
            "version": 1, "pid": 7, "started": "2026-01-02T03:00:00Z",
            "forwards": [
                forward(1, "web", "ready", &["127.0.0.1:8080", "[::1]:8080"], None),
                forward(12, "longer", "failed", &[], Some("relay.yaml:3: no such thing")),
            ],
            "agents": [{"id": 9, "namespace": "shop", "pod": "kubectl-relay-x", "state": "ready", "since": "2026-01-02T03:04:05Z",
                "lanes": 1}],
            "files": [{"path": "/x/relay.yaml", "error": {"message": "relay.yaml:1: wrong", "hint": "correct it"}}],
        }))
        .unwrap()
    }

    #[test]
    fn the_table_fits_its_contents() {
        let now = "2026-01-02T03:05:05Z".parse().unwrap();
        assert_eq!(
            listing().table(false, now),
            "ID  NAME    LOCAL           TARGET      STATE   AGE\n\
             1   web     127.0.0.1:8080  svc/web:80  ready   60s\n\
             12  longer  -               svc/web:80  failed  60s"
        );
        let wide = listing().table(true, now);
        assert!(
            wide.lines().next().unwrap().ends_with("AGENT            CONNECTIONS  SENT  RECEIVED"),
            "{wide}"
        );
        assert!(
            wide.contains("data   -        shop       kubectl-relay-x  1/3          10    2000"),
            "{wide}"
        );
    }

    #[test]
    fn other_formats_are_for_programs() {
        let listing = listing();
        assert_eq!(listing.show(ListFormat::Name), "web\nlonger");
        let json: Listing = serde_json::from_str(&listing.show(ListFormat::Json)).unwrap();
        let yaml: Listing = serde_yaml::from_str(&listing.show(ListFormat::Yaml)).unwrap();
        assert_eq!((&json, &yaml), (&listing, &listing));
    }

    #[test]
    fn what_is_wrong_is_told_with_why() {
        let told: Vec<String> = listing().troubles().into_iter().map(|(message, _)| message).collect();
        assert_eq!(
            told,
            ["longer: relay.yaml:3: no such thing", "relay.yaml:1: wrong; its last good state runs"]
        );
    }

    #[test]
    fn ages_are_short() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let since = at("2026-01-01T00:00:00Z");
        assert_eq!(age(since, at("2026-01-01T00:01:59Z")), "119s");
        assert_eq!(age(since, at("2026-01-01T00:30:00Z")), "30m");
        assert_eq!(age(since, at("2026-01-01T05:00:00Z")), "5h");
        assert_eq!(age(since, at("2026-01-09T00:00:00Z")), "8d");
        assert_eq!(age(at("2026-01-02T00:00:00Z"), since), "0s");
    }
}
