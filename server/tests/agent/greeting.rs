//! How a connection begins: hostile first bytes, slow ones, and too many of them.

use std::time::Duration;

use relay_protocol::Protocol::Tcp;
use relay_protocol::Status;
use relay_server::settings::Limits;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::*;

#[tokio::test]
async fn a_first_byte_nobody_speaks_is_status_15() {
    let agent = Running::start().await;
    for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0x16, 3, 1, 2, 0], &[2], &[0xff; 5000]] {
        assert_eq!(agent.answer(bytes).await, [Status::UnknownVersion.as_u8()], "{bytes:?}");
    }
}

#[tokio::test]
async fn a_malformed_header_is_answered_at_once() {
    let agent = Running::start().await;
    let good = header(Tcp, "127.0.0.1", 1);
    let with = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        bytes
    };
    assert_eq!(agent.answer(&with(19, 9)).await, [Status::UnknownProtocol.as_u8()]);
    assert_eq!(agent.answer(&with(22, 9)).await, [Status::Unknown.as_u8()]);
    assert_eq!(agent.answer(&with(22, 1)).await, [Status::NoSuchHost.as_u8()]);
    assert_eq!(agent.answer(&[1, 0xff, 0xff]).await, [Status::Unknown.as_u8()]);
    assert_eq!(agent.answer(&[1, 0, 0]).await, [Status::Unknown.as_u8()]);
}

#[tokio::test]
async fn a_connection_without_a_whole_header_is_closed_in_time() {
    let limits = Limits { greeting: Duration::from_millis(100), ..Limits::default() };
    let agent = Running::with_limits(limits).await;
    let target = echo().await;
    for sent in [0, 1, 20] {
        let mut slow = agent.connect().await;
        slow.write_all(&header(Tcp, "127.0.0.1", 1)[..sent]).await.unwrap();
        assert!(matches!(slow.read(&mut [0; 1]).await, Ok(0) | Err(_)));
    }
    // The limit ends with the header: a stream lives on.
    let mut client = agent.open_ok(Tcp, target).await;
    let mut slow = agent.connect().await;
    assert!(matches!(slow.read(&mut [0; 1]).await, Ok(0) | Err(_)));
    client.write_u8(5).await.unwrap();
    assert_eq!(client.read_u8().await.unwrap(), 5);
}

#[tokio::test]
async fn connections_without_a_header_cannot_crowd_out_streams_for_long() {
    let agent = Running::start().await;
    let target = echo().await;
    let mut first = agent.open_ok(Tcp, target).await;
    let mut silent = Vec::new();
    for _ in 0..Limits::default().greeting_connections {
        silent.push(agent.connect().await);
    }
    let mut one_more = agent.connect().await;
    assert!(matches!(one_more.read(&mut [0; 1]).await, Ok(0) | Err(_)));
    first.write_u8(5).await.unwrap();
    assert_eq!(first.read_u8().await.unwrap(), 5);
    // A header frees its place.
    silent[0].write_all(&header(Tcp, "127.0.0.1", target.port())).await.unwrap();
    assert_eq!(silent[0].read_u8().await.unwrap(), OK);
    agent.open_ok(Tcp, target).await;
}
