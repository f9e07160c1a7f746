//! The kernel's buffers for target sockets count against the pod's memory limit too: they share a fixed sum.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::net::TcpSocket;

/// The least and most a socket's buffer is set to, in bytes per direction.
const LEAST: usize = 16 << 10;
const MOST: usize = 4 << 20;

/// The bytes that no socket has yet.
#[derive(Debug)]
pub struct KernelBuffers(Arc<AtomicUsize>);

/// What one socket may use, in bytes; goes back on drop.
#[derive(Debug)]
pub struct Share(Arc<AtomicUsize>, usize);

impl KernelBuffers {
    /// `bytes` for all sockets together.
    pub fn new(bytes: usize) -> Self {
        Self(Arc::new(AtomicUsize::new(bytes)))
    }

    /// Sets the buffers of a socket that is about to connect, and keeps the books until the share is dropped.
    ///
    /// Each direction gets an eighth of what is left. While that is plenty the kernel's own tuning is as good (it
    /// stays below about the same size, and unlike a fixed size it can pass `net.core.rmem_max`). A program that
    /// is one of many gets a fixed size, down to the floor, which is given even where nothing is left.
    pub fn clamp(&self, socket: &TcpSocket) -> Share {
        let want = (self.0.load(Ordering::Relaxed) / 8).clamp(LEAST, MOST);
        if want == MOST {
            return self.take(2 * MOST);
        }
        // The kernel doubles what it is asked for, caps it, and reports what it made of it. A refusal leaves the
        // default in place, which is reported just as well.
        let half = u32::try_from(want / 2).unwrap_or(u32::MAX);
        let _ = socket.set_recv_buffer_size(half);
        let _ = socket.set_send_buffer_size(half);
        let bytes = |size: io::Result<u32>| size.map_or(want, |size| size as usize);
        self.take(bytes(socket.recv_buffer_size()) + bytes(socket.send_buffer_size()))
    }

    /// Takes what is left, at most `bytes`.
    fn take(&self, bytes: usize) -> Share {
        let left = self
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| Some(left.saturating_sub(bytes)));
        // The closure always answers, and both ways hold what was left before.
        Share(self.0.clone(), left.unwrap_or_else(|left| left).min(bytes))
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.0.fetch_add(self.1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thousand_sockets_stay_within_the_budget_and_above_the_floor() {
        let budget = KernelBuffers::new(32 << 20);
        let mut sockets = Vec::new();
        let mut sum = 0;
        for _ in 0..1000 {
            let socket = TcpSocket::new_v4().unwrap();
            let share = budget.clamp(&socket);
            let set = socket.recv_buffer_size().unwrap() + socket.send_buffer_size().unwrap();
            sum += share.1.max(set as usize);
            sockets.push((socket, share));
        }
        // The floor is given on top of the budget: 1,000 sockets, two directions.
        assert!(sum <= (32 << 20) + 1000 * 2 * LEAST, "{sum}");
        let last = sockets[999].0.recv_buffer_size().unwrap() as usize;
        assert!((LEAST..2 * LEAST).contains(&last), "{last}");
        drop(sockets);
        assert_eq!(budget.0.load(Ordering::Relaxed), 32 << 20);
    }
}
