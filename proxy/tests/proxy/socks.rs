//! SOCKS5 and SOCKS4a: the handshake, and what a client is told.

use relay_protocol::Status;

use crate::support::{Origin, Rig, Wanted};

/// The greeting without login, and a request for a name.
pub(crate) fn connect5(name: &str, port: u16) -> Vec<u8> {
    let mut bytes = vec![5, 1, 0, 5, 1, 0, 3, name.len() as u8];
    bytes.extend_from_slice(name.as_bytes());
    bytes.extend_from_slice(&port.to_be_bytes());
    bytes
}

pub(crate) fn connect4(name: &str, port: u16) -> Vec<u8> {
    let mut bytes = vec![4, 1];
    bytes.extend_from_slice(&port.to_be_bytes());
    bytes.extend_from_slice(&[0, 0, 0, 1, b'm', b'e', 0]);
    bytes.extend_from_slice(name.as_bytes());
    bytes.push(0);
    bytes
}

#[tokio::test]
async fn each_failure_has_its_code() {
    let rig = Rig::start().await;
    let cases = [
        (Status::Refused, 5),
        (Status::NoSuchHost, 4),
        (Status::Unreachable, 3),
        (Status::Denied, 2),
        (Status::ConnectTimedOut, 6),
        (Status::ResolveTimedOut, 6),
        (Status::AgentLost, 1),
    ];
    for (status, code) in cases {
        rig.mock.fails("web:80", status);
        let mut five = rig.says(connect5("web", 80)).await;
        assert_eq!(five.rest().await, [5, 0, 5, code, 0, 1, 0, 0, 0, 0, 0, 0], "{status}");
        assert_eq!(rig.told().await.status, status);
        let mut four = rig.says(connect4("web", 80)).await;
        assert_eq!(four.rest().await, [0, 91, 0, 0, 0, 0, 0, 0], "{status}");
        assert_eq!(rig.told().await.status, status);
    }
}

#[tokio::test]
async fn nothing_is_said_before_the_target_was_reached() {
    let rig = Rig::start().await;
    for (request, greeting, failed) in
        [(connect5("web", 80), &[5, 0][..], &[5, 5][..]), (connect4("web", 80), &[], &[0, 91])]
    {
        let (asked, decide) = rig.mock.held("web:80");
        let mut client = rig.says(request).await;
        assert_eq!(client.read(greeting.len()).await, greeting);
        asked.await.unwrap();
        assert!(client.is_silent());
        decide.send(Status::Refused).unwrap();
        assert_eq!(client.read(2).await, failed);
    }
}

#[tokio::test]
async fn early_data_arrives_and_a_half_close_keeps_the_reply() {
    let rig = Rig::start().await;
    let origin = Origin::new(&rig, "web:80").await;
    for (request, reply) in [(connect5("web", 80), 12), (connect4("web", 80), 8)] {
        let mut client = rig.says([&request[..], b"early, "].concat()).await;
        client.write(b"late").await;
        client.half_close().await;
        let mut target = origin.accept().await;
        assert_eq!(target.rest().await, b"early, late");
        target.write(b"the answer").await;
        drop(target);
        client.read(reply).await;
        assert_eq!(client.rest().await, b"the answer");
        let told = rig.told().await;
        assert_eq!((told.status, told.sent, told.received), (Status::Ok, 11, 10));
    }
}

#[tokio::test]
async fn a_reset_on_either_side_is_one_on_the_other() {
    let rig = Rig::start().await;
    let origin = Origin::new(&rig, "web:80").await;
    let mut client = rig.says(connect5("web", 80)).await;
    client.read(12).await;
    origin.accept().await.reset();
    assert!(client.until_reset().await.is_empty());
    let told = rig.told().await;
    assert_eq!((told.status, told.by_client), (Status::ResetByPeer, false));

    let mut client = rig.says(connect5("web", 80)).await;
    client.read(12).await;
    let mut target = origin.accept().await;
    client.reset();
    assert!(target.until_reset().await.is_empty());
    assert!(rig.told().await.by_client);
}

#[tokio::test]
async fn a_client_that_is_gone_does_not_keep_a_dial() {
    let rig = Rig::start().await;
    let (asked, _decide) = rig.mock.held("web:80");
    let mut client = rig.says(connect5("web", 80)).await;
    client.read(2).await;
    asked.await.unwrap();
    client.reset();
    assert_eq!(rig.told().await.status, Status::Aborted);
}

#[tokio::test]
async fn what_is_not_spoken_is_refused_with_its_code() {
    let rig = Rig::start().await;
    let cases: [(&[u8], &[u8]); 5] = [
        // BIND.
        (&[5, 1, 0, 5, 2, 0, 1, 1, 2, 3, 4, 0, 80], &[5, 0, 5, 7, 0, 1, 0, 0, 0, 0, 0, 0]),
        (&[5, 1, 0, 5, 1, 0, 9], &[5, 0, 5, 8, 0, 1, 0, 0, 0, 0, 0, 0]),
        // GSSAPI alone.
        (&[5, 1, 1], &[5, 0xff]),
        // A client with a login that nobody asked for.
        (b"\x05\x01\x02\x01\x02me\x01x\x05\x01\x00\x03\x01w\0P", b"\x05\x02\x01\0\x05\x04\0\x01\0\0\0\0\0\0"),
        (&[4, 2, 0, 80, 1, 2, 3, 4, 0], &[0, 91, 0, 0, 0, 0, 0, 0]),
    ];
    for (request, reply) in cases {
        assert_eq!(rig.says(request).await.rest().await, reply, "{request:?}");
    }
}

#[tokio::test]
async fn a_login_is_asked_for_and_checked() {
    let rig = Rig::with(Wanted { credentials: Some("me:secret"), ..Wanted::default() }).await;
    rig.mock.fails("w:80", Status::Refused);
    let login = |password: &str| {
        let mut bytes = b"\x05\x02\x00\x02\x01\x02me".to_vec();
        bytes.push(password.len() as u8);
        bytes.extend_from_slice(password.as_bytes());
        bytes.extend_from_slice(b"\x05\x01\x00\x03\x01w\0P");
        bytes
    };
    assert_eq!(rig.says(login("secret")).await.rest().await, b"\x05\x02\x01\0\x05\x05\0\x01\0\0\0\0\0\0");
    assert_eq!(rig.says(login("Secret")).await.rest().await, b"\x05\x02\x01\x01");
    assert_eq!(rig.says([5, 1, 0]).await.rest().await, [5, 0xff]);
    // SOCKS4 has no password to give.
    assert_eq!(rig.says(connect4("w", 80)).await.rest().await, [0, 93, 0, 0, 0, 0, 0, 0]);
    assert_eq!(rig.mock.dialled(), ["w:80"]);
}

#[tokio::test]
async fn short_names_are_looked_for_in_the_namespaces() {
    let search = vec!["dev".into(), "test".into()];
    let rules = relay_proxy::Rules { search, ..Default::default() };
    let rig = Rig::with(Wanted { rules, ..Wanted::default() }).await;
    let origin = Origin::new(&rig, "web.test:80").await;
    let mut client = rig.says(connect5("web", 80)).await;
    client.read(12).await;
    drop(origin.accept().await);
    assert_eq!(rig.mock.dialled(), ["web.dev:80", "web.test:80"]);
    // Any other failure than an unknown name is the answer.
    rig.mock.fails("web.dev:80", Status::Refused);
    assert_eq!(rig.says(connect5("web", 80)).await.rest().await[3], 5);
}

#[tokio::test]
async fn rules_deny_without_a_dial_and_go_out_from_here() {
    let pattern = |text: &str| vec![text.parse().unwrap()];
    let here = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = here.local_addr().unwrap().port();
    let direct = pattern(&format!("localhost:{port}"));
    let rules = relay_proxy::Rules { deny: pattern("web:80"), direct, ..Default::default() };
    let rig = Rig::with(Wanted { rules, ..Wanted::default() }).await;
    assert_eq!(rig.says(connect5("web", 80)).await.rest().await[3], 2);
    let mut client = rig.says(connect5("localhost", port)).await;
    assert_eq!(client.read(4).await[3], 0);
    client.read(8).await;
    client.write(b"from here").await;
    client.half_close().await;
    let mut accepted = crate::support::Client(here.accept().await.unwrap().0);
    assert_eq!(accepted.rest().await, b"from here");
    assert!(rig.mock.dialled().is_empty());
}
