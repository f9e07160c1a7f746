//! One forwarded connection as a byte stream, in two halves that never wait for each other.
//!
//! The reader owns what it decodes; the writer's buffer is shared, because the reader has answers to send
//! (pongs) and must not depend on somebody writing. Whoever has bytes in it may flush it: the lock is held
//! for a non-blocking attempt only, and when the socket is full both halves are woken by its next change.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker, ready};

use bytes::{Buf as _, Bytes};
use futures_util::task::AtomicWaker;
use tokio::io::{AsyncBufRead, AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};

use crate::framing::{
    ConnectionError, Event, Inbound, MAX_OVERHEAD, MAX_PAYLOAD, Negotiated, Outbound, Reply,
};
use crate::websocket::Control;

/// Room for answers beside a message. A peer that pings without reading loses its pongs, nothing else.
const REPLY_ROOM: usize = 4096;

/// What is read ahead while nobody but [`Connection::accepted`] reads; mostly nothing.
const AHEAD: usize = 512;

/// What a connection runs over. What it has read is decoded where it lies.
pub(crate) trait Io: AsyncBufRead + AsyncWrite + Send + Unpin + 'static {}
impl<T: AsyncBufRead + AsyncWrite + Send + Unpin + 'static> Io for T {}

/// For both halves, locked for an attempt that does not wait.
type SharedIo = Arc<Mutex<Box<dyn Io>>>;

fn lock(io: &SharedIo) -> MutexGuard<'_, Box<dyn Io>> {
    io.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A forwarded connection.
///
/// `shutdown` ends our direction and leaves the other open, except with [`Negotiated::WebSocketV4`], where
/// it ends both and the reader reports [`ConnectionError::Closed`]. A read gives `Ok(0)` only after the far
/// side's orderly end; anything else that ends the connection is an error, mostly a [`ConnectionError`].
/// Writes are buffered like any other: `flush` to be sure that they are on their way.
pub struct Connection {
    read: ReadHalf,
    write: WriteHalf,
}

impl Connection {
    /// Runs a forward over `io`, an upgraded connection on which nothing was sent yet; `early` was read from it already.
    /// [`Self::open`] is still to be called. `port` matters to channel bytes only, which begin with it.
    pub(crate) fn idle(io: Box<dyn Io>, early: Bytes, negotiated: Negotiated, port: u16) -> Self {
        let io: SharedIo = Arc::new(Mutex::new(io));
        let outbox = Outbox {
            io: Arc::clone(&io),
            outbound: Outbound::new(negotiated),
            buffer: vec![0; MAX_PAYLOAD + MAX_OVERHEAD + REPLY_ROOM].into_boxed_slice(),
            start: 0,
            end: 0,
            finished: false,
            failed: None,
        };
        let wakers = Arc::new(Wakers::default());
        let socket_waker = Waker::from(Arc::clone(&wakers));
        let shared = Arc::new(Shared { outbox: Mutex::new(outbox), wakers, socket_waker });
        let read = ReadHalf {
            io,
            early,
            inbound: Inbound::new(negotiated, port),
            negotiated,
            owes: true,
            accepted: false,
            ahead: Vec::new(),
            over: None,
            shared: Arc::clone(&shared),
        };
        Self { read, write: WriteHalf { shared } }
    }

    /// Opens a connection that was dialled as an idle one. To be called once; what is cancelled is of no more use.
    ///
    /// # Errors
    /// It is not what it was any more.
    pub async fn open(&mut self, port: u16) -> io::Result<()> {
        self.flush().await?;
        self.write.put_open(port)?;
        self.flush().await
    }

    /// Waits until the node has taken the stream: then the connection is surely alive. Whether something listens on the
    /// port is not said by that. Never comes with [`Negotiated::WebSocketV4`]. Cancellation safe.
    ///
    /// # Errors
    /// What ended the connection.
    pub async fn accepted(&mut self) -> io::Result<()> {
        poll_fn(|cx| self.read.poll_accepted(cx)).await
    }

    /// Answers pings on a connection that is idle, and waits until it is of no more use. Cancellation safe.
    pub async fn closed(&mut self) {
        // Nobody has asked for a stream: an answer is as good as an end.
        let _ = self.accepted().await;
    }

    /// The two directions, for two tasks.
    #[must_use]
    pub fn into_split(self) -> (ReadHalf, WriteHalf) {
        (self.read, self.write)
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Connection").field("negotiated", &self.read.negotiated).finish_non_exhaustive()
    }
}

/// What both halves share.
struct Shared {
    outbox: Mutex<Outbox>,
    wakers: Arc<Wakers>,
    /// Wakes both halves; the only waker the socket's write side ever sees.
    socket_waker: Waker,
}

#[derive(Default)]
struct Wakers {
    reader: AtomicWaker,
    writer: AtomicWaker,
}

impl Wake for Wakers {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.reader.wake();
        self.writer.wake();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Outbox> {
        // A panic elsewhere leaves at worst a message half written, which the peer will refuse.
        self.outbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fail(&self, error: &ConnectionError) {
        self.lock().failed.get_or_insert_with(|| error.clone());
        self.wakers.writer.wake();
    }
}

struct Outbox {
    io: SharedIo,
    outbound: Outbound,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    finished: bool,
    failed: Option<ConnectionError>,
}

impl Outbox {
    /// Writes what is buffered to the socket.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.start < self.end {
            let buffered = &self.buffer[self.start..self.end];
            let written = ready!(Pin::new(&mut *lock(&self.io)).poll_write(cx, buffered))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.start += written;
        }
        (self.start, self.end) = (0, 0);
        Poll::Ready(Ok(()))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        Pin::new(&mut *lock(&self.io)).poll_flush(cx)
    }

    fn reply(&mut self, reply: &Reply) {
        // The longest answer is a pong of 125 bytes with its header.
        if self.buffer.len() - self.end < 256 {
            return;
        }
        // Without random bytes there is no pong; the next write reports it.
        if let Ok(written) = self.outbound.reply(reply, &mut self.buffer[self.end..]) {
            self.end += written;
        }
    }

    fn check(&self) -> io::Result<()> {
        match &self.failed {
            Some(error) => Err(error.clone().into()),
            None => Ok(()),
        }
    }
}

/// How the reading direction ended.
#[derive(Clone)]
enum Over {
    Finished,
    Failed(ConnectionError),
}

/// What comes from the peer and is no bytes.
enum Other {
    Accepted,
    Finished,
    Reply(Reply),
    Closed(Control),
    /// The connection has ended in the middle.
    Lost,
    /// What came makes no sense.
    Broken(ConnectionError),
}

/// The receiving half of a [`Connection`].
pub struct ReadHalf {
    io: SharedIo,
    /// Read before there was this connection.
    early: Bytes,
    inbound: Inbound,
    negotiated: Negotiated,
    /// Answers of ours may still be in the outbox.
    owes: bool,
    /// The far side has taken the stream.
    accepted: bool,
    /// Read before anybody wanted it.
    ahead: Vec<u8>,
    over: Option<Over>,
    shared: Arc<Shared>,
}

impl ReadHalf {
    fn poll_accepted(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if let Some(Over::Failed(error)) = &self.over {
                return Poll::Ready(Err(error.clone().into()));
            }
            // Bytes may come before the answer; the reader will see them. What ends the connection behind the answer is
            // the reader's as well, and is not read here.
            if self.accepted || !self.ahead.is_empty() || self.over.is_some() {
                return Poll::Ready(Ok(()));
            }
            let mut bytes = [0; AHEAD];
            let mut target = ReadBuf::new(&mut bytes);
            let result = self.poll_step(cx, &mut target);
            self.ahead.extend_from_slice(target.filled());
            self.poll_answers(cx);
            ready!(result)?;
        }
    }

    /// Moves bytes to `target`, which has room, until it is full, the connection is over or nothing more has come.
    fn poll_decode(&mut self, cx: &mut Context<'_>, target: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        while target.remaining() > 0 && self.over.is_none() {
            ready!(self.poll_step(cx, target))?;
        }
        Poll::Ready(Ok(()))
    }

    /// Decodes what has been read up to the next thing that is no bytes, and sees to that.
    fn poll_step(&mut self, cx: &mut Context<'_>, target: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match ready!(self.poll_event(cx, target))? {
            None => {}
            Some(Other::Lost) => self.fail(ConnectionError::Lost),
            Some(Other::Broken(error)) => self.fail(error),
            Some(Other::Accepted) => self.accepted = true,
            Some(Other::Finished) => self.over = Some(Over::Finished),
            Some(Other::Reply(reply)) => {
                self.reply(&reply);
                self.poll_answers(cx);
            }
            Some(Other::Closed(control)) => {
                let orderly = self.is_orderly(&control);
                self.reply(&Reply::Close(control));
                if orderly {
                    self.over = Some(Over::Finished);
                } else {
                    let (code, reason) = control.close_reason();
                    self.fail(ConnectionError::Closed { code, reason });
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Moves bytes to `target` until it is full or what has been read is used up, or until something else comes.
    fn poll_event(
        &mut self,
        cx: &mut Context<'_>,
        target: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<Option<Other>>> {
        let mut io = lock(&self.io);
        let input = match &*self.early {
            [] => ready!(Pin::new(&mut *io).poll_fill_buf(cx))?,
            early => early,
        };
        if input.is_empty() {
            return Poll::Ready(Ok(Some(Other::Lost)));
        }
        let mut taken = 0;
        let other = loop {
            if target.remaining() == 0 {
                break None;
            }
            let (used, event) = match self.inbound.decode(&input[taken..], target.remaining()) {
                Ok(decoded) => decoded,
                Err(error) => break Some(Other::Broken(error)),
            };
            taken += used;
            match event {
                Event::NeedMore => break None,
                Event::Data(bytes) => target.put_slice(bytes),
                Event::Accepted => break Some(Other::Accepted),
                Event::Finished => break Some(Other::Finished),
                Event::Reply(reply) => break Some(Other::Reply(reply)),
                Event::Closed(control) => break Some(Other::Closed(control)),
            }
        };
        match self.early.len() {
            0 => Pin::new(&mut *io).consume(taken),
            _ => self.early.advance(taken),
        }
        Poll::Ready(Ok(other))
    }

    /// Whether a WebSocket close is the end of the forwarded bytes: only the channel protocol has no other
    /// way to say it, and not when we closed first.
    fn is_orderly(&self, control: &Control) -> bool {
        self.negotiated == Negotiated::WebSocketV4
            && control.close_reason().0 == 1000
            && !self.shared.lock().finished
    }

    fn reply(&mut self, reply: &Reply) {
        self.shared.lock().reply(reply);
        self.owes = true;
    }

    fn fail(&mut self, error: ConnectionError) {
        self.shared.fail(&error);
        self.over = Some(Over::Failed(error));
    }

    /// Sends answers if nobody else does; an error will show when reading.
    fn poll_answers(&mut self, cx: &mut Context<'_>) {
        if self.owes {
            self.shared.wakers.reader.register(cx.waker());
            let mut socket = Context::from_waker(&self.shared.socket_waker);
            self.owes = self.shared.lock().poll_flush(&mut socket).is_pending();
            if !self.owes {
                self.shared.wakers.reader.take();
            }
        }
    }
}

impl AsyncRead for ReadHalf {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        target: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if target.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let before = target.filled().len();
        let this = &mut *self;
        if !this.ahead.is_empty() {
            let count = this.ahead.len().min(target.remaining());
            target.put_slice(&this.ahead[..count]);
            this.ahead.drain(..count);
        }
        let result = this.poll_decode(cx, target);
        this.poll_answers(cx);
        let moved = target.filled().len() > before;
        match (&this.over, result) {
            // An error waits for the next call.
            (Some(_), _) if moved => Poll::Ready(Ok(())),
            (Some(Over::Finished), _) => Poll::Ready(Ok(())),
            (Some(Over::Failed(error)), _) => Poll::Ready(Err(error.clone().into())),
            (None, Poll::Ready(Err(_))) if moved => {
                this.fail(ConnectionError::Lost);
                Poll::Ready(Ok(()))
            }
            // Whoever reads gets as much at a time as there is.
            (None, Poll::Pending) if moved => Poll::Ready(Ok(())),
            (None, result) => result,
        }
    }
}

/// The sending half of a [`Connection`].
pub struct WriteHalf {
    shared: Arc<Shared>,
}

impl WriteHalf {
    /// Puts what opens the stream behind what is buffered, which is little.
    fn put_open(&self, port: u16) -> io::Result<()> {
        let mut outbox = self.shared.lock();
        outbox.check()?;
        let Outbox { outbound, buffer, end, .. } = &mut *outbox;
        *end += outbound.open(port, &mut buffer[*end..])?;
        Ok(())
    }

    /// Runs `attempt` on the outbox with a waker that this half can be found by.
    fn poll<T>(
        &self,
        cx: &mut Context<'_>,
        attempt: impl FnOnce(&mut Outbox, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        self.shared.wakers.writer.register(cx.waker());
        let mut outbox = self.shared.lock();
        outbox.check()?;
        attempt(&mut outbox, &mut Context::from_waker(&self.shared.socket_waker))
    }

    fn poll_message<'a>(
        &self,
        cx: &mut Context<'_>,
        pieces: impl Iterator<Item = &'a [u8]>,
        length: usize,
    ) -> Poll<io::Result<usize>> {
        let length = length.min(MAX_PAYLOAD);
        self.poll(cx, |outbox, cx| {
            if outbox.finished {
                return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
            }
            if length == 0 {
                return Poll::Ready(Ok(0));
            }
            ready!(outbox.poll_drain(cx))?;
            outbox.end = outbox.outbound.data(pieces, length, &mut outbox.buffer)?;
            // Taken whatever becomes of this attempt: the rest goes with the next call.
            match outbox.poll_drain(cx) {
                Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
                _ => Poll::Ready(Ok(length)),
            }
        })
    }
}

impl AsyncWrite for WriteHalf {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_message(cx, std::iter::once(bytes), bytes.len())
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let length = pieces.iter().map(|piece| piece.len()).sum();
        self.poll_message(cx, pieces.iter().map(|piece| &**piece), length)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll(cx, Outbox::poll_flush)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll(cx, |outbox, cx| {
            ready!(outbox.poll_drain(cx))?;
            if !outbox.finished {
                outbox.end = outbox.outbound.finish(&mut outbox.buffer)?;
                outbox.finished = true;
            }
            outbox.poll_flush(cx)
        })
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        target: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.read).poll_read(cx, target)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.write).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.write).poll_write_vectored(cx, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.write).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.write).poll_shutdown(cx)
    }
}
