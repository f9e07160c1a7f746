//! The kernel's buffers for target sockets count against the pod's memory limit too: they share a fixed sum.
//!
//! Few sockets are left to the kernel's own tuning. Of many, each gets an equal part; those that move bytes follow the
//! number of sockets up and down, and have most of their part where their bytes are. Those that are stuck keep what they
//! were given, which stays on the books.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use socket2::SockRef;
use tokio::net::{TcpSocket, UdpSocket};

/// The least and most a socket's buffer is set to, in bytes per direction.
const LEAST: usize = 16 << 10;
const MOST: usize = 4 << 20;

/// Bytes one way for each the other way, from which on that way has most of a socket's part.
const ONE_WAY: u64 = 4;

/// Bytes of a socket's two buffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sizes {
    receive: usize,
    send: usize,
}

impl Sizes {
    /// What the kernel does by itself comes to about this, and is better than any fixed size.
    const TUNED: Self = Self { receive: MOST, send: MOST };

    const fn equal(part: usize) -> Self {
        Self { receive: part, send: part }
    }

    /// `part` for each direction, moved to where the bytes are.
    fn leaning(part: usize, received: u64, sent: u64) -> Self {
        let least = (part / 4).max(LEAST);
        let most = 2 * part - least;
        if received / ONE_WAY >= sent {
            Self { receive: most, send: least }
        } else if sent / ONE_WAY >= received {
            Self { receive: least, send: most }
        } else {
            Self::equal(part)
        }
    }

    fn sum(self) -> usize {
        self.receive + self.send
    }

    /// Whether one of them would have to be halved or doubled, which is worth three calls.
    fn is_far_from(self, other: Self) -> bool {
        let far = |one: usize, other: usize| one >= other * 2 || one <= other / 2;
        far(self.receive, other.receive) || far(self.send, other.send)
    }
}

/// The bytes that no socket has yet, and how many sockets there are.
#[derive(Debug)]
struct Books {
    total: usize,
    left: AtomicUsize,
    sockets: AtomicUsize,
}

impl Books {
    /// Bytes per direction for one socket that already has `own` in both.
    ///
    /// So many sockets as have the least size in half of the total find that much: the first few must not leave nothing for
    /// hundreds. Of the rest each gets an equal part, and nobody takes more than half of what is left.
    fn part(&self, own: usize) -> usize {
        let sockets = self.sockets.load(Ordering::Relaxed).max(1);
        let to_come = (self.total / 2).saturating_sub(sockets * Sizes::equal(LEAST).sum());
        let equal = (self.total - to_come) / 2 / sockets;
        let left = (self.left.load(Ordering::Relaxed) + own).saturating_sub(to_come);
        equal.min(left / 4).clamp(LEAST, MOST)
    }

    /// Takes what is left, at most `bytes`.
    fn take(&self, bytes: usize) -> usize {
        let mut left = self.left.load(Ordering::Relaxed);
        loop {
            let taken = left.min(bytes);
            match self.left.compare_exchange_weak(left, left - taken, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return taken,
                Err(now) => left = now,
            }
        }
    }
}

/// Hands out the buffers.
#[derive(Debug)]
pub(crate) struct KernelBuffers(Arc<Books>);

/// What one socket may use; goes back on drop.
#[derive(Debug)]
pub struct Share {
    books: Arc<Books>,
    /// Bytes of both directions that are on the books.
    taken: usize,
    /// What the socket was set to.
    sizes: Sizes,
}

impl KernelBuffers {
    /// `bytes` for all sockets together.
    pub(crate) fn new(bytes: usize) -> Self {
        Self(Arc::new(Books { total: bytes, left: AtomicUsize::new(bytes), sockets: AtomicUsize::new(0) }))
    }

    /// Bytes that sockets have, and bytes in all.
    pub(crate) fn used(&self) -> (usize, usize) {
        (self.0.total - self.0.left.load(Ordering::Relaxed).min(self.0.total), self.0.total)
    }

    fn share(&self) -> Share {
        self.0.sockets.fetch_add(1, Ordering::Relaxed);
        Share { books: self.0.clone(), taken: 0, sizes: Sizes::TUNED }
    }

    /// Sets the buffers of a socket that is about to connect, and keeps the books until the share is dropped.
    ///
    /// While there is plenty the kernel's own tuning is as good (it stays below about the same size, and unlike a
    /// fixed size it can pass `net.core.rmem_max`). A socket that is one of many gets a fixed size, down to the floor,
    /// which is given even where nothing is left.
    pub(crate) fn tcp(&self, socket: &TcpSocket) -> Share {
        let mut share = self.share();
        match self.0.part(0) {
            MOST => share.taken = self.0.take(Sizes::TUNED.sum()),
            part => {
                share.set(&SockRef::from(socket), Sizes::equal(part));
            }
        }
        share
    }

    /// As for TCP, but smaller parts, as flows are many, never more than the kernel's default, and only for receiving:
    /// what is sent does not stay, and a large datagram needs room to be cut up. An empty buffer takes any datagram.
    pub(crate) fn udp(&self, socket: &UdpSocket) -> Share {
        let socket = SockRef::from(socket);
        let default = socket.recv_buffer_size().unwrap_or(MOST);
        let mut share = self.share();
        let size = (self.0.part(0) / 4).clamp(LEAST, default.max(LEAST));
        let _ = socket.set_recv_buffer_size(size / 2);
        share.taken = self.0.take(socket.recv_buffer_size().unwrap_or(size));
        share
    }
}

impl Share {
    /// Lets a TCP socket that moves bytes, so many each way by now, follow the number of sockets.
    pub fn adjust(&mut self, socket: SockRef<'_>, received: u64, sent: u64) {
        let part = self.books.part(self.taken);
        // What the kernel tunes stays so for as long as there is about enough for it.
        let mut wanted = match self.sizes {
            Sizes::TUNED if part > MOST / 2 => return,
            _ => Sizes::leaning(part, received, sent),
        };
        if wanted.receive < self.sizes.receive {
            wanted.receive = wanted.receive.max(least_kept(&socket).min(self.sizes.receive));
        }
        if wanted.is_far_from(self.sizes) {
            let receive = self.set(&socket, wanted);
            // The window that was agreed upon with the first buffer would stay as it was.
            let _ = relay_sockopt::set_window_clamp(&socket, receive);
        }
    }

    /// Gives the receive buffer's size, as it is now.
    fn set(&mut self, socket: &SockRef<'_>, sizes: Sizes) -> usize {
        self.sizes = sizes;
        // The kernel doubles what it is asked for, caps it, and reports what it made of it. A refusal leaves what was
        // there in place, which is reported just as well.
        let _ = socket.set_recv_buffer_size(sizes.receive / 2);
        let _ = socket.set_send_buffer_size(sizes.send / 2);
        let receive = socket.recv_buffer_size().unwrap_or(sizes.receive);
        let got = receive + socket.send_buffer_size().unwrap_or(sizes.send);
        self.books.left.fetch_add(self.taken, Ordering::Relaxed);
        self.taken = self.books.take(got);
        receive
    }
}

/// What a receive buffer is not made smaller than. The window it leaves room for, half of it, has to hold a segment of the
/// peer's, who else sends one only every 200 ms (its persist timer). For segments of 1,448 bytes there is always room; for
/// jumbo frames, and on the loopback, there is not.
fn least_kept(socket: &SockRef<'_>) -> usize {
    2 * socket.tcp_mss().map_or(0, |bytes| bytes as usize)
}

impl Drop for Share {
    fn drop(&mut self) {
        self.books.left.fetch_add(self.taken, Ordering::Relaxed);
        self.books.sockets.fetch_sub(1, Ordering::Relaxed);
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
        let sum = sockets.iter().map(|(share, socket)| share.taken.max(sizes(socket).iter().sum())).sum();
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
        assert_eq!(budget.0.left.load(Ordering::Relaxed), 32 << 20);
    }

    #[tokio::test]
    async fn sockets_that_move_bytes_get_equal_parts() {
        let budget = KernelBuffers::new(32 << 20);
        let mut sockets: Vec<_> = std::iter::repeat_with(|| TcpSocket::new_v4().unwrap())
            .take(64)
            .map(|socket| (budget.tcp(&socket), socket))
            .collect();
        // The large shares of the first come back before the last ask again.
        for _ in 0..4 {
            sockets.iter_mut().for_each(|(share, socket)| share.adjust(SockRef::from(&*socket), 1, 1));
        }
        for (share, socket) in &sockets {
            let [receive, send] = sizes(SockRef::from(socket));
            assert!((48 << 10..=288 << 10).contains(&receive), "{receive}");
            assert!((48 << 10..=288 << 10).contains(&send), "{send}");
            assert_eq!(share.taken, receive + send);
        }
        sockets.truncate(4);
        for _ in 0..4 {
            sockets.iter_mut().for_each(|(share, socket)| share.adjust(SockRef::from(&*socket), 1, 1));
        }
        for (_, socket) in &sockets {
            assert!(sizes(SockRef::from(socket))[0] > 256 << 10, "fewer sockets, larger parts");
        }
    }

    #[tokio::test]
    async fn a_socket_that_moves_bytes_one_way_has_most_of_its_part_there() {
        let budget = KernelBuffers::new(32 << 20);
        let mut sockets: Vec<_> = std::iter::repeat_with(|| TcpSocket::new_v4().unwrap())
            .take(200)
            .map(|socket| (budget.tcp(&socket), socket))
            .collect();
        // From the target only, to it only, as much both ways; in turns, as the first ones hold too much at first.
        let moved = [(10 << 20, 1 << 10), (1 << 10, 10 << 20), (10 << 20, 5 << 20)];
        for _ in 0..4 {
            for ((share, socket), (received, sent)) in sockets.iter_mut().zip(moved.into_iter().cycle()) {
                share.adjust(SockRef::from(&*socket), received, sent);
            }
        }
        let [down, up, equal] = [99, 100, 101].map(|index| sizes(SockRef::from(&sockets[index].1)));
        assert!(down[0] >= 3 * down[1] && up[1] >= 3 * up[0], "{down:?} {up:?}");
        assert!(equal[0] >= 48 << 10 && equal[0] == equal[1], "{equal:?}");
        let all: usize =
            sockets.iter().map(|(_, socket)| sizes(SockRef::from(socket)).iter().sum::<usize>()).sum();
        assert!((20 << 20..=32 << 20).contains(&all), "{all}");
    }

    #[tokio::test]
    async fn a_window_that_shrinks_still_holds_a_segment() {
        let budget = KernelBuffers::new(32 << 20);
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = TcpSocket::new_v4().unwrap();
        let mut share = budget.tcp(&socket);
        let socket = socket.connect(listener.local_addr().unwrap()).await.unwrap();
        let segment = SockRef::from(&socket).tcp_mss().unwrap() as usize;
        assert!(segment > LEAST, "{segment}");
        let _many = std::iter::repeat_with(|| budget.share()).take(1_000).collect::<Vec<_>>();
        share.adjust(SockRef::from(&socket), 1, 1);
        let [receive, send] = sizes(SockRef::from(&socket));
        assert!((2 * segment..3 * segment).contains(&receive), "{receive} for segments of {segment}");
        assert!(send < 2 * LEAST, "{send}");
    }

    #[test]
    fn what_is_kept_for_sockets_to_come_shrinks_as_they_come() {
        let budget = KernelBuffers::new(32 << 20);
        let part = |sockets| {
            budget.0.sockets.store(sockets, Ordering::Relaxed);
            budget.0.part(0)
        };
        assert_eq!([1, 2].map(part), [MOST, MOST]);
        for sockets in [64, 300, 512, 600] {
            let all = 2 * part(sockets) * sockets;
            let to_come = 512_usize.saturating_sub(sockets) * 2 * LEAST;
            let whole = 32 << 20;
            assert!(
                all + to_come <= whole && all + to_come > whole - whole / 16,
                "{sockets}: {all} + {to_come}"
            );
        }
        assert_eq!([1_024, 2_000].map(part), [LEAST, LEAST]);
        budget.0.sockets.store(0, Ordering::Relaxed);
    }
}
