//! A TCP socket that is reset unless it was ended in order, and that two owners may share.

use std::{
    io::{self, IoSlice},
    net::Shutdown,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, Interest, ReadBuf},
    net::TcpStream,
    time::timeout,
};

/// What a client may still send after the last reply, before its socket is reset.
const LEFTOVERS: u64 = 256 * 1024;
/// How long it may take for it.
const LINGER: Duration = Duration::from_secs(1);

/// A socket; clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Socket {
    stream: Arc<TcpStream>,
    heard: Heard,
}

/// How many bytes were read from a socket.
#[derive(Debug, Clone, Default)]
pub(crate) struct Heard(Arc<AtomicU64>);

impl Heard {
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Socket {
    /// From now on a socket that is merely dropped is reset.
    pub(crate) fn new(stream: TcpStream) -> Self {
        prepare(&stream);
        Self { stream: Arc::new(stream), heard: Heard::default() }
    }

    /// What has been read of it, at any time.
    pub(crate) fn heard(&self) -> Heard {
        self.heard.clone()
    }

    /// Ready when the other end has reset the connection.
    pub(crate) async fn reset(&self) -> io::Error {
        reset(&self.stream).await
    }

    /// The socket itself, if this is its last owner.
    pub(crate) fn into_inner(self) -> Option<TcpStream> {
        Arc::into_inner(self.stream)
    }
}

/// Whatever ends this process, a connection that was not carried to its end must not look as if it had been.
pub(crate) fn prepare(stream: &TcpStream) {
    if let Err(error) = stream.set_nodelay(true).and_then(|()| stream.set_zero_linger()) {
        tracing::debug!(%error, "options of a socket");
    }
}

/// Ready when the other end has reset the connection: nobody waits for an answer any more. Cancel-safe.
pub(crate) async fn reset(stream: &TcpStream) -> io::Error {
    match stream.ready(Interest::ERROR).await {
        Ok(_) => stream.take_error().ok().flatten().unwrap_or_else(|| io::ErrorKind::ConnectionReset.into()),
        Err(error) => error,
    }
}

/// Lets go of a socket whose two directions have ended.
pub(crate) fn finish(stream: &TcpStream) {
    let _ = SockRef::from(stream).set_linger(None);
}

/// Ends a connection after the last reply: what the client still sends is read for a moment, because a reset would
/// overtake the reply.
pub(crate) async fn end_after_reply(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    use tokio::io::AsyncWriteExt;
    if stream.shutdown().await.is_ok() {
        let mut rest = (&mut stream).take(LEFTOVERS);
        let _ = timeout(LINGER, tokio::io::copy(&mut rest, &mut tokio::io::sink())).await;
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.stream.poll_read_ready(cx))?;
            match self.stream.try_read_buf(buf) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
                Ok(len) => {
                    self.heard.0.fetch_add(len as u64, Ordering::Relaxed);
                    return Poll::Ready(Ok(()));
                }
            }
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.stream.poll_write_ready(cx))?;
            match self.stream.try_write_vectored(bufs) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => return Poll::Ready(written),
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        finish(&self.stream);
        Poll::Ready(SockRef::from(&*self.stream).shutdown(Shutdown::Write))
    }
}
