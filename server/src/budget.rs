//! What the agent may hold: bytes waiting for a slow hop, and kernel buffers of target sockets.
//!
//! Both count against the pod's memory limit. Everything taken is given back on drop.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::net::TcpSocket;

/// The least and most a socket's buffer is set to, in bytes per direction.
const LEAST: usize = 16 << 10;
const MOST: usize = 4 << 20;

/// A number of bytes, of which parts are taken and come back.
#[derive(Clone, Debug)]
pub struct Budget(Arc<AtomicUsize>);

/// A part taken from a [`Budget`]; goes back on drop.
#[derive(Debug)]
pub struct Share {
    budget: Budget,
    bytes: usize,
}

impl Budget {
    /// A budget with `bytes` to give.
    pub fn new(bytes: usize) -> Self {
        Self(Arc::new(AtomicUsize::new(bytes)))
    }

    /// Bytes not taken.
    pub fn left(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// Takes what is left, at most `bytes`.
    pub fn take(&self, bytes: usize) -> Share {
        let mut taken = 0;
        // The closure always answers, so the update cannot fail.
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
            taken = left.min(bytes);
            Some(left - taken)
        });
        Share { budget: self.clone(), bytes: taken }
    }

    /// Takes all of `bytes` or nothing.
    pub fn take_whole(&self, bytes: usize) -> Option<Share> {
        let share = self.take(bytes);
        (share.bytes == bytes).then_some(share)
    }

    /// Sets the buffers of a socket that is about to connect, and keeps the books until the share is dropped.
    ///
    /// Each direction gets an eighth of what is left. While that is plenty the kernel's own tuning is as good (it
    /// stays below about the same size, and unlike a fixed size it can pass `net.core.rmem_max`). A program that
    /// is one of many gets a fixed size, down to the floor, which is given even where nothing is left.
    pub fn clamp(&self, socket: &TcpSocket) -> Share {
        let want = (self.left() / 8).clamp(LEAST, MOST);
        if want == MOST {
            return self.take(2 * MOST);
        }
        // The kernel doubles what it is asked for, caps it, and reports what it made of it. A refusal leaves the
        // default in place, which is reported just as well.
        let half = u32::try_from(want / 2).unwrap_or(u32::MAX);
        let _ = socket.set_recv_buffer_size(half);
        let _ = socket.set_send_buffer_size(half);
        let bytes = |size: std::io::Result<u32>| size.map_or(want, |size| size as usize);
        self.take(bytes(socket.recv_buffer_size()) + bytes(socket.send_buffer_size()))
    }
}

impl Share {
    /// How many bytes this is.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.0.fetch_add(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_comes_back() {
        let budget = Budget::new(100);
        let most = budget.take(70);
        assert!(budget.take_whole(31).is_none());
        assert_eq!(budget.take(50).bytes(), 30);
        assert_eq!(budget.left(), 30);
        drop(most);
        assert_eq!(budget.take_whole(100).map(|share| share.bytes()), Some(100));
        assert_eq!(budget.left(), 100);
    }

    #[test]
    fn a_thousand_sockets_stay_within_the_budget_and_above_the_floor() {
        let budget = Budget::new(32 << 20);
        let mut sockets = Vec::new();
        let mut sum = 0;
        for _ in 0..1000 {
            let socket = TcpSocket::new_v4().unwrap();
            let share = budget.clamp(&socket);
            let set = socket.recv_buffer_size().unwrap() + socket.send_buffer_size().unwrap();
            sum += share.bytes().max(set as usize);
            sockets.push((socket, share));
        }
        // The floor is given on top of the budget: 1,000 sockets, two directions.
        assert!(sum <= (32 << 20) + 1000 * 2 * LEAST, "{sum}");
        let last = sockets[999].0.recv_buffer_size().unwrap() as usize;
        assert!((LEAST..2 * LEAST).contains(&last), "{last}");
        drop(sockets);
        assert_eq!(budget.left(), 32 << 20);
    }
}
