//! TCP: accepts local connections and splices each with a stream of its own.

use std::{io, time::Duration};

use relay_protocol::Status;
use relay_tunnel::{SpliceEnd, abort, splice};
use tokio::net::{TcpListener, TcpStream};

use super::{NotForwarded, Path, Relay};
use crate::dial_failure::is_about_dialling;

/// With no file descriptor left, accepting again at once would only burn time.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Accepts for ever.
pub async fn serve(listener: TcpListener, path: Path, relay: Relay) {
    loop {
        match listener.accept().await {
            Ok((socket, peer)) => {
                tracing::debug!(%peer, target = %path.target, "accepted");
                relay.tasks.spawn(carry(socket, path.clone(), relay.clone()));
            }
            Err(error) if is_about_one_connection(&error) => {}
            Err(error) => {
                relay.output.not_forwarded(&path.target, &format!("cannot accept a connection: {error}"));
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn is_about_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    )
}

async fn carry(socket: TcpStream, path: Path, relay: Relay) {
    if let Err(error) = socket.set_nodelay(true) {
        tracing::debug!(%error, "no TCP_NODELAY");
    }
    let opened = relay.open(&path, |session, header| async move { session.open(header).await }).await;
    let (stream, destination) = match opened {
        Ok(opened) => opened,
        Err(why) => {
            abort(socket);
            tell(&relay, &path, &why);
            return;
        }
    };
    let report = splice(socket, stream).await;
    tracing::debug!(target = %path.target, sent = report.sent, received = report.received, end = ?report.end, "ended");
    if let SpliceEnd::ResetByTunnel(status) = report.end
        && report.received == 0
        && is_about_dialling(status)
        // The loss of the agent is told once, not by each connection.
        && !matches!(status, Status::AgentLost | Status::ShuttingDown)
    {
        relay.output.dial_failed(&path.target, &destination, status);
    }
}

fn tell(relay: &Relay, path: &Path, why: &NotForwarded) {
    relay.output.not_forwarded(&path.target, &why.to_string());
}
