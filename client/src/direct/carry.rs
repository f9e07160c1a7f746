//! Copies both ways between a local socket and a port-forward.
//!
//! Container runtimes do not pass the end of one direction on to the pod; they take it for the beginning of the end of
//! both, and cut what is on its way a second later, cleanly. So the end of what the local program sends stays here while
//! the program waits for its reply. It is passed on when the program has left.

use std::{
    io,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use relay_transport::Connection;
use relay_tunnel::{Tap, abort};
use socket2::SockRef;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::local::has_left;
use crate::{ledger::Tally, trace::ConnectionTap};

/// Read at a time.
const BUFFER: usize = 32 * 1024;
/// Whether the program has left is looked at after so long, and then after twice as long, up to the longest.
const FIRST_LOOK: Duration = Duration::from_millis(20);
const LONGEST_LOOK: Duration = Duration::from_secs(5);
/// A program that has ended its direction, and hears nothing for so long, may wait for a pod that waits for that end.
const QUIET: Duration = Duration::from_secs(60);
/// The node ends a connection that nobody wants any more within this time.
const LAST: Duration = Duration::from_secs(10);

/// What was moved, and how it ended.
#[derive(Debug)]
pub(super) struct Carried {
    /// Bytes of the local program.
    pub(super) sent: u64,
    /// Bytes for the local program.
    pub(super) received: u64,
    pub(super) end: End,
}

/// How a connection ended.
#[derive(Debug)]
pub(super) enum End {
    /// The pod had no more to say.
    Finished,
    /// The local program has left, after all that it said was passed on.
    Left,
    /// The local program's socket failed.
    Local(io::Error),
    /// The port-forward failed; the local connection was reset.
    Remote(io::Error),
    /// The local program ended its direction, and the pod said nothing more; the local connection was reset.
    Quiet,
    /// The run is over; the local connection was reset.
    Ending,
}

/// How much was moved, and when something came from the pod.
struct Moved<'a> {
    /// Is told at once.
    tally: &'a Tally,
    sent: AtomicU64,
    received: AtomicU64,
    began: Instant,
    /// Milliseconds after `began`.
    heard: AtomicU64,
}

impl Moved<'_> {
    fn hear(&self) {
        let after = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.heard.store(after, Ordering::Relaxed);
    }

    fn is_quiet(&self) -> bool {
        let heard = Duration::from_millis(self.heard.load(Ordering::Relaxed));
        self.began.elapsed().saturating_sub(heard) >= QUIET
    }
}

/// What sees both directions, if anything does. Both are in one task: nobody waits for the lock.
struct Tapped(Option<Mutex<ConnectionTap>>);

impl Tapped {
    fn see(&self, see: impl FnOnce(&mut ConnectionTap)) {
        if let Some(tap) = &self.0 {
            see(&mut tap.lock().unwrap_or_else(PoisonError::into_inner));
        }
    }
}

/// What the direction to the pod has come to.
enum Up {
    /// The local program has left; the pod was told.
    Left,
    Failed(End),
}

/// Copies until the pod's end, or until either side fails. `answered` is called when something has come from the pod.
pub(super) async fn carry(
    mut socket: TcpStream,
    connection: Connection,
    ending: &CancellationToken,
    tally: &Tally,
    tap: Option<ConnectionTap>,
    answered: impl FnOnce(),
) -> (Carried, Option<ConnectionTap>) {
    let tap = Tapped(tap.map(Mutex::new));
    let (sent, received, heard) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let moved = Moved { tally, sent, received, began: Instant::now(), heard };
    let end = tokio::select! {
        biased;
        () = ending.cancelled() => End::Ending,
        end = both_ways(&mut socket, connection, &moved, &tap, answered) => end,
    };
    let end = if matches!(end, End::Finished) { finish(&mut socket, &tap).await } else { end };
    match end {
        End::Finished | End::Left => drop(SockRef::from(&socket).set_linger(None)),
        _ => abort(socket),
    }
    let carried = Carried { sent: moved.sent.into_inner(), received: moved.received.into_inner(), end };
    (carried, tap.0.map(|tap| tap.into_inner().unwrap_or_else(PoisonError::into_inner)))
}

async fn both_ways(
    socket: &mut TcpStream,
    connection: Connection,
    moved: &Moved<'_>,
    tap: &Tapped,
    answered: impl FnOnce(),
) -> End {
    let (mut remote_read, mut remote_write) = connection.into_split();
    let (mut read, mut write) = socket.split();
    let down = downward(&mut remote_read, &mut write, moved, tap, answered);
    let up = upward(&mut read, &mut remote_write, moved, tap);
    let mut down = std::pin::pin!(down);
    let up = tokio::select! {
        end = &mut down => Err(end),
        up = up => Ok(up),
    };
    match up {
        Err(end) => end,
        Ok(Up::Left) => match timeout(LAST, down).await {
            // A port where nothing listens is worth a word; nobody reads what else still comes.
            Ok(End::Remote(error)) if error.kind() == io::ErrorKind::ConnectionAborted => End::Remote(error),
            _ => End::Left,
        },
        // What the pod said before is still to be delivered, and tells why.
        Ok(Up::Failed(End::Remote(_))) => down.await,
        Ok(Up::Failed(end)) => end,
    }
}

/// The pod has ended: so does the socket. Like a server's own socket it is reset if the program has said more than
/// anybody took.
async fn finish(socket: &mut TcpStream, tap: &Tapped) -> End {
    if let Err(error) = socket.shutdown().await {
        return End::Local(error);
    }
    tap.see(Tap::received_all);
    let mut rest = [0; 1];
    match socket.try_read(&mut rest) {
        Ok(1..) => End::Remote(io::ErrorKind::ConnectionReset.into()),
        _ => End::Finished,
    }
}

async fn downward(
    remote: &mut relay_transport::ReadHalf,
    socket: &mut WriteHalf<'_>,
    moved: &Moved<'_>,
    tap: &Tapped,
    answered: impl FnOnce(),
) -> End {
    let mut buffer = vec![0; BUFFER].into_boxed_slice();
    let mut answered = Some(answered);
    loop {
        let count = match remote.read(&mut buffer).await {
            Ok(0) => return End::Finished,
            Ok(count) => count,
            Err(error) => return End::Remote(error),
        };
        if let Some(answered) = answered.take() {
            answered();
        }
        moved.hear();
        if let Err(error) = socket.write_all(&buffer[..count]).await {
            return End::Local(error);
        }
        tap.see(|tap| tap.received(&buffer[..count]));
        moved.hear();
        moved.received.fetch_add(count as u64, Ordering::Relaxed);
        moved.tally.received(count as u64);
    }
}

async fn upward(
    socket: &mut ReadHalf<'_>,
    remote: &mut relay_transport::WriteHalf,
    moved: &Moved<'_>,
    tap: &Tapped,
) -> Up {
    let mut buffer = vec![0; BUFFER].into_boxed_slice();
    loop {
        let count = match socket.read(&mut buffer).await {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) => return Up::Failed(End::Local(error)),
        };
        tap.see(|tap| tap.sent(&buffer[..count]));
        let written = async {
            remote.write_all(&buffer[..count]).await?;
            remote.flush().await
        };
        if let Err(error) = written.await {
            return Up::Failed(End::Remote(error));
        }
        moved.sent.fetch_add(count as u64, Ordering::Relaxed);
        moved.tally.sent(count as u64);
    }
    drop(buffer);
    tap.see(Tap::sent_all);
    moved.hear();
    let mut pause = FIRST_LOOK;
    while has_left(socket.as_ref()).await != Some(true) {
        if moved.is_quiet() {
            return Up::Failed(End::Quiet);
        }
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_LOOK);
    }
    match remote.shutdown().await {
        Ok(()) => Up::Left,
        Err(error) => Up::Failed(End::Remote(error)),
    }
}
