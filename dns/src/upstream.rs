//! The way to the name server, which is somebody else's business.

use std::{future::Future, io};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};

/// Opens ways to the name server.
pub trait Upstream: Send + Sync + 'static {
    /// For datagrams.
    type Datagrams: Datagrams;
    /// For a connection.
    type Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static;

    /// Opens a way for datagrams, each time with another source address. Dropping the future gives up.
    ///
    /// # Errors
    /// Why there is none.
    fn datagrams(&self) -> impl Future<Output = io::Result<Self::Datagrams>> + Send;

    /// Opens a connection. Dropping the future gives up.
    ///
    /// # Errors
    /// Why there is none.
    fn stream(&self) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

/// A connected socket of datagrams, or what does the same. Dropping it closes it.
pub trait Datagrams: Send + 'static {
    /// Sends without waiting; what there is no room for is lost.
    ///
    /// # Errors
    /// It is closed.
    fn send(&mut self, message: Bytes) -> io::Result<()>;

    /// Waits for the next datagram. Cancellation safe.
    ///
    /// # Errors
    /// It is closed.
    fn recv(&mut self) -> impl Future<Output = io::Result<Bytes>> + Send;
}
