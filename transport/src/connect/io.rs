//! The connection below TLS, whatever it goes through, and the time limit on making one.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::{Connected, Connection};
use tower::util::BoxCloneSyncService;
use tower::{BoxError, Service, ServiceExt as _};

trait Stream: Read + Write + Connection + Send + Unpin {}
impl<T: Read + Write + Connection + Send + Unpin> Stream for T {}

/// A connection to the API server's port: TCP, or TCP through a proxy.
pub(super) struct Transport(Box<dyn Stream>);

impl Transport {
    /// Gives a connector's connections one common type.
    pub(super) fn from<C>(connector: C) -> BoxCloneSyncService<Uri, Self, BoxError>
    where
        C: Service<Uri> + Clone + Send + Sync + 'static,
        C::Response: Read + Write + Connection + Send + Unpin + 'static,
        C::Error: Into<BoxError>,
        C::Future: Send + 'static,
    {
        BoxCloneSyncService::new(
            connector.map_response(|stream| Self(Box::new(stream))).map_err(Into::<BoxError>::into),
        )
    }
}

impl Read for Transport {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        target: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, target)
    }
}

impl Write for Transport {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

impl Connection for Transport {
    fn connected(&self) -> Connected {
        self.0.connected()
    }
}

/// A connector that gives up: a server that accepts and then says nothing would hold a dial for ever.
#[derive(Clone)]
pub(super) struct Deadline<C> {
    connector: C,
    limit: Duration,
}

impl<C> Deadline<C> {
    pub(super) fn new(connector: C, limit: Duration) -> Self {
        Self { connector, limit }
    }
}

/// No connection, and to whom.
#[derive(Debug, thiserror::Error)]
#[error("no connection to {host}")]
struct NotConnected {
    host: String,
    source: BoxError,
}

/// The time limit has passed.
#[derive(Debug, thiserror::Error)]
#[error("no connection to {host} within {} s", limit.as_secs())]
struct TooLate {
    host: String,
    limit: Duration,
}

impl<C> Service<Uri> for Deadline<C>
where
    C: Service<Uri>,
    C::Error: Into<BoxError>,
    C::Future: Send + 'static,
{
    type Response = C::Response;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<C::Response, BoxError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.connector.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, server: Uri) -> Self::Future {
        let limit = self.limit;
        let host = server.authority().map_or_else(String::new, ToString::to_string);
        let connecting = self.connector.call(server);
        Box::pin(async move {
            match tokio::time::timeout(limit, connecting).await {
                Ok(connected) => {
                    connected.map_err(|error| NotConnected { host, source: error.into() }.into())
                }
                Err(_) => Err(TooLate { host, limit }.into()),
            }
        })
    }
}
