//! TCP: accepts local connections and splices each with a stream of its own.

use std::{io, time::Duration};

use relay_protocol::Status;
use relay_tunnel::{SpliceEnd, abort, splice};
use tokio::net::{TcpListener, TcpStream};

use super::{
    Path, Relay,
    early::{Failed, Opened, open},
};
use crate::{cluster::ready::Destination, dial_failure::is_about_dialling, output::EndedBy};

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

async fn carry(mut socket: TcpStream, path: Path, relay: Relay) {
    // Whatever ends this process, a connection that was not forwarded to its end must not look as if it had been.
    if let Err(error) = socket.set_nodelay(true).and_then(|()| socket.set_zero_linger()) {
        tracing::debug!(%error, "options of an accepted socket");
    }
    let Opened { stream, destination, early } = match open(&mut socket, &path, &relay).await {
        Ok(opened) => opened,
        Err(why) => {
            abort(socket);
            relay.output.stream_ended(&path.target, why.status(), EndedBy::Remote, 0, 0);
            match why {
                Failed::NotForwarded(why) => relay.output.not_forwarded(&path.target, &why.to_string()),
                Failed::Refused(destination, status) => tell(&relay, &path, &destination, status),
                Failed::Local(error) => {
                    tracing::debug!(%error, target = %path.target, "ended before it began");
                }
            }
            return;
        }
    };
    let report = splice(socket, stream).await;
    let (sent, received) = (early + report.sent, report.received);
    tracing::debug!(target = %path.target, sent, received, end = ?report.end, "ended");
    match report.end {
        SpliceEnd::Finished => {}
        SpliceEnd::ResetBySocket(_) => {
            relay.output.stream_ended(&path.target, Status::ResetByPeer, EndedBy::Local, sent, received);
        }
        SpliceEnd::ResetByTunnel(status) => {
            relay.output.stream_ended(&path.target, status, EndedBy::Remote, sent, received);
            if received == 0 {
                tell(&relay, &path, &destination, status);
            }
        }
    }
}

fn tell(relay: &Relay, path: &Path, destination: &Destination, status: Status) {
    if is_about_dialling(status) {
        path.route.doubt();
    }
    // The loss of the agent is told once, not by each connection.
    if is_about_dialling(status) && !matches!(status, Status::AgentLost | Status::ShuttingDown) {
        relay.output.dial_failed(&path.target, destination, status);
    }
}
