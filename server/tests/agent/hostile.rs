//! Clients that want into a session that is not theirs, over real sockets: all are refused alike, and whose it is
//! notices nothing.

use std::time::Duration;

use bytes::Bytes;
use relay_protocol::Protocol::Tcp;
use relay_protocol::Status;
use relay_protocol::hello::{Hello, Instance, Request, Secret, SessionId, Welcome};
use relay_protocol::session::{Config, Read, Session, StreamKey};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::session::{client, to};
use crate::support::*;

/// A client of which a test sees every byte: a session and one connection, by hand.
pub(crate) struct ByHand {
    pub(crate) session: Session,
    lane: u64,
    socket: TcpStream,
    unread: Vec<u8>,
}

fn now() -> std::time::Instant {
    Instant::now().into_std()
}

/// Sends a hello and reads what the agent answers, and what it says behind that.
async fn greet_and(agent: &Running, hello: &[u8]) -> (TcpStream, Welcome, Vec<u8>) {
    let mut socket = agent.connect().await;
    socket.write_all(hello).await.unwrap();
    let mut bytes = Vec::new();
    loop {
        assert!(socket.read_buf(&mut bytes).await.unwrap() > 0, "an answer comes before the end");
        if let Some((welcome, len)) = Welcome::decode(&bytes).unwrap() {
            return (socket, welcome, bytes.split_off(len));
        }
    }
}

/// The same, where nothing may follow.
async fn greet(agent: &Running, hello: &[u8]) -> (TcpStream, Welcome) {
    let (socket, welcome, behind) = greet_and(agent, hello).await;
    assert_eq!(behind, b"");
    (socket, welcome)
}

fn secret(byte: u8) -> Secret {
    Secret([byte; 32])
}

impl ByHand {
    fn session(id: u8, key: u8) -> Session {
        Session::client(Config::client(), SessionId([id; 16]), secret(key), now())
    }

    /// Creates a session; its hello, too.
    pub(crate) async fn create(agent: &Running, mut session: Session) -> (Self, Vec<u8>) {
        let (lane, hello) = session.next_hello();
        let hello = hello.encode();
        let (socket, welcome) = greet(agent, &hello).await;
        assert!(session.welcomed(lane, &welcome, now()), "{welcome:?}");
        (Self { session, lane, socket, unread: Vec::new() }, hello)
    }

    /// One more lane in place of the one before.
    async fn join(&mut self, agent: &Running) -> Vec<u8> {
        self.session.lane_lost(self.lane, now());
        let (lane, hello) = self.session.next_hello();
        let hello = hello.encode();
        let (socket, welcome, unread) = greet_and(agent, &hello).await;
        assert!(self.session.welcomed(lane, &welcome, now()), "{welcome:?}");
        (self.lane, self.socket, self.unread) = (lane, socket, unread);
        hello
    }

    pub(crate) async fn send(&mut self) {
        let mut out = Vec::new();
        while self.session.has_work(self.lane, now()) {
            self.session.transmit(self.lane, now(), &mut out);
        }
        self.socket.write_all(&out).await.unwrap();
    }

    async fn open(&mut self, port: u16) -> StreamKey {
        let key = self.session.open().unwrap();
        let mut first = Vec::new();
        to(Tcp, "127.0.0.1", port).encode(&mut first);
        assert_eq!(self.session.write(key, &Bytes::from(first.clone())), Ok(first.len()));
        self.send().await;
        assert_eq!(self.read(key, 1).await, [OK]);
        key
    }

    /// The next `len` bytes of a stream.
    async fn read(&mut self, key: StreamKey, len: usize) -> Vec<u8> {
        let mut got = Vec::new();
        loop {
            match self.session.read(now(), key, len - got.len()) {
                Read::Data(data) => got.extend_from_slice(&data),
                Read::Blocked => {
                    assert!(self.socket.read_buf(&mut self.unread).await.unwrap() > 0, "the lane ended");
                    let taken = self.session.receive(self.lane, &self.unread, now()).unwrap();
                    self.unread.drain(..taken);
                    self.send().await;
                }
                end => panic!("{end:?}"),
            }
            if got.len() == len {
                return got;
            }
        }
    }

    async fn echoes(&mut self, key: StreamKey, text: &'static str) {
        assert_eq!(self.session.write(key, &Bytes::from_static(text.as_bytes())), Ok(text.len()));
        self.send().await;
        assert_eq!(self.read(key, text.len()).await, text.as_bytes());
    }
}

/// Whatever was wrong, the answer is the same, and the end.
async fn refused(agent: &Running, hello: &Hello, instance: Instance) {
    let (mut socket, welcome) = greet(agent, &hello.encode()).await;
    assert_eq!(welcome, Welcome::refusal(Status::AgentLost, instance));
    assert_eq!(rest(&mut socket).await, b"", "a refusal tells nothing more");
}

fn join(id: u8, key: u8, instance: Instance, lane: u64, held: Vec<u64>) -> Hello {
    let session = SessionId([id; 16]);
    let proof = secret(key).proof(session, instance, lane, &held);
    let request = Request::Join { proof, held };
    Hello { request, session, lane, versions: (1, 1), features: 0, initial_credit: 2_048 }
}

#[tokio::test]
async fn whoever_has_not_the_secret_is_refused_and_the_session_goes_on() {
    let agent = Running::start().await;
    let port = echo().await.port();
    let (mut own, _) = ByHand::create(&agent, ByHand::session(1, 11)).await;
    let (_other, hello) = ByHand::create(&agent, ByHand::session(2, 22)).await;
    let key = own.open(port).await;
    own.echoes(key, "before").await;
    let instance = greet(&agent, &hello).await.1.instance;

    refused(&agent, &join(1, 99, instance, 5, vec![]), instance).await;
    refused(&agent, &join(1, 22, instance, 5, vec![1]), instance).await;
    refused(&agent, &join(1, 11, Instance([0; 16]), 5, vec![]), instance).await;
    refused(&agent, &join(7, 77, instance, 5, vec![]), instance).await;
    let mut create = join(1, 99, instance, 5, vec![]);
    create.request = Request::Create { secret: secret(99) };
    refused(&agent, &create, instance).await;

    own.echoes(key, "after").await;
}

#[tokio::test]
async fn a_hello_that_is_played_again_is_refused_and_closes_nothing() {
    let agent = Running::start().await;
    let port = echo().await.port();
    let (mut own, create) = ByHand::create(&agent, ByHand::session(1, 11)).await;
    let key = own.open(port).await;
    let joined = own.join(&agent).await;
    own.echoes(key, "before").await;
    for hello in [&create, &joined] {
        let (mut socket, welcome) = greet(&agent, hello).await;
        assert_eq!(welcome.status, Status::AgentLost);
        assert_eq!(rest(&mut socket).await, b"");
    }
    own.echoes(key, "after").await;
}

#[tokio::test]
async fn of_two_clients_with_one_id_the_newer_wins_while_nothing_is_open() {
    let agent = Running::start().await;
    let port = echo().await.port();
    let (mut older, _) = ByHand::create(&agent, ByHand::session(1, 11)).await;
    let mut twin = ByHand::session(1, 11);
    twin.next_hello();
    let (mut newer, _) = ByHand::create(&agent, twin).await;
    assert_eq!(rest(&mut older.socket).await, b"", "the older one's connection is closed");
    let key = newer.open(port).await;
    newer.echoes(key, "mine").await;
    // From the first stream on there is no way in but with a proof.
    let mut late = ByHand::session(1, 11);
    (0..5).for_each(|_| drop(late.next_hello()));
    let (lane, hello) = late.next_hello();
    let (_socket, welcome) = greet(&agent, &hello.encode()).await;
    assert!(!late.welcomed(lane, &welcome, now()));
    newer.echoes(key, "still mine").await;
}

#[tokio::test]
async fn a_newer_lane_of_the_same_client_takes_the_place_of_those_it_does_not_list() {
    let agent = Running::start().await;
    let port = echo().await.port();
    let (mut own, _) = ByHand::create(&agent, ByHand::session(1, 11)).await;
    let key = own.open(port).await;
    own.echoes(key, "one").await;
    let mut before = std::mem::replace(&mut own.socket, agent.connect().await);
    own.join(&agent).await;
    assert!(before.read_to_end(&mut Vec::new()).await.is_ok(), "closed by the agent, not by us");
    own.echoes(key, "two").await;
}

#[tokio::test]
async fn bytes_of_two_sessions_stay_apart_while_strangers_knock() {
    let agent = Running::start().await;
    let port = echo().await.port();
    let sessions = [client(&agent), client(&agent)];
    let address = agent.address;
    let knocking = tokio::spawn(async move {
        let instance = Instance([0; 16]);
        for lane in 1.. {
            let mut socket = TcpStream::connect(address).await.unwrap();
            let hello = join(lane as u8, 1, instance, lane, vec![]);
            // Cut off anywhere, or whole.
            let hello = hello.encode();
            socket.write_all(&hello[..hello.len() - lane as usize % 30]).await.unwrap();
        }
    });
    let mut streams = tokio::task::JoinSet::new();
    for number in 0..40_u8 {
        let stream = sessions[usize::from(number) % 2].open(to(Tcp, "127.0.0.1", port)).await.unwrap();
        streams.spawn(async move {
            let (mut read, mut write) = tokio::io::split(stream);
            let sent = vec![number; 50_000];
            let mut got = Vec::new();
            let send = async {
                write.write_all(&sent).await.unwrap();
                write.shutdown().await.unwrap();
            };
            let ((), received) = tokio::join!(send, read.read_to_end(&mut got));
            received.unwrap();
            assert!(got == sent, "stream {number} got what is not its own");
        });
    }
    while let Some(stream) = tokio::time::timeout(Duration::from_secs(60), streams.join_next()).await.unwrap()
    {
        stream.unwrap();
    }
    assert!(!knocking.is_finished());
    knocking.abort();
}
