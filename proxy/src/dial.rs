//! The way out, as the proxy sees it: whoever dials for it implements this.

use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use relay_protocol::Status;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};

use crate::Target;

/// There is no connection, or no flow.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct Refused {
    /// What the client is told in the terms of its protocol.
    pub status: Status,
    /// For people: one sentence without its full stop, with the target in it.
    pub why: String,
}

/// Dials.
pub trait Dial: Clone + Send + Sync + 'static {
    /// A TCP connection.
    type Stream: Outbound;
    /// A UDP flow.
    type Flow: Datagrams;

    /// Connects. Ready only when the target has been reached: the client is told so then. Dropping the future gives
    /// the attempt up.
    fn tcp(&self, target: &Target) -> impl Future<Output = Result<Self::Stream, Refused>> + Send;

    /// Opens a flow; whether the target can be reached may show later, as its end.
    fn udp(&self, target: &Target) -> impl Future<Output = Result<Self::Flow, Refused>> + Send;
}

/// A TCP connection to a target. Dropping it before both directions have ended resets it.
pub trait Outbound: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// Copies both ways until both directions have ended or either side was reset, and then lets the socket go: with a
    /// reset where there was one. `early` was read from the socket before and goes first. Counts in `moved`.
    fn carry(self, socket: TcpStream, early: Bytes, moved: &Moved) -> impl Future<Output = End> + Send;
}

/// A UDP flow to a target; dropping it ends it.
pub trait Datagrams: Send + 'static {
    /// Sends without waiting; what can't be sent now is lost.
    ///
    /// # Errors
    /// The status that the flow has ended with.
    fn send(&self, datagram: Bytes) -> Result<(), Status>;

    /// The next datagram from the target. Cancel-safe.
    fn recv(&mut self) -> impl Future<Output = Result<Bytes, Status>> + Send;
}

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// In order, in both directions.
    Finished,
    /// The client's side was reset.
    ResetByClient,
    /// The target's side was reset.
    Reset(Status),
}

/// Bytes that a connection has moved so far.
#[derive(Debug, Default)]
pub struct Moved {
    /// From the client.
    pub sent: AtomicU64,
    /// To the client.
    pub received: AtomicU64,
}

impl Moved {
    /// Bytes from the client, and bytes to it.
    pub fn get(&self) -> (u64, u64) {
        (self.sent.load(Ordering::Relaxed), self.received.load(Ordering::Relaxed))
    }

    /// Counts bytes from the client and to it.
    pub fn add(&self, sent: u64, received: u64) {
        self.sent.fetch_add(sent, Ordering::Relaxed);
        self.received.fetch_add(received, Ordering::Relaxed);
    }

    /// Counts bytes from the client.
    pub fn add_sent(&self, len: usize) {
        self.sent.fetch_add(len as u64, Ordering::Relaxed);
    }

    /// Counts bytes to the client.
    pub fn add_received(&self, len: usize) {
        self.received.fetch_add(len as u64, Ordering::Relaxed);
    }
}
