//! A connection to a target that speaks plain HTTP, kept for the client's next request.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use hyper::{
    body::{Body, Frame, Incoming, SizeHint},
    client::conn::http1::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use relay_protocol::Status;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::timeout,
};
use tokio_util::task::AbortOnDropHandle;

use crate::{Refused, Target, connections::Tracked, dial::End};

/// What a connection that is not needed any more may take for its end.
const FINISH: Duration = Duration::from_secs(1);

/// A stream whose bytes are counted.
pub(super) struct Counted<S> {
    stream: S,
    tracked: Arc<Tracked>,
}

impl<S> Counted<S> {
    pub(super) fn into_parts(self) -> (S, Arc<Tracked>) {
        (self.stream, self.tracked)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
        this.tracked.moved().add_received(buf.filled().len() - before);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = ready!(Pin::new(&mut this.stream).poll_write(cx, buf))?;
        this.tracked.moved().add_sent(written);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = ready!(Pin::new(&mut this.stream).poll_write_vectored(cx, bufs))?;
        this.tracked.moved().add_sent(written);
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

/// A response's body. Where it breaks off, so did its connection.
pub(super) struct Watched {
    body: Incoming,
    tracked: Arc<Tracked>,
}

impl Watched {
    pub(super) fn new(body: Incoming, tracked: Arc<Tracked>) -> Self {
        Self { body, tracked }
    }
}

impl Body for Watched {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = self.get_mut();
        let frame = Pin::new(&mut this.body).poll_frame(cx);
        if let Poll::Ready(Some(Err(_))) = &frame {
            this.tracked.ended(End::Reset(Status::ResetByPeer));
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A target that speaks HTTP.
pub(super) struct Upstream {
    pub(super) target: Target,
    sender: SendRequest<Incoming>,
    tracked: Arc<Tracked>,
    /// Requests that it has answered.
    answered: usize,
    driver: AbortOnDropHandle<()>,
}

/// Why there is no response.
pub(super) enum Failed {
    /// The connection was gone before anything of the request was sent.
    Unsent(Box<Request<Incoming>>),
    /// The connection broke. One that has answered before may have been closed meanwhile, as idle ones are.
    Broken { was_kept: bool, error: hyper::Error },
}

impl Upstream {
    pub(super) async fn new<S>(target: Target, stream: S, tracked: Tracked) -> Result<Self, Refused>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let tracked = Arc::new(tracked);
        let io = TokioIo::new(Counted { stream, tracked: Arc::clone(&tracked) });
        let handshake = http1::Builder::new().preserve_header_case(true).handshake(io).await;
        let (sender, connection) = handshake.map_err(|error| broken(&target, &error))?;
        let of_driver = Arc::clone(&tracked);
        let driver = tokio::spawn(async move {
            let tracked = of_driver;
            match connection.with_upgrades().await {
                Ok(()) => tracked.ended(End::Finished),
                Err(error) => {
                    tracing::debug!(%error, "a target's connection");
                    tracked.ended(End::Reset(Status::ResetByPeer));
                }
            }
        });
        Ok(Self { target, sender, tracked, answered: 0, driver: AbortOnDropHandle::new(driver) })
    }

    /// The connection, for whoever sees more of it.
    pub(super) fn tracked(&self) -> Arc<Tracked> {
        Arc::clone(&self.tracked)
    }

    /// Ends the connection in order.
    pub(super) async fn finish(self) {
        drop(self.sender);
        let _ = timeout(FINISH, self.driver).await;
    }

    /// Whether it has answered nothing yet.
    pub(super) fn is_new(&self) -> bool {
        self.answered == 0
    }

    /// Whether it can take a request. Waits for the end of the last one.
    pub(super) async fn is_ready(&mut self) -> bool {
        self.sender.ready().await.is_ok()
    }

    pub(super) async fn send(&mut self, request: Request<Incoming>) -> Result<Response<Incoming>, Failed> {
        match self.sender.try_send_request(request).await {
            Ok(response) => {
                self.answered += 1;
                Ok(response)
            }
            Err(mut failed) => Err(match failed.take_message() {
                Some(request) => Failed::Unsent(Box::new(request)),
                None => {
                    self.tracked.ended(End::Reset(Status::ResetByPeer));
                    Failed::Broken { was_kept: self.answered > 0, error: failed.into_error() }
                }
            }),
        }
    }
}

/// What a client is told of a target that ends its connection instead of answering.
pub(super) fn broken(target: &Target, error: &hyper::Error) -> Refused {
    let what = if error.is_parse() || error.is_parse_too_large() {
        "does not answer in HTTP"
    } else {
        "ended the connection without an answer"
    };
    Refused { status: Status::ResetByPeer, why: format!("{target} {what}: {error}") }
}
