//! One lane: a reader and a writer between a transport and the session.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use relay_protocol::LargeFrame;
use relay_protocol::session::BATCH;
use relay_sockopt::BulkReader;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::Notify;

use crate::shared::Shared;
use crate::turns::{self, Turns};

/// A transport: two halves that don't wait for each other.
pub trait LaneIo: Send + 'static {
    /// What comes from the peer.
    type Read: AsyncRead + Unpin + Send + 'static;
    /// What goes to the peer.
    type Write: AsyncWrite + Unpin + Send + 'static;

    /// Splits the transport.
    fn into_halves(self) -> (Self::Read, Self::Write);

    /// The halves, from here on run in this place; called there.
    ///
    /// # Errors
    /// The system does not take them.
    fn adopted(read: Self::Read, write: Self::Write, _: &Turns) -> io::Result<(Self::Read, Self::Write)> {
        Ok((read, write))
    }
}

impl LaneIo for TcpStream {
    type Read = BulkReader<OwnedReadHalf>;
    type Write = OwnedWriteHalf;

    fn into_halves(self) -> (Self::Read, Self::Write) {
        let (read, write) = self.into_split();
        (BulkReader::new(read), write)
    }

    fn adopted(read: Self::Read, write: Self::Write, turns: &Turns) -> io::Result<(Self::Read, Self::Write)> {
        let socket = read.into_inner().reunite(write).map_err(io::Error::other)?;
        Ok(turns.adopt(socket)?.into_halves())
    }
}

impl LaneIo for tokio::io::DuplexStream {
    type Read = tokio::io::ReadHalf<Self>;
    type Write = tokio::io::WriteHalf<Self>;

    fn into_halves(self) -> (Self::Read, Self::Write) {
        tokio::io::split(self)
    }
}

impl<R, W> LaneIo for (R, W)
where
    R: AsyncRead + Unpin + Send + 'static,
    W: AsyncWrite + Unpin + Send + 'static,
{
    type Read = R;
    type Write = W;

    fn into_halves(self) -> (R, W) {
        self
    }
}

/// A reader that never has to wait lets others go first after so many bytes.
const PAUSE: usize = 256 << 10;
/// So many times at most a message waits for what has just become ready.
const GATHER: usize = 4;
/// How long the last bytes of a lane may take to leave.
const LINGER: Duration = Duration::from_secs(1);
/// Room for a whole frame behind a whole read.
const READ_BUFFER: usize = 2 * BATCH + 8 * 1024;
/// Behind a large frame so many bytes are read at first, which the head of another one fits into.
const LOOK: usize = 512;

/// Bytes from a transport, of which the session takes whole frames from the front.
pub(crate) struct ReadBuffer {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
}

impl ReadBuffer {
    /// Begins with what was read behind the hello or welcome.
    pub(crate) fn new(early: &[u8]) -> Self {
        let mut bytes = vec![0; READ_BUFFER.max(early.len() * 2)].into_boxed_slice();
        bytes[..early.len()].copy_from_slice(early);
        Self { bytes, start: 0, end: early.len() }
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    /// Reads at most so many bytes.
    async fn fill(&mut self, from: &mut (impl AsyncRead + Unpin), most: usize) -> io::Result<usize> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.bytes.len() - self.end < BATCH {
            self.bytes.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        let end = self.bytes.len().min(self.end.saturating_add(most));
        let len = from.read(&mut self.bytes[self.end..end]).await?;
        self.end += len;
        Ok(len)
    }

    /// The large frame that all there is belongs to, if there is one.
    fn begin_large(&mut self) -> Option<LargeFrame> {
        let frame = LargeFrame::begin(self.bytes())?;
        self.start = self.end;
        Some(frame)
    }
}

/// A lane that is part of its session. However whoever holds this comes to an end, so does the lane: one that nobody
/// runs would look alive for ever, as nothing is outstanding on it.
pub(crate) struct Joined {
    shared: Arc<Shared>,
    id: u64,
}

impl Joined {
    /// To be made at once for a lane that was welcomed.
    pub(crate) fn new(shared: Arc<Shared>, id: u64) -> Self {
        Self { shared, id }
    }

    /// Where the lane is to be run.
    pub(crate) fn turns(&self) -> Turns {
        self.shared.turns.clone()
    }
}

impl Drop for Joined {
    fn drop(&mut self) {
        self.shared.with(|state, now| state.session.lane_lost(self.id, now));
        self.shared.forget_lane(self.id);
        self.shared.call_attention();
    }
}

/// Runs a lane that has been welcomed until it or the session ends.
pub(crate) async fn run<R, W>(joined: Joined, mut read: R, mut write: W, mut buffer: ReadBuffer)
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let (shared, id) = (joined.shared.clone(), joined.id);
    let (work, over) = shared.register_lane(id);
    let reader = async {
        let mut unpaused = 0;
        let receive = |bytes: &[u8]| shared.with(|state, now| state.session.receive(id, bytes, now));
        loop {
            let mut large = buffer.begin_large();
            if large.is_none() {
                let Ok(taken) = receive(buffer.bytes()) else {
                    // The session has ended; the writer still says why.
                    return std::future::pending().await;
                };
                buffer.start += taken;
                large = buffer.begin_large();
            }
            let mut most = READ_BUFFER;
            if let Some(mut frame) = large {
                while frame.missing() > 0 {
                    match read.read_buf(&mut frame.rest()).await {
                        Ok(0) | Err(_) => return,
                        Ok(len) => unpaused += len,
                    }
                    // The lane is alive, however long its frame takes.
                    if frame.missing() > 0 && receive(&[]).is_err() {
                        return std::future::pending().await;
                    }
                }
                if shared.with(|state, now| state.session.receive_large(id, frame, now)).is_err() {
                    return std::future::pending().await;
                }
                // Another one mostly follows: what of it came into the buffer would be copied.
                most = LOOK;
            }
            match buffer.fill(&mut read, most).await {
                Ok(0) | Err(_) => return,
                Ok(len) => unpaused += len,
            }
            if unpaused >= PAUSE {
                unpaused = 0;
                turns::pause().await;
            }
        }
    };
    let writer = write_lane(shared.clone(), id, &mut write, work);
    {
        let (mut reader, mut writer) = (pin!(reader), pin!(writer));
        tokio::select! {
            () = &mut reader => {}
            () = &mut writer => {}
            () = over.cancelled() => {}
        }
    }
    drop(joined);
    let _ = tokio::time::timeout(LINGER, write.shutdown()).await;
}

async fn write_lane<W: AsyncWrite + Unpin>(shared: Arc<Shared>, id: u64, write: &mut W, work: Arc<Notify>) {
    let mut out = Vec::with_capacity(BATCH + 20 * 1024);
    loop {
        let leave = shared.with(|state, now| {
            state.session.transmit(id, now, &mut out);
            state.session.is_done_with(id)
        });
        if out.is_empty() {
            if leave {
                return;
            }
            gather(&work).await;
            continue;
        }
        if write.write_all(&out).await.is_err() || write.flush().await.is_err() {
            return;
        }
        out.clear();
        if out.capacity() > 4 * BATCH {
            out = Vec::with_capacity(BATCH + 20 * 1024);
        }
    }
}

/// Waits until there is something to send, and a moment longer: whoever has something to say meanwhile says it in the same
/// message, as each one costs every process on the way more than what is in it. No time passes while nothing else is
/// ready.
async fn gather(work: &Notify) {
    work.notified().await;
    for _ in 0..GATHER {
        // Said before this, so it is in the message anyway.
        has_permit(work);
        tokio::task::yield_now().await;
        if !has_permit(work) {
            return;
        }
    }
}

/// Takes the permit, if somebody has left one.
fn has_permit(work: &Notify) -> bool {
    let mut cx = Context::from_waker(Waker::noop());
    pin!(work.notified()).poll(&mut cx).is_ready()
}
