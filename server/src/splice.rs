//! Bytes between two sockets of a direct stream: half-close each way, and a reset on one side resets the other.
//!
//! An idle stream holds no buffer: bytes go through one scratch buffer, and only what the other side does not take
//! at once is kept, within a budget shared by all direct streams.

use std::cell::RefCell;
use std::io;
use std::net::Shutdown;
use std::pin::pin;

use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;

use crate::budget::Budget;

/// The most that is read at once,
const LARGE: usize = 64 << 10;
/// and what is read at once when the budget is used up: one stream must not stop because of others.
const SMALL: usize = 2 << 10;

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; LARGE]);
}

/// Copies both ways until both directions have ended; returns the bytes copied from `a` and from `b`.
///
/// # Errors
/// The error of the socket that failed. Both are then reset when they are dropped.
pub async fn splice(a: &TcpStream, b: &TcpStream, budget: &Budget) -> io::Result<(u64, u64)> {
    let (mut from_a, mut from_b) = (0, 0);
    let result = {
        let mut up = pin!(pump(a, b, budget, &mut from_a));
        let mut down = pin!(pump(b, a, budget, &mut from_b));
        // A socket whose end was read is no longer looked at by its pump, but may still be reset.
        tokio::select! {
            result = &mut up => match result {
                Ok(()) => tokio::select! { result = &mut down => result, error = reset_of(a) => Err(error) },
                Err(error) => Err(error),
            },
            result = &mut down => match result {
                Ok(()) => tokio::select! { result = &mut up => result, error = reset_of(b) => Err(error) },
                Err(error) => Err(error),
            },
        }
    };
    if result.is_err() {
        reset_on_drop(a);
        reset_on_drop(b);
    }
    result.map(|()| (from_a, from_b))
}

/// Lets the socket end with a reset instead of an end: what was lost must not look complete.
pub fn reset_on_drop(socket: &TcpStream) {
    // A socket that cannot be told so is gone already.
    let _ = socket.set_zero_linger();
}

/// Writes all of `bytes`, without taking the stream apart into halves.
///
/// # Errors
/// The socket's.
pub async fn write_all(mut bytes: &[u8], to: &TcpStream) -> io::Result<()> {
    while !bytes.is_empty() {
        to.writable().await?;
        match to.try_write(bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Copies until the end of `from`, then ends that direction of `to`.
async fn pump(from: &TcpStream, to: &TcpStream, budget: &Budget, copied: &mut u64) -> io::Result<()> {
    loop {
        from.readable().await?;
        match pass(from, to, budget.left().clamp(SMALL, LARGE)) {
            Ok(Some((read, rest))) => {
                *copied += read as u64;
                if !rest.is_empty() {
                    let _held = budget.take(rest.len());
                    write_all(&rest, to).await?;
                }
            }
            Ok(None) => return SockRef::from(to).shutdown(Shutdown::Write),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

/// Reads once and writes once: the bytes read, and what the other side did not take; `None` at the end.
fn pass(from: &TcpStream, to: &TcpStream, most: usize) -> io::Result<Option<(usize, Vec<u8>)>> {
    SCRATCH.with_borrow_mut(|scratch| {
        let read = from.try_read(&mut scratch[..most])?;
        if read == 0 {
            return Ok(None);
        }
        let written = match to.try_write(&scratch[..read]) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            result => result?,
        };
        Ok(Some((read, scratch[written..read].to_vec())))
    })
}

/// Waits for a reset of a socket whose end was already read.
async fn reset_of(socket: &TcpStream) -> io::Error {
    loop {
        match socket.ready(Interest::ERROR).await {
            Err(error) => return error,
            Ok(_) => match socket.take_error() {
                Ok(Some(error)) | Err(error) => return error,
                // The readiness for errors stays once it is there; without an error there is nothing to wait for.
                Ok(None) => std::future::pending().await,
            },
        }
    }
}
