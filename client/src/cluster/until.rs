//! A response body that breaks when its client is superseded: a watch on a connection that may be dead must not wait
//! for the system to notice.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use kube::client::Body;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tower::BoxError;

/// The connection is given up for a newer one.
#[derive(Debug, thiserror::Error)]
#[error("the connection was given up for a newer one")]
pub(super) struct Superseded;

/// A body and how long it lasts.
pub(super) struct Until {
    body: Body,
    ended: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
}

impl Until {
    pub(super) fn forever(body: Body) -> Self {
        Self { body, ended: None }
    }

    pub(super) fn ended(body: Body, ended: &CancellationToken) -> Self {
        Self { body, ended: Some(Box::pin(ended.clone().cancelled_owned())) }
    }
}

impl HttpBody for Until {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        // What has arrived is still good.
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        match self.ended.as_mut().map(|ended| ended.as_mut().poll(cx)) {
            Some(Poll::Ready(())) => {
                self.ended = None;
                self.body = Body::empty();
                Poll::Ready(Some(Err(Superseded.into())))
            }
            Some(Poll::Pending) | None => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
