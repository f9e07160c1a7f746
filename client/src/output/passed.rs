//! What is told of traffic that passes, for whoever asked with `kubectl relay trace`.

use std::net::SocketAddr;

use jiff::Timestamp;
use relay_protocol::header::Protocol;
use relay_trace::{End, Exchange, Seen};

use super::event::Event;

/// Something that has passed a forward.
#[derive(Debug, Clone)]
pub struct Passed<'a> {
    /// The target as typed.
    pub target: &'a str,
    /// The target's port.
    pub remote: u16,
    /// What the forward is for.
    pub protocol: Protocol,
    /// The local program's address.
    pub peer: SocketAddr,
    /// When it began.
    pub at: Timestamp,
    /// What it was.
    pub what: What,
}

/// What has passed.
#[derive(Debug, Clone)]
pub enum What {
    /// On a connection.
    Seen(Seen),
    /// The first datagram of a flow.
    Datagrams,
}

impl Passed<'_> {
    /// A line for people.
    pub(super) fn line(&self, context: Option<&str>) -> String {
        let Passed { target, remote, peer, what, .. } = self;
        let context = context.map(|name| format!(" context={name}")).unwrap_or_default();
        let begin = format!("{:.3} {target} {remote}", self.at);
        match what {
            What::Seen(Seen::Exchange(exchange)) => format!("{begin} {}{context}", of_exchange(exchange)),
            other => format!("{begin} {peer}: {}{context}", of_connection(other)),
        }
    }

    pub(super) fn event(&self) -> Event<'_> {
        let (target, remote_port) = (self.target, self.remote);
        let (protocol, peer) = (self.protocol.to_string(), self.peer.to_string());
        let start = format!("{:.3}", self.at);
        if let What::Seen(Seen::Exchange(exchange)) = &self.what {
            return Event::Exchange {
                target,
                remote_port,
                peer,
                start,
                version: exchange.version.as_str(),
                method: &exchange.method,
                path: &exchange.target,
                status: exchange.status,
                grpc_status: exchange.grpc_status,
                seconds: (exchange.took.as_secs_f64() * 1_000_000.0).round() / 1_000_000.0,
                sent: exchange.sent,
                received: exchange.received,
                end: end(exchange.end),
                reset_code: match exchange.end {
                    End::Reset(code) => Some(code),
                    _ => None,
                },
            };
        }
        let hello = match &self.what {
            What::Seen(Seen::Tls(hello)) => Some(hello),
            _ => None,
        };
        Event::Traffic {
            target,
            remote_port,
            protocol,
            peer,
            start,
            kind: kind(&self.what),
            server_name: hello.and_then(|hello| hello.server_name.as_deref()),
            alpn: hello.map(|hello| hello.protocols.as_slice()).unwrap_or_default(),
            reason: match &self.what {
                What::Seen(Seen::Lost(why)) => Some(why),
                _ => None,
            },
            skipped: match &self.what {
                What::Seen(Seen::Skipped(count)) => Some(*count),
                _ => None,
            },
        }
    }
}

fn of_exchange(exchange: &Exchange) -> String {
    let Exchange { version, method, target, sent, received, .. } = exchange;
    // An answer to no request has neither.
    let asked = match method.as_str() {
        "" => version.as_str().to_owned(),
        method => format!("{method} {target} {}", version.as_str()),
    };
    let status = exchange.status.map_or_else(|| "-".to_owned(), |status| status.to_string());
    let grpc = exchange.grpc_status.map(|status| format!(" grpc={status}")).unwrap_or_default();
    let end = match exchange.end {
        End::Complete => String::new(),
        End::Reset(code) => format!(" end=reset code={code}"),
        other => format!(" end={}", end(other)),
    };
    let seconds = exchange.took.as_secs_f64();
    format!("\"{asked}\" {status}{grpc} {seconds:.3}s sent={sent} received={received}{end}")
}

fn of_connection(what: &What) -> String {
    match what {
        What::Seen(Seen::Tls(hello)) => {
            let name = hello.server_name.as_ref().map(|name| format!(" for {name}")).unwrap_or_default();
            let alpn = match hello.protocols.as_slice() {
                [] => String::new(),
                protocols => format!(", offers {}", protocols.join(" ")),
            };
            format!("TLS{name}{alpn}")
        }
        What::Seen(Seen::Lost(why)) => format!("not followed any further: {why}"),
        What::Seen(Seen::Skipped(count)) => format!("{count} exchanges not followed: too many at once"),
        What::Datagrams => "datagrams, not HTTP".to_owned(),
        What::Seen(_) => "not HTTP".to_owned(),
    }
}

fn end(end: End) -> &'static str {
    match end {
        End::Complete => "complete",
        End::Switched => "switched",
        End::Cut => "cut",
        End::Reset(_) => "reset",
    }
}

fn kind(what: &What) -> &'static str {
    match what {
        What::Seen(Seen::Tls(_)) => "tls",
        What::Seen(Seen::Lost(_)) => "lost",
        What::Seen(Seen::Skipped(_)) => "skipped",
        What::Datagrams => "datagrams",
        What::Seen(_) => "notHttp",
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use relay_trace::{Hello, Version};
    use serde_json::json;

    use super::{super::tests::captured, *};

    fn exchange() -> Exchange {
        Exchange {
            version: Version::Http2,
            method: "POST".into(),
            target: "/shop.Cart/Add?...".into(),
            status: Some(200),
            grpc_status: Some(5),
            began: Duration::ZERO,
            took: Duration::from_micros(12_345),
            sent: 120,
            received: 88,
            end: End::Complete,
        }
    }

    fn passed(what: What) -> Passed<'static> {
        Passed {
            target: "svc/web",
            remote: 80,
            protocol: Protocol::Tcp,
            peer: "127.0.0.1:54321".parse().unwrap(),
            at: "2030-01-01T12:00:00.0004Z".parse().unwrap(),
            what,
        }
    }

    #[test]
    fn each_kind_has_its_line() {
        let of = |seen| passed(What::Seen(seen)).line(None);
        let begin = "2030-01-01T12:00:00.000Z svc/web 80";
        let asked = "\"POST /shop.Cart/Add?... HTTP/2\"";
        assert_eq!(
            of(Seen::Exchange(exchange())),
            format!("{begin} {asked} 200 grpc=5 0.012s sent=120 received=88")
        );
        let reset = Exchange { status: None, grpc_status: None, end: End::Reset(8), ..exchange() };
        assert_eq!(
            of(Seen::Exchange(reset)),
            format!("{begin} {asked} - 0.012s sent=120 received=88 end=reset code=8")
        );
        let unasked = Exchange { method: String::new(), version: Version::Http11, ..exchange() };
        assert!(of(Seen::Exchange(unasked)).contains("\"HTTP/1.1\" 200"));
        let hello = Hello { server_name: Some("db".into()), protocols: vec!["h2".into(), "http/1.1".into()] };
        let begin = format!("{begin} 127.0.0.1:54321:");
        assert_eq!(of(Seen::Tls(hello)), format!("{begin} TLS for db, offers h2 http/1.1"));
        assert_eq!(of(Seen::Tls(Hello::default())), format!("{begin} TLS"));
        assert_eq!(of(Seen::NotHttp), format!("{begin} not HTTP"));
        assert_eq!(of(Seen::Lost("why")), format!("{begin} not followed any further: why"));
        let datagrams = passed(What::Datagrams).line(Some("one"));
        assert_eq!(datagrams, format!("{begin} datagrams, not HTTP context=one"));
    }

    #[test]
    fn lines_are_what_stdout_is_for_and_events_as_well() {
        let (output, out, err) = captured(false);
        output.passed(&passed(What::Seen(Seen::NotHttp)));
        assert!(out.text().ends_with(": not HTTP\n"));
        assert_eq!(err.text(), "");

        let (output, out, _) = captured(true);
        output.passed(&passed(What::Seen(Seen::Exchange(exchange()))));
        output.passed(&passed(What::Seen(Seen::Tls(Hello {
            server_name: Some("db".into()),
            protocols: vec![],
        }))));
        let events: Vec<serde_json::Value> = out
            .text()
            .lines()
            .map(|line| {
                let mut event: serde_json::Value = serde_json::from_str(line).unwrap();
                event.as_object_mut().unwrap().remove("time");
                event
            })
            .collect();
        assert_eq!(
            events,
            [
                json!({"event": "exchange", "target": "svc/web", "remotePort": 80, "peer": "127.0.0.1:54321",
                    "start": "2030-01-01T12:00:00.000Z", "version": "HTTP/2", "method": "POST",
                    "path": "/shop.Cart/Add?...", "status": 200, "grpcStatus": 5, "seconds": 0.012345, "sent": 120,
                    "received": 88, "end": "complete"}),
                json!({"event": "traffic", "target": "svc/web", "remotePort": 80, "protocol": "tcp",
                    "peer": "127.0.0.1:54321", "start": "2030-01-01T12:00:00.000Z", "kind": "tls",
                    "serverName": "db"}),
            ]
        );
    }
}
