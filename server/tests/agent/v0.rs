//! A client of krelay's port-forward generation, byte by byte: version byte 0, the header's length, a request id of
//! five bytes, protocol, port, address type, address; one byte of acknowledgement.

use std::time::Duration;

use relay_server::agent::Exit;
use relay_server::settings::{Limits, Settings};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UdpSocket;

use crate::support::*;

#[tokio::test]
async fn a_tcp_stream_to_an_address() {
    let (agent, target) = (Running::start().await, echo().await);
    let [high, low] = target.port().to_be_bytes();
    let mut client = agent.connect().await;
    client.write_all(&[0, 0, 16, 0xa1, 0xb2, 0xc3, 0xd4, 0xe5, 0, high, low, 0, 127, 0, 0, 1]).await.unwrap();
    assert_eq!(client.read_u8().await.unwrap(), 1);
    client.write_all(b"hello").await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(rest(&mut client).await, b"hello");
}

#[tokio::test]
async fn a_tcp_stream_to_a_host_name() {
    let replies = [("web.test/A", Reply::Address([127, 0, 0, 1].into())), ("web.test/AAAA", Reply::Nothing)];
    let resolver = names(name_server(&replies).await, &["test"]);
    let agent = Running::with(local(), Limits::default(), resolver).await;
    let [high, low] = echo().await.port().to_be_bytes();
    let mut client = agent.connect().await;
    client.write_all(&[0, 0, 15, 1, 2, 3, 4, 5, 0, high, low, 1, b'w', b'e', b'b']).await.unwrap();
    assert_eq!(client.read_u8().await.unwrap(), 1);
}

#[tokio::test]
async fn a_udp_stream() {
    let agent = Running::start().await;
    let target = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let [high, low] = target.local_addr().unwrap().port().to_be_bytes();
    let mut client = agent.connect().await;
    client.write_all(&[0, 0, 16, 1, 2, 3, 4, 5, 1, high, low, 0, 127, 0, 0, 1]).await.unwrap();
    assert_eq!(client.read_u8().await.unwrap(), 1);
    client.write_all(&[0, 4, b'p', b'i', b'n', b'g']).await.unwrap();
    let mut buf = [0; 9];
    let (len, from) = target.recv_from(&mut buf).await.unwrap();
    assert_eq!(&buf[..len], b"ping");
    target.send_to(b"pong!", from).await.unwrap();
    let mut answer = [0; 7];
    client.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"\0\x05pong!");
}

#[tokio::test]
async fn codes_that_it_does_not_know_become_2() {
    let agent = Running::start().await;
    let [high, low] = nobody().await.port().to_be_bytes();
    let refused = agent.answer(&[0, 0, 16, 1, 2, 3, 4, 5, 0, high, low, 0, 127, 0, 0, 1]).await;
    assert_eq!(refused, [2]);
    let unknown_protocol = agent.answer(&[0, 0, 16, 1, 2, 3, 4, 5, 9, 0, 1, 0, 127, 0, 0, 1]).await;
    assert_eq!(unknown_protocol, [6]);
}

#[tokio::test]
async fn a_keep_alive_stream_keeps_the_agent_and_ends_with_its_connection() {
    let idle = Duration::from_millis(100);
    let settings = Settings { idle: Some(idle), ..local() };
    let mut agent = Running::with(settings, Limits::default(), names(0, &[])).await;
    let mut client = agent.connect().await;
    client.write_all(&[0, 0, 12, 1, 2, 3, 4, 5, 2, 0, 0, 0]).await.unwrap();
    agent.streams(1).await;
    assert!(tokio::time::timeout(idle * 3, &mut agent.exit).await.is_err());
    drop(client);
    assert_eq!(agent.exit.await.unwrap(), Exit::Idle);
}

#[tokio::test]
async fn a_keep_alive_stream_does_not_hold_up_the_end() {
    let mut agent = Running::start().await;
    let mut client = agent.connect().await;
    client.write_all(&[0, 0, 16, 1, 2, 3, 4, 5, 2, 0, 0, 0, 0, 0, 0, 0]).await.unwrap();
    agent.streams(1).await;
    agent.stop.take().unwrap().send(()).unwrap();
    assert_eq!(agent.exit.await.unwrap(), Exit::Stopped);
    assert_eq!(rest(&mut client).await, b"");
}
