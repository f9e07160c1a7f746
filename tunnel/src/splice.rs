//! Copies both ways between a TCP socket and a stream, each direction with its own end. One look at the session
//! serves both directions, and one write to the socket takes all that has arrived.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::net::Shutdown;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use relay_protocol::Status;
use socket2::SockRef;
use tokio::net::TcpStream;

use crate::buffers::Buffer;
use crate::stream::{Incoming, TunnelStream};

/// Most pieces in one write to the socket.
const PIECES: usize = 64;

/// Bytes before the first look at a socket's settings, and between any two after it.
const TUNE_FIRST: u64 = 128 << 10;
const TUNE_EVERY: u64 = 1 << 20;

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

/// Sees the bytes of a splice as they pass, in each direction in their order, without a say in where they go. It is
/// called on the way of the bytes: what takes long, or waits, holds them up.
pub trait Tap {
    /// Read from the socket.
    fn sent(&mut self, bytes: &[u8]);
    /// Written to the socket.
    fn received(&mut self, bytes: &[u8]);
    /// The socket has ended its direction.
    fn sent_all(&mut self);
    /// The stream has ended its direction, and the socket was told.
    fn received_all(&mut self);
}

/// No tap; costs nothing.
impl Tap for () {
    fn sent(&mut self, _: &[u8]) {}
    fn received(&mut self, _: &[u8]) {}
    fn sent_all(&mut self) {}
    fn received_all(&mut self) {}
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

/// Ends a socket with a reset instead of an orderly end, so that the program behind it can tell.
pub fn abort(socket: TcpStream) {
    let _ = SockRef::from(&socket).set_linger(Some(Duration::ZERO));
}

/// Copies until both directions have ended or either end was reset. A reset on one side becomes one on the other.
pub async fn splice(socket: TcpStream, stream: TunnelStream) -> SpliceReport {
    splice_tuned(socket, stream, |_, _, _| {}).await
}

/// As [`splice`], and shows the socket to `tune` when the first 128 KiB and each time another mebibyte have gone through
/// it, with the bytes from the socket and to it so far.
pub async fn splice_tuned(
    socket: TcpStream,
    stream: TunnelStream,
    mut tune: impl FnMut(&TcpStream, u64, u64),
) -> SpliceReport {
    let mut due = TUNE_FIRST;
    run(socket, stream, Bytes::new(), &mut (), |socket, sent, received| {
        let moved = sent + received;
        if moved >= due {
            due = moved + TUNE_EVERY;
            tune(socket, sent, received);
        }
    })
    .await
}

/// As [`splice`], where `early` was read from the socket before and goes first. Tells `watch` again and again how many
/// bytes went into the stream, `early` among them, and how many into the socket.
pub async fn splice_watched(
    socket: TcpStream,
    stream: TunnelStream,
    early: Bytes,
    mut watch: impl FnMut(u64, u64),
) -> SpliceReport {
    run(socket, stream, early, &mut (), |_, sent, received| watch(sent, received)).await
}

/// As [`splice_watched`] with nothing early, and shows `tap` what passes.
pub async fn splice_tapped(
    socket: TcpStream,
    stream: TunnelStream,
    tap: &mut impl Tap,
    mut watch: impl FnMut(u64, u64),
) -> SpliceReport {
    run(socket, stream, Bytes::new(), tap, |_, sent, received| watch(sent, received)).await
}

async fn run(
    socket: TcpStream,
    stream: TunnelStream,
    early: Bytes,
    tap: &mut impl Tap,
    mut watch: impl FnMut(&TcpStream, u64, u64),
) -> SpliceReport {
    let mut splice = Splice {
        socket: &socket,
        stream: &stream,
        sent: early.len() as u64,
        unsent: early,
        up_done: false,
        unwritten: VecDeque::new(),
        down: Down::Open,
        received: 0,
        tap,
    };
    // Until both directions have ended in order, a socket that is dropped is reset, with its process too: what was lost
    // must not look complete to the program behind it.
    let _ = SockRef::from(&socket).set_linger(Some(Duration::ZERO));
    let result = poll_fn(|cx| {
        let result = splice.poll(cx);
        watch(&socket, splice.sent, splice.received);
        result
    })
    .await;
    let (sent, received) = (splice.sent, splice.received);
    let end = match result {
        Ok(()) => {
            let _ = SockRef::from(&socket).set_linger(None);
            SpliceEnd::Finished
        }
        Err(Failure::Tunnel(status)) => {
            abort(socket);
            SpliceEnd::ResetByTunnel(status)
        }
        Err(Failure::Socket(error)) => {
            abort(socket);
            stream.reset(Status::ResetByPeer);
            SpliceEnd::ResetBySocket(error)
        }
    };
    SpliceReport { sent, received, end }
}

/// How far the direction to the socket has come.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Down {
    Open,
    /// Nothing follows what is still unwritten.
    Ending,
    Done,
}

struct Splice<'a, T> {
    socket: &'a TcpStream,
    stream: &'a TunnelStream,
    /// Read from the socket; the stream had no room.
    unsent: Bytes,
    up_done: bool,
    /// Taken from the stream, on loan until the socket has it.
    unwritten: VecDeque<Bytes>,
    down: Down,
    sent: u64,
    received: u64,
    tap: &'a mut T,
}

impl<T: Tap> Splice<'_, T> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        let mut written = 0;
        loop {
            let look = self.stream.look(cx, !self.up_done, written, PIECES, &mut self.unwritten);
            written = 0;
            match look.incoming {
                Incoming::Ended if self.down == Down::Open => self.down = Down::Ending,
                Incoming::Open | Incoming::Ended => {}
                Incoming::Reset(status) => return Poll::Ready(Err(Failure::Tunnel(status))),
            }
            let mut moved = false;
            if !self.up_done {
                match look.room {
                    Ok(room) => moved |= self.upward(cx, room)?,
                    // What was sent before the reset is still to be delivered; the other direction ends with it.
                    Err(Status::ResetByPeer) if self.down != Down::Done => self.up_done = true,
                    Err(status) => return Poll::Ready(Err(Failure::Tunnel(status))),
                }
            }
            if self.down != Down::Done {
                written = self.downward(cx).map_err(Failure::Socket)?;
                moved |= written > 0;
            }
            if self.up_done && self.down == Down::Done {
                return Poll::Ready(Ok(()));
            }
            if !moved {
                return Poll::Pending;
            }
        }
    }

    /// Moves bytes from the socket into the stream; true where it did.
    fn upward(&mut self, cx: &mut Context<'_>, room: usize) -> Result<bool, Failure> {
        if room == 0 {
            return Ok(false);
        }
        if self.unsent.is_empty() && !self.read(cx, room).map_err(Failure::Socket)? {
            return Ok(false);
        }
        if self.unsent.is_empty() {
            self.up_done = true;
            self.tap.sent_all();
            self.stream.finish();
            return Ok(false);
        }
        // Less than there was room for where another stream took the last of the pool meanwhile.
        let taken = self.stream.send(&self.unsent).map_err(|reset| Failure::Tunnel(reset.status))?;
        self.unsent.advance(taken);
        Ok(true)
    }

    /// Fills `unsent`; leaves it empty at the socket's end. False where the socket has nothing yet.
    fn read(&mut self, cx: &mut Context<'_>, room: usize) -> io::Result<bool> {
        loop {
            if self.socket.poll_read_ready(cx)?.is_pending() {
                return Ok(false);
            }
            // A connection that is idle holds no buffer.
            let mut buffer = Buffer::take();
            match self.socket.try_read(buffer.space(room)) {
                Ok(len) => {
                    self.sent += len as u64;
                    self.unsent = buffer.into_bytes(len);
                    if len > 0 {
                        self.tap.sent(&self.unsent);
                    }
                    return Ok(true);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Moves what has arrived into the socket and returns how much the socket took.
    fn downward(&mut self, cx: &mut Context<'_>) -> io::Result<usize> {
        let mut written = 0;
        while !self.unwritten.is_empty() {
            if self.socket.poll_write_ready(cx)?.is_pending() {
                return Ok(written);
            }
            let mut slices = [IoSlice::new(&[]); PIECES];
            for (slice, piece) in slices.iter_mut().zip(&self.unwritten) {
                *slice = IoSlice::new(piece);
            }
            let count = self.unwritten.len().min(PIECES);
            match self.socket.try_write_vectored(&slices[..count]) {
                Ok(len) => {
                    self.take_written(len);
                    written += len;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        if self.down == Down::Ending {
            SockRef::from(self.socket).shutdown(Shutdown::Write)?;
            self.down = Down::Done;
            self.tap.received_all();
        }
        Ok(written)
    }

    fn take_written(&mut self, mut len: usize) {
        self.received += len as u64;
        while len > 0
            && let Some(piece) = self.unwritten.front_mut()
        {
            if len < piece.len() {
                self.tap.received(&piece[..len]);
                piece.advance(len);
                return;
            }
            self.tap.received(piece);
            len -= piece.len();
            self.unwritten.pop_front();
        }
    }
}
