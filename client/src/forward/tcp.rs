//! TCP: accepts local connections and splices each with a stream of its own.

use std::{io, net::SocketAddr, time::Duration};

use relay_protocol::Status;
use relay_tunnel::{SpliceEnd, abort, splice_tapped};
use tokio::net::{TcpListener, TcpStream};

use super::{
    AGAIN, NotForwarded, Path, Relay,
    connection::{Began, Ended},
    early::{Failed, Opened, open},
};
use crate::{
    cluster::ready::Destination,
    dial_failure::is_about_dialling,
    direct::{instead, through},
    ledger::Tally,
    output::EndedBy,
};

/// With no file descriptor left, accepting again at once would only burn time.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Accepts for ever.
pub async fn serve(listener: TcpListener, path: Path, relay: Relay) {
    loop {
        match listener.accept().await {
            Ok((socket, peer)) => {
                tracing::debug!(%peer, target = %path.target, "accepted");
                relay.tasks.spawn(carry(socket, peer, path.clone(), relay.clone()));
            }
            Err(error) if is_about_one_connection(&error) => {}
            Err(error) => {
                let why = format!("cannot accept a connection: {error}");
                relay.output.not_forwarded(&path.target, &why, AGAIN);
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

async fn carry(socket: TcpStream, peer: SocketAddr, path: Path, relay: Relay) {
    let began = Began::now(peer, &path);
    let ended = tokio::select! {
        ended = carried(socket, &path, &relay, began.tally()) => ended,
        () = path.ended.cancelled() => {
            let (sent, received) = began.tally().so_far();
            Ended { status: Status::Aborted, by: EndedBy::Remote, sent, received }
        }
    };
    tracing::debug!(target = %path.target, ?ended, "ended");
    if ended.status != Status::Ok {
        relay.output.stream_ended(&path.target, ended.status, ended.by, ended.sent, ended.received);
    }
    began.ended(&path, &relay, ended);
}

async fn carried(mut socket: TcpStream, path: &Path, relay: &Relay, tally: &Tally) -> Ended {
    // Whatever ends this process, a connection that was not forwarded to its end must not look as if it had been.
    if let Err(error) = socket.set_nodelay(true).and_then(|()| socket.set_zero_linger()) {
        tracing::debug!(%error, "options of an accepted socket");
    }
    if let Some(pods) = path.direct.as_ref().filter(|pods| relay.direct.is_for(pods)) {
        return through(socket, path, pods, relay, tally).await;
    }
    let Opened { stream, destination, early } = match open(&mut socket, path, relay).await {
        Ok(opened) => opened,
        Err(why) => {
            let (socket, why) = match without_agent(socket, why, path, relay, tally).await {
                Ok(ended) => return ended,
                Err(left) => left,
            };
            abort(socket);
            let (status, mut by) = (why.status(), EndedBy::Remote);
            match why {
                Failed::NotForwarded(why) => {
                    relay.output.not_forwarded(&path.target, &why.to_string(), why.hint());
                }
                Failed::Refused(destination, status) => tell(relay, path, &destination, status),
                Failed::NotInstead(destination, error) => {
                    path.route.doubt();
                    relay.output.dial_failed_twice(&path.target, &destination, &error);
                }
                Failed::Local(error) => {
                    tracing::debug!(%error, target = %path.target, "ended before it began");
                    by = EndedBy::Local;
                }
            }
            return Ended { status, by, sent: 0, received: 0 };
        }
    };
    let mut tap = relay.tap(path, &socket, &destination, &early);
    let early = early.len() as u64;
    let watch = |sent, received| tally.moved(early + sent, received);
    let report = match &mut tap {
        Some(tap) => splice_tapped(socket, stream, tap, watch).await,
        None => splice_tapped(socket, stream, &mut (), watch).await,
    };
    let (sent, received) = (early + report.sent, report.received);
    let (status, by) = match report.end {
        SpliceEnd::Finished => (Status::Ok, EndedBy::Remote),
        SpliceEnd::ResetBySocket(_) => (Status::ResetByPeer, EndedBy::Local),
        SpliceEnd::ResetByTunnel(status) => {
            if received == 0 {
                tell(relay, path, &destination, status);
            }
            (status, EndedBy::Remote)
        }
    };
    let ended = Ended { status, by, sent, received };
    if let Some(tap) = tap {
        tap.ended(&ended);
    }
    ended
}

/// Carries a connection that the agent does not carry through a port-forward of its own, where there may be such a way.
async fn without_agent(
    socket: TcpStream,
    why: Failed,
    path: &Path,
    relay: &Relay,
    tally: &Tally,
) -> Result<Ended, (TcpStream, Failed)> {
    let Some(pods) = &path.direct else { return Err((socket, why)) };
    match why {
        Failed::NotForwarded(NotForwarded::Ending) if relay.direct.taken_over().await => {
            Ok(through(socket, path, pods, relay, tally).await)
        }
        Failed::Refused(destination, Status::Refused) => {
            let ended = instead(socket, path, pods, &destination, relay, tally).await;
            ended.map_err(|(socket, error)| match error {
                Some(error) => (socket, Failed::NotInstead(destination, error)),
                None => (socket, Failed::Refused(destination, Status::Refused)),
            })
        }
        why => Err((socket, why)),
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
