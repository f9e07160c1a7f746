//! A TCP connection inside the tunnel.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::Bytes;
use relay_protocol::hello::SessionId;
use relay_protocol::session::{Read, Session, StreamKey};
use relay_protocol::{Header, Status};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::shared::{Shared, State};
use crate::turns::Turns;

/// The stream was reset: by the other end, by this one, or because the session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("stream reset: {status}")]
pub struct StreamReset {
    /// Why.
    pub status: Status,
}

impl StreamReset {
    /// The reset behind an error of a [`TunnelStream`], if that is what it is.
    pub fn of(error: &io::Error) -> Option<Self> {
        error.get_ref()?.downcast_ref().copied()
    }
}

impl From<StreamReset> for io::Error {
    fn from(reset: StreamReset) -> Self {
        Self::new(io::ErrorKind::ConnectionReset, reset)
    }
}

/// What a splice sees of its stream.
pub(crate) struct Look {
    /// Bytes that can be sent at once, or the reset.
    pub(crate) room: Result<usize, Status>,
    /// Where the other direction stands, beyond the bytes that were taken.
    pub(crate) incoming: Incoming,
}

/// What follows the bytes that have arrived.
pub(crate) enum Incoming {
    /// Perhaps more.
    Open,
    /// Nothing.
    Ended,
    /// The reset that ended the stream.
    Reset(Status),
}

/// One stream of a session.
///
/// `shutdown` ends this end's direction only. Dropping a stream that is not over in both directions resets it with
/// [`Status::Aborted`]. A reset shows as an [`io::Error`] of kind `ConnectionReset` around a [`StreamReset`].
pub struct TunnelStream {
    shared: Arc<Shared>,
    key: StreamKey,
    header: Header,
    /// The status byte has not come yet: it is not part of what the program reads.
    unanswered: AtomicBool,
}

impl std::fmt::Debug for TunnelStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TunnelStream").field("header", &self.header).finish_non_exhaustive()
    }
}

impl TunnelStream {
    pub(crate) fn new(shared: Arc<Shared>, key: StreamKey, header: Header, unanswered: bool) -> Self {
        Self { shared, key, header, unanswered: AtomicBool::new(unanswered) }
    }

    /// Where the stream goes.
    pub const fn header(&self) -> &Header {
        &self.header
    }

    /// Which session it belongs to.
    pub fn session(&self) -> SessionId {
        self.shared.peek(Session::id)
    }

    pub(crate) fn turns(&self) -> Turns {
        self.shared.turns.clone()
    }

    /// Its number within the session, if it has one yet.
    pub fn number(&self) -> Option<u64> {
        self.shared.peek(|session| session.stream_number(self.key))
    }

    /// Tells the client that its target was reached; where the client has said something already, together with the target's
    /// first bytes if they come soon. For the agent, once, before anything is written. Waits while other streams hold all memory for what is to be sent.
    ///
    /// # Errors
    /// The reset that ended the stream.
    pub async fn accept(&self) -> Result<(), StreamReset> {
        let answer = Bytes::from_static(&[Status::Ok as u8]);
        let send = |state: &mut State, now| state.session.write_riding(now, self.key, &answer);
        while self.shared.with(send).map_err(|status| StreamReset { status })? == 0 {
            poll_fn(|cx| self.poll_room(cx)).await?;
        }
        Ok(())
    }

    /// Queues all of `data`, or as much as there is room for when the future is dropped.
    pub(crate) async fn send_all(&self, mut data: Bytes) -> Result<(), StreamReset> {
        loop {
            let sent = self.send(&data)?;
            bytes::Buf::advance(&mut data, sent);
            if data.is_empty() {
                return Ok(());
            }
            poll_fn(|cx| self.poll_room(cx)).await?;
        }
    }

    /// Ends both directions at once. With [`Status::ResetByPeer`] the other end first gets what was written.
    pub fn reset(&self, status: Status) {
        self.shared.with(|state, _| state.session.reset(self.key, status));
    }

    /// Waits for the agent's answer. Cancel-safe.
    ///
    /// # Errors
    /// The status with which the dial failed.
    pub async fn opened(&self) -> Result<(), Status> {
        poll_fn(|cx| self.poll_opened(cx)).await.map_err(|reset| reset.status)
    }

    /// Waits until the stream is reset and nothing of it is to be delivered any more. Cancel-safe.
    pub async fn closed(&self) -> StreamReset {
        poll_fn(|cx| self.poll_reset(cx)).await
    }

    fn poll_opened(&self, cx: &mut Context<'_>) -> Poll<Result<(), StreamReset>> {
        self.shared.with(|state, now| match self.answer(&mut state.session, now) {
            Ok(()) => Poll::Ready(Ok(())),
            Err(read) => self.wait(state, cx, read).map_ok(|_| ()),
        })
    }

    fn poll_chunk(&self, cx: &mut Context<'_>, max: usize) -> Poll<Result<Option<Bytes>, StreamReset>> {
        self.shared.with(|state, now| {
            let read = match self.answer(&mut state.session, now) {
                Ok(()) => state.session.read(now, self.key, max),
                Err(read) => read,
            };
            self.wait(state, cx, read)
        })
    }

    /// Takes the agent's answer, once. An error says what there is instead of what follows it.
    fn answer(&self, session: &mut Session, now: Instant) -> Result<(), Read> {
        if !self.unanswered.load(Ordering::Relaxed) {
            return Ok(());
        }
        let status = match session.read(now, self.key, 1) {
            Read::Data(byte) if byte[..] == [Status::Ok as u8] => {
                self.unanswered.store(false, Ordering::Relaxed);
                return Ok(());
            }
            Read::Data(byte) => Status::from_u8(byte[0]),
            Read::End => Status::Unknown,
            nothing => return Err(nothing),
        };
        session.reset(self.key, Status::Aborted);
        Err(Read::Reset(status))
    }

    fn wait(
        &self,
        state: &mut State,
        cx: &Context<'_>,
        read: Read,
    ) -> Poll<Result<Option<Bytes>, StreamReset>> {
        match read {
            Read::Data(data) => Poll::Ready(Ok(Some(data))),
            Read::End => Poll::Ready(Ok(None)),
            Read::Reset(status) => Poll::Ready(Err(StreamReset { status })),
            Read::Blocked => {
                state.wait_readable(self.key, cx.waker());
                Poll::Pending
            }
        }
    }

    /// All that a splice wants to know, in one look: the first `written` bytes on loan have left; `pieces` is filled up
    /// to `most` with what has arrived, on loan; with `wants_room`, how many bytes can be sent. Whatever there is none of
    /// wakes the task later; so does a reset.
    pub(crate) fn look(
        &self,
        cx: &Context<'_>,
        wants_room: bool,
        written: usize,
        most: usize,
        pieces: &mut VecDeque<Bytes>,
    ) -> Look {
        self.shared.with(|state, now| {
            if written > 0 {
                state.session.consume(now, self.key, written);
            }
            let room = if wants_room { state.session.writable(self.key) } else { Ok(0) };
            if wants_room && room == Ok(0) {
                state.wait_writable(self.key, cx.waker());
            }
            state.wait_reset(self.key, cx.waker());
            Look { room, incoming: self.incoming(state, now, cx, most, pieces) }
        })
    }

    fn incoming(
        &self,
        state: &mut State,
        now: Instant,
        cx: &Context<'_>,
        most: usize,
        pieces: &mut VecDeque<Bytes>,
    ) -> Incoming {
        if let Err(read) = self.answer(&mut state.session, now) {
            return match read {
                Read::Reset(status) => Incoming::Reset(status),
                _ => {
                    state.wait_readable(self.key, cx.waker());
                    Incoming::Open
                }
            };
        }
        loop {
            if pieces.len() >= most {
                // Where the socket takes nothing more, a reset that delivers nothing must still be seen.
                let reset =
                    state.session.reset_status(self.key).filter(|&status| status != Status::ResetByPeer);
                return reset.map_or(Incoming::Open, Incoming::Reset);
            }
            match state.session.lend(self.key, usize::MAX) {
                Read::Data(data) => pieces.push_back(data),
                Read::End => return Incoming::Ended,
                // What came before it is still to be delivered.
                Read::Reset(Status::ResetByPeer) if !pieces.is_empty() => return Incoming::Open,
                Read::Reset(status) => return Incoming::Reset(status),
                Read::Blocked => {
                    state.wait_readable(self.key, cx.waker());
                    return Incoming::Open;
                }
            }
        }
    }

    /// The next bytes, at most `max` (which is not 0), without a copy; `None` at the end. Cancel-safe.
    ///
    /// # Errors
    /// The reset that ended the stream.
    pub async fn recv(&self, max: usize) -> Result<Option<Bytes>, StreamReset> {
        poll_fn(|cx| self.poll_chunk(cx, max)).await
    }

    /// Ready when the stream is reset with nothing left to deliver.
    fn poll_reset(&self, cx: &mut Context<'_>) -> Poll<StreamReset> {
        self.shared.with(|state, _| match state.session.reset_status(self.key) {
            Some(status) if status != Status::ResetByPeer => Poll::Ready(StreamReset { status }),
            _ => {
                state.wait_reset(self.key, cx.waker());
                Poll::Pending
            }
        })
    }

    fn poll_room(&self, cx: &mut Context<'_>) -> Poll<Result<(), StreamReset>> {
        self.shared.with(|state, _| match state.session.writable(self.key) {
            Ok(0) => {
                state.wait_writable(self.key, cx.waker());
                Poll::Pending
            }
            Ok(_) => Poll::Ready(Ok(())),
            Err(status) => Poll::Ready(Err(StreamReset { status })),
        })
    }

    /// Queues bytes without a copy and returns how many; 0 where another stream took the room meanwhile.
    pub(crate) fn send(&self, data: &Bytes) -> Result<usize, StreamReset> {
        self.shared
            .with(|state, _| state.session.write(self.key, data))
            .map_err(|status| StreamReset { status })
    }

    pub(crate) fn finish(&self) {
        self.shared.with(|state, now| state.session.finish_riding(now, self.key));
    }
}

impl AsyncRead for TunnelStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        if let Some(data) = ready!(self.poll_chunk(cx, buf.remaining()))? {
            buf.put_slice(&data);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for TunnelStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let written = self.shared.with(|state, _| {
            let room = state.session.writable(self.key)?.min(buf.len());
            let written = if room > 0 {
                state.session.write(self.key, &Bytes::copy_from_slice(&buf[..room]))?
            } else {
                0
            };
            if written == 0 {
                // Registers interest where the write itself lost a race for the pool.
                let _ = state.session.writable(self.key)?;
                state.wait_writable(self.key, cx.waker());
            }
            Ok(written)
        });
        match written {
            Ok(0) => Poll::Pending,
            Ok(len) => Poll::Ready(Ok(len)),
            Err(status) => Poll::Ready(Err(StreamReset { status }.into())),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // What was written goes out as soon as a lane has room; nothing is held back.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.finish();
        Poll::Ready(Ok(()))
    }
}

impl Drop for TunnelStream {
    fn drop(&mut self) {
        self.shared.with(|state, _| state.session.release(self.key));
    }
}
