//! The kernel's buffers for target sockets count against the pod's memory limit too: they share a fixed sum.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use socket2::SockRef;
use tokio::net::{TcpSocket, UdpSocket};

/// The least and most a socket's buffer is set to, in bytes per direction.
const LEAST: usize = 16 << 10;
const MOST: usize = 4 << 20;

/// The bytes that no socket has yet.
#[derive(Debug)]
pub(crate) struct KernelBuffers {
    left: Arc<AtomicUsize>,
    /// Only handed out in pieces of the least size: the first few sockets must not leave nothing for hundreds.
    reserve: usize,
}

/// What one socket may use, in bytes; goes back on drop.
#[derive(Debug)]
pub struct Share(Arc<AtomicUsize>, usize);

impl KernelBuffers {
    /// `bytes` for all sockets together.
    pub(crate) fn new(bytes: usize) -> Self {
        Self { left: Arc::new(AtomicUsize::new(bytes)), reserve: bytes / 2 }
    }

    /// Sets the buffers of a socket that is about to connect, and keeps the books until the share is dropped.
    ///
    /// Each direction gets a quarter of what is left above the reserve. While that is plenty the kernel's own tuning is as good (it
    /// stays below about the same size, and unlike a fixed size it can pass `net.core.rmem_max`). A program that
    /// is one of many gets a fixed size, down to the floor, which is given even where nothing is left.
    pub(crate) fn tcp(&self, socket: &TcpSocket) -> Share {
        let want = self.part(4);
        if want == MOST {
            return self.take(2 * MOST);
        }
        let socket = SockRef::from(socket);
        // The kernel doubles what it is asked for, caps it, and reports what it made of it. A refusal leaves the
        // default in place, which is reported just as well.
        let _ = socket.set_recv_buffer_size(want / 2);
        let _ = socket.set_send_buffer_size(want / 2);
        self.take(socket.recv_buffer_size().unwrap_or(want) + socket.send_buffer_size().unwrap_or(want))
    }

    /// As for TCP, but smaller parts, as flows are many, never more than the kernel's default, and only for receiving:
    /// what is sent does not stay, and a large datagram needs room to be cut up. An empty buffer takes any datagram.
    pub(crate) fn udp(&self, socket: &UdpSocket) -> Share {
        let socket = SockRef::from(socket);
        let default = socket.recv_buffer_size().unwrap_or(MOST);
        let want = self.part(16).min(default);
        let _ = socket.set_recv_buffer_size(want / 2);
        self.take(socket.recv_buffer_size().unwrap_or(want))
    }

    fn part(&self, of: usize) -> usize {
        (self.left.load(Ordering::Relaxed).saturating_sub(self.reserve) / of).clamp(LEAST, MOST)
    }

    /// Takes what is left, at most `bytes`.
    fn take(&self, bytes: usize) -> Share {
        let left = self
            .left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| Some(left.saturating_sub(bytes)));
        // The closure always answers, and both ways hold what was left before.
        Share(self.left.clone(), left.unwrap_or_else(|left| left).min(bytes))
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

    /// The sum of 1,000 sockets' buffers or shares, whichever is more, and the last one's receive buffer.
    fn thousand<S>(
        socket: impl Fn() -> S,
        clamp: impl Fn(&S) -> Share,
        sizes: impl Fn(&S) -> [usize; 2],
    ) -> (usize, usize) {
        let sockets: Vec<_> =
            std::iter::repeat_with(socket).take(1000).map(|socket| (clamp(&socket), socket)).collect();
        let sum = sockets.iter().map(|(share, socket)| share.1.max(sizes(socket).iter().sum())).sum();
        (sum, sizes(&sockets[999].1)[0])
    }

    fn udp_socket() -> UdpSocket {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_nonblocking(true).unwrap();
        UdpSocket::from_std(socket).unwrap()
    }

    fn sizes(socket: SockRef<'_>) -> [usize; 2] {
        [socket.recv_buffer_size().unwrap(), socket.send_buffer_size().unwrap()]
    }

    #[tokio::test]
    async fn a_thousand_sockets_stay_within_the_budget_and_above_the_floor() {
        let budget = KernelBuffers::new(32 << 20);
        let tcp = thousand(|| TcpSocket::new_v4().unwrap(), |s| budget.tcp(s), |s| sizes(SockRef::from(s)));
        let udp = thousand(udp_socket, |s| budget.udp(s), |s| [sizes(SockRef::from(s))[0], 0]);
        for (sum, last) in [tcp, udp] {
            // The reserve is for half of them; the floor of the others is given on top of the budget.
            assert!(sum <= (32 << 20) + 500 * 2 * LEAST, "{sum}");
            assert!((LEAST..2 * LEAST).contains(&last), "{last}");
        }
        assert_eq!(budget.left.load(Ordering::Relaxed), 32 << 20);
    }
}
