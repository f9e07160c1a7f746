//! UDP: one flow for each local peer, so that answers find their way back; flows end by the agent's rules of expiry.

use std::{collections::HashMap, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use relay_protocol::Status;
use relay_tunnel::{FlowClosed, TunnelFlow};
use tokio::{
    net::UdpSocket,
    sync::mpsc::{self, error::TrySendError},
    time::{Instant, sleep_until},
};

use super::{
    Path, Relay,
    connection::{Began, Ended},
};
use crate::{dial_failure::is_about_dialling, ledger::Tally, output::EndedBy, trace::FlowTap};

/// The most flows of one listener; the one that was quiet the longest makes room.
const MAX_FLOWS: usize = 1024;
/// Datagrams of one peer that wait for the relay; more are dropped, as a full socket buffer would.
const QUEUE: usize = 64;
/// The agent ends a quiet flow after at most two minutes; this is for one whose end got lost.
const QUIET: Duration = Duration::from_secs(180);
/// The largest payload of a datagram.
const MAX_DATAGRAM: usize = 65_535;

struct Peer {
    /// To the flow's task. Full: the datagram is dropped. Closed: the flow has ended.
    queue: mpsc::Sender<Bytes>,
    last: Instant,
}

/// Receives for ever.
pub async fn serve(socket: UdpSocket, path: Path, relay: Relay) {
    let socket = Arc::new(socket);
    let mut peers: HashMap<SocketAddr, Peer> = HashMap::new();
    let mut buffer = vec![0; MAX_DATAGRAM];
    loop {
        let (length, from) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(error) => {
                // Some systems report here that an earlier answer found nobody.
                tracing::debug!(%error, "receiving");
                tokio::task::yield_now().await;
                continue;
            }
        };
        let datagram = Bytes::copy_from_slice(&buffer[..length]);
        let Some(datagram) = queued(&mut peers, from, datagram) else { continue };

        make_room(&mut peers);
        let (queue, datagrams) = mpsc::channel(QUEUE);
        // A fresh queue has room.
        let _ = queue.try_send(datagram);
        peers.insert(from, Peer { queue, last: Instant::now() });
        let flow = Flow { socket: Arc::clone(&socket), peer: from, path: path.clone(), relay: relay.clone() };
        relay.tasks.spawn(flow.carry(datagrams));
    }
}

/// Hands a datagram to its peer's flow; gives it back when there is none.
fn queued(peers: &mut HashMap<SocketAddr, Peer>, from: SocketAddr, datagram: Bytes) -> Option<Bytes> {
    let Some(peer) = peers.get_mut(&from) else { return Some(datagram) };
    peer.last = Instant::now();
    match peer.queue.try_send(datagram) {
        Ok(()) => None,
        Err(TrySendError::Full(_)) => {
            tracing::trace!(%from, "datagram dropped: queue full");
            None
        }
        Err(TrySendError::Closed(datagram)) => Some(datagram),
    }
}

fn make_room(peers: &mut HashMap<SocketAddr, Peer>) {
    if peers.len() < MAX_FLOWS {
        return;
    }
    peers.retain(|_, peer| !peer.queue.is_closed());
    if peers.len() < MAX_FLOWS {
        return;
    }
    let quietest = peers.iter().min_by_key(|(_, peer)| peer.last).map(|(address, _)| *address);
    if let Some(quietest) = quietest {
        // Dropping the queue ends its flow.
        peers.remove(&quietest);
    }
}

/// What one flow has carried.
struct Carried<'a> {
    sent: u64,
    received: u64,
    /// Is told of each datagram.
    tally: &'a Tally,
}

impl Carried<'_> {
    fn sent(&mut self, datagram: &Bytes) {
        self.sent += datagram.len() as u64;
        self.tally.sent(datagram.len() as u64);
    }

    fn received(&mut self, datagram: &Bytes) {
        self.received += datagram.len() as u64;
        self.tally.received(datagram.len() as u64);
    }
}

struct Flow {
    socket: Arc<UdpSocket>,
    peer: SocketAddr,
    path: Path,
    relay: Relay,
}

impl Flow {
    /// Carries from the first datagram on. When the agent is lost, the next datagram opens a flow with the next one:
    /// the local program keeps its socket and notices a pause at most.
    async fn carry(self, mut datagrams: mpsc::Receiver<Bytes>) {
        while let Some(first) = datagrams.recv().await {
            if !self.once(first, &mut datagrams).await {
                return;
            }
        }
    }

    /// One flow; true when it went with its agent.
    async fn once(&self, first: Bytes, datagrams: &mut mpsc::Receiver<Bytes>) -> bool {
        let began = Began::now(self.peer, &self.path);
        let mut bytes = Carried { sent: 0, received: 0, tally: began.tally() };
        let (is_lost, status) = self.carried(first, datagrams, &mut bytes).await;
        let ended = Ended { status, by: EndedBy::Remote, sent: bytes.sent, received: bytes.received };
        began.ended(&self.path, &self.relay, ended);
        is_lost
    }

    async fn carried(
        &self,
        first: Bytes,
        datagrams: &mut mpsc::Receiver<Bytes>,
        bytes: &mut Carried<'_>,
    ) -> (bool, Status) {
        let mut unsent = Some(first);
        let mut last = Status::Ok;
        // An agent that is lost at the very moment costs another try, not the datagram.
        while let Some(datagram) = unsent {
            let opened = self
                .relay
                .open(&self.path, |session, header| async move { session.open_flow(header).await })
                .await;
            let (flow, destination) = match opened {
                Ok(opened) => opened,
                Err(why) => {
                    self.relay.output.not_forwarded(&self.path.target, &why.to_string(), why.hint());
                    return (false, why.status());
                }
            };
            let local = self.socket.local_addr().unwrap_or(self.peer);
            let mut tap = self.relay.flow_tap(&self.path, self.peer, local, &destination);
            let closed = self.exchange(flow, datagram, datagrams, bytes, &mut tap).await;
            let Some((FlowClosed { status }, left)) = closed else {
                return (false, Status::Ok);
            };
            tracing::debug!(peer = %self.peer, %status, "flow closed");
            if !matches!(status, Status::AgentLost | Status::ShuttingDown) {
                if is_about_dialling(status) {
                    self.path.route.doubt();
                    self.relay.output.dial_failed(&self.path.target, &destination, status);
                }
                return (false, status);
            }
            (unsent, last) = (left, status);
        }
        (true, last)
    }

    /// Both ways until either end is done; `None` when it is this side. Otherwise also the datagram that came too
    /// late.
    async fn exchange(
        &self,
        mut flow: TunnelFlow,
        first: Bytes,
        datagrams: &mut mpsc::Receiver<Bytes>,
        bytes: &mut Carried<'_>,
        tap: &mut Option<FlowTap>,
    ) -> Option<(FlowClosed, Option<Bytes>)> {
        if let Err(closed) = flow.send(first.clone()) {
            return Some((closed, Some(first)));
        }
        bytes.sent(&first);
        tap.iter_mut().for_each(|tap| tap.sent(&first));
        let mut quiet = Instant::now() + QUIET;
        loop {
            tokio::select! {
                datagram = datagrams.recv() => {
                    let Some(datagram) = datagram else { break };
                    if let Err(closed) = flow.send(datagram.clone()) {
                        return Some((closed, Some(datagram)));
                    }
                    bytes.sent(&datagram);
                    tap.iter_mut().for_each(|tap| tap.sent(&datagram));
                }
                answer = flow.recv() => match answer {
                    Ok(datagram) => {
                        bytes.received(&datagram);
                        tap.iter_mut().for_each(|tap| tap.received(&datagram));
                        if let Err(error) = self.socket.send_to(&datagram, self.peer).await {
                            tracing::debug!(%error, peer = %self.peer, "answer not delivered");
                        }
                    }
                    Err(closed) => return Some((closed, None)),
                },
                () = sleep_until(quiet) => break,
            }
            quiet = Instant::now() + QUIET;
        }
        flow.close(Status::Ok);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    #[tokio::test(start_paused = true)]
    async fn the_quietest_flow_makes_room() {
        let mut peers = HashMap::new();
        let mut receivers = Vec::new();
        for port in 1..=u16::try_from(MAX_FLOWS).unwrap() {
            let (queue, receiver) = mpsc::channel(1);
            receivers.push(receiver);
            peers.insert(address(port), Peer { queue, last: Instant::now() });
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        assert!(queued(&mut peers, address(1), Bytes::new()).is_none());
        make_room(&mut peers);
        assert!(peers.contains_key(&address(1)) && !peers.contains_key(&address(2)));
    }

    #[tokio::test]
    async fn ended_flows_make_room_before_living_ones() {
        let mut peers = HashMap::new();
        let mut receivers = Vec::new();
        for port in 1..=u16::try_from(MAX_FLOWS).unwrap() {
            let (queue, receiver) = mpsc::channel(1);
            if port % 2 == 0 {
                receivers.push(receiver);
            }
            peers.insert(address(port), Peer { queue, last: Instant::now() });
        }
        make_room(&mut peers);
        assert_eq!(peers.len(), MAX_FLOWS / 2);
        assert!(peers.contains_key(&address(2)) && !peers.contains_key(&address(1)));
    }

    #[tokio::test]
    async fn a_full_queue_drops_and_an_ended_flow_gives_the_datagram_back() {
        let (queue, receiver) = mpsc::channel(1);
        let mut peers = HashMap::from([(address(1), Peer { queue, last: Instant::now() })]);
        assert!(queued(&mut peers, address(1), Bytes::from_static(b"a")).is_none());
        assert!(queued(&mut peers, address(1), Bytes::from_static(b"b")).is_none());
        drop(receiver);
        assert_eq!(queued(&mut peers, address(1), Bytes::from_static(b"c")), Some(Bytes::from_static(b"c")));
        assert_eq!(queued(&mut peers, address(2), Bytes::from_static(b"d")), Some(Bytes::from_static(b"d")));
    }
}
