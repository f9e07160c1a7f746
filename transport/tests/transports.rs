//! Dialling and using each kind of transport against a peer in memory.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a helper's surprise is a test's failure")]

#[path = "support/peer.rs"]
mod peer;

use std::io;

use peer::{Carrier, Peer, Received, accept, accept_idle, read_head, refuse, respond};
use relay_transport::{Connection, ConnectionError, DialError, Mode, Negotiated, PortForward, Verb};
use tokio::io::{AsyncReadExt as _, AsyncWrite as _, AsyncWriteExt as _};

const ALL: [Carrier; 3] = [Carrier::Tunnel, Carrier::V4, Carrier::Spdy];

fn mode(carrier: Carrier) -> Mode {
    match carrier {
        Carrier::Tunnel => Mode::WebSocket,
        Carrier::V4 => Mode::WebSocketV4,
        Carrier::Spdy => Mode::Spdy,
    }
}

/// A connection over `carrier` whose in-memory pipe holds `buffer` bytes per direction, streams open.
async fn connected(carrier: Carrier, buffer: usize) -> (Connection, Peer) {
    let (connection, mut peer) = upgraded(carrier, buffer).await;
    peer.streams().await;
    (connection, peer)
}

/// The same before the peer has looked at the streams.
async fn upgraded(carrier: Carrier, buffer: usize) -> (Connection, Peer) {
    let (client, mut peers) = peer::client(buffer);
    let dial = PortForward::dial(&client, "n", "p", 9527, mode(carrier));
    let server = async {
        let mut peer = accept(peers.recv().await.unwrap(), carrier).await;
        peer.take_opening().await;
        peer
    };
    let (dialled, peer) = tokio::join!(dial, server);
    let (connection, negotiated) = dialled.unwrap();
    let expected = match carrier {
        Carrier::Tunnel => Negotiated::WebSocket,
        Carrier::V4 => Negotiated::WebSocketV4,
        Carrier::Spdy => Negotiated::Spdy,
    };
    assert_eq!(negotiated, expected);
    (connection, peer)
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|index| (index * 7 + index / 251) as u8).collect()
}

fn cause(error: &io::Error) -> ConnectionError {
    error.get_ref().and_then(|inner| inner.downcast_ref::<ConnectionError>()).expect("a typed error").clone()
}

async fn round_trip(carrier: Carrier, buffer: usize, length: usize) {
    let (connection, mut peer) = upgraded(carrier, buffer).await;
    let (mut reader, mut writer) = connection.into_split();
    let sent = pattern(length);
    let upload = async {
        writer.write_all(&sent).await.unwrap();
        writer.flush().await.unwrap();
    };
    let echo = async {
        peer.streams().await;
        let mut left = sent.len();
        while left > 0 {
            let Some(Received::Bytes(bytes)) = peer.receive().await else { panic!("no bytes") };
            left -= bytes.len();
            peer.send(&bytes).await;
        }
        peer.finish().await;
        peer
    };
    let download = async {
        let mut received = Vec::new();
        reader.read_to_end(&mut received).await.unwrap();
        received
    };
    let ((), _peer, received) = tokio::join!(upload, echo, download);
    assert!(received == sent, "{carrier:?} returned other bytes");
}

#[tokio::test]
async fn bytes_cross_every_transport_and_an_orderly_end_is_an_end_of_file() {
    for carrier in ALL {
        round_trip(carrier, 100_000, 1_000_000).await;
    }
}

#[tokio::test]
async fn a_socket_that_takes_and_gives_one_byte_at_a_time_is_enough() {
    for carrier in ALL {
        round_trip(carrier, 1, 3_000).await;
    }
}

/// A connection without a stream over `carrier`, and the peer that has agreed to it.
async fn idle(carrier: Carrier) -> (Connection, Peer) {
    let (client, mut peers) = peer::client(10_000);
    let dial = PortForward::dial_idle(&client, "n", "p", mode(carrier));
    let (dialled, peer) =
        tokio::join!(dial, async { accept_idle(peers.recv().await.unwrap(), carrier).await });
    (dialled.unwrap().0, peer)
}

#[tokio::test]
async fn an_idle_connection_answers_pings_and_carries_a_stream_once_it_is_opened() {
    for carrier in [Carrier::Tunnel, Carrier::Spdy] {
        let (mut connection, mut peer) = idle(carrier).await;
        let pinged = async {
            peer.raw_spdy(&[0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 8]).await;
            assert_eq!(peer.receive().await, Some(Received::SpdyPing(8)));
        };
        tokio::select! {
            () = pinged => {}
            () = connection.closed() => panic!("it is still good"),
        }
        connection.open(9527).await.unwrap();
        let (accepted, ()) = tokio::join!(connection.accepted(), peer.streams());
        accepted.unwrap();
        connection.write_all(b"hello").await.unwrap();
        connection.flush().await.unwrap();
        assert_eq!(peer.receive().await, Some(Received::Bytes(b"hello".to_vec())));
        peer.send(b"reply").await;
        peer.finish().await;
        let mut reply = Vec::new();
        connection.read_to_end(&mut reply).await.unwrap();
        assert_eq!(reply, b"reply");
    }
}

#[tokio::test]
async fn an_idle_connection_that_is_lost_says_so() {
    for carrier in [Carrier::Tunnel, Carrier::Spdy] {
        let (mut connection, peer) = idle(carrier).await;
        drop(peer);
        connection.closed().await;
        assert_eq!(cause(&connection.accepted().await.unwrap_err()), ConnectionError::Lost);
    }
}

#[tokio::test]
async fn bytes_that_overtake_the_answer_are_kept() {
    for carrier in [Carrier::Tunnel, Carrier::Spdy] {
        let (mut connection, mut peer) = idle(carrier).await;
        connection.open(9527).await.unwrap();
        let sent = pattern(3_000);
        peer.send(&sent).await;
        connection.accepted().await.unwrap();
        peer.streams().await;
        peer.finish().await;
        let mut received = Vec::new();
        connection.read_to_end(&mut received).await.unwrap();
        assert!(received == sent, "{carrier:?}: {} bytes", received.len());
    }
}

#[tokio::test]
async fn a_loss_behind_the_answer_is_the_readers() {
    for carrier in [Carrier::Tunnel, Carrier::Spdy] {
        let (mut connection, mut peer) = idle(carrier).await;
        connection.open(9527).await.unwrap();
        peer.streams().await;
        drop(peer);
        connection.accepted().await.unwrap();
        let error = connection.read_u8().await.unwrap_err();
        assert_eq!(cause(&error), ConnectionError::Lost, "{carrier:?}");
    }
}

#[tokio::test]
async fn a_complaint_is_what_a_wait_for_the_answer_ends_with() {
    let (mut connection, mut peer) = idle(Carrier::Spdy).await;
    connection.open(9527).await.unwrap();
    peer.complain("no such stream").await;
    let error = connection.accepted().await.unwrap_err();
    assert_eq!(cause(&error), ConnectionError::Remote("no such stream".to_owned()));
}

#[tokio::test]
async fn the_older_websocket_has_no_idle_connections() {
    let (client, _peers) = peer::client(10_000);
    let refused = PortForward::dial_idle(&client, "n", "p", Mode::WebSocketV4).await.unwrap_err();
    assert!(matches!(refused, DialError::ProtocolError(_)), "{refused}");
}

#[tokio::test]
async fn a_write_of_many_pieces_is_one_message() {
    for carrier in ALL {
        let (mut connection, mut peer) = connected(carrier, 100_000).await;
        let pieces = [io::IoSlice::new(b"one "), io::IoSlice::new(b""), io::IoSlice::new(b"message")];
        assert!(connection.is_write_vectored());
        assert_eq!(connection.write_vectored(&pieces).await.unwrap(), 11);
        connection.flush().await.unwrap();
        assert_eq!(peer.receive().await, Some(Received::Bytes(b"one message".to_vec())));
    }
}

#[tokio::test]
async fn half_close_keeps_the_reply_flowing() {
    for carrier in [Carrier::Tunnel, Carrier::Spdy] {
        let (mut connection, mut peer) = connected(carrier, 10_000).await;
        connection.write_all(b"request").await.unwrap();
        connection.shutdown().await.unwrap();
        assert_eq!(peer.receive_all().await, b"request");
        peer.send(b"reply").await;
        peer.finish().await;
        let mut reply = Vec::new();
        connection.read_to_end(&mut reply).await.unwrap();
        assert_eq!(reply, b"reply");
        let refused = connection.write_all(b"more").await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::BrokenPipe);
    }
}

#[tokio::test]
async fn after_the_peers_end_our_direction_goes_on() {
    for carrier in [Carrier::Tunnel, Carrier::Spdy] {
        let (mut connection, mut peer) = connected(carrier, 10_000).await;
        peer.finish().await;
        assert_eq!(connection.read(&mut [0; 10]).await.unwrap(), 0);
        connection.write_all(b"still here").await.unwrap();
        connection.shutdown().await.unwrap();
        assert_eq!(peer.receive_all().await, b"still here");
    }
}

#[tokio::test]
async fn closing_the_channel_protocol_is_never_a_clean_end_for_the_reader() {
    let (mut connection, mut peer) = connected(Carrier::V4, 10_000).await;
    connection.shutdown().await.unwrap();
    assert_eq!(peer.receive().await, Some(Received::Close(vec![3, 232])));
    peer.finish().await;
    let error = connection.read(&mut [0; 10]).await.unwrap_err();
    assert_eq!(cause(&error), ConnectionError::Closed { code: 1000, reason: String::new() });
}

#[tokio::test]
async fn the_nodes_complaint_ends_the_connection_with_its_text() {
    for carrier in ALL {
        let (mut connection, mut peer) = connected(carrier, 10_000).await;
        peer.send(b"early").await;
        peer.complain("error forwarding port 9527 to pod p: connection refused\n").await;
        let mut early = [0; 5];
        connection.read_exact(&mut early).await.unwrap();
        let expected =
            ConnectionError::Remote("error forwarding port 9527 to pod p: connection refused".to_owned());
        for _ in 0..2 {
            let error = connection.read(&mut [0; 10]).await.unwrap_err();
            assert_eq!(cause(&error), expected);
        }
        let error = connection.write(b"x").await.unwrap_err();
        assert_eq!(cause(&error), expected);
    }
}

/// The order in which containerd does it when nothing listens on the port.
#[tokio::test]
async fn a_complaint_after_the_end_of_the_data_is_not_taken_for_a_clean_end() {
    for carrier in [Carrier::Tunnel, Carrier::Spdy] {
        let (mut connection, mut peer) = connected(carrier, 10_000).await;
        peer.raw_spdy(&peer::data(peer::DATA, true, b"")).await;
        peer.complain("connection refused").await;
        let error = connection.read(&mut [0; 10]).await.unwrap_err();
        assert_eq!(cause(&error), ConnectionError::Remote("connection refused".to_owned()));
    }
}

#[tokio::test]
async fn a_connection_lost_within_a_frame_is_an_error() {
    for carrier in ALL {
        let (mut connection, mut peer) = connected(carrier, 10_000).await;
        let cut: &[u8] = match carrier {
            Carrier::Spdy => b"\0\0\0\x03\0\0\0\x0ahal",
            Carrier::Tunnel => b"\x82\x12\0\0\0\x03\0\0\0\x0ahal",
            Carrier::V4 => b"\x82\x0b\0hal",
        };
        peer.io.write_all(cut).await.unwrap();
        drop(peer);
        let mut received = Vec::new();
        let error = connection.read_to_end(&mut received).await.unwrap_err();
        assert_eq!(received, b"hal");
        assert_eq!(cause(&error), ConnectionError::Lost);
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}

#[tokio::test]
async fn a_reset_stream_is_an_error() {
    for carrier in [Carrier::Tunnel, Carrier::Spdy] {
        let (mut connection, mut peer) = connected(carrier, 10_000).await;
        peer.raw_spdy(&[0x80, 3, 0, 3, 0, 0, 0, 8, 0, 0, 0, 3, 0, 0, 0, 5]).await;
        let error = connection.read(&mut [0; 10]).await.unwrap_err();
        assert_eq!(cause(&error), ConnectionError::Reset { status: 5 });
    }
}

#[tokio::test]
async fn pings_are_answered_by_a_reader_alone() {
    for carrier in ALL {
        let (connection, mut peer) = connected(carrier, 10_000).await;
        let (mut reader, _writer) = connection.into_split();
        let reading = tokio::spawn(async move { reader.read(&mut [0; 10]).await.unwrap() });
        if carrier != Carrier::V4 {
            peer.raw_spdy(&[0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 8]).await;
            assert_eq!(peer.receive().await, Some(Received::SpdyPing(8)));
        }
        if carrier != Carrier::Spdy {
            peer.websocket_frame(true, 9, b"are you there").await;
            assert_eq!(peer.receive().await, Some(Received::Pong(b"are you there".to_vec())));
        }
        peer.send(b"x").await;
        assert_eq!(reading.await.unwrap(), 1);
    }
}

#[tokio::test]
async fn a_ping_is_answered_by_the_reader_while_a_write_waits_for_the_socket() {
    for carrier in [Carrier::Tunnel, Carrier::V4] {
        let (connection, mut peer) = connected(carrier, 1000).await;
        let (mut reader, mut writer) = connection.into_split();
        let sent = pattern(200_000);
        let expected = sent.clone();
        let writing = tokio::spawn(async move {
            writer.write_all(&sent).await.unwrap();
            writer.shutdown().await.unwrap();
        });
        peer.websocket_frame(true, 9, b"busy?").await;
        peer.send(b"down").await;
        let mut down = [0; 4];
        // The reader gets its bytes although nobody reads what is being written.
        reader.read_exact(&mut down).await.unwrap();
        let reading = tokio::spawn(async move { reader.read(&mut down).await });
        let (mut received, mut pongs) = (Vec::new(), 0);
        loop {
            match peer.receive().await {
                Some(Received::Bytes(bytes)) => received.extend_from_slice(&bytes),
                Some(Received::Pong(payload)) => {
                    assert_eq!(payload, b"busy?");
                    pongs += 1;
                }
                _ => break,
            }
        }
        writing.await.unwrap();
        reading.abort();
        assert!(received == expected);
        assert_eq!(pongs, 1);
    }
}

#[tokio::test]
async fn messages_in_fragments_with_pings_between_are_whole() {
    let (mut connection, mut peer) = connected(Carrier::Tunnel, 10_000).await;
    let frame = peer::data(peer::DATA, false, b"in three pieces");
    peer.websocket_frame(false, 2, &frame[..5]).await;
    peer.websocket_frame(true, 9, b"").await;
    peer.websocket_frame(false, 0, &frame[5..12]).await;
    peer.websocket_frame(true, 0, &frame[12..]).await;
    let mut received = [0; 15];
    connection.read_exact(&mut received).await.unwrap();
    assert_eq!(&received, b"in three pieces");
}

#[tokio::test]
async fn a_refused_websocket_falls_back_to_spdy() {
    for status in [400, 403, 404, 405, 426, 500, 502] {
        let (client, mut peers) = peer::client(10_000);
        let dial = PortForward::dial(&client, "n", "p", 9527, Mode::Auto);
        let server = async {
            let mut first = peers.recv().await.unwrap();
            let head = read_head(&mut first).await;
            assert!(head.line.starts_with("GET "));
            assert_eq!(
                head.headers["sec-websocket-protocol"],
                "SPDY/3.1+portforward.k8s.io, v4.channel.k8s.io"
            );
            respond(&mut first, status, "<html>WebSocket? No.</html>").await;
            let mut peer = accept(peers.recv().await.unwrap(), Carrier::Spdy).await;
            peer.streams().await;
            peer
        };
        let (dialled, _peer) = tokio::join!(dial, server);
        assert_eq!(dialled.unwrap().1, Negotiated::Spdy, "{status}");
    }
}

#[tokio::test]
async fn the_newer_websocket_protocol_or_the_older_is_the_servers_choice() {
    for (carrier, expected) in
        [(Carrier::Tunnel, Negotiated::WebSocket), (Carrier::V4, Negotiated::WebSocketV4)]
    {
        let (client, mut peers) = peer::client(10_000);
        let dial = PortForward::dial(&client, "n", "p", 9527, Mode::Auto);
        let server = async { accept(peers.recv().await.unwrap(), carrier).await };
        let (dialled, _peer) = tokio::join!(dial, server);
        assert_eq!(dialled.unwrap().1, expected);
    }
}

/// Dials in `mode` while the server refuses with each answer in turn.
async fn refused(mode: Mode, answers: &[(u16, &str, &str)]) -> DialError {
    let (client, mut peers) = peer::client(10_000);
    let dial = PortForward::dial(&client, "n", "p", 9527, mode);
    let server = async {
        for (status, reason, message) in answers {
            let mut io = peers.recv().await.unwrap();
            read_head(&mut io).await;
            match *reason {
                "" => respond(&mut io, *status, message).await,
                reason => refuse(&mut io, *status, reason, message).await,
            }
        }
    };
    let (dialled, ()) = tokio::join!(dial, server);
    assert!(peers.try_recv().is_err(), "no more requests than answers");
    dialled.map(drop).unwrap_err()
}

const NO_GET: &str =
    r#"pods "p" is forbidden: User "u" cannot get resource "pods/portforward" in API group """#;
const NO_CREATE: &str =
    r#"pods "p" is forbidden: User "u" cannot create resource "pods/portforward" in API group """#;

fn verbs(error: &DialError) -> Vec<Verb> {
    let DialError::Forbidden { verbs, .. } = error else { panic!("{error:?}") };
    verbs.iter().collect()
}

#[tokio::test]
async fn a_refusal_names_every_missing_right() {
    let both = refused(Mode::Auto, &[(403, "Forbidden", NO_GET), (403, "Forbidden", NO_CREATE)]).await;
    assert_eq!(verbs(&both), [Verb::Get, Verb::Create]);
    assert!(both.to_string().starts_with("not allowed to get and create pods/portforward in namespace n: "));
    assert!(!both.is_retryable());

    // From 1.35 on a WebSocket needs both, `get` is what this user has, and the refusal gives no reason.
    let bare = r#"pods "p" is forbidden: "#;
    let create = refused(Mode::Auto, &[(403, "Forbidden", bare), (403, "Forbidden", NO_CREATE)]).await;
    assert_eq!(verbs(&create), [Verb::Create]);
    assert!(create.to_string().ends_with(NO_CREATE));

    let get = refused(Mode::WebSocket, &[(403, "Forbidden", NO_GET)]).await;
    assert_eq!(verbs(&get), [Verb::Get]);

    let spdy = refused(Mode::Spdy, &[(403, "Forbidden", NO_CREATE)]).await;
    assert_eq!(verbs(&spdy), [Verb::Create]);
}

#[tokio::test]
async fn a_refusal_by_admission_is_not_blamed_on_a_role() {
    let message = r#"admission webhook "guard" denied the request: no port-forwards on Fridays"#;
    let error = refused(Mode::Spdy, &[(403, "Forbidden", message)]).await;
    assert!(matches!(&error, DialError::UpgradeRefused { body, .. } if body == message), "{error:?}");
}

#[tokio::test]
async fn a_missing_right_outweighs_a_refused_upgrade() {
    let error = refused(Mode::Auto, &[(403, "Forbidden", NO_GET), (502, "", "bad gateway")]).await;
    assert_eq!(verbs(&error), [Verb::Get]);
    let error = refused(Mode::Auto, &[(400, "", "no WebSocket"), (403, "Forbidden", NO_CREATE)]).await;
    assert_eq!(verbs(&error), [Verb::Create]);
}

#[tokio::test]
async fn refusals_that_no_other_upgrade_can_mend_end_the_dial_at_once() {
    let error = refused(Mode::Auto, &[(401, "Unauthorized", "Unauthorized")]).await;
    assert_eq!(error, DialError::Unauthorized { message: "Unauthorized".to_owned() });

    let error = refused(Mode::Auto, &[(404, "NotFound", r#"pods "p" not found"#)]).await;
    assert!(
        matches!(&error, DialError::PodNotFound { namespace, pod, .. } if namespace == "n" && pod == "p")
    );

    let error = refused(Mode::Auto, &[(400, "BadRequest", "pod p does not have a host assigned")]).await;
    assert!(matches!(error, DialError::PodNotRunning { .. }));
    assert!(error.is_retryable());

    let error = refused(Mode::Auto, &[(503, "ServiceUnavailable", "starting")]).await;
    assert!(matches!(&error, DialError::UpgradeRefused { body, .. } if body == "starting"));
    assert!(error.is_retryable());
}

#[tokio::test]
async fn a_refusal_that_is_no_kubernetes_status_is_quoted_in_short() {
    let page = format!("<html>\n  {}</html>", "blocked by policy ".repeat(1000));
    let error = refused(Mode::WebSocket, &[(403, "", &page)]).await;
    let DialError::UpgradeRefused { status, body } = &error else { panic!("{error:?}") };
    assert_eq!(status.as_u16(), 403);
    assert!(body.starts_with("<html> blocked by policy blocked") && body.chars().count() <= 301, "{body}");
}

#[tokio::test]
async fn an_upgrade_that_proves_nothing_is_refused() {
    let answers = [
        ("Sec-WebSocket-Accept: AAAA", "does not fit"),
        ("Sec-WebSocket-Protocol: chat", "never offered"),
        ("Upgrade: h2c", "switched to"),
    ];
    for (wrong, complaint) in answers {
        let (client, mut peers) = peer::client(10_000);
        let dial = PortForward::dial(&client, "n", "p", 9527, Mode::WebSocket);
        let server = async {
            let mut io = peers.recv().await.unwrap();
            let head = read_head(&mut io).await;
            let name = wrong.split(':').next().unwrap();
            let answer: String = peer::websocket_answer(&head, "SPDY/3.1+portforward.k8s.io")
                .split_inclusive("\r\n")
                .map(|line| if line.starts_with(name) { format!("{wrong}\r\n") } else { line.to_owned() })
                .collect();
            io.write_all(answer.as_bytes()).await.unwrap();
            io
        };
        let (dialled, _io) = tokio::join!(dial, server);
        let error = dialled.map(drop).unwrap_err();
        assert!(matches!(&error, DialError::ProtocolError(text) if text.contains(complaint)), "{error:?}");
    }
}

#[tokio::test]
async fn a_server_that_hangs_up_is_unreachable() {
    let (client, mut peers) = peer::client(10_000);
    let dial = PortForward::dial(&client, "n", "p", 9527, Mode::Auto);
    let (dialled, ()) = tokio::join!(dial, async { drop(peers.recv().await) });
    assert!(matches!(dialled, Err(DialError::Unreachable(_))));
}

#[tokio::test(start_paused = true)]
async fn a_server_that_never_answers_times_out() {
    let (client, mut peers) = peer::client(10_000);
    let dial = PortForward::dial(&client, "n", "p", 9527, Mode::Auto);
    let (dialled, _io) = tokio::join!(dial, peers.recv());
    let error = dialled.map(drop).unwrap_err();
    assert_eq!(error, DialError::TimedOut(relay_transport::DIAL_TIMEOUT));
    assert!(error.is_retryable());
}

#[tokio::test]
async fn names_that_would_change_the_path_are_refused_unsent() {
    let (client, _peers) = peer::client(10_000);
    for (namespace, pod) in [("n", "p/../q"), ("n", ""), ("n?x", "p")] {
        let dialled = PortForward::dial(&client, namespace, pod, 1, Mode::Auto).await;
        assert!(matches!(dialled, Err(DialError::ProtocolError(_))));
    }
}
