//! UDP flows: datagrams between a client's flow and a connected socket, until the flow has been quiet for too long.
//!
//! UDP has no end of its own, so a flow ends by the clock: soon where nobody answered, at once after what was
//! a question to a name server, and otherwise after two minutes. The clock is read per packet, the timer is not set.

use std::cell::RefCell;
use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use relay_protocol::Status;
use tokio::net::UdpSocket;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{debug, trace};

/// A flow that nobody answered ends after this much quiet,
const UNANSWERED: Duration = Duration::from_secs(30);
/// one that was answered after this much,
const ANSWERED: Duration = Duration::from_secs(120);
/// and one that asked a name server and has its answer after this much.
const DNS_ANSWERED: Duration = Duration::from_secs(10);
/// The largest datagram there is, with room to see that one is larger.
const LARGEST: usize = 65_536;

thread_local! {
    /// Datagrams are received here and copied at their true size: a buffer per flow would cost 64 MiB.
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; LARGEST]);
}

/// The client's side of a flow: a session's flow, or a direct stream with length-prefixed datagrams.
pub trait FlowPeer: Send {
    /// The next datagram from the client, or why no more will come. Safe to cancel.
    fn recv(&mut self) -> impl Future<Output = Result<Bytes, Status>> + Send;
    /// Sends to the client without waiting; what does not fit is dropped.
    ///
    /// # Errors
    /// The status with which the client ended the flow.
    fn send(&mut self, datagram: &[u8]) -> Result<(), Status>;
}

/// All flows of the agent, so that a new one can take the place of one that has been quiet for longest: of those whose
/// owner has the most.
pub struct Flows {
    limit: usize,
    start: Instant,
    live: Mutex<Vec<Arc<Entry>>>,
}

#[derive(Default)]
struct Entry {
    /// Whose it is.
    owner: u128,
    /// Milliseconds after [`Flows::start`] of the last packet.
    last: AtomicU64,
    evicted: CancellationToken,
}

impl Flows {
    /// At most `limit` at the same time.
    pub fn new(limit: usize) -> Self {
        Self { limit, start: Instant::now(), live: Mutex::default() }
    }

    /// How many flows there are.
    pub fn count(&self) -> usize {
        self.live().len()
    }

    /// Carries datagrams of this owner both ways until the flow is over, and says why.
    pub async fn run(&self, owner: u128, peer: &mut impl FlowPeer, socket: &UdpSocket) -> Status {
        let entry = self.enter(owner);
        tokio::select! {
            status = carry(peer, socket, || self.touch(&entry.1)) => status,
            () = entry.1.evicted.cancelled() => Status::TooManyStreams,
        }
    }

    fn enter(&self, owner: u128) -> Entered<'_> {
        let entry = Arc::new(Entry { owner, ..Entry::default() });
        self.touch(&entry);
        let mut live = self.live();
        live.push(entry.clone());
        if live.len() > self.limit {
            let mut counts = HashMap::new();
            live.iter().for_each(|entry| *counts.entry(entry.owner).or_insert(0_usize) += 1);
            let most = counts.values().max().copied();
            let quietest = (0..live.len())
                .filter(|&at| counts.get(&live[at].owner).copied() == most)
                .min_by_key(|&at| (Arc::ptr_eq(&live[at], &entry), live[at].last.load(Ordering::Relaxed)));
            if let Some(quietest) = quietest {
                debug!(flows = self.limit, "too many UDP flows: one that was quiet for long ends");
                live.remove(quietest).evicted.cancel();
            }
        }
        Entered(self, entry)
    }

    fn touch(&self, entry: &Entry) {
        entry.last.store(self.start.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    fn live(&self) -> MutexGuard<'_, Vec<Arc<Entry>>> {
        // Nothing done under the lock can leave the list half changed.
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Removes a flow's entry when its future ends or is dropped.
struct Entered<'a>(&'a Flows, Arc<Entry>);

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        self.0.live().retain(|entry| !Arc::ptr_eq(entry, &self.1));
    }
}

/// When a flow has been quiet for too long.
struct Quiet {
    dns: bool,
    answered: bool,
    /// The last packet was the target's.
    waiting: bool,
    last: Instant,
}

impl Quiet {
    fn deadline(&self) -> Instant {
        self.last
            + match self.answered {
                _ if self.dns && !self.waiting => DNS_ANSWERED,
                true => ANSWERED,
                false => UNANSWERED,
            }
    }
}

async fn carry(peer: &mut impl FlowPeer, socket: &UdpSocket, touch: impl Fn()) -> Status {
    let dns = socket.peer_addr().is_ok_and(|target| target.port() == 53);
    let mut quiet = Quiet { dns, answered: false, waiting: true, last: Instant::now() };
    let mut timer = std::pin::pin!(sleep_until(quiet.deadline()));
    loop {
        tokio::select! {
            datagram = peer.recv() => match datagram {
                Ok(datagram) => {
                    quiet.waiting = true;
                    trace!(bytes = datagram.len(), "datagram to the target");
                    send(socket, &datagram).await;
                }
                Err(status) => return status,
            },
            ready = socket.readable() => {
                if let Err(error) = ready {
                    return crate::error::status_of(&error);
                }
                match receive(socket, peer) {
                    Ok(Ok(())) => (quiet.waiting, quiet.answered) = (false, true),
                    Ok(Err(status)) => return status,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                    // The target's host says that nobody listens. It may be back for the next datagram.
                    Err(error) => {
                        debug!(%error, "target cannot be reached");
                        continue;
                    }
                }
            }
            () = &mut timer => {
                if quiet.deadline() <= Instant::now() {
                    return Status::Ok;
                }
                timer.as_mut().reset(quiet.deadline());
                continue;
            }
        }
        quiet.last = Instant::now();
        touch();
        // The timer is left to fire early and look again, but it must not fire late.
        if quiet.deadline() < timer.deadline() {
            timer.as_mut().reset(quiet.deadline());
        }
    }
}

/// Sends one datagram to the target. A failure loses that datagram and nothing else, as in any network.
async fn send(socket: &UdpSocket, datagram: &[u8]) {
    let mut result = socket.send(datagram).await;
    if result.is_err() {
        // What was reported may be the fate of an earlier one, and then this one was not even tried.
        result = socket.send(datagram).await;
    }
    if let Err(error) = result {
        debug!(%error, bytes = datagram.len(), "datagram not sent");
    }
}

/// Takes one datagram from the socket to the client.
fn receive(socket: &UdpSocket, peer: &mut impl FlowPeer) -> io::Result<Result<(), Status>> {
    SCRATCH.with_borrow_mut(|scratch| {
        let len = socket.try_recv(scratch)?;
        trace!(bytes = len, "datagram from the target");
        Ok(peer.send(&scratch[..len]))
    })
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;

    /// A client's flow made of two queues.
    struct Queues(mpsc::UnboundedReceiver<Bytes>, mpsc::UnboundedSender<Vec<u8>>);

    impl FlowPeer for Queues {
        async fn recv(&mut self) -> Result<Bytes, Status> {
            self.0.recv().await.ok_or(Status::Aborted)
        }

        fn send(&mut self, datagram: &[u8]) -> Result<(), Status> {
            self.1.send(datagram.to_vec()).map_err(|_| Status::Aborted)
        }
    }

    fn queues() -> (Queues, mpsc::UnboundedSender<Bytes>, mpsc::UnboundedReceiver<Vec<u8>>) {
        let (to_target, from_client) = mpsc::unbounded_channel();
        let (to_client, from_target) = mpsc::unbounded_channel();
        (Queues(from_client, to_client), to_target, from_target)
    }

    fn quiet(dns: bool, answered: bool, waiting: bool) -> Duration {
        let last = Instant::now();
        Quiet { dns, answered, waiting, last }.deadline() - last
    }

    #[test]
    fn how_long_a_flow_may_be_quiet() {
        assert_eq!(quiet(false, false, true), Duration::from_secs(30));
        assert_eq!(quiet(false, true, false), Duration::from_secs(120));
        assert_eq!(quiet(false, true, true), Duration::from_secs(120));
        assert_eq!(quiet(true, false, true), Duration::from_secs(30));
        assert_eq!(quiet(true, true, false), Duration::from_secs(10));
        assert_eq!(quiet(true, true, true), Duration::from_secs(120));
    }

    async fn silent_target() -> (UdpSocket, UdpSocket) {
        let target = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.connect(target.local_addr().unwrap()).await.unwrap();
        (socket, target)
    }

    #[tokio::test(start_paused = true)]
    async fn a_flow_that_nobody_answers_ends_half_a_minute_after_its_last_packet() {
        let (socket, _target) = silent_target().await;
        let (mut peer, to_target, _from_target) = queues();
        let flows = Flows::new(9);
        let start = Instant::now();
        let later = async {
            tokio::time::sleep(Duration::from_secs(20)).await;
            to_target.send(Bytes::from_static(b"again")).unwrap();
        };
        let (status, ()) = tokio::join!(flows.run(1, &mut peer, &socket), later);
        assert_eq!((status, flows.count()), (Status::Ok, 0));
        assert_eq!(start.elapsed().as_secs(), 50);
    }

    #[tokio::test]
    async fn a_refusal_does_not_end_the_flow() {
        let (socket, target) = silent_target().await;
        let address = target.local_addr().unwrap();
        drop(target);
        // On loopback the refusal is there when the send returns.
        socket.send(b"nobody there").await.unwrap();
        let target = UdpSocket::bind(address).await.unwrap();
        let (mut peer, to_target, mut from_target) = queues();
        let flows = Flows::new(9);
        let client = async {
            to_target.send(Bytes::from_static(b"now")).unwrap();
            let mut buf = [0; 9];
            let (len, from) = target.recv_from(&mut buf).await.unwrap();
            target.send_to(&buf[..len], from).await.unwrap();
            assert_eq!(from_target.recv().await.unwrap(), b"now");
            drop(to_target);
        };
        let (status, ()) = tokio::join!(flows.run(1, &mut peer, &socket), client);
        assert_eq!(status, Status::Aborted);
    }

    #[tokio::test]
    async fn a_refusal_of_the_last_datagram_does_not_cost_the_next() {
        let (socket, target) = silent_target().await;
        let address = target.local_addr().unwrap();
        drop(target);
        socket.send(b"nobody there").await.unwrap();
        let target = UdpSocket::bind(address).await.unwrap();
        send(&socket, b"now").await;
        let mut buf = [0; 9];
        assert_eq!(target.recv(&mut buf).await.unwrap(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn at_the_limit_the_flow_that_was_quiet_for_longest_goes() {
        let flows = Flows::new(2);
        let (a, b) = (flows.enter(1), flows.enter(1));
        tokio::time::sleep(Duration::from_secs(1)).await;
        flows.touch(&a.1);
        let c = flows.enter(1);
        assert_eq!([&a, &b, &c].map(|flow| flow.1.evicted.is_cancelled()), [false, true, false]);
        assert_eq!(flows.count(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_has_the_most_flows_makes_room_for_others() {
        let flows = Flows::new(4);
        let quiet = flows.enter(7);
        tokio::time::sleep(Duration::from_secs(1)).await;
        let greedy: Vec<_> = (0..9).map(|_| flows.enter(1)).collect();
        assert!(!quiet.1.evicted.is_cancelled(), "one flow is no flood");
        assert_eq!(greedy.iter().filter(|flow| !flow.1.evicted.is_cancelled()).count(), 3);
        let second = flows.enter(7);
        assert!(!second.1.evicted.is_cancelled());
        assert_eq!(
            (flows.count(), greedy.iter().filter(|flow| !flow.1.evicted.is_cancelled()).count()),
            (4, 2)
        );
    }
}
