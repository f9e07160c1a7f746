//! The view line by line, for pipes and screen readers: a forward's line when something about it has changed, and all of
//! them again once in a while, if anything moved.

use std::{collections::HashMap, time::Duration};

use jiff::{Timestamp, Unit};
use tokio::time::Instant;

use super::{
    Source, ViewError,
    draw::sums,
    model::Model,
    text::{ago, bytes, millis},
};
use crate::{
    ledger::{ForwardSnapshot, ForwardState, Snapshot},
    output::Output,
};

/// Numbers that have changed are told so often.
const EVERY: Duration = Duration::from_secs(60);

/// Tells until the source ends.
pub(super) async fn show(mut source: impl Source, output: &Output) -> Result<(), ViewError> {
    let mut teller = Teller::default();
    while let Some(snapshot) = source.next().await? {
        for line in teller.tell(snapshot, Instant::now(), Timestamp::now()) {
            output.answer(&line);
        }
    }
    Ok(())
}

/// What was told last of each.
#[derive(Default)]
struct Teller {
    model: Model,
    told: HashMap<u64, (ForwardState, Option<String>, ForwardSnapshot)>,
    all: Option<Instant>,
}

impl Teller {
    fn tell(&mut self, snapshot: Snapshot, at: Instant, now: Timestamp) -> Vec<String> {
        let is_time = self.all.is_none_or(|last| at.duration_since(last) >= EVERY);
        let changed: Vec<&ForwardSnapshot> = snapshot
            .forwards
            .iter()
            .filter(|forward| match self.told.get(&forward.id) {
                None => true,
                Some((state, reason, _)) if *state != forward.state || *reason != forward.reason => true,
                Some((.., last)) => is_time && last != *forward,
            })
            .collect();
        let gone: Vec<String> = self
            .told
            .iter()
            .filter(|(id, _)| snapshot.forwards.iter().all(|forward| forward.id != **id))
            .map(|(_, (.., last))| format!("{}: removed", name(last)))
            .collect();
        let mut lines: Vec<String> = changed.iter().map(|forward| line(forward, now)).chain(gone).collect();
        let told = |forward: &&ForwardSnapshot| {
            (forward.id, (forward.state, forward.reason.clone(), (*forward).clone()))
        };
        let told: Vec<_> = changed.iter().map(told).collect();
        self.told.extend(told);
        self.told.retain(|id, _| snapshot.forwards.iter().any(|forward| forward.id == *id));
        self.model.update(snapshot, at);
        if is_time {
            self.all = Some(at);
        }
        if !lines.is_empty() {
            let time = now.round(Unit::Second).unwrap_or(now);
            lines.insert(0, format!("{time} {}", sums(&self.model)));
        }
        lines
    }
}

fn name(forward: &ForwardSnapshot) -> String {
    let ForwardSnapshot { target, remote_port, .. } = forward;
    let suffix = if forward.protocol == "udp" { "/udp" } else { "" };
    match &forward.name {
        Some(name) => format!("{name} ({target}:{remote_port}{suffix})"),
        None => format!("{target}:{remote_port}{suffix}"),
    }
}

fn line(forward: &ForwardSnapshot, now: Timestamp) -> String {
    let local = forward.local.first().map(|local| format!(" on {local}")).unwrap_or_default();
    let state = forward.state.as_str();
    let mut line = format!("{}{local}: {state} for {}", name(forward), ago(forward.since, now));
    if let Some(reason) = &forward.reason {
        line += &format!(" ({reason})");
    }
    let (connections, moved) = (forward.connections, forward.bytes);
    line += &format!(
        ", {} open of {}, {} failed, sent {}, received {}",
        connections.open,
        connections.total,
        connections.failed,
        bytes(moved.sent),
        bytes(moved.received)
    );
    if let Some(latency) = forward.latency_millis {
        line += &format!(", delay {}", millis(latency));
    }
    match &forward.last_error {
        Some(error) if forward.reason.is_none() => {
            line + &format!(", last error {} ago: {}", ago(error.time, now), error.message)
        }
        _ => line,
    }
}

#[cfg(test)]
mod tests {
    use relay_protocol::{Status, header::Protocol};

    use super::*;
    use crate::{
        ledger::{About, Ledger},
        output::{EndedBy, RelayState},
    };

    #[test]
    fn changes_are_told_at_once_and_numbers_once_a_minute() {
        let ledger = Ledger::new();
        let agent = ledger.add_agent(None, "dev");
        let about = About {
            name: None,
            group: None,
            context: None,
            namespace: "dev".into(),
            target: "svc/web".into(),
            remote_port: 80,
            protocol: Protocol::Tcp,
        };
        let forward = ledger.add_forward(about, &agent);
        let (mut teller, start) = (Teller::default(), Instant::now());
        let mut told = |seconds: u64| {
            let now = ledger.snapshot().started;
            teller.tell(ledger.snapshot(), start + Duration::from_secs(seconds), now)
        };
        let first = told(0);
        assert!(first[0].ends_with("Z 0 of 1 ready, 1 starting"), "{first:?}");
        let numbers = "0 open of 0, 0 failed, sent 0, received 0";
        assert_eq!(first[1], format!("svc/web:80: starting for 0s, {numbers}"));
        assert!(told(1).is_empty());

        forward.starting(vec!["127.0.0.1:8080".parse().unwrap()]);
        forward.ready();
        agent.told(&RelayState::Ready { down: None });
        assert_eq!(told(2)[1], format!("svc/web:80 on 127.0.0.1:8080: ready for 0s, {numbers}"));
        forward.begin().ended(Status::Refused, EndedBy::Remote);
        assert!(told(3).is_empty(), "a number can wait");
        let later = told(60);
        assert!(later[1].contains("1 failed") && later[1].ends_with("connection refused"), "{later:?}");
        assert!(told(120).is_empty(), "nothing has changed");

        let lost = RelayState::Reconnecting { since: Timestamp::UNIX_EPOCH, reason: "no route".into() };
        agent.told(&lost);
        assert!(told(121)[1].contains(": reconnecting for 0s (no route), "));
        ledger.remove_forward(forward.id());
        assert_eq!(told(122)[1], "svc/web:80: removed");
    }
}
