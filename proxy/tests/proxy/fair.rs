//! Limits: what one client does harms no other.

use std::time::{Duration, Instant};

use relay_protocol::Status;
use relay_proxy::Limits;

use crate::{
    socks::connect5,
    support::{Client, Rig, Wanted},
};

#[tokio::test]
async fn whoever_does_not_say_where_to_is_let_go() {
    let limits = Limits { header_time: Duration::from_millis(100), ..Limits::default() };
    let rig = Rig::with(Wanted { limits, ..Wanted::default() }).await;
    let beginnings: [&[u8]; 6] =
        [b"", &[5], &[5, 1, 0, 5, 1], &[4, 1, 0, 80], b"GET http://web/ HTTP/1.1\r\nHo", b"CON"];
    for beginning in beginnings {
        let mut client = rig.says(beginning).await;
        let mut left = Vec::new();
        // In order or with a reset: it is over.
        let _ = crate::support::in_time(tokio::io::AsyncReadExt::read_to_end(&mut client.0, &mut left)).await;
        assert!(left.len() <= 2, "{left:?}");
    }
    assert!(rig.mock.dialled().is_empty());
}

/// Asks for a page and reads it; the connection is kept.
async fn ask(rig: &Rig) -> Client {
    let mut client = rig.says("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    client.until("authorized: true").await;
    client
}

#[tokio::test]
async fn a_kept_connection_may_be_quiet_for_longer_than_a_head_may_take() {
    let idle_time = Duration::from_secs(1);
    let limits = Limits { header_time: Duration::from_millis(50), idle_time, ..Limits::default() };
    let rig = Rig::with(Wanted { limits, pages: true, ..Wanted::default() }).await;
    let asked = Instant::now();
    let mut client = ask(&rig).await;
    assert!(client.rest().await.is_empty());
    assert!(asked.elapsed() >= idle_time, "{:?}", asked.elapsed());
}

#[tokio::test]
async fn a_slow_head_on_a_kept_connection_is_cut_off() {
    let limits = Limits {
        header_time: Duration::from_millis(200),
        idle_time: Duration::from_secs(3600),
        ..Limits::default()
    };
    let rig = Rig::with(Wanted { limits, pages: true, ..Wanted::default() }).await;
    let mut client = ask(&rig).await;
    client.write("GET / HTTP/1.1\r\nHo").await;
    let mut left = Vec::new();
    let _ = crate::support::in_time(tokio::io::AsyncReadExt::read_to_end(&mut client.0, &mut left)).await;
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test]
async fn a_client_beyond_the_limit_is_reset_and_a_place_that_is_free_is_given() {
    let limits = Limits { connections: 1, ..Limits::default() };
    let rig = Rig::with(Wanted { limits, ..Wanted::default() }).await;
    let (asked, _decide) = rig.mock.held("web:80");
    let mut first = rig.says(connect5("web", 80)).await;
    first.read(2).await;
    asked.await.unwrap();
    assert!(rig.connect().await.until_reset().await.is_empty());
    first.reset();
    rig.told().await;
    // The place is given back in the same task, after the end was told.
    rig.mock.fails("web:80", Status::Refused);
    loop {
        let mut next = rig.connect().await;
        let mut reply = [0; 2];
        let asked = async {
            use tokio::io::{AsyncReadExt, AsyncWriteExt};
            next.0.write_all(&connect5("web", 80)).await?;
            next.0.read_exact(&mut reply).await
        };
        if asked.await.is_ok() {
            return;
        }
    }
}

#[tokio::test]
async fn a_proxy_that_ends_resets_its_clients() {
    let rig = Rig::start().await;
    let origin = crate::support::Origin::new(&rig, "web:80").await;
    let mut client = rig.says(connect5("web", 80)).await;
    client.read(12).await;
    let mut target = origin.accept().await;
    assert_eq!(rig.proxy.connections().open().len(), 1);
    drop(rig);
    client.until_reset().await;
    target.until_reset().await;
}
