//! One local connection through a pod's own port-forward, from its beginning to its end.

use std::net::SocketAddr;

use relay_protocol::Status;
use relay_transport::{ConnectionError, DialError};
use tokio::net::TcpStream;

use super::{
    DirectError,
    carry::{End, carry},
    pods::{PodPort, Pods},
};
use crate::{
    cluster::ready::Destination,
    forward::{Ended, Path, Relay},
    ledger::Tally,
    output::EndedBy,
};

/// Carries a connection that no agent is there for, or whose pods are known to answer on their loopback only.
pub(crate) async fn through(
    socket: TcpStream,
    path: &Path,
    pods: &Pods,
    relay: &Relay,
    tally: &Tally,
) -> Ended {
    let direct = &relay.direct;
    let opened = tokio::select! {
        biased;
        () = direct.0.ended.cancelled() => Err(DirectError::Ending),
        opened = direct.open(pods, relay.connect_wait) => opened,
    };
    match opened {
        Ok((connection, pod)) => carried(socket, connection, path, &pod, relay, tally).await,
        Err(error) => {
            relay_tunnel::abort(socket);
            relay.output.connection_failed(&path.target, &format!("{}: {error}", path.target), &error.hint());
            let status = match error {
                DirectError::Ending => Status::Aborted,
                DirectError::Dial(DialError::Forbidden { .. }) => Status::Denied,
                _ => Status::ConnectTimedOut,
            };
            Ended { status, by: EndedBy::Remote, sent: 0, received: 0 }
        }
    }
}

/// Carries a connection that was refused at a pod's address: its port may answer on the pod's loopback. Gives the socket
/// back, and what to say beside the refusal, where that is known to lead nowhere.
pub(crate) async fn instead(
    socket: TcpStream,
    path: &Path,
    pods: &Pods,
    refused: &Destination,
    relay: &Relay,
    tally: &Tally,
) -> Result<Ended, (TcpStream, Option<DirectError>)> {
    let direct = &relay.direct;
    let pod = tokio::select! {
        biased;
        () = direct.0.ended.cancelled() => return Err((socket, None)),
        pod = tokio::time::timeout(relay.connect_wait, pods.behind(refused)) => pod,
    };
    let pod = match pod {
        Ok(Ok(pod)) => pod,
        Ok(Err(error)) => return Err((socket, Some(error))),
        Err(_) => return Err((socket, None)),
    };
    if let Some(why) = direct.0.loopback.is_hopeless(&pod) {
        return Err((socket, why.map(DirectError::Dial)));
    }
    match direct.connect(&pod).await {
        Ok(connection) => Ok(carried(socket, connection, path, &pod, relay, tally).await),
        Err(error) => {
            if matches!(error, DialError::Forbidden { .. }) {
                direct.0.loopback.forbidden(&pod, &error);
            }
            Err((socket, Some(DirectError::Dial(error))))
        }
    }
}

async fn carried(
    socket: TcpStream,
    connection: relay_transport::Connection,
    path: &Path,
    pod: &PodPort,
    relay: &Relay,
    tally: &Tally,
) -> Ended {
    let direct = &relay.direct;
    let answered = || {
        if !direct.is_only_way() && direct.0.loopback.answered(pod, &path.target) {
            relay.output.note(&format!(
                "{}: port {} answers on its pod's loopback only; connections go through the pod's own port-forward, \
                 and are lost with their connection to the API server",
                path.target, pod.port
            ));
        }
    };
    let tap = relay.tap_of_pod(path, &socket, SocketAddr::new(pod.ip, pod.port));
    let (carried, tap) = carry(socket, connection, &direct.0.ended, tally, tap, answered).await;
    let (status, by) = match &carried.end {
        End::Finished | End::Left => (Status::Ok, EndedBy::Remote),
        End::Ending => (Status::Aborted, EndedBy::Remote),
        End::Local(error) => {
            tracing::debug!(%error, target = %path.target, "reset by the local program");
            (Status::ResetByPeer, EndedBy::Local)
        }
        End::Quiet => {
            let message = format!(
                "{}: the pod has not answered since the local program ended its direction, which it is not told \
                 without an agent",
                path.target
            );
            let hint = "with an agent the pod is told; see docs/without-agent.md for what that needs";
            relay.output.connection_failed(&path.target, &message, hint);
            (Status::Aborted, EndedBy::Remote)
        }
        End::Remote(error) => {
            let cause = error.get_ref().and_then(|inner| inner.downcast_ref::<ConnectionError>());
            let status = remote_status(cause);
            if status == Status::Refused {
                direct.0.loopback.refused(pod);
                path.direct.iter().for_each(|pods| pods.doubt());
            }
            if let Some((message, hint)) = sentence(error, status, path, pod) {
                relay.output.connection_failed(&path.target, &message, hint);
            }
            (status, EndedBy::Remote)
        }
    };
    let ended = Ended { status, by, sent: carried.sent, received: carried.received };
    if let Some(tap) = tap {
        tap.ended(&ended);
    }
    ended
}

/// What a node's complaint amounts to.
fn remote_status(cause: Option<&ConnectionError>) -> Status {
    match cause {
        Some(ConnectionError::Remote(text)) => {
            let text = text.to_lowercase();
            if text.contains("connection refused") {
                Status::Refused
            } else if text.contains("connection reset") || text.contains("broken pipe") {
                Status::ResetByPeer
            } else {
                Status::Unknown
            }
        }
        Some(ConnectionError::Lost | ConnectionError::Closed { .. }) => Status::Aborted,
        // The pod's own end, with something still unsaid.
        None => Status::ResetByPeer,
        Some(_) => Status::Unknown,
    }
}

/// What is told of a connection that the port-forward ended. A program knows of its own resets.
fn sentence(
    error: &std::io::Error,
    status: Status,
    path: &Path,
    pod: &PodPort,
) -> Option<(String, &'static str)> {
    let target = &path.target;
    match status {
        Status::ResetByPeer => None,
        Status::Refused => Some((
            format!("{target}: nothing listens on port {} in pod {}", pod.port, pod.pod),
            "check the port, and whether the pod's program has started",
        )),
        Status::Aborted => Some((
            format!("{target}: {error}; a connection without an agent ends with it"),
            "the local connection was reset; it can be tried again",
        )),
        _ => Some((format!("{target}: the port-forward failed: {error}"), "run with -v=4 to see more")),
    }
}
