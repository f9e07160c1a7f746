//! Sessions over loopback: the same targets, reached through lanes.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use relay_protocol::Protocol::{self, Tcp, Udp};
use relay_protocol::{Header, Status};
use relay_server::agent::Exit;
use relay_server::settings::{Limits, Settings};
use relay_tunnel::{ClientConfig, DialError, Dialer, Session, StreamReset};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

use crate::ends;
use crate::support::*;

/// Dials lanes to an agent on this machine.
pub(crate) struct Loopback(pub(crate) SocketAddr);

impl Dialer for Loopback {
    type Io = TcpStream;

    async fn dial(&self) -> Result<TcpStream, DialError> {
        let failed =
            |error: std::io::Error| DialError { message: error.to_string(), fatal: false, gone: true };
        TcpStream::connect(self.0).await.map_err(failed)
    }
}

pub(crate) fn client(agent: &Running) -> Session {
    Session::start(&ClientConfig::default(), Loopback(agent.address)).0
}

pub(crate) fn to(protocol: Protocol, address: &str, port: u16) -> Header {
    Header { request_id: uuid::Uuid::from_u128(9), protocol, port, address: address.parse().unwrap() }
}

#[tokio::test]
async fn half_close_keeps_the_reply_flowing() {
    let agent = Running::start().await;
    let (listener, address) = target().await;
    let stream = client(&agent).open(to(Tcp, "127.0.0.1", address.port())).await.unwrap();
    ends::half_close(stream, listener).await;
}

#[tokio::test]
async fn a_refused_port_is_a_reset_with_that_status() {
    let agent = Running::start().await;
    let session = client(&agent);
    let stream = session.open(to(Tcp, "127.0.0.1", nobody().await.port())).await.unwrap();
    assert_eq!(stream.opened().await, Err(Status::Refused));
    // The session is unharmed.
    let stream = session.open(to(Tcp, "127.0.0.1", echo().await.port())).await.unwrap();
    assert_eq!(stream.opened().await, Ok(()));
}

#[tokio::test]
async fn a_reset_by_the_target_follows_its_last_bytes() {
    let agent = Running::start().await;
    let (listener, address) = target().await;
    let stream = client(&agent).open(to(Tcp, "127.0.0.1", address.port())).await.unwrap();
    let (server, _) = listener.accept().await.unwrap();
    stream.opened().await.unwrap();
    let error = ends::target_resets(stream, server).await;
    let reset = error.get_ref().and_then(|inner| inner.downcast_ref::<StreamReset>()).unwrap();
    assert_eq!(reset.status, Status::ResetByPeer);
}

#[tokio::test]
async fn a_stream_the_client_drops_is_a_reset_for_the_target() {
    let agent = Running::start().await;
    let session = client(&agent);
    let (listener, address) = target().await;
    let stream = session.open(to(Tcp, "127.0.0.1", address.port())).await.unwrap();
    let (mut server, _) = listener.accept().await.unwrap();
    stream.opened().await.unwrap();
    drop(stream);
    assert_eq!(server.read_u8().await.unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn many_streams_at_once_keep_their_bytes_apart() {
    let agent = Running::start().await;
    let session = client(&agent);
    let port = echo().await.port();
    let streams: Vec<_> = (0..100_u8)
        .map(|i| {
            let session = session.clone();
            tokio::spawn(async move {
                let stream = session.open(to(Tcp, "127.0.0.1", port)).await.unwrap();
                let (mut read, mut write) = tokio::io::split(stream);
                let bytes = vec![i; 100_000];
                let mut got = Vec::new();
                let send = async {
                    write.write_all(&bytes).await.unwrap();
                    write.shutdown().await.unwrap();
                };
                let ((), received) = tokio::join!(send, read.read_to_end(&mut got));
                received.unwrap();
                assert!(got == bytes);
            })
        })
        .collect();
    for stream in streams {
        stream.await.unwrap();
    }
}

#[tokio::test]
async fn datagrams_come_back_whole() {
    let agent = Running::start().await;
    let session = client(&agent);
    let target = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let port = target.local_addr().unwrap().port();
    let mut flow = session.open_flow(to(Udp, "127.0.0.1", port)).await.unwrap();
    let mut buf = vec![0; 65_536];
    for len in [1, 0, 1_472, 8_000, 65_507] {
        flow.send(Bytes::from(pattern(len))).unwrap();
        let (got, from) = target.recv_from(&mut buf).await.unwrap();
        target.send_to(&buf[..got], from).await.unwrap();
        assert!(flow.recv().await.unwrap() == pattern(len), "{len} bytes");
    }
    assert_eq!(agent.shared.flows.count(), 1);
    drop(flow);
    while agent.shared.flows.count() > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_flow_to_a_name_that_does_not_exist_is_closed_with_that_status() {
    let resolver = names(name_server(&[]).await, &["test"]);
    let agent = Running::with(local(), Limits::default(), resolver).await;
    let session = client(&agent);
    let mut flow = session.open_flow(to(Udp, "web", 53)).await.unwrap();
    flow.send(Bytes::from_static(b"x")).unwrap();
    assert_eq!(flow.recv().await.unwrap_err().status, Status::NoSuchHost);
}

#[tokio::test]
async fn a_session_keeps_the_agent_and_its_goodbye_ends_it() {
    let idle = Duration::from_millis(100);
    let settings = Settings { idle: Some(idle), exit_on_goodbye: true, ..local() };
    let mut agent = Running::with(settings, Limits::default(), names(0, &[])).await;
    let session = client(&agent);
    let stream = session.open(to(Tcp, "127.0.0.1", echo().await.port())).await.unwrap();
    stream.opened().await.unwrap();
    assert!(tokio::time::timeout(idle * 3, &mut agent.exit).await.is_err());
    session.close(Duration::from_secs(5)).await;
    assert_eq!(agent.exit.await.unwrap(), Exit::Goodbye);
}

#[tokio::test]
async fn a_goodbye_leaves_an_agent_of_many_users_running() {
    let settings = Settings { idle: Some(Duration::from_millis(100)), ..local() };
    let agent = Running::with(settings, Limits::default(), names(0, &[])).await;
    let (one, other) = (client(&agent), client(&agent));
    let mut stream = other.open(to(Tcp, "127.0.0.1", echo().await.port())).await.unwrap();
    stream.opened().await.unwrap();
    one.close(Duration::from_secs(5)).await;
    stream.write_all(b"still here").await.unwrap();
    stream.read_exact(&mut [0; 10]).await.unwrap();
    other.close(Duration::from_secs(5)).await;
    assert_eq!(agent.exit.await.unwrap(), Exit::Idle);
}

#[tokio::test]
async fn a_stopped_agent_lets_streams_finish() {
    let mut agent = Running::start().await;
    let session = client(&agent);
    let mut stream = session.open(to(Tcp, "127.0.0.1", echo().await.port())).await.unwrap();
    stream.opened().await.unwrap();
    agent.stop.take().unwrap().send(()).unwrap();
    agent.shared.draining.cancelled().await;
    stream.write_all(b"last words").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut got = Vec::new();
    stream.read_to_end(&mut got).await.unwrap();
    assert_eq!(got, b"last words");
    drop(stream);
    assert_eq!(agent.exit.await.unwrap(), Exit::Stopped);
}

#[tokio::test]
async fn what_is_left_of_a_session_at_the_end_of_the_grace_is_reset() {
    let settings = Settings { drain_grace: Duration::from_millis(50), ..local() };
    let mut agent = Running::with(settings, Limits::default(), names(0, &[])).await;
    let session = client(&agent);
    let (listener, address) = target().await;
    let mut stream = session.open(to(Tcp, "127.0.0.1", address.port())).await.unwrap();
    let (mut server, _) = listener.accept().await.unwrap();
    stream.opened().await.unwrap();
    agent.stop.take().unwrap().send(()).unwrap();
    assert_eq!(agent.exit.await.unwrap(), Exit::Stopped);
    stream.read_u8().await.unwrap_err();
    assert_eq!(server.read_u8().await.unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn half_a_hello_is_cut_off_in_time() {
    let agent =
        Running::with_limits(Limits { greeting: Duration::from_millis(100), ..Limits::default() }).await;
    let mut slow = agent.connect().await;
    slow.write_all(b"RLY").await.unwrap();
    assert!(matches!(slow.read(&mut [0; 1]).await, Ok(0) | Err(_)));
}

#[tokio::test]
async fn what_only_begins_like_a_lane_ends_without_harm() {
    let agent = Running::start().await;
    for bytes in [&b"RLX"[..], b"RLY\xff\xff\xff\xff\xff\xff\xff\xff", b"RTSP/1.0 200 OK\r\n\r\n"] {
        let mut hostile = agent.connect().await;
        hostile.write_all(bytes).await.unwrap();
        let mut waste = Vec::new();
        // An answer with the versions, a reset, or nothing: but an end.
        let _ = hostile.read_to_end(&mut waste).await;
    }
    let session = client(&agent);
    let stream = session.open(to(Tcp, "127.0.0.1", echo().await.port())).await.unwrap();
    assert_eq!(stream.opened().await, Ok(()));
}

#[tokio::test]
async fn a_client_that_gives_a_stream_up_ends_its_dial() {
    let (hole, _hole) = black_hole().await;
    let connect = Duration::from_secs(3600);
    let limits = Limits { dial: relay_dial::Limits { connect, ..Default::default() }, ..Limits::default() };
    let settings = Settings { drain_grace: Duration::from_secs(3600), ..local() };
    let mut agent = Running::with(settings, limits, names(0, &[])).await;
    let session = client(&agent);
    let stream = session.open(to(Tcp, "127.0.0.1", hole.port())).await.unwrap();
    // A second stream's answer shows that the first has arrived too.
    let second = session.open(to(Tcp, "127.0.0.1", echo().await.port())).await.unwrap();
    second.opened().await.unwrap();
    drop((stream, second));
    // An agent that still dialled would drain for an hour.
    agent.stop.take().unwrap().send(()).unwrap();
    tokio::time::timeout(Duration::from_secs(30), agent.exit).await.unwrap().unwrap();
}
