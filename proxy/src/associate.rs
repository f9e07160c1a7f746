//! UDP ASSOCIATE: a UDP socket that lives as long as the TCP connection that asked for it, with a flow for each target.

use std::{collections::HashMap, io, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use relay_protocol::{Status, header::Address};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UdpSocket,
    sync::{
        OwnedSemaphorePermit,
        mpsc::{self, error::TrySendError},
    },
    task::JoinSet,
    time::{Instant, sleep_until},
};

use crate::{
    Dial, Target,
    connections::{Spoken, Tracked},
    dial::{Datagrams, End},
    server::{Client, Shared},
    socks::reject5,
    socks5::{self, datagram},
};

/// Datagrams for one target that wait for the relay; more are dropped, as a full socket buffer would.
const QUEUE: usize = 64;
/// The agent ends a quiet flow after at most two minutes; this is for one whose end got lost.
const QUIET: Duration = Duration::from_secs(180);

struct Peer {
    /// To the flow's task. Full: the datagram is dropped. Closed: the flow has ended.
    queue: mpsc::Sender<Bytes>,
    last: Instant,
}

/// Serves an association until its TCP connection ends.
pub(crate) async fn serve<D: Dial>(mut client: Client, shared: &Shared<D>, from: &Target) -> io::Result<()> {
    let socket = match UdpSocket::bind((client.local.ip(), 0)).await {
        Ok(socket) => Arc::new(socket),
        Err(error) => {
            shared.settings.observer.trouble(&format!("no UDP socket for a client: {error}"));
            return reject5(client.socket, socks5::Reply::Failed).await;
        }
    };
    let bound = socket.local_addr()?;
    client.socket.write_all(&socks5::reply(socks5::Reply::Succeeded, bound)).await?;
    let association = Association { socket, source: expected(from, client.peer), flows: HashMap::new() };
    tokio::select! {
        () = association.run(client.peer, shared) => {}
        ended = over(&mut client) => ended?,
    }
    crate::socket::finish(&client.socket);
    Ok(())
}

/// Until the client has ended its connection; what it says on it means nothing.
async fn over(client: &mut Client) -> io::Result<()> {
    let mut buffer = [0; 512];
    while client.socket.read(&mut buffer).await? > 0 {}
    Ok(())
}

/// Where the client said it would send from, if that can be.
fn expected(from: &Target, peer: SocketAddr) -> Source {
    match from.address {
        Address::Ip(ip) if from.port != 0 && (ip.is_unspecified() || ip == peer.ip()) => {
            Source::Known(SocketAddr::new(peer.ip(), from.port))
        }
        _ => Source::Of(peer),
    }
}

/// Whose datagrams are taken.
#[derive(Clone, Copy)]
enum Source {
    /// The first one on the client's machine.
    Of(SocketAddr),
    /// Only this one.
    Known(SocketAddr),
}

impl Source {
    /// Whether a datagram from there is taken; if so, no other source's is from then on.
    fn takes(&mut self, from: SocketAddr) -> bool {
        match *self {
            Self::Of(peer) if peer.ip().to_canonical() == from.ip().to_canonical() => {
                *self = Self::Known(from);
                true
            }
            Self::Of(_) => false,
            Self::Known(known) => {
                known.port() == from.port() && known.ip().to_canonical() == from.ip().to_canonical()
            }
        }
    }
}

struct Association {
    socket: Arc<UdpSocket>,
    source: Source,
    flows: HashMap<Target, Peer>,
}

impl Association {
    async fn run<D: Dial>(mut self, peer: SocketAddr, shared: &Shared<D>) {
        let mut tasks = JoinSet::new();
        let mut buffer = vec![0; usize::from(u16::MAX)];
        loop {
            let (len, from) = tokio::select! {
                received = self.socket.recv_from(&mut buffer) => match received {
                    Ok(received) => received,
                    Err(error) => {
                        // Some systems report here that an earlier answer found nobody.
                        tracing::debug!(%error, "receiving");
                        tokio::task::yield_now().await;
                        continue;
                    }
                },
                Some(_) = tasks.join_next() => continue,
            };
            let (target, payload) = match datagram::parse(&buffer[..len]) {
                Ok(parsed) => parsed,
                Err(error) => {
                    tracing::debug!(%from, %error, "datagram dropped");
                    continue;
                }
            };
            if !self.source.takes(from) {
                tracing::debug!(%from, "datagram of a stranger dropped");
                continue;
            }
            let payload = Bytes::copy_from_slice(payload);
            let Some(payload) = self.queued(&target, payload) else { continue };
            let Some(permit) = self.room(shared) else {
                shared
                    .settings
                    .observer
                    .trouble("a datagram is dropped: there are as many flows as --max-flows allows");
                continue;
            };
            let (queue, datagrams) = mpsc::channel(QUEUE);
            // A fresh queue has room.
            let _ = queue.try_send(payload);
            self.flows.insert(target.clone(), Peer { queue, last: Instant::now() });
            let tracked = shared.connections.begin(Spoken::Socks5Udp, peer, &target);
            let flow = Flow { socket: Arc::clone(&self.socket), client: from, target, tracked };
            tasks.spawn(flow.carry(Arc::clone(&shared.reach), datagrams, permit));
        }
    }

    /// Hands a datagram to its target's flow; gives it back when there is none.
    fn queued(&mut self, target: &Target, datagram: Bytes) -> Option<Bytes> {
        let Some(peer) = self.flows.get_mut(target) else { return Some(datagram) };
        peer.last = Instant::now();
        match peer.queue.try_send(datagram) {
            Ok(()) => None,
            Err(TrySendError::Full(_)) => {
                tracing::trace!(%target, "datagram dropped: queue full");
                None
            }
            Err(TrySendError::Closed(datagram)) => Some(datagram),
        }
    }

    /// A place for one more flow. Where there is none, this association's quietest one makes room.
    fn room<D: Dial>(&mut self, shared: &Shared<D>) -> Option<OwnedSemaphorePermit> {
        self.flows.retain(|_, peer| !peer.queue.is_closed());
        if let Ok(permit) = Arc::clone(&shared.flows).try_acquire_owned() {
            return Some(permit);
        }
        let quietest =
            self.flows.iter().min_by_key(|(_, peer)| peer.last).map(|(target, _)| target.clone())?;
        // Dropping the queue ends its flow; its place is free when its task has noticed.
        self.flows.remove(&quietest);
        None
    }
}

struct Flow {
    socket: Arc<UdpSocket>,
    client: SocketAddr,
    target: Target,
    tracked: Tracked,
}

/// How a flow came to its end.
enum Over {
    /// Nothing was said for long, or the client has ended.
    Quiet,
    /// With this status; the datagram that was not sent.
    Closed(Status, Option<Bytes>),
}

impl Flow {
    /// Carries from the first datagram on. When the agent is lost, the next datagram opens a flow with the next one.
    async fn carry<D: Dial>(
        self,
        reach: Arc<crate::reach::Reach<D>>,
        mut datagrams: mpsc::Receiver<Bytes>,
        _place: OwnedSemaphorePermit,
    ) {
        let ways = match reach.ways(&self.target) {
            Ok(ways) => ways,
            Err(refused) => return self.tracked.refused(&refused),
        };
        let mut ways = ways.iter();
        let mut way = ways.next();
        let mut unsent = None;
        while let Some((candidate, origin)) = way {
            let first = match unsent.take() {
                Some(datagram) => datagram,
                None => match datagrams.recv().await {
                    Some(datagram) => datagram,
                    None => break,
                },
            };
            let mut flow = match reach.udp(candidate, *origin).await {
                Ok(flow) => flow,
                Err(refused) => return self.tracked.refused(&refused),
            };
            self.tracked.opened(*origin);
            let before = self.tracked.moved().get().1;
            match self.exchange(&mut flow, first.clone(), &mut datagrams).await {
                Over::Quiet => break,
                Over::Closed(Status::AgentLost | Status::ShuttingDown, left) => unsent = left,
                // Nobody has that name: what was asked first is asked under the next one.
                Over::Closed(Status::NoSuchHost, _)
                    if self.tracked.moved().get().1 == before && ways.len() > 0 =>
                {
                    way = ways.next();
                    unsent = Some(first);
                }
                Over::Closed(status, _) => {
                    // The agent ends what is quiet.
                    let end = if status == Status::Ok { End::Finished } else { End::Reset(status) };
                    return self.tracked.ended(end);
                }
            }
        }
        self.tracked.ended(End::Finished);
    }

    async fn exchange(
        &self,
        flow: &mut impl Datagrams,
        first: Bytes,
        datagrams: &mut mpsc::Receiver<Bytes>,
    ) -> Over {
        let mut next = Some(first);
        let mut quiet = Instant::now() + QUIET;
        loop {
            if let Some(datagram) = next.take() {
                if let Err(status) = flow.send(datagram.clone()) {
                    return Over::Closed(status, Some(datagram));
                }
                self.tracked.moved().add_sent(datagram.len());
                quiet = Instant::now() + QUIET;
            }
            tokio::select! {
                datagram = datagrams.recv() => match datagram {
                    Some(datagram) => next = Some(datagram),
                    None => return Over::Quiet,
                },
                answer = flow.recv() => match answer {
                    Ok(answer) => {
                        self.deliver(&answer).await;
                        quiet = Instant::now() + QUIET;
                    }
                    Err(status) => return Over::Closed(status, None),
                },
                () = sleep_until(quiet) => return Over::Quiet,
            }
        }
    }

    async fn deliver(&self, answer: &[u8]) {
        let datagram = datagram::encode(&self.target, answer);
        match self.socket.send_to(&datagram, self.client).await {
            Ok(_) => self.tracked.moved().add_received(answer.len()),
            // One whose header makes it too long, too.
            Err(error) => tracing::debug!(%error, client = %self.client, "answer not delivered"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(address: &str) -> SocketAddr {
        address.parse().unwrap()
    }

    #[test]
    fn the_first_source_on_the_clients_machine_is_the_only_one() {
        let mut source = expected(&at("0.0.0.0:0").into(), at("127.0.0.1:999"));
        assert!(!source.takes(at("127.0.0.2:5000")));
        assert!(source.takes(at("127.0.0.1:5000")));
        assert!(source.takes(at("127.0.0.1:5000")));
        assert!(!source.takes(at("127.0.0.1:5001")));
    }

    #[test]
    fn a_source_that_was_announced_is_the_only_one_from_the_beginning() {
        for announced in ["127.0.0.1:5000", "0.0.0.0:5000"] {
            let mut source = expected(&at(announced).into(), at("127.0.0.1:999"));
            assert!(!source.takes(at("127.0.0.1:5001")));
            assert!(source.takes(at("127.0.0.1:5000")));
        }
    }

    #[test]
    fn another_machine_cannot_be_announced() {
        let mut source = expected(&at("10.0.0.9:5000").into(), at("127.0.0.1:999"));
        assert!(!source.takes(at("10.0.0.9:5000")));
        assert!(source.takes(at("127.0.0.1:5000")));
    }
}
