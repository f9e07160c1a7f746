//! Local connections through a pod's own port-forward, with an API server and a node in the same process.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

#[path = "../support/captured.rs"]
mod captured;
#[path = "../support/in_memory.rs"]
mod in_memory;
mod loopback;
mod node;

use std::{
    io::ErrorKind,
    net::SocketAddr,
    sync::{Arc, atomic::AtomicUsize},
    time::{Duration, Instant},
};

use captured::Captured;
use kube::{Api, runtime::watcher};
use kubectl_relay::{
    agent::supervisor::Current,
    cli::{args::TransportArg, settings::ListenAddress},
    cluster::{
        access::Access,
        api::Call,
        follow::{Ask, Follow},
        ready::{EndpointPort, Route},
    },
    direct::{
        Direct,
        pods::{Pods, Source},
    },
    forward::{
        Path, Relay,
        listen::{Bound, bind},
        tcp,
    },
    ledger::{About, ForwardAccount, Ledger},
    output::Output,
    port::LocalPort,
};
use node::Server;
use relay_protocol::header::Protocol;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::watch,
    time::timeout,
};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

const SOON: Duration = Duration::from_secs(20);

/// A forward to the server's pod.
struct Forward {
    local: SocketAddr,
    direct: Direct,
    pods: Arc<Pods>,
    current: watch::Sender<Current>,
    stderr: Captured,
    account: Arc<ForwardAccount>,
    guard: DropGuard,
}

impl Forward {
    async fn start(server: &Server) -> Self {
        let config = kube::Config::new(server.address.parse().unwrap());
        let access = Access::from(relay_transport::connect::client(config, None).unwrap());
        let api = Api::namespaced(access.client(), "dev");
        let watched = watcher::Config::default().fields("metadata.name=web");
        let call = Call::new("list", "", "pods", "dev").on("web");
        let follow = Follow::start_or_ask(&access, api, watched, call, Ask::ForOne("web".into()));
        let follow = Arc::new(follow);
        follow.synced().await.unwrap();

        let stderr = Captured::default();
        let output = Arc::new(Output::to(false, 0, Box::new(std::io::sink()), Box::new(stderr.clone())));
        let direct = Direct::new(access, TransportArg::Spdy, Arc::clone(&output));
        let (current, receiver) = watch::channel(Current::Starting);
        let relay = Relay {
            current: receiver,
            connect_wait: Duration::from_secs(5),
            direct: direct.clone(),
            output,
            tasks: TaskTracker::new(),
            trace: None,
        };
        let port = EndpointPort::Number(80);
        let route = Arc::new(Route::Pods(Arc::clone(&follow), port.clone(), AtomicUsize::default()));
        let pods = Arc::new(Pods::new("dev", Source::Selected(follow), port));
        let target = "deploy/web".into();
        let about = About {
            name: None,
            group: None,
            context: None,
            namespace: "dev".into(),
            target: "deploy/web".into(),
            remote_port: 80,
            protocol: Protocol::Tcp,
        };
        let ledger = Ledger::new();
        let account = ledger.add_forward(about, &ledger.add_agent(None, "dev"));
        let path = Path {
            target,
            route,
            protocol: Protocol::Tcp,
            remote: 80,
            direct: Some(Arc::clone(&pods)),
            account: Arc::clone(&account),
            ended: CancellationToken::new(),
        };
        let loopback = ListenAddress::Ip([127, 0, 0, 1].into());
        let bound = bind(&[loopback], LocalPort::Free, Protocol::Tcp).unwrap().remove(0);
        let local = bound.local_addr().unwrap();
        let Bound::Tcp(listener) = bound else { panic!("TCP was asked for") };
        tokio::spawn(tcp::serve(listener, path, relay));
        let guard = direct.guard();
        Self { local, direct, pods, current, stderr, account, guard }
    }

    /// As with `--agent-source none`.
    async fn alone(server: &Server) -> Self {
        let forward = Self::start(server).await;
        forward.direct.begin();
        forward
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.local).await.unwrap()
    }

    async fn says(&self, text: &str) {
        let since = Instant::now();
        while !self.stderr.text().contains(text) {
            assert!(since.elapsed() < SOON, "{text:?} is missing in: {}", self.stderr.text());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

async fn is_reset(socket: &mut TcpStream) {
    let error = timeout(SOON, socket.read(&mut [0; 1])).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

async fn read_to_end(socket: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    timeout(SOON, socket.read_to_end(&mut bytes)).await.unwrap().unwrap();
    bytes
}

#[tokio::test]
async fn each_connection_has_its_own_and_one_more_waits_in_reserve() {
    let mut server = Server::start("a", true).await;
    let forward = Forward::alone(&server).await;
    let (mut first, mut second) = (forward.connect().await, forward.connect().await);
    let (mut one, mut other) = (server.next().await, server.next().await);
    for socket in [&mut first, &mut second] {
        socket.write_all(b"hello").await.unwrap();
    }
    tokio::join!(one.take(), other.take());
    for forwarded in [&mut one, &mut other] {
        assert_eq!(forwarded.receive(5).await, b"hello");
    }
    // One is torn down in the middle; the other does not notice.
    drop(one);
    let reset = async {
        tokio::select! {
            error = first.read_u8() => (error.unwrap_err(), second),
            error = second.read_u8() => (error.unwrap_err(), first),
        }
    };
    let (error, mut alive) = timeout(SOON, reset).await.unwrap();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    other.send(b"reply").await;
    other.finish().await;
    assert_eq!(read_to_end(&mut alive).await, b"reply");
    let counted = forward.account.snapshot();
    assert_eq!((counted.connections.total, counted.connections.failed), (2, 1));
    assert_eq!((counted.bytes.sent, counted.bytes.received), (10, 5));

    let mut reserve = server.next().await;
    assert!(reserve.is_untouched(), "nothing in the pod notices it");
    let mut third = forward.connect().await;
    reserve.take().await;
    third.write_all(b"at once").await.unwrap();
    assert_eq!(reserve.receive(7).await, b"at once");
}

#[tokio::test]
async fn a_reserve_that_is_dead_costs_no_byte() {
    let mut server = Server::start("a", true).await;
    let forward = Forward::alone(&server).await;
    forward.direct.ready(&forward.pods, SOON).await.unwrap();
    // It is connected and says nothing any more, as behind a path that is cut.
    let _dead = server.next().await;
    let mut socket = forward.connect().await;
    socket.write_all(b"hello").await.unwrap();
    let mut alive = server.next_open().await;
    assert_eq!(alive.receive(5).await, b"hello");
}

#[tokio::test]
async fn a_reserve_that_was_lost_is_dialled_again() {
    let mut server = Server::start("a", true).await;
    let forward = Forward::alone(&server).await;
    forward.direct.ready(&forward.pods, SOON).await.unwrap();
    drop(server.next().await);
    let mut socket = forward.connect().await;
    socket.write_all(b"hello").await.unwrap();
    assert_eq!(server.next_open().await.receive(5).await, b"hello");
}

#[tokio::test]
async fn only_the_end_of_both_streams_is_a_clean_end() {
    let mut server = Server::start("a", true).await;
    let forward = Forward::alone(&server).await;

    let mut complained = forward.connect().await;
    let mut forwarded = server.next_open().await;
    forwarded.send(b"half of it").await;
    forwarded.end_data().await;
    forwarded.complain("error forwarding port 80: read: connection reset by peer").await;
    let mut bytes = [0; 10];
    timeout(SOON, complained.read_exact(&mut bytes)).await.unwrap().unwrap();
    assert_eq!(&bytes, b"half of it");
    is_reset(&mut complained).await;

    let mut cut = forward.connect().await;
    let mut forwarded = server.next_open().await;
    forwarded.end_data().await;
    drop(forwarded);
    is_reset(&mut cut).await;
    forward.says("the connection to the API server was lost").await;

    let mut fine = forward.connect().await;
    let mut forwarded = server.next_open().await;
    forwarded.send(b"all").await;
    forwarded.finish().await;
    assert_eq!(read_to_end(&mut fine).await, b"all");
}

#[tokio::test]
async fn a_port_where_nothing_listens_is_said_and_resets() {
    let mut server = Server::start("a", true).await;
    let forward = Forward::alone(&server).await;
    let mut socket = forward.connect().await;
    let mut forwarded = server.next_open().await;
    forwarded.end_data().await;
    forwarded
        .complain("failed to connect to localhost:80 inside namespace: connect: connection refused")
        .await;
    is_reset(&mut socket).await;
    forward.says("deploy/web: nothing listens on port 80 in pod web").await;
}

#[tokio::test]
async fn an_end_is_held_while_the_program_waits_and_passed_on_when_it_has_left() {
    let mut server = Server::start("a", true).await;
    let forward = Forward::alone(&server).await;
    let mut waits = forward.connect().await;
    waits.write_all(b"request").await.unwrap();
    waits.shutdown().await.unwrap();
    let mut forwarded = server.next_open().await;
    assert_eq!(forwarded.receive(7).await, b"request");
    tokio::select! {
        _ = forwarded.ended() => panic!("the node would cut the reply"),
        () = tokio::time::sleep(Duration::from_millis(300)) => {}
    }
    forwarded.send(b"reply").await;
    forwarded.finish().await;
    assert_eq!(read_to_end(&mut waits).await, b"reply");

    let mut leaves = forward.connect().await;
    leaves.write_all(b"request").await.unwrap();
    drop(leaves);
    let mut forwarded = server.next_open().await;
    assert_eq!(forwarded.receive(7).await, b"request");
    assert!(forwarded.ended().await, "in order: what was said is not lost");
}

#[tokio::test]
async fn a_program_that_resets_ends_its_connection_to_the_node() {
    let mut server = Server::start("a", true).await;
    let forward = Forward::alone(&server).await;
    let socket = forward.connect().await;
    let mut forwarded = server.next_open().await;
    socket.set_zero_linger().unwrap();
    drop(socket);
    assert!(!forwarded.ended().await);
}

#[tokio::test]
async fn a_pod_that_may_only_be_got_by_its_name_is_reached() {
    let mut server = Server::start("a", false).await;
    let forward = Forward::alone(&server).await;
    let mut socket = forward.connect().await;
    socket.write_all(b"hello").await.unwrap();
    assert_eq!(server.next_open().await.receive(5).await, b"hello");
}

#[tokio::test]
async fn a_missing_right_is_named_with_its_role() {
    let server = Server::start("a", true).await;
    server.forbids.store(true, std::sync::atomic::Ordering::Relaxed);
    let forward = Forward::alone(&server).await;
    let error = forward.direct.ready(&forward.pods, SOON).await.unwrap_err();
    assert!(
        error.to_string().starts_with("not allowed to create pods/portforward in namespace dev"),
        "{error}"
    );
    assert!(error.hint().contains("resources: [pods/portforward], verbs: [create]"), "{}", error.hint());
    is_reset(&mut forward.connect().await).await;
    forward.says("deploy/web: not allowed to create pods/portforward").await;
}

#[tokio::test]
async fn a_connection_that_waits_for_an_agent_goes_on_when_there_will_be_none() {
    let mut server = Server::start("a", true).await;
    let Forward { local, direct, current, guard: _guard, .. } = Forward::start(&server).await;
    let mut socket = TcpStream::connect(local).await.unwrap();
    socket.write_all(b"hello").await.unwrap();
    tokio::task::yield_now().await;
    drop(current);
    direct.begin();
    assert_eq!(server.next_open().await.receive(5).await, b"hello");
}

#[tokio::test]
async fn at_the_end_of_the_run_what_is_open_is_reset() {
    let mut server = Server::start("a", true).await;
    let Forward { local, guard, .. } = Forward::alone(&server).await;
    let mut socket = TcpStream::connect(local).await.unwrap();
    let _forwarded = server.next_open().await;
    drop(guard);
    is_reset(&mut socket).await;
}
