//! The proxy at one moment, as `/status.json` gives it.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use jiff::{Timestamp, Unit};
use relay_proxy::{Connection, Totals};
use serde::Serialize;

/// A failure of late.
#[derive(Debug, Clone)]
pub(super) struct Failure {
    /// When it happened last.
    pub(super) at: SystemTime,
    /// A sentence without its full stop.
    pub(super) what: String,
    /// How often in a row.
    pub(super) times: u64,
}

/// What is going on.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Snapshot {
    /// `connecting`, `ready`, `reconnecting`, `draining` or `agentLost`.
    pub(super) state: &'static str,
    /// Why it is not ready.
    pub(super) reason: Option<String>,
    pub(super) totals: TotalsNow,
    /// The oldest first.
    pub(super) connections: Vec<Open>,
    /// The newest first.
    pub(super) failures: Vec<Failed>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct TotalsNow {
    /// Connections and flows that were asked for since the start.
    pub(super) asked: u64,
    /// Of these, those that there was none for.
    pub(super) refused: u64,
    /// Bytes from clients.
    pub(super) sent: u64,
    /// Bytes to clients.
    pub(super) received: u64,
    /// Bytes a second from clients, over the last seconds; `null` at the first look.
    pub(super) sent_per_second: Option<u64>,
    /// Bytes a second to clients, likewise.
    pub(super) received_per_second: Option<u64>,
}

/// A connection or flow.
#[derive(Debug, Serialize)]
pub(super) struct Open {
    pub(super) id: u64,
    /// As the client named it.
    pub(super) target: String,
    /// What the client speaks: `socks5`, `socks5-udp`, `socks4`, `connect` or `http`.
    pub(super) protocol: String,
    pub(super) client: String,
    /// RFC 3339.
    pub(super) start: String,
    pub(super) seconds: f64,
    pub(super) sent: u64,
    pub(super) received: u64,
}

#[derive(Debug, Serialize)]
pub(super) struct Failed {
    /// RFC 3339; of the last time.
    pub(super) time: String,
    pub(super) message: String,
    pub(super) times: u64,
}

impl Snapshot {
    pub(super) fn new(
        state: &'static str,
        reason: Option<String>,
        totals: Totals,
        rate: Option<(f64, f64)>,
        open: &[Arc<Connection>],
        failures: Vec<Failure>,
    ) -> Self {
        let connection = |connection: &Arc<Connection>| {
            let (sent, received) = connection.moved.get();
            Open {
                id: connection.id,
                target: connection.target.to_string(),
                protocol: connection.spoken.to_string(),
                client: connection.peer.to_string(),
                start: time(connection.start),
                seconds: in_milliseconds(connection.since.elapsed()),
                sent,
                received,
            }
        };
        let failed = |Failure { at, what, times }: Failure| Failed { time: time(at), message: what, times };
        Self {
            state,
            reason,
            totals: TotalsNow {
                asked: totals.asked,
                refused: totals.refused,
                sent: totals.sent,
                received: totals.received,
                sent_per_second: rate.map(|(sent, _)| sent.round() as u64),
                received_per_second: rate.map(|(_, received)| received.round() as u64),
            },
            connections: open.iter().map(connection).collect(),
            failures: failures.into_iter().map(failed).collect(),
        }
    }

    pub(super) fn json(&self) -> String {
        // Nothing in it can fail to be written.
        let mut text = serde_json::to_string(self).unwrap_or_default();
        text.push('\n');
        text
    }
}

fn in_milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1000.0).round() / 1000.0
}

fn time(at: SystemTime) -> String {
    let exact = Timestamp::try_from(at).unwrap_or(Timestamp::UNIX_EPOCH);
    exact.round(Unit::Second).unwrap_or(exact).to_string()
}
