//! UDP ASSOCIATE.

use std::net::SocketAddr;

use relay_protocol::Status;
use relay_proxy::{Limits, Rules, Target, socks5::datagram};
use tokio::net::UdpSocket;

use crate::support::{Client, Rig, Wanted, in_time};

async fn associate(rig: &Rig) -> (Client, SocketAddr) {
    let mut client = rig.says([5, 1, 0, 5, 3, 0, 1, 0, 0, 0, 0, 0, 0]).await;
    let reply = client.read(12).await;
    assert_eq!(reply[..10], [5, 0, 5, 0, 0, 1, 127, 0, 0, 1]);
    let port = u16::from_be_bytes([reply[10], reply[11]]);
    (client, SocketAddr::from(([127, 0, 0, 1], port)))
}

async fn echo(rig: &Rig, target: &str) -> tokio_util::task::AbortOnDropHandle<()> {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    rig.mock.leads(target, socket.local_addr().unwrap());
    tokio_util::task::AbortOnDropHandle::new(tokio::spawn(async move {
        let mut buffer = vec![0; 65_536];
        loop {
            let (len, from) = socket.recv_from(&mut buffer).await.unwrap();
            socket.send_to(&buffer[..len], from).await.unwrap();
        }
    }))
}

struct Program {
    socket: UdpSocket,
    proxy: SocketAddr,
}

impl Program {
    async fn new(proxy: SocketAddr) -> Self {
        Self { socket: UdpSocket::bind("127.0.0.1:0").await.unwrap(), proxy }
    }

    async fn send(&self, target: &str, payload: &[u8]) {
        let target: Target = target.parse().unwrap();
        self.socket.send_to(&datagram::encode(&target, payload), self.proxy).await.unwrap();
    }

    async fn receive(&self) -> (String, Vec<u8>) {
        let mut buffer = vec![0; 65_536];
        let (len, from) = in_time(self.socket.recv_from(&mut buffer)).await.unwrap();
        assert_eq!(from, self.proxy);
        let (target, payload) = datagram::parse(&buffer[..len]).unwrap();
        (target.to_string(), payload.to_vec())
    }
}

#[tokio::test]
async fn datagrams_of_every_size_come_back_with_their_target() {
    let rig = Rig::start().await;
    let _echo = echo(&rig, "dns.kube-system:53").await;
    let (_client, proxy) = associate(&rig).await;
    let program = Program::new(proxy).await;
    for len in [0, 1, 1_472, 8_000, 65_000] {
        let payload = vec![len as u8; len];
        program.send("dns.kube-system:53", &payload).await;
        assert_eq!(program.receive().await, ("dns.kube-system:53".into(), payload), "{len}");
    }
    // All in one flow.
    assert_eq!(rig.mock.dialled().len(), 1);
}

#[tokio::test]
async fn targets_have_flows_of_their_own() {
    let rig = Rig::start().await;
    let (_one, _two) = (echo(&rig, "one:53").await, echo(&rig, "10.0.0.2:53").await);
    let (_client, proxy) = associate(&rig).await;
    let program = Program::new(proxy).await;
    program.send("one:53", b"1").await;
    assert_eq!(program.receive().await, ("one:53".into(), b"1".to_vec()));
    program.send("10.0.0.2:53", b"2").await;
    assert_eq!(program.receive().await, ("10.0.0.2:53".into(), b"2".to_vec()));
    assert_eq!(rig.proxy.connections().open().len(), 2);
}

#[tokio::test]
async fn fragments_and_strangers_are_dropped() {
    let rig = Rig::start().await;
    let _echo = echo(&rig, "web:53").await;
    let (_client, proxy) = associate(&rig).await;
    let (program, stranger) = (Program::new(proxy).await, Program::new(proxy).await);
    program.send("web:53", b"first").await;
    assert_eq!(program.receive().await.1, b"first");
    stranger.send("web:53", b"strange").await;
    let mut fragment = datagram::encode(&"web:53".parse().unwrap(), b"part");
    fragment[2] = 1;
    program.socket.send_to(&fragment, proxy).await.unwrap();
    program.socket.send_to(&[0, 0], proxy).await.unwrap();
    program.send("web:53", b"last").await;
    // In order, so what was dropped would have come before.
    assert_eq!(program.receive().await.1, b"last");
    let sent = rig.proxy.connections().totals().sent;
    assert_eq!(sent, 9);
    assert!(stranger.socket.try_recv(&mut [0; 100]).is_err());
}

#[tokio::test]
async fn the_association_ends_with_its_connection() {
    let rig = Rig::start().await;
    let _echo = echo(&rig, "web:53").await;
    let (client, proxy) = associate(&rig).await;
    let program = Program::new(proxy).await;
    program.socket.connect(proxy).await.unwrap();
    program.socket.send(&datagram::encode(&"web:53".parse().unwrap(), b"x")).await.unwrap();
    in_time(program.socket.recv(&mut [0; 100])).await.unwrap();
    drop(client);
    let told = rig.told().await;
    assert_eq!((told.spoken.as_str(), told.sent, told.received), ("socks5-udp", 1, 1));
    // The flow's end is told before the socket is gone.
    in_time(async {
        loop {
            let _ = program.socket.send(b"?").await;
            if program.socket.recv(&mut [0; 100]).await.is_err() {
                return;
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_name_that_nobody_has_is_looked_for_in_the_next_namespace() {
    let rules = Rules { search: vec!["dev".into(), "test".into()], ..Rules::default() };
    let rig = Rig::with(Wanted { rules, ..Wanted::default() }).await;
    let _echo = echo(&rig, "web.test:53").await;
    let (_client, proxy) = associate(&rig).await;
    let program = Program::new(proxy).await;
    program.send("web:53", b"where?").await;
    assert_eq!(program.receive().await, ("web:53".into(), b"where?".to_vec()));
    assert_eq!(rig.mock.dialled(), ["web.dev:53", "web.test:53"]);
}

#[tokio::test]
async fn a_flow_that_is_denied_is_told_of_and_not_dialled() {
    let rules = Rules { deny: vec!["*:53".parse().unwrap()], ..Rules::default() };
    let rig = Rig::with(Wanted { rules, ..Wanted::default() }).await;
    let (_client, proxy) = associate(&rig).await;
    Program::new(proxy).await.send("web:53", b"x").await;
    assert_eq!(rig.told().await.status, Status::Denied);
    assert!(rig.mock.dialled().is_empty());
}

#[tokio::test]
async fn the_quietest_flow_makes_room() {
    let limits = Limits { flows: 1, ..Limits::default() };
    let rig = Rig::with(Wanted { limits, ..Wanted::default() }).await;
    let (_one, _two) = (echo(&rig, "one:53").await, echo(&rig, "two:53").await);
    let (_client, proxy) = associate(&rig).await;
    let program = Program::new(proxy).await;
    program.send("one:53", b"1").await;
    assert_eq!(program.receive().await.1, b"1");
    // This one is dropped, as datagrams may be, and ends the other flow.
    program.send("two:53", b"2").await;
    assert_eq!(rig.told().await.target, "one:53");
    in_time(async {
        loop {
            program.send("two:53", b"2").await;
            let mut buffer = [0; 100];
            let answer =
                tokio::time::timeout(std::time::Duration::from_millis(50), program.socket.recv(&mut buffer));
            if answer.await.is_ok() {
                return;
            }
        }
    })
    .await;
}
