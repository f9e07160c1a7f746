//! A UDP association inside the tunnel.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use relay_protocol::hello::SessionId;
use relay_protocol::session::{FlowKey, Session};
use relay_protocol::{Header, Status};

use crate::shared::Shared;
use crate::turns::Turns;

/// The flow is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("flow closed: {status}")]
pub struct FlowClosed {
    /// Why.
    pub status: Status,
}

/// One flow of a session: datagrams of 0 to 65,507 bytes, which may be lost but are neither cut nor doubled.
///
/// Dropping it closes it.
pub struct TunnelFlow {
    shared: Arc<Shared>,
    key: FlowKey,
    header: Header,
}

impl std::fmt::Debug for TunnelFlow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TunnelFlow").field("header", &self.header).finish_non_exhaustive()
    }
}

impl TunnelFlow {
    pub(crate) fn new(shared: Arc<Shared>, key: FlowKey, header: Header) -> Self {
        Self { shared, key, header }
    }

    /// Where the flow goes.
    pub const fn header(&self) -> &Header {
        &self.header
    }

    /// Which session it belongs to.
    pub fn session(&self) -> SessionId {
        self.shared.peek(Session::id)
    }

    pub(crate) fn turns(&self) -> Turns {
        self.shared.turns.clone()
    }

    /// Its number within the session, if it has one yet.
    pub fn number(&self) -> Option<u64> {
        self.shared.peek(|session| session.flow_number(self.key))
    }

    /// Queues a datagram and never waits: a full queue drops its oldest.
    ///
    /// # Errors
    /// [`FlowClosed`] when the flow is over, or the datagram is longer than 65,507 bytes.
    pub fn send(&self, datagram: Bytes) -> Result<(), FlowClosed> {
        let sent = self.shared.with(|state, now| state.session.send_datagram(now, self.key, datagram));
        sent.map_err(|status| FlowClosed { status })
    }

    /// The next datagram. Cancel-safe.
    ///
    /// # Errors
    /// [`FlowClosed`] when the flow is over and everything was taken.
    pub async fn recv(&mut self) -> Result<Bytes, FlowClosed> {
        poll_fn(|cx| self.poll_recv(cx)).await
    }

    /// As [`TunnelFlow::recv`], for owners that poll.
    ///
    /// # Errors
    /// As [`TunnelFlow::recv`].
    pub fn poll_recv(&self, cx: &mut Context<'_>) -> Poll<Result<Bytes, FlowClosed>> {
        self.shared.with(|state, _| match state.session.receive_datagram(self.key) {
            Ok(Some(datagram)) => Poll::Ready(Ok(datagram)),
            Ok(None) => {
                state.wait_datagram(self.key, cx.waker());
                Poll::Pending
            }
            Err(status) => Poll::Ready(Err(FlowClosed { status })),
        })
    }

    /// Ends the flow and tells the other end why.
    pub fn close(self, status: Status) {
        self.shared.with(|state, _| state.session.close_flow(self.key, status));
    }
}

impl Drop for TunnelFlow {
    fn drop(&mut self) {
        self.shared.with(|state, _| state.session.close_flow(self.key, Status::Aborted));
    }
}
