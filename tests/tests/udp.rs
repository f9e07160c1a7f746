//! Datagrams: to the cluster's DNS, of every size, from many local programs.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that fails here should panic")]

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, UdpSocket};
use std::thread;
use std::time::Duration;

use relay_tests::{Relay, connect, udp_echo};

/// A query for the addresses of `kubernetes.default.svc.cluster.local`, with this id.
fn dns_query(id: u16) -> Vec<u8> {
    let mut query = id.to_be_bytes().to_vec();
    query.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in ["kubernetes", "default", "svc", "cluster", "local"] {
        query.push(label.len() as u8);
        query.extend(label.as_bytes());
    }
    query.extend([0, 0, 1, 0, 1]);
    query
}

/// Whether a message answers the query with one address or more, without an error.
fn is_answer(id: u16, answer: &[u8]) -> bool {
    answer.len() > 12 && answer[..2] == id.to_be_bytes() && answer[3] & 0x0f == 0 && answer[7] > 0
}

fn ask_over_udp(address: SocketAddr, id: u16) -> bool {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut answer = [0; 1500];
    (0..3).any(|_| {
        socket.send_to(&dns_query(id), address).unwrap();
        socket.recv(&mut answer).is_ok_and(|len| is_answer(id, &answer[..len]))
    })
}

#[test]
fn dns_over_udp_and_tcp_on_one_local_port() {
    let relay = Relay::spawn(&["-n", "kube-system", "svc/kube-dns", "15353:53@udp", "15353:53@tcp"]);
    let mut lines: Vec<String> = (0..4).map(|_| relay.next_line(Duration::from_secs(60))).collect();
    lines.sort();
    assert_eq!(
        lines,
        [
            "Forwarding from 127.0.0.1:15353 -> 53",
            "Forwarding from 127.0.0.1:15353 -> 53/udp",
            "Forwarding from [::1]:15353 -> 53",
            "Forwarding from [::1]:15353 -> 53/udp",
        ]
    );
    let address = SocketAddr::from(([127, 0, 0, 1], 15353));
    assert!(ask_over_udp(address, 77));

    let mut stream = connect(address);
    let query = dns_query(78);
    stream.write_all(&(query.len() as u16).to_be_bytes()).unwrap();
    stream.write_all(&query).unwrap();
    let mut len = [0; 2];
    stream.read_exact(&mut len).unwrap();
    let mut answer = vec![0; usize::from(u16::from_be_bytes(len))];
    stream.read_exact(&mut answer).unwrap();
    assert!(is_answer(78, &answer));
}

#[test]
fn two_hundred_local_programs_ask_at_once() {
    let (_relay, address) = Relay::start(&["-n", "kube-system", "svc/kube-dns", ":53@udp"]);
    let askers: Vec<_> = (0..200).map(|id| thread::spawn(move || ask_over_udp(address, id))).collect();
    let answered =
        askers.into_iter().filter_map(|asker| asker.join().ok()).filter(|answered| *answered).count();
    assert_eq!(answered, 200);
}

#[test]
fn datagrams_of_every_size_come_back_whole() {
    let (_relay, address) = Relay::start(&["svc/web", ":7007@udp"]);
    for len in [1, 1_472, 8_000, 65_000, 0] {
        udp_echo(address, len).unwrap_or_else(|error| panic!("{len} bytes: {error}"));
    }
}

#[test]
fn a_port_that_only_udp_has_needs_no_suffix() {
    let relay = Relay::spawn(&["svc/web", ":echo-udp"]);
    let line = relay.next_line(Duration::from_secs(60));
    assert!(line.ends_with("-> 7007/udp"), "{line}");
    let address =
        line.strip_prefix("Forwarding from ").unwrap().split(" -> ").next().unwrap().parse().unwrap();
    udp_echo(address, 100).unwrap();
}

#[test]
fn a_port_that_both_have_is_tcp_and_a_note_names_the_other() {
    let (relay, address) = Relay::start(&["svc/web", ":7007"]);
    relay_tests::echo_once(&mut connect(address), b"tcp it is").unwrap();
    relay.wait_stderr("7007@udp", Duration::from_secs(5));
}
