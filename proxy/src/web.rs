//! An HTTP client from its first byte to its end: CONNECT, plain HTTP in absolute form, and the proxy's own pages.
//!
//! hyper reads and writes messages: what goes on is written anew from what was understood, so nothing that two readers
//! could take for different things is passed on as it came.

mod answer;
pub mod head;
mod patience;
mod request;
mod upstream;

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use http_body_util::{Either, Full};
use hyper::{
    server::conn::http1,
    service::service_fn,
    upgrade::{OnUpgrade, Upgraded},
};
use hyper_util::rt::TokioIo;
use tokio::{io::AsyncWriteExt, net::TcpStream};

use self::{
    patience::HeadTimer,
    request::Requests,
    upstream::{Counted, Watched},
};
use crate::{
    Dial,
    connections::Tracked,
    reach::Stream,
    server::{Client, Shared},
    socket::{Socket, end_after_reply},
};

/// What an answer carries: the target's body as it comes, or a text of the proxy's own.
type Body = Either<Watched, Full<Bytes>>;

/// A connection that stops being HTTP.
enum Handover<S> {
    /// After the answer to CONNECT.
    Connect { client: OnUpgrade, stream: Stream<S>, tracked: Tracked },
    /// After 101.
    Upgrade { client: OnUpgrade, target: OnUpgrade },
}

/// Where a request leaves what is to be done after its answer.
struct Later<S>(Arc<Mutex<Option<Handover<S>>>>);

impl<S> Later<S> {
    fn set(&self, handover: Handover<S>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(handover);
    }

    fn take(&self) -> Option<Handover<S>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Serves requests until the client ends, or carries what it has switched to.
pub(crate) async fn serve<D: Dial>(client: Client, shared: Arc<Shared<D>>) -> io::Result<()> {
    let limits = shared.settings.limits.clone();
    let socket = Socket::new(client.socket);
    let later = Later(Arc::default());
    let requests = Arc::new(Requests::new(shared, client.peer, client.local, Later(Arc::clone(&later.0))));
    let service = {
        let requests = Arc::clone(&requests);
        service_fn(move |request| {
            let requests = Arc::clone(&requests);
            async move { requests.answer(request).await }
        })
    };
    let connection = http1::Builder::new()
        .timer(HeadTimer::new(socket.heard(), &limits))
        .header_read_timeout(limits.header_time)
        .max_buf_size(limits.header_size.max(8192))
        .max_header_size(limits.header_size)
        .half_close(true)
        .preserve_header_case(true)
        .auto_date_header(false)
        .serve_connection(TokioIo::new(socket.clone()), service)
        .with_upgrades();
    let ended = tokio::select! {
        ended = connection => ended,
        // hyper would notice with the next write only.
        error = socket.reset() => return Err(error),
    };
    match later.take() {
        Some(Handover::Connect { client, stream, tracked }) => {
            drop(requests);
            let (socket, early) = released(client, socket).await?;
            tracked.ended(stream.carry(socket, early, tracked.moved()).await);
            Ok(())
        }
        Some(Handover::Upgrade { client, target }) => {
            let (mut socket, early) = released(client, socket).await?;
            let target = target.await.map_err(io::Error::other)?;
            let parts = target.downcast::<TokioIo<Counted<Stream<D::Stream>>>>().map_err(|_| strange())?;
            drop(requests);
            let (stream, tracked) = parts.io.into_inner().into_parts();
            socket.write_all(&parts.read_buf).await?;
            tracked.ended(stream.carry(socket, early, tracked.moved()).await);
            Ok(())
        }
        None => {
            match ended {
                Ok(()) => {
                    requests.finish().await;
                    end_after_reply(socket).await;
                    Ok(())
                }
                // What can't be understood has been answered, and what took too long is let go in order.
                Err(error) if error.is_parse() || error.is_parse_too_large() || error.is_timeout() => {
                    end_after_reply(socket).await;
                    Err(io::Error::other(error))
                }
                // Dropping the socket resets it: a reply that broke off must not look whole.
                Err(error) => Err(io::Error::other(error)),
            }
        }
    }
}

/// The client's socket itself, and what was read from it too early.
async fn released(client: OnUpgrade, shared: Socket) -> io::Result<(TcpStream, Bytes)> {
    let upgraded: Upgraded = client.await.map_err(io::Error::other)?;
    let parts = upgraded.downcast::<TokioIo<Socket>>().map_err(|_| strange())?;
    drop(parts.io);
    shared.into_inner().map(|socket| (socket, parts.read_buf)).ok_or_else(strange)
}

/// Of our own making, if it were ever to happen.
fn strange() -> io::Error {
    io::Error::other("an upgraded connection is not what it was before")
}
