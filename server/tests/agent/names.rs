//! Host names, with a name server that answers as each test wants it.

use std::time::Duration;

use relay_protocol::Protocol::Tcp;
use relay_protocol::Status;
use relay_server::settings::Limits;
use tokio::io::AsyncReadExt;

use crate::support::*;

async fn agent(replies: &[(&str, Reply)], limits: Limits) -> Running {
    let port = name_server(replies).await;
    let resolver = names(port, &["ns.svc.test", "svc.test", "test"]);
    Running::with(local(), limits, resolver).await
}

fn loopback() -> Reply {
    Reply::Address([127, 0, 0, 1].into())
}

#[tokio::test]
async fn a_short_name_is_found_through_the_search_list() {
    let replies = [("web.svc.test/A", loopback()), ("web.svc.test/AAAA", Reply::Nothing)];
    let agent = agent(&replies, Limits::default()).await;
    let target = echo().await;
    assert_eq!(agent.open(Tcp, "web", target.port()).await.read_u8().await.unwrap(), OK);
    assert_eq!(agent.open(Tcp, "web.svc.test.", target.port()).await.read_u8().await.unwrap(), OK);
    assert_eq!(agent.answer(&header(Tcp, "web.test.", target.port())).await, [Status::NoSuchHost.as_u8()]);
}

#[tokio::test]
async fn a_family_that_never_answers_does_not_hold_up_the_other() {
    // The library would ask again after five seconds.
    let limits = Limits {
        dial: relay_dial::Limits { resolve: Duration::from_secs(3), ..Default::default() },
        ..Limits::default()
    };
    let replies = [("web.ns.svc.test/A", loopback()), ("web.ns.svc.test/AAAA", Reply::Silence)];
    let agent = agent(&replies, limits).await;
    let target = echo().await;
    assert_eq!(agent.open(Tcp, "web", target.port()).await.read_u8().await.unwrap(), OK);
}

#[tokio::test]
async fn an_address_that_refuses_leaves_the_other_family_to_try() {
    let v6 = Reply::Address("::1".parse().unwrap());
    let replies = [("web.ns.svc.test/AAAA", v6), ("web.ns.svc.test/A", loopback())];
    let agent = agent(&replies, Limits::default()).await;
    // Listens on 127.0.0.1 only.
    let target = echo().await;
    assert_eq!(agent.open(Tcp, "web", target.port()).await.read_u8().await.unwrap(), OK);
}

#[tokio::test]
async fn an_address_written_as_a_name_is_not_asked_for() {
    // The header's type says host name; no server is there to ask.
    let agent = Running::start().await;
    let target = echo().await;
    let mut bytes = header(Tcp, "x", target.port());
    bytes.truncate(23);
    bytes.extend(b"127.0.0.1");
    bytes[2] = bytes.len() as u8;
    let mut client = agent.connect().await;
    tokio::io::AsyncWriteExt::write_all(&mut client, &bytes).await.unwrap();
    assert_eq!(client.read_u8().await.unwrap(), OK);
}

#[tokio::test]
async fn a_name_that_does_not_exist_is_status_3() {
    let agent =
        agent(&[("empty.test/A", Reply::Nothing), ("empty.test/AAAA", Reply::Nothing)], Limits::default())
            .await;
    for name in ["web", "empty", "empty.test."] {
        assert_eq!(agent.answer(&header(Tcp, name, 80)).await, [Status::NoSuchHost.as_u8()], "{name}");
    }
}

#[tokio::test]
async fn a_silent_name_server_is_status_4() {
    let limits = Limits {
        dial: relay_dial::Limits { resolve: Duration::from_millis(200), ..Default::default() },
        ..Limits::default()
    };
    let silent = [("web.ns.svc.test/A", Reply::Silence), ("web.ns.svc.test/AAAA", Reply::Silence)];
    let agent = agent(&silent, limits).await;
    assert_eq!(agent.answer(&header(Tcp, "web", 80)).await, [Status::ResolveTimedOut.as_u8()]);
}

#[tokio::test]
async fn a_failing_name_server_is_not_taken_for_a_missing_name() {
    let failing = [("web.ns.svc.test/A", Reply::Fail), ("web.ns.svc.test/AAAA", Reply::Fail)];
    let agent = agent(&failing, Limits::default()).await;
    assert_eq!(agent.answer(&header(Tcp, "web", 80)).await, [Status::Unknown.as_u8()]);
}
