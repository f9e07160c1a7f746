//! The proxy's way out: streams and flows of the session that is there at the moment.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use relay_protocol::{Status, header::Protocol};
use relay_proxy::{Datagrams, Dial, End, Moved, Outbound, Refused, Target};
use relay_tunnel::{SpliceEnd, TunnelFlow, TunnelStream, splice_watched};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Instant, timeout},
};

use crate::{
    cluster::ready::Destination,
    dial_failure,
    forward::{NotForwarded, Relay},
};

/// The agent answers within twenty seconds, resolving and connecting. Without its answer for so long, the connection
/// to it is lost, and the client has waited long enough.
const ANSWER: Duration = Duration::from_secs(30);

/// Dials through the relay.
#[derive(Clone)]
pub(super) struct TunnelDial(pub(super) Relay);

/// A stream to a target that was reached.
pub(super) struct Tunnelled(TunnelStream);

/// A flow.
pub(super) struct TunnelledFlow(TunnelFlow);

impl Dial for TunnelDial {
    type Stream = Tunnelled;
    type Flow = TunnelledFlow;

    async fn tcp(&self, target: &Target) -> Result<Tunnelled, Refused> {
        let (destination, deadline) = (destination(target), self.0.deadline());
        loop {
            let opened =
                self.0.open_to(Protocol::Tcp, &destination, deadline, |session, header| async move {
                    session.open(header).await
                });
            let stream = opened.await.map_err(|why| not_forwarded(&destination, &why))?;
            match timeout(ANSWER, stream.opened()).await {
                Ok(Ok(())) => return Ok(Tunnelled(stream)),
                // Nobody's byte was on it: the next agent may be asked.
                Ok(Err(Status::AgentLost | Status::ShuttingDown)) if Instant::now() < deadline => {}
                Ok(Err(status)) => return Err(refused(&destination, status)),
                Err(_) => {
                    let why = format!("the agent has not answered within {} s", ANSWER.as_secs());
                    return Err(Refused { status: Status::ConnectTimedOut, why });
                }
            }
        }
    }

    async fn udp(&self, target: &Target) -> Result<TunnelledFlow, Refused> {
        let (destination, deadline) = (destination(target), self.0.deadline());
        let opened = self.0.open_to(Protocol::Udp, &destination, deadline, |session, header| async move {
            session.open_flow(header).await
        });
        opened.await.map(TunnelledFlow).map_err(|why| not_forwarded(&destination, &why))
    }
}

fn destination(target: &Target) -> Destination {
    Destination { address: target.address.clone(), port: target.port }
}

fn refused(destination: &Destination, status: Status) -> Refused {
    Refused { status, why: dial_failure::what(destination, status) }
}

fn not_forwarded(destination: &Destination, why: &NotForwarded) -> Refused {
    match why {
        NotForwarded::Refused(status) => refused(destination, *status),
        other => Refused { status: other.status(), why: other.to_string() },
    }
}

impl Outbound for Tunnelled {
    async fn carry(self, socket: TcpStream, early: Bytes, moved: &Moved) -> End {
        let (mut sent, mut received) = (0, 0);
        let report = splice_watched(socket, self.0, early, |all_sent, all_received| {
            moved.add(all_sent - sent, all_received - received);
            (sent, received) = (all_sent, all_received);
        });
        match report.await.end {
            SpliceEnd::Finished => End::Finished,
            SpliceEnd::ResetByTunnel(status) => End::Reset(status),
            SpliceEnd::ResetBySocket(_) => End::ResetByClient,
        }
    }
}

impl AsyncRead for Tunnelled {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Tunnelled {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, bufs)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

impl Datagrams for TunnelledFlow {
    fn send(&self, datagram: Bytes) -> Result<(), Status> {
        self.0.send(datagram).map_err(|closed| closed.status)
    }

    async fn recv(&mut self) -> Result<Bytes, Status> {
        self.0.recv().await.map_err(|closed| closed.status)
    }
}
