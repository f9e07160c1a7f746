//! What the policy denies is not dialled, whatever way leads there.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use relay_policy::Policy;
use relay_protocol::Protocol::{Tcp, Udp};
use relay_protocol::Status;
use relay_server::settings::{Limits, Settings};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};

use crate::session::{client, to};
use crate::support::*;

const DENIED: [u8; 1] = [Status::Denied as u8];

async fn agent(allow: &[&str], deny: &[&str], replies: &[(&str, Reply)]) -> Running {
    let rules = |rules: &[&str]| rules.iter().map(|rule| rule.parse().unwrap()).collect();
    let policy = Policy { allow: rules(allow), deny: rules(deny), ..Policy::default() };
    let resolver = names(name_server(replies).await, &["ns.svc.test", "svc.test", "test"]);
    Running::with(Settings { policy, ..Settings::default() }, Limits::default(), resolver).await
}

fn ip(last: u8) -> IpAddr {
    [127, 0, 0, last].into()
}

/// Targets on 127.0.0.1 and 127.0.0.2, on the same port.
async fn two() -> (TcpListener, TcpListener, u16) {
    loop {
        let (one, address) = target().await;
        if let Ok(two) = TcpListener::bind((ip(2), address.port())).await {
            return (one, two, address.port());
        }
    }
}

/// Whether somebody has connected.
async fn has_guest(listener: &TcpListener) -> bool {
    let accept = listener.accept();
    tokio::select! {
        biased;
        _ = accept => true,
        () = tokio::task::yield_now() => false,
    }
}

#[tokio::test]
async fn the_agents_own_loopback_and_its_link_are_denied_by_default() {
    let agent = agent(&[], &[], &[]).await;
    let port = echo().await.port();
    for address in ["127.0.0.1", "127.0.0.2", "::1", "0.0.0.0", "::", "::ffff:127.0.0.1"] {
        assert_eq!(agent.answer(&header(Tcp, address, port)).await, DENIED, "{address}");
        assert_eq!(agent.answer(&header(Udp, address, port)).await, DENIED, "{address}");
    }
    for address in
        ["169.254.169.254", "fe80::1", "fd00:ec2::254", "100.100.100.200", "::ffff:169.254.169.254"]
    {
        assert_eq!(agent.answer(&header(Tcp, address, 80)).await, DENIED, "{address}");
    }
}

#[tokio::test]
async fn a_session_is_told_so_too() {
    let agent = agent(&[], &[], &[]).await;
    let session = client(&agent);
    let stream = session.open(to(Tcp, "127.0.0.1", 80)).await.unwrap();
    assert_eq!(stream.opened().await, Err(Status::Denied));
    let mut flow = session.open_flow(to(Udp, "169.254.20.10", 53)).await.unwrap();
    flow.send(Bytes::from_static(b"x")).unwrap();
    assert_eq!(flow.recv().await.unwrap_err().status, Status::Denied);
}

#[tokio::test]
async fn a_shared_agent_is_no_different() {
    let settings = Settings { shared: true, ..Settings::default() };
    let agent = Running::with(settings, Limits::default(), names(0, &[])).await;
    assert_eq!(agent.answer(&header(Tcp, "127.0.0.1", echo().await.port())).await, DENIED);
}

#[tokio::test]
async fn a_name_server_on_the_link_is_asked_although_it_is_no_target() {
    // The agent's own name server is on loopback here, which is as denied as the link.
    let agent = agent(&["127.0.0.2"], &[], &[("web.ns.svc.test/A", Reply::Address(ip(2)))]).await;
    let (_, two, port) = two().await;
    let (mut client, guest) = tokio::join!(agent.open(Tcp, "web", port), two.accept());
    guest.unwrap();
    assert_eq!(client.read_u8().await.unwrap(), OK);
    assert_eq!(agent.answer(&header(Udp, "127.0.0.1", 53)).await, DENIED);
}

#[tokio::test]
async fn the_agent_does_not_dial_itself() {
    let agent = agent(&["127.0.0.0/8", "::1", "0.0.0.0/8", "::", "*"], &[], &[]).await;
    let own = agent.address.port();
    let outward = UdpSocket::bind("0.0.0.0:0").await.unwrap();
    let mut addresses =
        vec!["127.0.0.1".to_owned(), "::1".to_owned(), "0.0.0.0".to_owned(), "127.9.9.9".to_owned()];
    if outward.connect("192.0.2.1:9").await.is_ok() {
        addresses.push(outward.local_addr().unwrap().ip().to_string());
    }
    for address in addresses {
        assert_eq!(agent.answer(&header(Tcp, &address, own)).await, DENIED, "{address}");
    }
    assert_eq!(agent.open(Tcp, "127.0.0.1", echo().await.port()).await.read_u8().await.unwrap(), OK);
}

#[tokio::test]
async fn networks_and_ports_are_denied_and_allowed() {
    let (one, two, port) = two().await;
    let rule = format!("127.0.0.0/30:{port}");
    let agent = agent(&[&rule], &["127.0.0.2"], &[]).await;
    assert_eq!(agent.open(Tcp, "127.0.0.1", port).await.read_u8().await.unwrap(), OK);
    assert!(has_guest(&one).await);
    assert_eq!(agent.answer(&header(Tcp, "127.0.0.2", port)).await, DENIED);
    assert!(!has_guest(&two).await);
    assert_eq!(agent.answer(&header(Tcp, "127.0.0.1", echo().await.port())).await, DENIED);
}

#[tokio::test]
async fn with_an_allow_rule_nothing_else_is_dialled() {
    let agent = agent(&["127.0.0.1"], &[], &[]).await;
    assert_eq!(agent.open(Tcp, "127.0.0.1", echo().await.port()).await.read_u8().await.unwrap(), OK);
    for address in ["127.0.0.2", "192.0.2.1", "2001:db8::1"] {
        assert_eq!(agent.answer(&header(Tcp, address, 80)).await, DENIED, "{address}");
    }
}

#[tokio::test]
async fn a_name_is_denied_by_itself_by_its_long_form_and_by_what_it_stands_for() {
    let replies = [
        ("web.ns.svc.test/A", Reply::Address(ip(1))),
        ("alias.test/A", Reply::Alias("real.example.com", Some(ip(1)))),
        // The address takes a second question.
        ("far.test/A", Reply::Alias("real.example.com", None)),
        ("real.example.com/A", Reply::Address(ip(1))),
    ];
    let port = echo().await.port();
    for (deny, name) in [
        ("web", "web"),
        ("*.svc.test", "WEB"),
        ("web.ns.svc.test", "web.ns.svc.test."),
        ("real.example.com", "alias"),
        ("*.example.com", "far"),
        ("*.example.com", "real.example.com"),
    ] {
        let agent = agent(&["127.0.0.0/8", "*"], &[deny], &replies).await;
        assert_eq!(agent.answer(&header(Tcp, name, port)).await, DENIED, "{name}");
        agent.open_ok(Tcp, SocketAddr::new(ip(1), port)).await;
    }
    let agent = agent(&["127.0.0.0/8", "*"], &["*.example.org"], &replies).await;
    for name in ["web", "alias", "far"] {
        assert_eq!(agent.open(Tcp, name, port).await.read_u8().await.unwrap(), OK, "{name}");
    }
}

#[tokio::test]
async fn a_name_that_leads_to_a_denied_address_is_denied() {
    let replies = [
        ("web.ns.svc.test/A", Reply::Address(ip(2))),
        ("alias.test/A", Reply::Alias("real.example.com", Some(ip(2)))),
        ("far.test/A", Reply::Alias("real.example.com", None)),
        ("real.example.com/A", Reply::Address(ip(2))),
        ("mapped.test/AAAA", Reply::Address("::ffff:127.0.0.2".parse().unwrap())),
        ("cloud.test/A", Reply::Address([169, 254, 169, 254].into())),
    ];
    let agent = agent(&["127.0.0.0/8", "*"], &["127.0.0.2"], &replies).await;
    let (_, two, port) = two().await;
    for name in ["web", "alias", "far", "mapped", "cloud"] {
        assert_eq!(agent.answer(&header(Tcp, name, port)).await, DENIED, "{name}");
        assert_eq!(agent.answer(&header(Udp, name, port)).await, DENIED, "{name}");
    }
    assert!(!has_guest(&two).await);
}

#[tokio::test]
async fn of_several_addresses_only_those_that_are_open_are_dialled() {
    let replies = [
        ("web.ns.svc.test/AAAA", Reply::Address("::1".parse().unwrap())),
        ("web.ns.svc.test/A", Reply::Address(ip(1))),
    ];
    let agent = agent(&["127.0.0.1"], &[], &replies).await;
    assert_eq!(agent.open(Tcp, "web", echo().await.port()).await.read_u8().await.unwrap(), OK);
}

#[tokio::test]
async fn an_answer_that_changes_is_judged_each_time_and_dialled_as_it_was_judged() {
    let asked = Arc::new(AtomicUsize::new(0));
    let replies = [
        ("web.ns.svc.test/A", Reply::InTurn(vec![ip(1), ip(2)], asked.clone())),
        ("web.ns.svc.test/AAAA", Reply::Nothing),
    ];
    let agent = agent(&["127.0.0.1"], &[], &replies).await;
    let (one, two, port) = two().await;
    for round in 1..=6 {
        let mut client = agent.open(Tcp, "web", port).await;
        if round % 2 == 1 {
            one.accept().await.unwrap();
            assert_eq!(client.read_u8().await.unwrap(), OK);
        } else {
            assert_eq!(rest(&mut client).await, DENIED);
        }
        assert_eq!(asked.load(Ordering::Relaxed), round, "one question for each dial");
    }
    assert!(!has_guest(&two).await);
}

#[tokio::test]
async fn an_allowed_name_is_allowed_where_it_is_complete() {
    let replies = [
        ("db.example.com/A", Reply::Address([192, 0, 2, 7].into())),
        // What somebody in the cluster made of it.
        ("api.example.com.svc.test/A", Reply::Address([192, 0, 2, 8].into())),
        ("trap.example.com/A", Reply::Address(ip(1))),
    ];
    let connect = std::time::Duration::from_millis(100);
    let limits = Limits { dial: relay_dial::Limits { connect, ..Default::default() }, ..Limits::default() };
    let rules = vec!["*.example.com:5432".parse().unwrap()];
    let settings = Settings { policy: Policy { allow: rules, ..Policy::default() }, ..Settings::default() };
    let resolver = names(name_server(&replies).await, &["ns.svc.test", "svc.test", "test"]);
    let agent = Running::with(settings, limits, resolver).await;
    // Allowed, and nobody is there.
    assert_ne!(agent.answer(&header(Tcp, "db.example.com", 5432)).await, DENIED);
    assert_eq!(agent.answer(&header(Tcp, "db.example.com", 80)).await, DENIED);
    assert_eq!(agent.answer(&header(Tcp, "192.0.2.7", 5432)).await, DENIED);
    assert_eq!(agent.answer(&header(Tcp, "api.example.com", 5432)).await, DENIED);
    assert_eq!(agent.answer(&header(Tcp, "trap.example.com", 5432)).await, DENIED, "a name lifts no reserve");
}

#[tokio::test]
async fn a_client_of_the_old_generation_sees_a_code_it_knows() {
    let agent = agent(&[], &[], &[]).await;
    let mut client = agent.connect().await;
    // Version 0, 18 bytes, request id, TCP, port 80, IPv4, 127.0.0.1.
    let mut bytes = vec![0, 0, 0];
    bytes.extend([1, 2, 3, 4, 5, 0, 0, 80, 0, 127, 0, 0, 1]);
    bytes[2] = bytes.len() as u8;
    client.write_all(&bytes).await.unwrap();
    assert_eq!(rest(&mut client).await, [Status::Unknown.as_u8()]);
}
