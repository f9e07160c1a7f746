//! The beginning of a TCP connection whose target has several endpoints, or can be reached without the agent: where one
//! refuses before anything reached it, another is tried, and the local program does not notice.

use std::io;

use bytes::Bytes;
use relay_protocol::Status;
use relay_tunnel::TunnelStream;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{NotForwarded, Path, Relay};
use crate::{cluster::ready::Destination, direct::DirectError};

/// Endpoints that are tried for one connection.
const TRIES: usize = 3;
/// What is sent before the answer: the agent's initial credit, less a header with an address.
const EARLY: usize = 2048 - 64;

/// A stream on its way, or answered.
pub(super) struct Opened {
    pub(super) stream: TunnelStream,
    pub(super) destination: Destination,
    /// What it has of the local program's bytes.
    pub(super) early: Bytes,
}

/// Why there is no stream.
pub(super) enum Failed {
    NotForwarded(NotForwarded),
    Refused(Destination, Status),
    /// The endpoint refuses, and its pod is not reached without the agent either.
    NotInstead(Destination, DirectError),
    Local(io::Error),
}

impl Failed {
    /// For scripts.
    pub(super) fn status(&self) -> Status {
        match self {
            Self::NotForwarded(why) => why.status(),
            Self::Refused(_, status) => *status,
            Self::NotInstead(..) => Status::Refused,
            Self::Local(_) => Status::ResetByPeer,
        }
    }
}

/// Opens a stream for a local connection. Where there is only one way nothing is waited for. Otherwise what the local
/// program says first stays in its socket until the endpoint has taken the connection.
pub(super) async fn open(socket: &mut TcpStream, path: &Path, relay: &Relay) -> Result<Opened, Failed> {
    for _ in 1..TRIES {
        if !path.route.has_others() {
            break;
        }
        let (mut stream, destination) = begin(path, relay).await?;
        match answered(socket, &mut stream).await.map_err(Failed::Local)? {
            Ok(early) => return Ok(Opened { stream, destination, early }),
            Err(status) if proves_nothing_arrived(status) => {
                tracing::debug!(target = %path.target, ?destination, %status, "trying another endpoint");
            }
            Err(status) => return Err(Failed::Refused(destination, status)),
        }
    }
    let (mut stream, destination) = begin(path, relay).await?;
    if path.direct.is_none() {
        return Ok(Opened { stream, destination, early: Bytes::new() });
    }
    match answered(socket, &mut stream).await.map_err(Failed::Local)? {
        Ok(early) => Ok(Opened { stream, destination, early }),
        Err(status) => Err(Failed::Refused(destination, status)),
    }
}

async fn begin(path: &Path, relay: &Relay) -> Result<(TunnelStream, Destination), Failed> {
    let opened = relay.open(path, |session, header| async move { session.open(header).await }).await;
    opened.map_err(Failed::NotForwarded)
}

/// A dial that failed: the agent has thrown away what came for it.
fn proves_nothing_arrived(status: Status) -> bool {
    matches!(
        status,
        Status::NoSuchHost
            | Status::ResolveTimedOut
            | Status::ConnectTimedOut
            | Status::Refused
            | Status::Unreachable
    )
}

/// Waits for the agent's answer, and sends meanwhile what the local program says first, without taking it from the
/// socket; once the answer is good, that much is taken.
async fn answered(socket: &mut TcpStream, stream: &mut TunnelStream) -> io::Result<Result<Bytes, Status>> {
    let mut early = [0; EARLY];
    let peeked = {
        let mut opened = std::pin::pin!(stream.opened());
        tokio::select! {
            biased;
            opened = &mut opened => match opened {
                Ok(()) => return Ok(Ok(Bytes::new())),
                Err(status) => return Ok(Err(status)),
            },
            peeked = socket.peek(&mut early) => peeked?,
        }
    };
    let written = stream.write_all(&early[..peeked]).await;
    match (stream.opened().await, written) {
        (Ok(()), Ok(())) => {
            socket.read_exact(&mut early[..peeked]).await?;
            Ok(Ok(Bytes::copy_from_slice(&early[..peeked])))
        }
        // A reset may overtake the answer; what the endpoint sent before it is still to be delivered.
        (Ok(()), Err(_)) => Ok(Ok(Bytes::new())),
        (Err(status), _) => Ok(Err(status)),
    }
}
