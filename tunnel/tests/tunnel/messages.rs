//! How many messages a lane makes of what it is given: each costs every process on the way.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::BytesMut;
use relay_tunnel::{Agent, AgentConfig, ClientConfig, DialError, Dialer, Session, State, splice};
use tokio::io::{AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream, ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::support::{Ends, Rig, port, serve};

/// What was written, write by write.
type Messages = Arc<Mutex<Vec<Vec<u8>>>>;

/// Takes note of each write.
struct Noted {
    write: WriteHalf<DuplexStream>,
    messages: Messages,
}

impl AsyncWrite for Noted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.messages.lock().unwrap().push(bytes.to_vec());
        Pin::new(&mut self.write).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.write).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.write).poll_shutdown(cx)
    }
}

/// Reaches an agent over a pipe that has room for everything.
struct Wire {
    agent: Agent,
    messages: Messages,
}

impl Dialer for Wire {
    type Io = (ReadHalf<DuplexStream>, Noted);

    async fn dial(&self) -> Result<Self::Io, DialError> {
        let (client, agent) = tokio::io::duplex(1 << 20);
        let serving = self.agent.clone();
        tokio::spawn(async move { serving.serve_lane(tokio::io::split(agent), BytesMut::new()).await });
        let (read, write) = tokio::io::split(client);
        Ok((read, Noted { write, messages: self.messages.clone() }))
    }
}

async fn session() -> (Session, Messages) {
    let (agent, incoming) = Agent::new(&AgentConfig::default()).unwrap();
    tokio::spawn(serve(incoming, watch::Sender::new(Ends::new())));
    let messages = Messages::default();
    let (session, mut state) =
        Session::start(&ClientConfig::default(), Wire { agent, messages: messages.clone() });
    state.wait_for(|state| *state == State::Ready).await.unwrap();
    (session, messages)
}

/// A program's end of a connection, and the end that is to be forwarded.
async fn connection() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (program, accepted) =
        tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    (program.unwrap(), accepted.unwrap().0)
}

#[tokio::test]
async fn a_connection_and_its_first_bytes_leave_in_one_message() {
    let (session, messages) = session().await;
    for _ in 0..3 {
        let (mut program, socket) = connection().await;
        program.write_all(b"first bytes").await.unwrap();
        let before = messages.lock().unwrap().len();
        let stream = session.open(Rig::header(port::ECHO)).await.unwrap();
        let spliced = tokio::spawn(splice(socket, stream));
        let mut answer = [0; 11];
        program.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"first bytes");
        let first = messages.lock().unwrap()[before].clone();
        let has = |text: &[u8]| first.windows(text.len()).any(|window| window == text);
        assert!(has(b"web.default") && has(b"first bytes"), "{first:?}");
        drop(program);
        spliced.await.unwrap();
    }
}
