//! What is told of a connection or flow at its end, for whoever asked with `--log-connections`.

use std::{net::SocketAddr, time::Duration};

use jiff::Timestamp;
use relay_protocol::{Status, header::Protocol};

use super::{EndedBy, event::Event};

/// A local connection or flow that has ended.
#[derive(Debug, Clone)]
pub struct Connection<'a> {
    /// The target as typed.
    pub target: &'a str,
    /// The target's port.
    pub remote: u16,
    /// What it was.
    pub protocol: Protocol,
    /// The local program's address.
    pub peer: SocketAddr,
    /// When it was accepted.
    pub start: Timestamp,
    /// When its last end was done.
    pub end: Timestamp,
    /// The time between, whatever was done to the clock.
    pub took: Duration,
    /// Bytes of the local program.
    pub sent: u64,
    /// Bytes for the local program.
    pub received: u64,
    /// How it ended.
    pub status: Status,
    /// Who ended it, where it did not end well.
    pub by: EndedBy,
}

impl<'a> Connection<'a> {
    fn by(&self) -> Option<&'static str> {
        (self.status != Status::Ok).then(|| self.by.as_str())
    }

    /// A line of fields.
    pub(super) fn line(&self, context: Option<&str>) -> String {
        let Connection { target, remote, protocol, peer, sent, received, status, .. } = self;
        let by = self.by().map(|by| format!(" by={by}")).unwrap_or_default();
        let context = context.map(|name| format!(" context={name}")).unwrap_or_default();
        format!(
            "connection start={} end={} seconds={:.3} peer={peer} target={target} port={remote}/{protocol} \
             sent={sent} received={received} status=\"{status}\"{by}{context}",
            millis(self.start),
            millis(self.end),
            self.took.as_secs_f64()
        )
    }

    pub(super) fn event(&self) -> Event<'a> {
        Event::Connection {
            target: self.target,
            remote_port: self.remote,
            protocol: self.protocol.to_string(),
            peer: self.peer.to_string(),
            start: millis(self.start),
            end: millis(self.end),
            seconds: (self.took.as_secs_f64() * 1000.0).round() / 1000.0,
            sent: self.sent,
            received: self.received,
            status: self.status.as_u8(),
            reason: self.status.to_string(),
            by: self.by(),
        }
    }
}

/// A time for logs, to the millisecond.
fn millis(time: Timestamp) -> String {
    format!("{time:.3}")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::{super::tests::captured, *};

    pub(crate) fn ended(status: Status) -> Connection<'static> {
        Connection {
            target: "svc/web",
            remote: 80,
            protocol: Protocol::Tcp,
            peer: "127.0.0.1:54321".parse().unwrap(),
            start: "2030-01-01T12:00:00Z".parse().unwrap(),
            end: "2030-01-01T12:00:01.25Z".parse().unwrap(),
            took: Duration::from_micros(1_250_400),
            sent: 7,
            received: 4096,
            status,
            by: EndedBy::Local,
        }
    }

    #[test]
    fn connections_are_told_of_to_whoever_asked() {
        let (output, out, err) = captured(false);
        output.connection(&ended(Status::Ok));
        assert_eq!(err.text(), "");
        let output = output.log_connections();
        output.connection(&ended(Status::Ok));
        output.connection(&ended(Status::ResetByPeer));
        let common = "connection start=2030-01-01T12:00:00.000Z end=2030-01-01T12:00:01.250Z seconds=1.250 \
                      peer=127.0.0.1:54321 target=svc/web port=80/tcp sent=7 received=4096";
        assert_eq!(
            err.text(),
            format!("{common} status=\"ok\"\n{common} status=\"{}\" by=local\n", Status::ResetByPeer)
        );
        assert_eq!(out.text(), "");
    }

    #[test]
    fn as_events_connections_are_told_of_on_stdout_alone() {
        let (output, out, err) = captured(true);
        output.log_connections().connection(&ended(Status::ResetByPeer));
        let mut event: serde_json::Value = serde_json::from_str(&out.text()).unwrap();
        event.as_object_mut().unwrap().remove("time");
        assert_eq!(
            event,
            serde_json::json!({"event": "connection", "target": "svc/web", "remotePort": 80, "protocol": "tcp",
                "peer": "127.0.0.1:54321", "start": "2030-01-01T12:00:00.000Z", "end": "2030-01-01T12:00:01.250Z",
                "seconds": 1.25, "sent": 7, "received": 4096, "status": 9, "reason": Status::ResetByPeer.to_string(),
                "by": "local"})
        );
        assert_eq!(err.text(), "");
    }
}
