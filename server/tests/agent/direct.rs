//! Direct TCP streams: bytes, ends and resets.

use std::io::ErrorKind;
use std::time::Duration;

use relay_protocol::Protocol::Tcp;
use relay_protocol::Status;
use relay_server::agent::Exit;
use relay_server::settings::{Limits, Settings};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::ends;
use crate::support::*;

#[tokio::test]
async fn bytes_sent_with_the_header_reach_the_target() {
    let (agent, target) = (Running::start().await, echo().await);
    let mut client = agent.connect().await;
    let mut bytes = header(Tcp, "127.0.0.1", target.port());
    bytes.extend(b"early");
    client.write_all(&bytes).await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(rest(&mut client).await, b"\x01early");
}

#[tokio::test]
async fn a_header_may_come_byte_by_byte() {
    let (agent, target) = (Running::start().await, echo().await);
    let mut client = agent.connect().await;
    client.set_nodelay(true).unwrap();
    for byte in header(Tcp, "127.0.0.1", target.port()) {
        client.write_u8(byte).await.unwrap();
        tokio::task::yield_now().await;
    }
    assert_eq!(client.read_u8().await.unwrap(), OK);
}

#[tokio::test]
async fn both_loopback_families_are_served() {
    let (agent, target) = (Running::start().await, echo().await);
    let Ok(mut client) = TcpStream::connect(("::1", agent.address.port())).await else {
        // Only where the machine has no ::1 at all may the agent not listen there.
        assert!(std::net::TcpListener::bind("[::1]:0").is_err());
        return;
    };
    client.write_all(&header(Tcp, "127.0.0.1", target.port())).await.unwrap();
    assert_eq!(client.read_u8().await.unwrap(), OK);
}

#[tokio::test]
async fn a_server_may_speak_first() {
    let agent = Running::start().await;
    let (listener, address) = target().await;
    let client = agent.open_ok(Tcp, address);
    let server = async {
        let (mut socket, _) = listener.accept().await.unwrap();
        socket.write_all(b"220 ready\r\n").await.unwrap();
        socket
    };
    let (mut client, _server) = tokio::join!(client, server);
    let mut banner = [0; 11];
    client.read_exact(&mut banner).await.unwrap();
    assert_eq!(&banner, b"220 ready\r\n");
}

#[tokio::test]
async fn half_close_keeps_the_reply_flowing() {
    let agent = Running::start().await;
    let (listener, address) = target().await;
    ends::half_close(agent.open_ok(Tcp, address).await, listener).await;
}

#[tokio::test]
async fn a_server_that_ends_first_still_gets_the_upload() {
    let agent = Running::start().await;
    let (listener, address) = target().await;
    let upload = pattern(1 << 20);
    let client = async {
        let mut client = agent.open_ok(Tcp, address).await;
        assert_eq!(rest(&mut client).await, b"bye");
        client.write_all(&upload).await.unwrap();
    };
    let server = async {
        let (mut socket, _) = listener.accept().await.unwrap();
        socket.write_all(b"bye").await.unwrap();
        socket.shutdown().await.unwrap();
        rest(&mut socket).await
    };
    let ((), got) = tokio::join!(client, server);
    assert!(got == upload);
}

#[tokio::test]
async fn much_both_ways_at_once_arrives_whole() {
    let (agent, target) = (Running::start().await, echo().await);
    let bytes = pattern(16 << 20);
    let client = agent.open_ok(Tcp, target).await;
    let (mut read, mut write) = client.into_split();
    let mut got = Vec::new();
    let send = async {
        write.write_all(&bytes).await.unwrap();
        write.shutdown().await.unwrap();
    };
    let ((), received) = tokio::join!(send, read.read_to_end(&mut got));
    received.unwrap();
    assert!(got == bytes);
    agent.streams(0).await;
}

#[tokio::test]
async fn a_reset_by_the_target_follows_its_last_bytes() {
    let agent = Running::start().await;
    let (listener, address) = target().await;
    let (client, accepted) = tokio::join!(agent.open_ok(Tcp, address), listener.accept());
    let error = ends::target_resets(client, accepted.unwrap().0).await;
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_reset_by_the_client_reaches_the_target() {
    let agent = Running::start().await;
    let (listener, address) = target().await;
    let client = async {
        let client = agent.open_ok(Tcp, address).await;
        client.set_zero_linger().unwrap();
    };
    let server = async {
        let (mut socket, _) = listener.accept().await.unwrap();
        socket.read_u8().await.unwrap_err().kind()
    };
    let ((), end) = tokio::join!(client, server);
    assert_eq!(end, ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn an_aborted_download_leaves_others_alone() {
    let agent = Running::start().await;
    let (listener, address) = target().await;
    let other = agent.open_ok(Tcp, echo().await);
    let (mut client, mut other) = tokio::join!(agent.open_ok(Tcp, address), other);
    let (mut server, _) = listener.accept().await.unwrap();
    let endless = tokio::spawn(async move { while server.write_all(&[7; 65_536]).await.is_ok() {} });
    client.read_exact(&mut [0; 100_000]).await.unwrap();
    client.set_zero_linger().unwrap();
    drop(client);
    endless.await.unwrap();
    other.write_all(b"still here").await.unwrap();
    other.read_exact(&mut [0; 10]).await.unwrap();
}

#[tokio::test]
async fn a_refused_port_is_status_7() {
    let agent = Running::start().await;
    let answer = agent.answer(&header(Tcp, "127.0.0.1", nobody().await.port())).await;
    assert_eq!(answer, [Status::Refused.as_u8()]);
}

#[tokio::test]
async fn a_refusal_arrives_although_the_client_sent_bytes_that_nobody_read() {
    let agent = Running::start().await;
    let mut bytes = header(Tcp, "127.0.0.1", nobody().await.port());
    bytes.extend(pattern(100_000));
    let mut client = agent.connect().await;
    client.write_all(&bytes).await.unwrap();
    assert_eq!(rest(&mut client).await, [Status::Refused.as_u8()]);
}

#[tokio::test]
async fn a_black_hole_is_status_5() {
    let (address, _hole) = black_hole().await;
    let agent = Running::with_limits(Limits {
        dial: relay_dial::Limits { connect: Duration::from_millis(200), ..Default::default() },
        ..Limits::default()
    })
    .await;
    let answer = agent.answer(&header(Tcp, "127.0.0.1", address.port())).await;
    assert_eq!(answer, [Status::ConnectTimedOut.as_u8()]);
}

#[tokio::test]
async fn a_client_that_breaks_off_ends_its_dial() {
    let (address, _hole) = black_hole().await;
    let connect = Duration::from_secs(3600);
    let limits = Limits { dial: relay_dial::Limits { connect, ..Default::default() }, ..Limits::default() };
    let agent = Running::with_limits(limits).await;
    let client = agent.open(Tcp, "127.0.0.1", address.port()).await;
    agent.streams(1).await;
    client.set_zero_linger().unwrap();
    drop(client);
    tokio::time::timeout(Duration::from_secs(30), agent.streams(0)).await.unwrap();
}

#[tokio::test]
async fn one_stream_too_many_is_status_11() {
    let (agent, target) =
        (Running::with_limits(Limits { direct_streams: 1, ..Limits::default() }).await, echo().await);
    let first = agent.open_ok(Tcp, target).await;
    let answer = agent.answer(&header(Tcp, "127.0.0.1", target.port())).await;
    assert_eq!(answer, [Status::TooManyStreams.as_u8()]);
    drop(first);
    agent.streams(0).await;
    agent.open_ok(Tcp, target).await;
}

#[tokio::test]
async fn a_stopped_agent_lets_streams_finish_and_takes_no_new_ones() {
    let (mut agent, target) = (Running::start().await, echo().await);
    let mut client = agent.open_ok(Tcp, target).await;
    let mut waiting = agent.connect().await;
    waiting.write_u8(1).await.unwrap();
    agent.stop.take().unwrap().send(()).unwrap();
    agent.shared.draining.cancelled().await;
    let refused = TcpStream::connect(agent.address).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    waiting.write_all(&header(Tcp, "127.0.0.1", target.port())[1..]).await.unwrap();
    assert_eq!(rest(&mut waiting).await, [Status::ShuttingDown.as_u8()]);
    client.write_all(b"last words").await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(rest(&mut client).await, b"last words");
    assert_eq!(agent.exit.await.unwrap(), Exit::Stopped);
}

#[tokio::test]
async fn what_is_left_at_the_end_of_the_grace_is_reset() {
    let settings = Settings { drain_grace: Duration::from_millis(50), ..local() };
    let mut agent = Running::with(settings, Limits::default(), names(0, &[])).await;
    let (listener, address) = target().await;
    let (mut client, accepted) = tokio::join!(agent.open_ok(Tcp, address), listener.accept());
    let mut server = accepted.unwrap().0;
    agent.stop.take().unwrap().send(()).unwrap();
    assert_eq!(agent.exit.await.unwrap(), Exit::Stopped);
    for socket in [&mut client, &mut server] {
        assert_eq!(socket.read_u8().await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    }
}
