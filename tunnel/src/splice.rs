//! Copies both ways between a TCP socket and a stream, each direction with its own end.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use relay_protocol::Status;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use crate::buffers::Buffer;
use crate::stream::{StreamReset, TunnelStream};

/// What a splice moved, and how it ended.
#[derive(Debug)]
pub struct SpliceReport {
    /// Bytes from the socket into the stream.
    pub sent: u64,
    /// Bytes from the stream into the socket.
    pub received: u64,
    /// How it ended.
    pub end: SpliceEnd,
}

/// How a splice ended.
#[derive(Debug)]
pub enum SpliceEnd {
    /// Both directions came to their end.
    Finished,
    /// The stream was reset; so was the socket.
    ResetByTunnel(Status),
    /// The socket failed; the stream was reset.
    ResetBySocket(io::Error),
}

enum Failure {
    Tunnel(Status),
    Socket(io::Error),
}

impl From<StreamReset> for Failure {
    fn from(reset: StreamReset) -> Self {
        Self::Tunnel(reset.status)
    }
}

/// Ends a socket with a reset instead of an orderly end, so that the program behind it can tell.
pub fn abort(socket: TcpStream) {
    let _ = socket2::SockRef::from(&socket).set_linger(Some(Duration::ZERO));
}

/// Copies until both directions have ended or either end was reset. A reset on one side becomes one on the other.
pub async fn splice(socket: TcpStream, stream: TunnelStream) -> SpliceReport {
    let (mut read, mut write) = socket.into_split();
    let (mut sent, mut received) = (0, 0);
    let result = both(&mut read, &mut write, &stream, &mut sent, &mut received).await;
    let end = match result {
        Ok(()) => SpliceEnd::Finished,
        Err(failure) => {
            // Only the halves of one socket can be reunited, and these are.
            if let Ok(socket) = read.reunite(write) {
                abort(socket);
            }
            match failure {
                Failure::Tunnel(status) => SpliceEnd::ResetByTunnel(status),
                Failure::Socket(error) => {
                    stream.reset(Status::ResetByPeer);
                    SpliceEnd::ResetBySocket(error)
                }
            }
        }
    };
    SpliceReport { sent, received, end }
}

async fn both(
    read: &mut OwnedReadHalf,
    write: &mut OwnedWriteHalf,
    stream: &TunnelStream,
    sent: &mut u64,
    received: &mut u64,
) -> Result<(), Failure> {
    let (mut up, mut down) = (pin!(upward(read, stream, sent)), pin!(downward(write, stream, received)));
    let (mut up_done, mut down_done) = (false, false);
    poll_fn(|cx| {
        if !up_done && let Poll::Ready(result) = up.as_mut().poll(cx) {
            match result {
                // What was sent before the reset is still to be delivered; the other direction ends with it.
                Err(Failure::Tunnel(Status::ResetByPeer)) if !down_done => {}
                result => result?,
            }
            up_done = true;
        }
        if !down_done && let Poll::Ready(result) = down.as_mut().poll(cx) {
            result?;
            down_done = true;
        }
        if up_done && down_done {
            return Poll::Ready(Ok(()));
        }
        // A direction that waits for its socket would not notice.
        if let Poll::Ready(reset) = stream.poll_reset(cx, down_done) {
            return Poll::Ready(Err(reset.into()));
        }
        Poll::Pending
    })
    .await
}

async fn upward(socket: &mut OwnedReadHalf, stream: &TunnelStream, sent: &mut u64) -> Result<(), Failure> {
    loop {
        let room = poll_fn(|cx| stream.poll_room(cx)).await?;
        socket.readable().await.map_err(Failure::Socket)?;
        // A connection that is idle holds no buffer.
        let mut buffer = Buffer::take();
        let len = match socket.try_read(buffer.space(room)) {
            Ok(0) => {
                stream.finish();
                return Ok(());
            }
            Ok(len) => len,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(Failure::Socket(error)),
        };
        let mut data = buffer.into_bytes(len);
        *sent += len as u64;
        while !data.is_empty() {
            let taken = stream.send(&data)?;
            bytes::Buf::advance(&mut data, taken);
            if !data.is_empty() {
                poll_fn(|cx| stream.poll_room(cx)).await?;
            }
        }
    }
}

async fn downward(
    socket: &mut OwnedWriteHalf,
    stream: &TunnelStream,
    received: &mut u64,
) -> Result<(), Failure> {
    loop {
        let chunk = poll_fn(|cx| stream.poll_recv(cx, usize::MAX)).await?;
        let Some(chunk) = chunk else {
            return socket.shutdown().await.map_err(Failure::Socket);
        };
        let len = chunk.len() as u64;
        socket.write_all(&chunk).await.map_err(Failure::Socket)?;
        *received += len;
    }
}
