//! The connection below TLS, whatever it goes through, and the time limit on making one.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::Uri;
use hyper::rt::{Read, ReadBuf, ReadBufCursor, Write};
use hyper::upgrade::{Parts, Upgraded};
use hyper_rustls::MaybeHttpsStream;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use relay_sockopt::LowWater;
use tokio::io::{AsyncRead, BufReader};
use tokio::net::TcpStream;
use tower::util::BoxCloneSyncService;
use tower::{BoxError, Service, ServiceExt as _};

use crate::connection::Io;

/// What a connector makes.
pub(super) trait Stream: Read + Write + Connection + Send + Unpin {
    /// The socket, where there is nothing above it.
    fn socket(&mut self) -> Option<&mut TcpStream>;
}

impl Stream for TokioIo<TcpStream> {
    fn socket(&mut self) -> Option<&mut TcpStream> {
        Some(self.inner_mut())
    }
}

impl<T> Stream for MaybeHttpsStream<T>
where
    Self: Read + Write + Connection + Send + Unpin,
{
    fn socket(&mut self) -> Option<&mut TcpStream> {
        None
    }
}

/// What is read ahead of TLS at first and at most, in bytes. TLS itself asks for 4 KiB at a time.
const FIRST_AHEAD: usize = 16 * 1024;
const MOST_AHEAD: usize = 128 * 1024;

/// A connection to the API server's port: TCP, or TCP through a proxy.
pub(super) struct Transport {
    stream: Box<dyn Stream>,
    water: LowWater,
    /// Grows while reads fill it: most connections carry little.
    ahead: Vec<u8>,
    start: usize,
    end: usize,
}

impl Transport {
    /// Gives a connector's connections one common type.
    pub(super) fn from<C>(connector: C) -> BoxCloneSyncService<Uri, Self, BoxError>
    where
        C: Service<Uri> + Clone + Send + Sync + 'static,
        C::Response: Stream + 'static,
        C::Error: Into<BoxError>,
        C::Future: Send + 'static,
    {
        BoxCloneSyncService::new(
            connector
                .map_response(|stream: C::Response| Self {
                    stream: Box::new(stream),
                    water: LowWater::default(),
                    ahead: Vec::new(),
                    start: 0,
                    end: 0,
                })
                .map_err(Into::<BoxError>::into),
        )
    }
}

impl Read for Transport {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut target: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.start == this.end {
            if this.end == this.ahead.len() {
                this.ahead.resize((this.ahead.len() * 2).clamp(FIRST_AHEAD, MOST_AHEAD), 0);
            }
            (this.start, this.end) = (0, 0);
            this.end = match this.stream.socket() {
                Some(socket) => {
                    let mut ahead = tokio::io::ReadBuf::new(&mut this.ahead);
                    ready!(this.water.poll_read(socket, cx, &mut ahead))?;
                    ahead.filled().len()
                }
                None => {
                    let mut ahead = ReadBuf::new(&mut this.ahead);
                    ready!(Pin::new(&mut this.stream).poll_read(cx, ahead.unfilled()))?;
                    ahead.filled().len()
                }
            };
        }
        let len = target.remaining().min(this.end - this.start);
        target.put_slice(&this.ahead[this.start..this.start + len]);
        this.start += len;
        Poll::Ready(Ok(()))
    }
}

impl Write for Transport {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl Connection for Transport {
    fn connected(&self) -> Connected {
        self.stream.connected()
    }
}

/// The connection below an upgrade, as it was made, and what was read of it already. What TLS has decrypted can be read
/// there where it lies; the HTTP client would copy it once more.
pub(crate) fn direct(upgraded: Upgraded) -> (Box<dyn Io>, Bytes) {
    match upgraded.downcast::<MaybeHttpsStream<Transport>>() {
        Ok(Parts { io: MaybeHttpsStream::Https(tls), read_buf, .. }) => {
            (Box::new(tls.into_inner()), read_buf)
        }
        Ok(Parts { io: MaybeHttpsStream::Http(plain), read_buf, .. }) => {
            (Box::new(buffered(TokioIo::new(plain))), read_buf)
        }
        Err(upgraded) => (Box::new(buffered(TokioIo::new(upgraded))), Bytes::new()),
    }
}

fn buffered<T: AsyncRead>(io: T) -> BufReader<T> {
    BufReader::with_capacity(MOST_AHEAD, io)
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

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;
    use http::header::{CONNECTION, UPGRADE};
    use kube::client::Body;
    use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn an_upgrade_is_the_connection_that_was_made() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = format!("http://{}", listener.local_addr().unwrap());
        let serve = async {
            let mut stream = BufReader::new(listener.accept().await.unwrap().0);
            let mut line = String::new();
            while !line.ends_with("\r\n\r\n") {
                stream.read_line(&mut line).await.unwrap();
            }
            let answer = b"HTTP/1.1 101 OK\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\nearly";
            stream.write_all(answer).await.unwrap();
            stream
        };
        let client = super::super::client(kube::Config::new(server.parse().unwrap()), None).unwrap();
        let request = Request::get("/").header(CONNECTION, "Upgrade").header(UPGRADE, "x");
        let request = client.send(request.body(Body::empty()).unwrap());
        let (response, mut stream) = tokio::join!(request, serve);
        let upgraded = hyper::upgrade::on(response.unwrap()).await.unwrap();
        // Else all bytes would take the longer way, unnoticed.
        let parts = upgraded.downcast::<MaybeHttpsStream<Transport>>().unwrap();
        assert_eq!(parts.read_buf, "early");
        let MaybeHttpsStream::Http(transport) = parts.io else { panic!("there is no TLS here") };
        stream.write_all(b"late").await.unwrap();
        let mut late = [0; 4];
        TokioIo::new(transport).read_exact(&mut late).await.unwrap();
        assert_eq!(&late, b"late");
    }
}
