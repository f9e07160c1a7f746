//! UDP over direct streams: datagrams behind their length.

use std::net::SocketAddr;
use std::sync::Arc;

use relay_protocol::Protocol::Udp;
use relay_server::settings::Limits;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

use crate::support::*;

async fn udp_echo() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buf = vec![0; 65_536];
        loop {
            let (len, from) = socket.recv_from(&mut buf).await.unwrap();
            // The flow may be over.
            let _ = socket.send_to(&buf[..len], from).await;
        }
    });
    address
}

async fn send(client: &mut TcpStream, datagram: &[u8]) {
    let mut bytes = (datagram.len() as u16).to_be_bytes().to_vec();
    bytes.extend(datagram);
    client.write_all(&bytes).await.unwrap();
}

async fn recv(client: &mut TcpStream) -> Vec<u8> {
    let mut datagram = vec![0; usize::from(client.read_u16().await.unwrap())];
    client.read_exact(&mut datagram).await.unwrap();
    datagram
}

#[tokio::test]
async fn datagrams_of_every_size_come_back_whole() {
    let (agent, target) = (Running::start().await, udp_echo().await);
    let mut client = agent.open_ok(Udp, target).await;
    for len in [1, 0, 2, 1_472, 8_000, 65_000, 65_507, 1] {
        let datagram = pattern(len);
        send(&mut client, &datagram).await;
        assert!(recv(&mut client).await == datagram, "{len} bytes");
    }
}

#[tokio::test]
async fn a_datagram_too_large_for_udp_is_lost_alone() {
    let (agent, target) = (Running::start().await, udp_echo().await);
    let mut client = agent.open_ok(Udp, target).await;
    send(&mut client, &pattern(65_535)).await;
    send(&mut client, b"after").await;
    assert_eq!(recv(&mut client).await, b"after");
}

#[tokio::test]
async fn a_datagram_may_come_byte_by_byte_and_with_the_header() {
    let (agent, target) = (Running::start().await, udp_echo().await);
    let mut bytes = header(Udp, "127.0.0.1", target.port());
    bytes.extend(b"\0\x03one\0\x03two");
    let mut client = agent.connect().await;
    client.set_nodelay(true).unwrap();
    for byte in bytes {
        client.write_u8(byte).await.unwrap();
        tokio::task::yield_now().await;
    }
    assert_eq!(client.read_u8().await.unwrap(), OK);
    assert_eq!(recv(&mut client).await, b"one");
    assert_eq!(recv(&mut client).await, b"two");
}

#[tokio::test]
async fn a_client_that_does_not_read_loses_datagrams_and_nothing_else() {
    let (agent, target) = (Running::start().await, udp_echo().await);
    let mut client = agent.open_ok(Udp, target).await;
    // More than all buffers on the way hold.
    for _ in 0..500 {
        send(&mut client, &pattern(60_000)).await;
    }
    let (mut read, mut write) = client.into_split();
    let reader = tokio::spawn(async move {
        loop {
            let mut datagram = vec![0; usize::from(read.read_u16().await.unwrap())];
            read.read_exact(&mut datagram).await.unwrap();
            if datagram == b"last" {
                return;
            }
            assert!(datagram == pattern(60_000));
        }
    });
    // Itself may be lost as long as the queues are full.
    while !reader.is_finished() {
        write.write_all(b"\0\x04last").await.unwrap();
        tokio::task::yield_now().await;
    }
    reader.await.unwrap();
}

#[tokio::test]
async fn many_flows_do_not_mix() {
    let (agent, target) = (Arc::new(Running::start().await), udp_echo().await);
    let flows: Vec<_> = (0..200_u8)
        .map(|i| {
            let agent = agent.clone();
            tokio::spawn(async move {
                let mut client = agent.open_ok(Udp, target).await;
                send(&mut client, &[i; 100]).await;
                assert_eq!(recv(&mut client).await, [i; 100]);
                client
            })
        })
        .collect();
    let mut clients = Vec::new();
    for flow in flows {
        clients.push(flow.await.unwrap());
    }
    assert_eq!(agent.shared.flows.count(), 200);
    drop(clients);
    agent.streams(0).await;
    assert_eq!(agent.shared.flows.count(), 0);
}

#[tokio::test]
async fn at_the_limit_of_flows_a_new_one_takes_the_place_of_an_old_one() {
    let agent = Running::with_limits(Limits { flows: 2, ..Limits::default() }).await;
    let target = udp_echo().await;
    let mut first = agent.open_ok(Udp, target).await;
    let mut others = Vec::new();
    for _ in 0..2 {
        let mut client = agent.open_ok(Udp, target).await;
        send(&mut client, b"x").await;
        assert_eq!(recv(&mut client).await, b"x");
        others.push(client);
    }
    assert_eq!(rest(&mut first).await, b"");
    assert_eq!(agent.shared.flows.count(), 2);
}
