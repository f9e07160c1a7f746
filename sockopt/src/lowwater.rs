//! Reads a socket that brings bulk in few large pieces: the system is told to wake the reader only for so many bytes
//! (`SO_RCVLOWAT`), and a timer sees to what stays below that.
//!
//! An API server sends what it forwards in writes of a few bytes to 16 KiB. A reader that is woken for most of them
//! spends as much time on waking, sleeping and reading as on the bytes themselves.

use std::io::{self, Read as _};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedReadHalf;
use tokio::time::{Instant, Sleep, sleep};

use crate::option;
use crate::rate::Rate;

/// Bytes that wake the reader of bulk. The kernel caps it at half of what it would hold for the socket.
const MARK: usize = 64 * 1024;
/// What is below the mark is looked at after this long.
const LOOK: Duration = Duration::from_millis(1);
/// Where a look finds less than this, bulk has ended.
const TRICKLE: usize = 8 * 1024;

/// A TCP socket that can be read.
pub trait Socket: AsyncRead + Unpin {
    /// The socket itself.
    fn tcp(&self) -> &TcpStream;
}

impl Socket for TcpStream {
    fn tcp(&self) -> &TcpStream {
        self
    }
}

impl Socket for OwnedReadHalf {
    fn tcp(&self) -> &TcpStream {
        self.as_ref()
    }
}

/// A socket whose reader is woken as [`LowWater`] has it.
#[derive(Debug)]
pub struct BulkReader<S> {
    socket: S,
    water: LowWater,
}

impl<S> BulkReader<S> {
    /// Reads this socket.
    pub fn new(socket: S) -> Self {
        Self { socket, water: LowWater::default() }
    }

    /// The socket. Where much was read its mark may be set.
    pub fn into_inner(self) -> S {
        self.socket
    }
}

impl<S: Socket> AsyncRead for BulkReader<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { socket, water } = &mut *self;
        water.poll_read(socket, cx, buffer)
    }
}

/// How one socket's reader is woken. Until bulk comes it is as without this.
#[derive(Debug, Default)]
pub struct LowWater {
    rate: Rate,
    bulk: Option<Bulk>,
    /// The system does not take the option.
    useless: bool,
}

/// The mark is set.
#[derive(Debug)]
struct Bulk {
    look: Pin<Box<Sleep>>,
    /// The timer runs for what has come since the last read.
    armed: bool,
}

impl LowWater {
    /// Reads as [`AsyncRead::poll_read`] does; always the same socket. While bulk comes, what has come is told when it
    /// is at least 64 KiB, or after one to two milliseconds.
    ///
    /// # Errors
    /// The socket's.
    pub fn poll_read(
        &mut self,
        socket: &mut impl Socket,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        if let Poll::Ready(result) = Pin::new(&mut *socket).poll_read(cx, buffer) {
            match &mut self.bulk {
                Some(bulk) => bulk.armed = false,
                None if self.rate.is_bulk(buffer.filled().len() - before) => self.begin(socket.tcp()),
                None => {}
            }
            return Poll::Ready(result);
        }
        let Some(bulk) = &mut self.bulk else { return Poll::Pending };
        if !bulk.armed {
            bulk.look.as_mut().reset(Instant::now() + LOOK);
            bulk.armed = true;
        }
        ready!(bulk.look.as_mut().poll(cx));
        bulk.armed = false;
        // Behind the runtime's back, which hears nothing of bytes below the mark.
        let below = SockRef::from(socket.tcp());
        let found = (&*below).read(buffer.initialize_unfilled());
        let read = match found {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(error) => return Poll::Ready(Err(error)),
            Ok(0) => return Poll::Ready(Ok(())),
            Ok(read) => read,
        };
        buffer.advance(read);
        if read < TRICKLE {
            self.end(socket.tcp())?;
        }
        if read == 0 { Poll::Pending } else { Poll::Ready(Ok(())) }
    }

    fn begin(&mut self, socket: &TcpStream) {
        if self.useless || option::set_receive_low_water(&SockRef::from(socket), MARK).is_err() {
            self.useless = true;
            return;
        }
        self.bulk = Some(Bulk { look: Box::pin(sleep(LOOK)), armed: false });
    }

    /// The reader waits already: whatever has come, the system tells when the mark is lowered.
    fn end(&mut self, socket: &TcpStream) -> io::Result<()> {
        self.bulk = None;
        self.rate = Rate::default();
        option::set_receive_low_water(&SockRef::from(socket), 1)
    }
}
