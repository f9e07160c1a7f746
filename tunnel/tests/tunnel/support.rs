//! A client and an agent joined by pipes that can be cut, and programs behind the agent.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::BytesMut;
use relay_protocol::{Header, Protocol, Status};
use relay_tunnel::{
    Agent, AgentConfig, ClientConfig, DialError, Dialer, Incoming, Session, State, StreamReset, TunnelFlow,
    TunnelStream,
};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

/// What the program at a port does.
pub(crate) mod port {
    pub(crate) const ECHO: u16 = 7;
    /// Sends "hello" and ends.
    pub(crate) const BANNER: u16 = 8;
    /// Reads to the end, then sends as many bytes as came.
    pub(crate) const LENGTH: u16 = 9;
    /// The dial fails.
    pub(crate) const REFUSED: u16 = 10;
    /// Sends 5,000 bytes, then resets.
    pub(crate) const RESET: u16 = 11;
    /// Sends for ever.
    pub(crate) const SOURCE: u16 = 12;
}

/// Bytes that depend on seed and position.
pub(crate) fn content(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        })
        .collect()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Memory,
    Tcp,
    EightBytes,
}

trait Pipe: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Pipe for T {}
type Boxed = Box<dyn Pipe>;
type Halves = (tokio::io::ReadHalf<Boxed>, tokio::io::WriteHalf<Boxed>);

impl Kind {
    async fn pair(self) -> (Boxed, Boxed) {
        let size = match self {
            Self::Memory => 100_000,
            Self::EightBytes => 8,
            Self::Tcp => {
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                let client = TcpStream::connect(listener.local_addr().unwrap());
                let (client, accepted) = tokio::join!(client, listener.accept());
                let (client, accepted) = (client.unwrap(), accepted.unwrap().0);
                client.set_nodelay(true).unwrap();
                accepted.set_nodelay(true).unwrap();
                return (Box::new(client), Box::new(accepted));
            }
        };
        let (client, agent) = tokio::io::duplex(size);
        (Box::new(client), Box::new(agent))
    }
}

/// What a test does to the lanes.
#[derive(Default)]
struct Lanes {
    dials: AtomicUsize,
    refuses: AtomicBool,
    swallows: AtomicBool,
    /// One for each dial that was not refused, in order: the lane then fails at both ends.
    cuts: Mutex<Vec<CancellationToken>>,
}

/// Dials the agent that is there at that moment.
struct Wire {
    kind: Kind,
    agent: Arc<Mutex<Agent>>,
    lanes: Arc<Lanes>,
}

impl Dialer for Wire {
    type Io = Halves;

    async fn dial(&self) -> Result<Halves, DialError> {
        let count = || self.lanes.dials.fetch_add(1, Ordering::SeqCst);
        if self.lanes.refuses.load(Ordering::SeqCst) {
            count();
            return Err(DialError { message: "refused".into(), fatal: false, gone: false });
        }
        if self.lanes.swallows.load(Ordering::SeqCst) {
            count();
            return std::future::pending().await;
        }
        // Whatever is counted can be cut, connected or not: one that a cut passed over would be a lane that nobody misses.
        let cut = CancellationToken::new();
        self.lanes.cuts.lock().unwrap().push(cut.clone());
        count();
        let (client, client_end) = self.kind.pair().await;
        let (agent_end, agent) = self.kind.pair().await;
        tokio::spawn(async move {
            let (mut one, mut two) = (client_end, agent_end);
            tokio::select! {
                _ = tokio::io::copy_bidirectional(&mut one, &mut two) => {}
                () = cut.cancelled() => {}
            }
        });
        let serving = self.agent.lock().unwrap().clone();
        tokio::spawn(async move { serving.serve_lane(tokio::io::split(agent), BytesMut::new()).await });
        Ok(tokio::io::split(client))
    }
}

pub(crate) type Ends = HashMap<u16, Result<(), Status>>;

/// Everything a test needs.
pub(crate) struct Rig {
    pub(crate) session: Session,
    pub(crate) agent: Agent,
    current: Arc<Mutex<Agent>>,
    lanes: Arc<Lanes>,
    ends: watch::Sender<Ends>,
}

impl Rig {
    pub(crate) async fn start(kind: Kind) -> Self {
        Self::with(kind, &ClientConfig::default(), &AgentConfig::default()).await
    }

    pub(crate) async fn with(kind: Kind, client: &ClientConfig, agent: &AgentConfig) -> Self {
        let ends = watch::Sender::new(Ends::new());
        let (agent, incoming) = Agent::new(agent).unwrap();
        tokio::spawn(serve(incoming, ends.clone()));
        let current = Arc::new(Mutex::new(agent.clone()));
        let lanes = Arc::new(Lanes::default());
        let wire = Wire { kind, agent: current.clone(), lanes: lanes.clone() };
        let (session, mut state) = Session::start(client, wire);
        state.wait_for(|state| *state == State::Ready).await.unwrap();
        Self { session, agent, current, lanes, ends }
    }

    pub(crate) fn header(port: u16) -> Header {
        let address = "web.default".parse().unwrap();
        Header { request_id: uuid::Uuid::from_u128(u128::from(port)), protocol: Protocol::Tcp, port, address }
    }

    pub(crate) async fn open(&self, port: u16) -> TunnelStream {
        self.session.open(Self::header(port)).await.unwrap()
    }

    pub(crate) async fn open_flow(&self, port: u16) -> TunnelFlow {
        let header = Header { protocol: Protocol::Udp, ..Self::header(port) };
        self.session.open_flow(header).await.unwrap()
    }

    pub(crate) fn state(&self) -> watch::Receiver<State> {
        self.session.state()
    }

    pub(crate) fn cut_all_lanes(&self) {
        self.lanes.cuts.lock().unwrap().drain(..).for_each(|cut| cut.cancel());
    }

    /// Cuts the oldest lane alone.
    pub(crate) fn cut_one_lane(&self) {
        self.lanes.cuts.lock().unwrap().remove(0).cancel();
    }

    /// Whether later dials fail at once.
    pub(crate) fn refuse_dials(&self, refuses: bool) {
        self.lanes.refuses.store(refuses, Ordering::SeqCst);
    }

    /// Whether later dials get no answer, ever.
    pub(crate) fn swallow_dials(&self, swallows: bool) {
        self.lanes.swallows.store(swallows, Ordering::SeqCst);
    }

    pub(crate) fn dials(&self) -> usize {
        self.lanes.dials.load(Ordering::SeqCst)
    }

    /// Waits until there were this many dials.
    pub(crate) async fn dialled(&self, count: usize) {
        while self.dials() < count {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Later dials reach an agent that knows of no session.
    pub(crate) fn replace_agent(&self) {
        let (agent, incoming) = Agent::new(&AgentConfig::default()).unwrap();
        tokio::spawn(serve(incoming, self.ends.clone()));
        *self.current.lock().unwrap() = agent;
    }

    /// How the program at a port saw its connection end.
    pub(crate) async fn ended(&self, port: u16) -> Result<(), Status> {
        let mut ends = self.ends.subscribe();
        let ends = ends.wait_for(|ends| ends.contains_key(&port)).await.unwrap();
        ends[&port]
    }
}

pub(crate) async fn serve(mut incoming: mpsc::Receiver<Incoming>, ends: watch::Sender<Ends>) {
    while let Some(incoming) = incoming.recv().await {
        let ends = ends.clone();
        tokio::spawn(async move {
            let (port, end) = match incoming {
                Incoming::Stream(stream) => (stream.header().port, program(stream).await),
                Incoming::Flow(mut flow) => (flow.header().port, echo_datagrams(&mut flow).await),
            };
            ends.send_modify(|ends| {
                ends.insert(port, end);
            });
        });
    }
}

async fn echo_datagrams(flow: &mut TunnelFlow) -> Result<(), Status> {
    loop {
        let datagram = flow.recv().await.map_err(|closed| closed.status)?;
        flow.send(datagram).map_err(|closed| closed.status)?;
    }
}

async fn program(mut stream: TunnelStream) -> Result<(), Status> {
    let status = |error: std::io::Error| StreamReset::of(&error).unwrap().status;
    if stream.header().port == port::REFUSED {
        stream.reset(Status::Refused);
        return Err(Status::Refused);
    }
    stream.accept().await.map_err(|reset| reset.status)?;
    match stream.header().port {
        port::BANNER => stream.write_all(b"hello").await.map_err(status)?,
        port::LENGTH => {
            let mut bytes = Vec::new();
            stream.read_to_end(&mut bytes).await.map_err(status)?;
            stream.write_all(&content(bytes.len() as u64, bytes.len())).await.map_err(status)?;
        }
        port::RESET => {
            stream.write_all(&content(5_000, 5_000)).await.map_err(status)?;
            stream.reset(Status::ResetByPeer);
            return Err(Status::ResetByPeer);
        }
        port::SOURCE => loop {
            stream.write_all(&[7; 10_000]).await.map_err(status)?;
        },
        _ => {
            let mut buffer = vec![0; 20_000];
            loop {
                match stream.read(&mut buffer).await.map_err(status)? {
                    0 => break,
                    len => stream.write_all(&buffer[..len]).await.map_err(status)?,
                }
            }
        }
    }
    stream.shutdown().await.map_err(status)?;
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.map_err(status)?;
    Ok(())
}
