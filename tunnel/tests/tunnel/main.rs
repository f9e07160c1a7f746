//! One suite for the driver, over in-memory pipes, plain TCP, and pipes that hold eight bytes.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that fails here should panic")]

mod messages;
mod recovery;
mod support;

use std::time::Duration;

use bytes::Bytes;
use relay_protocol::Status;
use relay_tunnel::{SpliceEnd, State, StreamReset, Tap, splice, splice_tapped};
use support::{Kind, Rig, content, port};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// Makes a module of tests out of functions that take a kind of pipe.
macro_rules! over_every_pipe {
    ($($name:ident),* $(,)?) => {
        over_every_pipe!(@ memory, Kind::Memory, $($name),*);
        over_every_pipe!(@ tcp, Kind::Tcp, $($name),*);
        over_every_pipe!(@ eight_bytes, Kind::EightBytes, $($name),*);
    };
    (@ $module:ident, $kind:expr, $($name:ident),*) => {
        mod $module {
            use super::*;
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                let limit = Duration::from_secs(60);
                tokio::time::timeout(limit, super::$name($kind)).await.expect("finishes in time");
            })*
        }
    };
}

over_every_pipe!(
    an_echo_comes_back,
    bytes_arrive_before_the_answer_is_asked_for,
    half_close_keeps_the_reply_flowing,
    a_failed_dial_is_told_with_its_status,
    a_reset_arrives_as_a_reset_after_its_bytes,
    dropping_a_stream_resets_it_alone,
    many_streams_share_the_session,
    bulk_flows_both_ways_at_once,
    a_stuck_reader_stops_nobody_else,
    streams_survive_the_loss_of_every_lane,
    half_closed_streams_survive_the_loss_of_every_lane,
    datagrams_come_back_whole,
    close_is_seen_by_the_agent_and_resets_streams,
    what_ended_before_the_session_is_not_reset_with_it,
    drain_lets_streams_finish_and_refuses_new_ones,
    an_agent_that_forgot_the_session_resets_its_streams,
    splice_passes_half_close_and_resets,
    a_tap_sees_what_passes_and_changes_nothing,
);

async fn an_echo_comes_back(kind: Kind) {
    let rig = Rig::start(kind).await;
    let mut stream = rig.open(port::ECHO).await;
    stream.opened().await.unwrap();
    for round in 0..20u8 {
        let sent = vec![round; 100 + usize::from(round)];
        stream.write_all(&sent).await.unwrap();
        let mut back = vec![0; sent.len()];
        stream.read_exact(&mut back).await.unwrap();
        assert_eq!(back, sent);
    }
}

async fn bytes_arrive_before_the_answer_is_asked_for(kind: Kind) {
    let rig = Rig::start(kind).await;
    let mut stream = rig.open(port::BANNER).await;
    let mut banner = String::new();
    stream.read_to_string(&mut banner).await.unwrap();
    assert_eq!(banner, "hello");
}

async fn half_close_keeps_the_reply_flowing(kind: Kind) {
    let rig = Rig::start(kind).await;
    let mut stream = rig.open(port::LENGTH).await;
    stream.write_all(&content(1, 30_000)).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut reply = Vec::new();
    stream.read_to_end(&mut reply).await.unwrap();
    assert!(reply == content(30_000, 30_000), "the reply is {} bytes", reply.len());
}

async fn a_failed_dial_is_told_with_its_status(kind: Kind) {
    let rig = Rig::start(kind).await;
    let mut stream = rig.open(port::REFUSED).await;
    stream.write_all(b"early").await.unwrap();
    assert_eq!(stream.opened().await, Err(Status::Refused));
    let error = stream.read_u8().await.unwrap_err();
    assert_eq!(StreamReset::of(&error), Some(StreamReset { status: Status::Refused }));
}

async fn a_reset_arrives_as_a_reset_after_its_bytes(kind: Kind) {
    let rig = Rig::start(kind).await;
    let mut stream = rig.open(port::RESET).await;
    let mut bytes = vec![0; 5_000];
    stream.read_exact(&mut bytes).await.unwrap();
    assert!(bytes == content(5_000, 5_000));
    let error = stream.read_u8().await.unwrap_err();
    assert_eq!(StreamReset::of(&error), Some(StreamReset { status: Status::ResetByPeer }));
    let error = stream.write_all(b"x").await.unwrap_err();
    assert_eq!(StreamReset::of(&error), Some(StreamReset { status: Status::ResetByPeer }));
}

async fn dropping_a_stream_resets_it_alone(kind: Kind) {
    let rig = Rig::start(kind).await;
    let mut kept = rig.open(port::ECHO).await;
    kept.write_all(b"a").await.unwrap();
    kept.read_u8().await.unwrap();
    let mut dropped = rig.open(port::SOURCE).await;
    dropped.read_u8().await.unwrap();
    drop(dropped);
    assert_eq!(rig.ended(port::SOURCE).await, Err(Status::Aborted));
    kept.write_all(b"b").await.unwrap();
    assert_eq!(kept.read_u8().await.unwrap(), b'b');
}

async fn many_streams_share_the_session(kind: Kind) {
    let rig = Rig::start(kind).await;
    let count = if kind == Kind::EightBytes { 200 } else { 1_000 };
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..count {
        let mut stream = rig.open(port::ECHO).await;
        tasks.spawn(async move {
            let sent = content(number, 600);
            stream.write_all(&sent).await.unwrap();
            stream.shutdown().await.unwrap();
            let mut back = Vec::new();
            stream.read_to_end(&mut back).await.unwrap();
            assert!(back == sent);
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
}

async fn bulk_flows_both_ways_at_once(kind: Kind) {
    let rig = Rig::start(kind).await;
    let len = if kind == Kind::EightBytes { 200_000 } else { 20_000_000 };
    let (mut read, mut write) = tokio::io::split(rig.open(port::ECHO).await);
    let writer = tokio::spawn(async move {
        write.write_all(&content(9, len)).await.unwrap();
        write.shutdown().await.unwrap();
    });
    let mut back = Vec::new();
    read.read_to_end(&mut back).await.unwrap();
    assert!(back == content(9, len), "{} bytes of {len} came back", back.len());
    writer.await.unwrap();
}

async fn a_stuck_reader_stops_nobody_else(kind: Kind) {
    let rig = Rig::start(kind).await;
    let mut stuck = rig.open(port::SOURCE).await;
    stuck.read_u8().await.unwrap();
    let mut stream = rig.open(port::ECHO).await;
    let len = if kind == Kind::EightBytes { 30_000 } else { 3_000_000 };
    for chunk in content(3, len).chunks(10_000) {
        stream.write_all(chunk).await.unwrap();
        let mut back = vec![0; chunk.len()];
        stream.read_exact(&mut back).await.unwrap();
        assert!(back == chunk);
    }
}

async fn streams_survive_the_loss_of_every_lane(kind: Kind) {
    let rig = Rig::start(kind).await;
    let len = if kind == Kind::EightBytes { 100_000 } else { 8_000_000 };
    let (mut read, mut write) = tokio::io::split(rig.open(port::ECHO).await);
    let writer = tokio::spawn(async move {
        write.write_all(&content(5, len)).await.unwrap();
        write.shutdown().await.unwrap();
    });
    let mut back = Vec::new();
    for _ in 0..5 {
        let mut part = vec![0; len / 6];
        read.read_exact(&mut part).await.unwrap();
        back.extend(part);
        let dials = rig.dials();
        rig.cut_all_lanes();
        rig.dialled(dials + 1).await;
    }
    read.read_to_end(&mut back).await.unwrap();
    assert!(back == content(5, len));
    writer.await.unwrap();
}

async fn half_closed_streams_survive_the_loss_of_every_lane(kind: Kind) {
    let rig = Rig::start(kind).await;
    let mut stream = rig.open(port::LENGTH).await;
    stream.opened().await.unwrap();
    stream.write_all(&content(1, 10_000)).await.unwrap();
    rig.cut_all_lanes();
    stream.shutdown().await.unwrap();
    let mut reply = Vec::new();
    stream.read_to_end(&mut reply).await.unwrap();
    assert!(reply == content(10_000, 10_000));
}

async fn datagrams_come_back_whole(kind: Kind) {
    let rig = Rig::start(kind).await;
    let mut flow = rig.open_flow(port::ECHO).await;
    for len in [0, 1, 1_472, 8_000, 65_507] {
        let sent = Bytes::from(content(len as u64, len));
        flow.send(sent.clone()).unwrap();
        assert!(flow.recv().await.unwrap() == sent, "{len} bytes");
    }
    assert!(flow.send(Bytes::from(vec![0; 65_508])).is_err());
    drop(flow);
    assert_eq!(rig.ended(port::ECHO).await, Err(Status::Aborted));
}

async fn close_is_seen_by_the_agent_and_resets_streams(kind: Kind) {
    let rig = Rig::start(kind).await;
    let mut stream = rig.open(port::ECHO).await;
    stream.opened().await.unwrap();
    rig.session.close(Duration::from_secs(10)).await;
    assert!(stream.read_u8().await.is_err(), "never a clean end");
    let mut activity = rig.agent.activity();
    let end = activity.wait_for(|activity| activity.goodbyes == 1).await.unwrap();
    assert_eq!(end.sessions, 0);
}

async fn what_ended_before_the_session_is_not_reset_with_it(kind: Kind) {
    let rig = Rig::start(kind).await;
    let mut stream = rig.open(port::ECHO).await;
    stream.write_all(b"question").await.unwrap();
    stream.read_exact(&mut [0; 8]).await.unwrap();
    stream.shutdown().await.unwrap();
    rig.session.close(Duration::from_secs(1)).await;
    assert_eq!(rig.ended(port::ECHO).await, Ok(()));
}

async fn drain_lets_streams_finish_and_refuses_new_ones(kind: Kind) {
    let rig = Rig::start(kind).await;
    let mut stream = rig.open(port::ECHO).await;
    stream.write_all(b"a").await.unwrap();
    stream.read_u8().await.unwrap();
    let agent = rig.agent.clone();
    let drain = tokio::spawn(async move { agent.drain(Duration::from_secs(30)).await });
    rig.state().wait_for(|state| matches!(state, State::Draining { .. })).await.unwrap();
    assert_eq!(rig.session.open(Rig::header(port::ECHO)).await.unwrap_err(), Status::ShuttingDown);
    stream.write_all(b"b").await.unwrap();
    assert_eq!(stream.read_u8().await.unwrap(), b'b');
    stream.shutdown().await.unwrap();
    assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
    drop(stream);
    drain.await.unwrap();
    rig.state().wait_for(|state| matches!(state, State::Lost { .. })).await.unwrap();
}

async fn an_agent_that_forgot_the_session_resets_its_streams(kind: Kind) {
    let rig = Rig::start(kind).await;
    let mut stream = rig.open(port::ECHO).await;
    stream.opened().await.unwrap();
    rig.replace_agent();
    rig.cut_all_lanes();
    let error = stream.read_u8().await.unwrap_err();
    assert_eq!(StreamReset::of(&error), Some(StreamReset { status: Status::AgentLost }));
    rig.state().wait_for(|state| matches!(state, State::Lost { .. })).await.unwrap();
    assert_eq!(rig.session.open(Rig::header(port::ECHO)).await.unwrap_err(), Status::AgentLost);
}

async fn splice_passes_half_close_and_resets(kind: Kind) {
    let rig = Rig::start(kind).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let connect = async || {
        let local = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (local, listener.accept().await.unwrap().0)
    };

    let (mut local, socket) = connect().await;
    let spliced = tokio::spawn(splice(socket, rig.open(port::LENGTH).await));
    local.write_all(&content(1, 100_000)).await.unwrap();
    local.shutdown().await.unwrap();
    let mut reply = Vec::new();
    local.read_to_end(&mut reply).await.unwrap();
    assert!(reply == content(100_000, 100_000));
    let report = spliced.await.unwrap();
    assert!(matches!(report.end, SpliceEnd::Finished));
    assert_eq!((report.sent, report.received), (100_000, 100_000));

    let (mut local, socket) = connect().await;
    let spliced = tokio::spawn(splice(socket, rig.open(port::RESET).await));
    let mut bytes = vec![0; 5_000];
    local.read_exact(&mut bytes).await.unwrap();
    let error = local.read_u8().await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    assert!(matches!(spliced.await.unwrap().end, SpliceEnd::ResetByTunnel(Status::ResetByPeer)));

    let (local, socket) = connect().await;
    let stream = rig.open(port::ECHO).await;
    stream.opened().await.unwrap();
    let spliced = tokio::spawn(splice(socket, stream));
    relay_tunnel::abort(local);
    assert!(matches!(spliced.await.unwrap().end, SpliceEnd::ResetBySocket(_)));
    assert_eq!(rig.ended(port::ECHO).await, Err(Status::ResetByPeer));
}

/// All that passed, and that an end comes after it.
#[derive(Default)]
struct Seen {
    sent: Vec<u8>,
    received: Vec<u8>,
    ends: Vec<&'static str>,
}

impl Tap for Seen {
    fn sent(&mut self, bytes: &[u8]) {
        assert!(!bytes.is_empty() && !self.ends.contains(&"sent"));
        self.sent.extend_from_slice(bytes);
    }

    fn received(&mut self, bytes: &[u8]) {
        assert!(!bytes.is_empty() && !self.ends.contains(&"received"));
        self.received.extend_from_slice(bytes);
    }

    fn sent_all(&mut self) {
        self.ends.push("sent");
    }

    fn received_all(&mut self) {
        self.ends.push("received");
    }
}

async fn a_tap_sees_what_passes_and_changes_nothing(kind: Kind) {
    let rig = Rig::start(kind).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (socket, _) = listener.accept().await.unwrap();
    let stream = rig.open(port::ECHO).await;
    let spliced = tokio::spawn(async move {
        let mut seen = Seen::default();
        (splice_tapped(socket, stream, &mut seen, |_, _| {}).await, seen)
    });
    let sent = content(5, 300_000);
    let (mut read, mut write) = client.split();
    let mut back = Vec::new();
    let writing = async {
        write.write_all(&sent).await.unwrap();
        write.shutdown().await.unwrap();
    };
    let (_, read) = tokio::join!(writing, read.read_to_end(&mut back));
    read.unwrap();
    let (report, seen) = spliced.await.unwrap();
    assert!(matches!(report.end, SpliceEnd::Finished), "{report:?}");
    assert!(back == sent && seen.sent == sent && seen.received == sent);
    assert_eq!(seen.ends, ["sent", "received"]);
}
