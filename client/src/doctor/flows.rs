//! What goes through a session: its round trip, a name and a stream, a datagram and its answer.

use std::time::{Duration, Instant};

use bytes::Bytes;
use relay_protocol::{
    Status,
    header::{Address, Header, HostName, Protocol},
};
use relay_tunnel::Session;

use super::{
    agent::soon,
    dns,
    report::{Line, Report, time},
};
use crate::{cluster::ready::Destination, dial_failure::sentence};

/// Round trips that are measured.
const ROUND_TRIPS: usize = 10;
/// A port of the agent's own loopback on which nothing listens: it answers without asking anybody.
const NOBODY: u16 = 1;
/// Every cluster has it.
const API_SERVER: &str = "kubernetes.default.svc";
/// Nearly every cluster has it.
const NAME_SERVER: &str = "kube-dns.kube-system.svc";
/// A datagram may be lost: it is sent again after this time.
const AGAIN: Duration = Duration::from_secs(1);
const ATTEMPTS: usize = 3;

/// Measures one after the other.
pub(super) async fn examine(session: &Session, report: &Report) {
    report.tell(round_trip(session).await);
    report.tell(stream(session).await);
    report.tell(datagram(session).await);
}

fn header(protocol: Protocol, address: Address, port: u16) -> Header {
    Header { request_id: uuid::Uuid::new_v4(), protocol, port, address }
}

/// A stream whose target the agent refuses by itself takes exactly one round trip, and no target's time.
async fn round_trip(session: &Session) -> Line {
    let mut times = Vec::new();
    for _ in 0..ROUND_TRIPS {
        let since = Instant::now();
        let loopback = Address::Ip([127, 0, 0, 1].into());
        let answered = soon(async {
            let stream = session.open(header(Protocol::Tcp, loopback, NOBODY)).await?;
            stream.opened().await
        });
        match answered.await {
            Some(Ok(()) | Err(Status::Refused | Status::Denied | Status::Unreachable)) => {
                times.push(since.elapsed());
            }
            Some(Err(status)) => {
                return Line::failed(
                    "session",
                    format!("the agent answers with: {status}"),
                    "-v=4 shows more",
                );
            }
            None => {
                let hint = "the path may be cut, or too slow: try again, and with --transport spdy";
                return Line::failed("session", "the agent does not answer within 5 s", hint);
            }
        }
    }
    times.sort();
    let (median, worst) = (times[ROUND_TRIPS / 2], times[ROUND_TRIPS - 1]);
    let message =
        format!("a round trip takes {}, at most {} ({ROUND_TRIPS} tried)", time(median), time(worst));
    Line::ok("session", message).took(median)
}

/// A stream to the API server by its name in the cluster: the agent's resolver, and its way to a Service.
async fn stream(session: &Session) -> Line {
    let Ok(host) = HostName::new(API_SERVER) else { return Line::note("dns", "not tried") };
    let destination = Destination { address: Address::Host(host), port: 443 };
    let since = Instant::now();
    let opened = soon(async {
        let header = header(Protocol::Tcp, destination.address.clone(), destination.port);
        session.open(header).await?.opened().await
    });
    let opened = opened.await;
    let took = since.elapsed();
    let failed = |status| {
        let (message, hint) = sentence("by name", &destination, status);
        (message, hint)
    };
    match opened {
        Some(Ok(())) => {
            let message = format!("the agent resolves {API_SERVER} and reaches it in {}", time(took));
            Line::ok("dns", message).took(took)
        }
        Some(Err(status @ (Status::NoSuchHost | Status::ResolveTimedOut))) => {
            let (message, hint) = failed(status);
            Line::failed("dns", message, hint)
        }
        // The name was resolved; what lies behind it need not be meant for agents.
        Some(Err(status)) => {
            let (message, hint) = failed(status);
            Line::warning("dns", message, hint)
        }
        None => {
            let (message, hint) = failed(Status::ResolveTimedOut);
            Line::failed("dns", message, hint)
        }
    }
}

/// A question to the cluster's name server by UDP.
async fn datagram(session: &Session) -> Line {
    let Ok(host) = HostName::new(NAME_SERVER) else { return Line::note("udp", "not tried") };
    let opened = soon(session.open_flow(header(Protocol::Udp, Address::Host(host), 53))).await;
    let Some(Ok(mut flow)) = opened else {
        return Line::failed("udp", "the agent opens no UDP flow", "-v=4 shows more");
    };
    let id = uuid::Uuid::new_v4().as_u64_pair().0 as u16;
    let question = Bytes::from(dns::query(id, "kubernetes.default.svc.cluster.local"));
    let silent = Line::warning(
        "udp",
        format!("no answer from {NAME_SERVER} by UDP"),
        "a NetworkPolicy may keep the agent from it, or UDP from the agent; check that kube-dns runs",
    );
    for _ in 0..ATTEMPTS {
        let since = Instant::now();
        let answer = async {
            flow.send(question.clone())?;
            loop {
                if dns::is_answer(id, &flow.recv().await?) {
                    return Ok::<_, relay_tunnel::FlowClosed>(since.elapsed());
                }
            }
        };
        match tokio::time::timeout(AGAIN, answer).await {
            Ok(Ok(took)) => {
                flow.close(Status::Ok);
                let message = format!("{NAME_SERVER} answers by UDP in {}", time(took));
                return Line::ok("udp", message).took(took);
            }
            Ok(Err(closed)) if closed.status == Status::NoSuchHost => {
                return Line::note("udp", format!("not tried: there is no {NAME_SERVER} to ask"));
            }
            Ok(Err(closed)) => {
                let message = format!("{NAME_SERVER} cannot be asked by UDP: {}", closed.status);
                return Line::warning("udp", message, "a NetworkPolicy may keep the agent from it");
            }
            Err(_) => {}
        }
    }
    silent
}
