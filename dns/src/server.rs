//! The sockets on which queries come.

use std::{io, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UdpSocket},
    sync::{Semaphore, mpsc},
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::codec::{FramedRead, FramedWrite};

use crate::{
    forwarder::{Came, Forwarder},
    line::framing,
    message::{Query, Rcode, Unfit},
    upstream::Upstream,
};

/// Queries under way; what comes beyond is told at once that it failed.
const MAX_QUERIES: usize = 4096;
/// Connections at once; more wait to be accepted.
const MAX_CONNECTIONS: usize = 256;
/// Queries of one connection under way; more stay in its socket.
const MAX_PIPELINED: usize = 128;
/// A connection that says nothing for so long is closed, and one that takes no answer.
const IDLE: Duration = Duration::from_secs(30);
/// The largest datagram.
const LARGEST: usize = 65_535;

/// Answers queries that come on local sockets.
pub struct Server<U> {
    forwarder: Arc<Forwarder<U>>,
    places: Arc<Semaphore>,
}

impl<U> Clone for Server<U> {
    fn clone(&self) -> Self {
        Self { forwarder: Arc::clone(&self.forwarder), places: Arc::clone(&self.places) }
    }
}

impl<U: Upstream> Server<U> {
    /// A server that has its answers from `forwarder`.
    pub fn new(forwarder: Forwarder<U>) -> Self {
        Self { forwarder: Arc::new(forwarder), places: Arc::new(Semaphore::new(MAX_QUERIES)) }
    }

    /// Answers datagrams for ever. Dropping the future ends what is under way.
    pub async fn serve_udp(self, socket: UdpSocket) {
        let socket = Arc::new(socket);
        let mut queries = JoinSet::new();
        let mut buffer = vec![0; LARGEST];
        loop {
            while queries.try_join_next().is_some() {}
            let (length, from) = match socket.recv_from(&mut buffer).await {
                Ok(received) => received,
                Err(error) => {
                    // Some systems report here that an earlier answer found nobody.
                    tracing::debug!(%error, "receiving");
                    tokio::task::yield_now().await;
                    continue;
                }
            };
            let message = Bytes::copy_from_slice(&buffer[..length]);
            let (server, socket) = (self.clone(), Arc::clone(&socket));
            queries.spawn(async move {
                if let Some(answer) = server.answer(message, Came::Udp).await
                    && let Err(error) = socket.send_to(&answer, from).await
                {
                    tracing::debug!(%error, "an answer is not delivered");
                }
            });
        }
    }

    /// Takes connections for ever. Dropping the future ends them.
    pub async fn serve_tcp(self, listener: TcpListener) {
        let mut connections = JoinSet::new();
        loop {
            while connections.len() >= MAX_CONNECTIONS {
                connections.join_next().await;
            }
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => {
                        connections.spawn(self.clone().connection(stream));
                    }
                    Err(error) => {
                        tracing::debug!(%error, "accepting");
                        // Out of descriptors: those who have them need time to give some back.
                        sleep(Duration::from_millis(50)).await;
                    }
                },
                Some(_) = connections.join_next() => {}
            }
        }
    }

    /// Answers the queries of one connection, each as soon as it has its answer.
    async fn connection(self, stream: impl AsyncRead + AsyncWrite) {
        let (read, write) = tokio::io::split(stream);
        let (mut asked, mut told) = (FramedRead::new(read, framing()), FramedWrite::new(write, framing()));
        // Full: those who have an answer wait, so no more queries are read.
        let (answers, mut to_tell) = mpsc::channel(1);
        let places = Arc::new(Semaphore::new(MAX_PIPELINED));
        let mut queries = JoinSet::new();
        let reading = async move {
            while let Ok(place) = Arc::clone(&places).acquire_owned().await {
                let Ok(Some(Ok(message))) = timeout(IDLE, asked.next()).await else { break };
                while queries.try_join_next().is_some() {}
                let (server, answers) = (self.clone(), answers.clone());
                queries.spawn(async move {
                    let answer = server.answer(message.freeze(), Came::Tcp).await;
                    if let Some(answer) = answer {
                        // Closed: nobody is there any more.
                        let _ = answers.send(answer).await;
                    }
                    drop(place);
                });
            }
            // What was asked before the end is answered.
            drop(answers);
            while queries.join_next().await.is_some() {}
        };
        let writing = async {
            while let Some(answer) = to_tell.recv().await {
                timeout(IDLE, told.send(answer)).await??;
            }
            Ok::<_, io::Error>(())
        };
        // Writing ends last: when everything read is answered, or nobody takes the answers.
        let reading = async {
            reading.await;
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = reading => {}
            _ = writing => {}
        }
    }

    /// The answer to a message, if it is to have one.
    async fn answer(&self, message: Bytes, came: Came) -> Option<Bytes> {
        let query = match Query::read(message) {
            Ok(query) => query,
            Err(Unfit::Answered(answer)) => return Some(answer),
            Err(Unfit::Ignored) => return None,
        };
        let Ok(_place) = self.places.try_acquire() else { return Some(query.fail(Rcode::ServFail)) };
        Some(self.forwarder.answer(&query, came).await)
    }
}

#[cfg(test)]
mod tests;
