//! An agent in this process, targets for it, and a name server that answers as it is told.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hickory_resolver::Hosts;
use hickory_resolver::config::{NameServerConfig, ResolverConfig, ResolverOpts};
use hickory_resolver::proto::rr::Name;
use relay_dial::Resolver;
use relay_observe::Ledger;
use relay_policy::Policy;
use relay_protocol::{Address, Header, Protocol};
use relay_server::agent::{Agent, Exit, Listeners, Shared};
use relay_server::listen;
use relay_server::settings::{Limits, Settings};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

pub(crate) const OK: u8 = 1;

/// The defaults, and leave to dial this machine, where all targets of these tests are.
pub(crate) fn local() -> Settings {
    let rules = ["127.0.0.0/8", "::1", "*"].map(|rule| rule.parse().unwrap());
    Settings { policy: Policy { allow: rules.to_vec(), ..Policy::default() }, ..Settings::default() }
}

/// An agent that serves.
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    pub(crate) metrics: Option<SocketAddr>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) stop: Option<oneshot::Sender<()>>,
    pub(crate) exit: JoinHandle<Exit>,
}

impl Running {
    pub(crate) async fn with(settings: Settings, limits: Limits, resolver: Resolver) -> Self {
        Self::with_ledger(settings, limits, resolver, Ledger::new(None)).await
    }

    pub(crate) async fn with_ledger(
        settings: Settings,
        limits: Limits,
        resolver: Resolver,
        ledger: Ledger,
    ) -> Self {
        let clients = listen::bind(0).await.unwrap();
        let address = clients[0].local_addr().unwrap();
        let metrics = listen::bind_metrics(&Settings { port: 0, ..settings.clone() }).await.unwrap();
        let metrics_address = metrics.first().map(|listener| listener.local_addr().unwrap());
        let listeners = Listeners { clients, metrics };
        let agent = Agent::new(listeners, &settings, limits, resolver, ledger).unwrap();
        let shared = agent.shared().clone();
        let (stop, stopped) = oneshot::channel();
        let exit = tokio::spawn(agent.run(async { stopped.await.unwrap() }));
        Self { address, metrics: metrics_address, shared, stop: Some(stop), exit }
    }

    pub(crate) async fn with_limits(limits: Limits) -> Self {
        Self::with(local(), limits, names(0, &[])).await
    }

    pub(crate) async fn start() -> Self {
        Self::with_limits(Limits::default()).await
    }

    pub(crate) async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Connects and sends a header.
    pub(crate) async fn open(&self, protocol: Protocol, address: &str, port: u16) -> TcpStream {
        let mut client = self.connect().await;
        client.write_all(&header(protocol, address, port)).await.unwrap();
        client
    }

    /// Opens a stream that is expected to reach its target.
    pub(crate) async fn open_ok(&self, protocol: Protocol, target: SocketAddr) -> TcpStream {
        let mut client = self.open(protocol, &target.ip().to_string(), target.port()).await;
        assert_eq!(client.read_u8().await.unwrap(), OK);
        client
    }

    /// Everything the agent answers to these bytes, to its end.
    pub(crate) async fn answer(&self, bytes: &[u8]) -> Vec<u8> {
        let mut client = self.connect().await;
        client.write_all(bytes).await.unwrap();
        rest(&mut client).await
    }

    /// Waits until this many direct streams are open.
    pub(crate) async fn streams(&self, count: usize) {
        while self.shared.streams() != count {
            tokio::task::yield_now().await;
        }
    }
}

pub(crate) async fn rest(client: &mut TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    client.read_to_end(&mut all).await.unwrap();
    all
}

pub(crate) fn header(protocol: Protocol, address: &str, port: u16) -> Vec<u8> {
    let address: Address = address.parse().unwrap();
    let mut out = Vec::new();
    Header { request_id: uuid::Uuid::from_u128(7), protocol, port, address }.encode(&mut out);
    out
}

/// A TCP target; what it does is up to the test.
pub(crate) async fn target() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// A TCP target that sends back what it gets, on every connection.
pub(crate) async fn echo() -> SocketAddr {
    let (listener, address) = target().await;
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = socket.split();
                // Whoever asks may leave as he likes.
                let _ = tokio::io::copy(&mut read, &mut write).await;
                let _ = write.shutdown().await;
            });
        }
    });
    address
}

/// A port on which nobody listens.
pub(crate) async fn nobody() -> SocketAddr {
    target().await.1
}

/// An address that answers nothing, and what keeps it so: a queue for one connection that is never accepted from. The
/// kernel leaves further ones without an answer.
pub(crate) async fn black_hole() -> (SocketAddr, (TcpListener, TcpStream)) {
    let hole = TcpSocket::new_v4().unwrap();
    hole.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = hole.local_addr().unwrap();
    let hole = hole.listen(0).unwrap();
    let first = TcpStream::connect(address).await.unwrap();
    (address, (hole, first))
}

/// Bytes in which every place differs from its neighbours, so that a lost or moved piece shows.
pub(crate) fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

/// A resolver that asks a server on this port of the loopback address; port 0 is nobody.
pub(crate) fn names(port: u16, search: &[&str]) -> Resolver {
    let mut server = NameServerConfig::udp("127.0.0.1".parse().unwrap());
    server.connections[0].port = port;
    let search = search.iter().map(|domain| Name::from_ascii(domain).unwrap()).collect();
    let mut options = ResolverOpts::default();
    options.ndots = 5;
    Resolver::new(ResolverConfig::from_parts(None, search, vec![server]), options, Hosts::default())
}

/// What the name server does when asked for one name and family.
#[derive(Clone)]
pub(crate) enum Reply {
    Address(IpAddr),
    /// Another name, and its address where the server gives it at once.
    Alias(&'static str, Option<IpAddr>),
    /// Another address each time, over and over.
    InTurn(Vec<IpAddr>, Arc<AtomicUsize>),
    Nothing,
    Silence,
    Fail,
}

/// Starts a name server. Keys are `name/A` and `name/AAAA`; anything else does not exist.
pub(crate) async fn name_server(replies: &[(&str, Reply)]) -> u16 {
    let replies: HashMap<String, Reply> =
        replies.iter().map(|(key, reply)| ((*key).to_owned(), reply.clone())).collect();
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let port = socket.local_addr().unwrap().port();
    tokio::spawn(async move {
        let mut buf = [0; 1500];
        loop {
            let (len, from) = socket.recv_from(&mut buf).await.unwrap();
            if let Some(answer) = answer(&buf[..len], &replies) {
                socket.send_to(&answer, from).await.unwrap();
            }
        }
    });
    port
}

fn answer(query: &[u8], replies: &HashMap<String, Reply>) -> Option<Vec<u8>> {
    let (mut at, mut labels) = (12, Vec::new());
    while query[at] != 0 {
        let end = at + 1 + usize::from(query[at]);
        labels.push(String::from_utf8(query[at + 1..end].to_vec()).unwrap());
        at = end;
    }
    let family = if query[at + 2] == 28 { "AAAA" } else { "A" };
    let question = &query[12..at + 5];
    let (asked, kind) = (&query[12..=at], query[at + 2]);
    let (code, records) = match replies.get(&format!("{}/{family}", labels.join(".").to_ascii_lowercase())) {
        Some(Reply::Silence) => return None,
        Some(Reply::Fail) => (2, vec![]),
        Some(Reply::Nothing) => (0, vec![]),
        Some(Reply::Address(ip)) => (0, vec![record(asked, kind, &octets(*ip))]),
        Some(Reply::InTurn(ips, turn)) => {
            let ip = ips[turn.fetch_add(1, Ordering::Relaxed) % ips.len()];
            (0, vec![record(asked, kind, &octets(ip))])
        }
        Some(Reply::Alias(name, ip)) => {
            let alias = encoded(name);
            let address = ip.map(|ip| record(&alias, kind, &octets(ip)));
            (0, [record(asked, 5, &alias)].into_iter().chain(address).collect())
        }
        None => (3, vec![]),
    };
    let mut out = query[..2].to_vec();
    out.extend([0x81, 0x80 | code, 0, 1, 0, records.len() as u8, 0, 0, 0, 0]);
    out.extend(question);
    out.extend(records.concat());
    Some(out)
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

/// A name as it goes over the wire.
fn encoded(name: &str) -> Vec<u8> {
    let label = |label: &str| [&[label.len() as u8], label.as_bytes()].concat();
    name.split('.').flat_map(label).chain([0]).collect()
}

fn record(name: &[u8], kind: u8, data: &[u8]) -> Vec<u8> {
    [name, &[0, kind, 0, 1, 0, 0, 0, 30, 0, data.len() as u8], data].concat()
}
