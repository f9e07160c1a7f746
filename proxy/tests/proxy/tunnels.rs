//! HTTP CONNECT, and requests that switch to another protocol.

use relay_protocol::Status;

use crate::support::{Origin, Rig, Wanted};

const CONNECT: &str = "CONNECT web:80 HTTP/1.1\r\nHost: web:80\r\n\r\n";

#[tokio::test]
async fn early_data_arrives_and_a_half_close_keeps_the_reply() {
    let rig = Rig::start().await;
    let origin = Origin::new(&rig, "web:80").await;
    let early = "x".repeat(20_000);
    let mut client = rig.says(format!("{CONNECT}{early}")).await;
    client.half_close().await;
    let mut target = origin.accept().await;
    assert_eq!(target.rest_as_text().await, early);
    target.write("the answer").await;
    drop(target);
    assert_eq!(client.head().await, "HTTP/1.1 200 OK\r\n\r\n");
    assert_eq!(client.rest_as_text().await, "the answer");
    let told = rig.told().await;
    assert_eq!((told.status, told.sent, told.received), (Status::Ok, 20_000, 10));
}

#[tokio::test]
async fn a_reset_on_either_side_is_one_on_the_other() {
    let rig = Rig::start().await;
    let origin = Origin::new(&rig, "web:80").await;
    let mut client = rig.says(CONNECT).await;
    client.head().await;
    origin.accept().await.reset();
    assert!(client.until_reset().await.is_empty());
    assert!(!rig.told().await.by_client);

    let mut client = rig.says(CONNECT).await;
    client.head().await;
    let mut target = origin.accept().await;
    client.reset();
    assert!(target.until_reset().await.is_empty());
    assert!(rig.told().await.by_client);
}

#[tokio::test]
async fn each_failure_has_its_status_and_says_why() {
    let rig = Rig::start().await;
    let cases = [
        (Status::Refused, "502 Bad Gateway", "connection_refused"),
        (Status::NoSuchHost, "502 Bad Gateway", "dns_error"),
        (Status::Unreachable, "502 Bad Gateway", "destination_ip_unroutable"),
        (Status::ConnectTimedOut, "504 Gateway Timeout", "connection_timeout"),
        (Status::ResolveTimedOut, "504 Gateway Timeout", "dns_timeout"),
        (Status::Denied, "403 Forbidden", "http_request_denied"),
        (Status::TooManyStreams, "503 Service Unavailable", "connection_limit_reached"),
    ];
    for request in [CONNECT, "GET http://web/ HTTP/1.1\r\nHost: web\r\n\r\n"] {
        for (status, line, error) in cases {
            let (asked, decide) = rig.mock.held("web:80");
            let mut client = rig.says(request).await;
            asked.await.unwrap();
            assert!(client.is_silent());
            decide.send(status).unwrap();
            client.half_close().await;
            let reply = client.rest_as_text().await;
            assert!(reply.starts_with(&format!("HTTP/1.1 {line}\r\n")), "{reply}");
            assert!(reply.contains(&format!("proxy-status: kubectl-relay; error={error}\r\n")), "{reply}");
            assert!(reply.ends_with(&format!("\r\n\r\nweb:80: {status}.\n")), "{reply}");
        }
    }
}

#[tokio::test]
async fn after_a_failure_the_connection_takes_the_next_request() {
    let rig = Rig::start().await;
    rig.mock.fails("nobody:80", Status::NoSuchHost);
    let origin = Origin::new(&rig, "web:80").await;
    let mut client = rig.says("CONNECT nobody:80 HTTP/1.1\r\nHost: nobody:80\r\n\r\n").await;
    assert!(client.until("no such host.\n").await.starts_with("HTTP/1.1 502"));
    client.write(format!("{CONNECT}hello")).await;
    assert_eq!(client.head().await, "HTTP/1.1 200 OK\r\n\r\n");
    assert_eq!(origin.accept().await.read(5).await, b"hello");
}

#[tokio::test]
async fn a_switched_connection_is_a_tunnel_with_nothing_lost_on_either_side() {
    let rig = Rig::start().await;
    let origin = Origin::new(&rig, "web:80").await;
    let mut client = rig
        .says("GET http://web/chat HTTP/1.1\r\nHost: web\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: abc\r\n\r\n")
        .await;
    let mut target = origin.accept().await;
    let head = target.head().await.to_ascii_lowercase();
    assert!(
        head.starts_with("get /chat http/1.1\r\n") && head.contains("\r\nupgrade: websocket\r\n"),
        "{head}"
    );
    assert!(
        head.contains("\r\nconnection: upgrade\r\n") && head.contains("\r\nsec-websocket-key: abc\r\n"),
        "{head}"
    );
    target
        .write("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: xyz\r\n\r\nfirst")
        .await;
    let head = client.head().await.to_ascii_lowercase();
    assert!(
        head.starts_with("http/1.1 101 ") && head.contains("\r\nsec-websocket-accept: xyz\r\n"),
        "{head}"
    );
    assert!(
        head.contains("\r\nupgrade: websocket\r\n") && head.contains("\r\nconnection: upgrade\r\n"),
        "{head}"
    );
    assert_eq!(client.read(5).await, b"first");
    client.write("second").await;
    assert_eq!(target.read(6).await, b"second");
    client.half_close().await;
    assert!(target.rest().await.is_empty());
    target.write("last").await;
    drop(target);
    assert_eq!(client.rest().await, b"last");
    assert_eq!(rig.told().await.status, Status::Ok);
}

#[tokio::test]
async fn without_the_password_nothing_is_dialled() {
    let rig = Rig::with(Wanted { credentials: Some("me:secret"), ..Wanted::default() }).await;
    rig.mock.fails("web:80", Status::Refused);
    let with = |header: &str| format!("CONNECT web:80 HTTP/1.1\r\nHost: web:80\r\n{header}\r\n");
    for wrong in ["", "Proxy-Authorization: Basic bWU6d3Jvbmc=\r\n", "Authorization: Basic bWU6c2VjcmV0\r\n"]
    {
        let mut client = rig.says(with(wrong)).await;
        let head = client.head().await;
        assert!(
            head.starts_with("HTTP/1.1 407 ") && head.contains("proxy-authenticate: Basic realm="),
            "{head}"
        );
    }
    assert!(rig.mock.dialled().is_empty());
    let mut client = rig.says(with("Proxy-Authorization: Basic bWU6c2VjcmV0\r\n")).await;
    assert!(client.head().await.starts_with("HTTP/1.1 502 "));
}
