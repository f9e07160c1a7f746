//! Local sockets to a session and back, with an agent in the same process.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "support/captured.rs"]
mod captured;
#[path = "support/in_memory.rs"]
mod in_memory;

use std::{
    convert::Infallible,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, atomic::AtomicUsize},
    time::Duration,
};

use captured::Captured;
use http::{Request, Response};
use in_memory::InMemory;
use kube::{Api, Client, client::Body, runtime::watcher};
use kubectl_relay::{
    agent::supervisor::Current,
    cli::{args::TransportArg, settings::ListenAddress},
    cluster::{
        access::Access,
        api::Call,
        follow::Follow,
        ready::{Destination, EndpointPort, Route},
    },
    direct::Direct,
    forward::{
        Path, Relay,
        listen::{Bound, bind},
        tcp, udp,
    },
    ledger::{About, ForwardAccount, ForwardSnapshot, Ledger},
    output::Output,
    port::LocalPort,
};
use relay_protocol::{
    Status,
    header::{Address, Protocol},
    pool::Pool,
};
use relay_tunnel::{Agent, AgentConfig, ClientConfig, Incoming, Session, State};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    sync::watch,
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

const SOON: Duration = Duration::from_secs(20);

/// What the agent is refused at, whatever the port.
const REFUSES: Address = Address::Ip(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 66)));

/// Answers with this and resets at once, whatever it was told.
const TURNS_AWAY: u16 = 2;
const SORRY: &[u8] = b"too many clients";

/// A session whose agent echoes, and refuses port 1 and one address.
async fn session() -> Session {
    session_with(&ClientConfig::default(), &AgentConfig::default()).await
}

async fn session_with(config: &ClientConfig, agent: &AgentConfig) -> Session {
    let (agent, mut incoming) = Agent::new(agent).unwrap();
    tokio::spawn(async move {
        while let Some(incoming) = incoming.recv().await {
            match incoming {
                Incoming::Stream(stream)
                    if stream.header().port == 1 || stream.header().address == REFUSES =>
                {
                    stream.reset(Status::Refused);
                }
                Incoming::Stream(mut stream) if stream.header().port == TURNS_AWAY => {
                    stream.accept().await.unwrap();
                    stream.write_all(SORRY).await.unwrap();
                    stream.reset(Status::ResetByPeer);
                }
                Incoming::Stream(stream) => {
                    tokio::spawn(async move {
                        stream.accept().await.unwrap();
                        let (mut read, mut write) = tokio::io::split(stream);
                        tokio::io::copy(&mut read, &mut write).await.unwrap();
                        write.shutdown().await.unwrap();
                    });
                }
                Incoming::Flow(mut flow) => {
                    tokio::spawn(async move {
                        while let Ok(datagram) = flow.recv().await {
                            flow.send(datagram).unwrap();
                        }
                    });
                }
            }
        }
    });
    let (session, mut state) = Session::start(config, InMemory(agent));
    timeout(SOON, state.wait_for(|state| matches!(state, State::Ready))).await.unwrap().unwrap();
    session
}

struct Forwarding {
    local: SocketAddr,
    current: watch::Sender<Current>,
    stderr: Captured,
    account: Arc<ForwardAccount>,
}

impl Forwarding {
    /// Waits for the line about a connection, and gives it from the peer on.
    async fn logged(&self) -> String {
        timeout(SOON, async {
            loop {
                let text = self.stderr.text();
                if let Some(line) = text.lines().find(|line| line.starts_with("connection start=")) {
                    return line[line.find("peer=").unwrap()..].to_owned();
                }
                tokio::task::yield_now().await;
            }
        })
        .await
        .unwrap()
    }
}

fn forwarding(protocol: Protocol, port: u16, connect_wait: Duration) -> Forwarding {
    let destination = Destination { address: Address::Ip([10, 0, 0, 1].into()), port };
    forwarding_by(Route::Fixed(destination), protocol, connect_wait)
}

fn forwarding_by(route: Route, protocol: Protocol, connect_wait: Duration) -> Forwarding {
    let (current, receiver) = watch::channel(Current::Starting);
    let stderr = Captured::default();
    let output = Output::to(false, 0, Box::new(std::io::sink()), Box::new(stderr.clone())).log_connections();
    let output = Arc::new(output);
    let nobody =
        tower::service_fn(|_: Request<Body>| std::future::pending::<Result<Response<Body>, Infallible>>());
    let access = Access::from(Client::new(nobody, "dev"));
    let direct = Direct::new(access, TransportArg::Auto, Arc::clone(&output));
    let relay =
        Relay { current: receiver, connect_wait, direct, output, tasks: TaskTracker::new(), trace: None };
    let route = Arc::new(route);
    let about = About {
        name: None,
        group: None,
        context: None,
        namespace: "dev".into(),
        target: "ip/10.0.0.1".into(),
        remote_port: 80,
        protocol,
    };
    let ledger = Ledger::new();
    let account = ledger.add_forward(about, &ledger.add_agent(None, "dev"));
    let (target, counted) = ("ip/10.0.0.1".into(), Arc::clone(&account));
    let path = Path {
        target,
        route,
        protocol,
        remote: 80,
        direct: None,
        account: counted,
        ended: CancellationToken::new(),
    };
    let loopback = ListenAddress::Ip([127, 0, 0, 1].into());
    let bound = bind(&[loopback], LocalPort::Free, protocol).unwrap().remove(0);
    let local = bound.local_addr().unwrap();
    match bound {
        Bound::Tcp(listener) => tokio::spawn(tcp::serve(listener, path, relay)),
        Bound::Udp(socket) => tokio::spawn(udp::serve(socket, path, relay)),
    };
    Forwarding { local, current, stderr, account }
}

#[tokio::test]
async fn bytes_go_there_and_back_and_a_half_close_keeps_the_reply_flowing() {
    let forwarding = forwarding(Protocol::Tcp, 80, SOON);
    forwarding.current.send_replace(Current::Session { session: session().await, ready: true });
    let mut socket = TcpStream::connect(forwarding.local).await.unwrap();
    socket.write_all(b"hello").await.unwrap();
    socket.shutdown().await.unwrap();
    let mut reply = Vec::new();
    timeout(SOON, socket.read_to_end(&mut reply)).await.unwrap().unwrap();
    assert_eq!(reply, b"hello");
}

#[tokio::test]
async fn each_connection_is_told_of_at_its_end() {
    let session = session().await;
    let fine = forwarding(Protocol::Tcp, 80, SOON);
    fine.current.send_replace(Current::Session { session: session.clone(), ready: true });
    let mut socket = TcpStream::connect(fine.local).await.unwrap();
    let peer = socket.local_addr().unwrap();
    socket.write_all(b"hello").await.unwrap();
    socket.shutdown().await.unwrap();
    socket.read_to_end(&mut Vec::new()).await.unwrap();
    let expected = format!("peer={peer} target=ip/10.0.0.1 port=80/tcp sent=5 received=5 status=\"ok\"");
    assert_eq!(fine.logged().await, expected);

    let refused = forwarding(Protocol::Tcp, 1, SOON);
    refused.current.send_replace(Current::Session { session: session.clone(), ready: true });
    let socket = TcpStream::connect(refused.local).await.unwrap();
    let peer = socket.local_addr().unwrap();
    let expected = format!(
        "peer={peer} target=ip/10.0.0.1 port=80/tcp sent=0 received=0 status=\"{}\" by=remote",
        Status::Refused
    );
    assert_eq!(refused.logged().await, expected);
}

#[tokio::test]
async fn a_flow_is_told_of_when_it_ends() {
    let forwarding = forwarding(Protocol::Udp, 53, SOON);
    let session = session().await;
    forwarding.current.send_replace(Current::Session { session: session.clone(), ready: true });
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.send_to(b"question", forwarding.local).await.unwrap();
    timeout(SOON, socket.recv(&mut [0; 16])).await.unwrap().unwrap();
    session.abandon("its pod was deleted");
    let expected = format!(
        "peer={} target=ip/10.0.0.1 port=80/udp sent=8 received=8 status=\"{}\" by=remote",
        socket.local_addr().unwrap(),
        Status::AgentLost
    );
    assert_eq!(forwarding.logged().await, expected);
}

#[tokio::test]
async fn the_ledger_counts_what_is_carried_while_it_is_carried() {
    let session = session().await;
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        let forwarding = forwarding(protocol, 80, SOON);
        forwarding.current.send_replace(Current::Session { session: session.clone(), ready: true });
        let counted = || {
            let ForwardSnapshot { connections, bytes, .. } = forwarding.account.snapshot();
            (connections.open, connections.total, connections.failed, bytes.sent, bytes.received)
        };
        assert_eq!(counted(), (0, 0, 0, 0, 0));
        let mut answer = [0; 5];
        if protocol == Protocol::Tcp {
            let mut socket = TcpStream::connect(forwarding.local).await.unwrap();
            socket.write_all(b"hello").await.unwrap();
            timeout(SOON, socket.read_exact(&mut answer)).await.unwrap().unwrap();
            assert_eq!(counted(), (1, 1, 0, 5, 5));
            drop(socket);
        } else {
            let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            socket.send_to(b"hello", forwarding.local).await.unwrap();
            timeout(SOON, socket.recv(&mut answer)).await.unwrap().unwrap();
            assert_eq!(counted(), (1, 1, 0, 5, 5));
            session.abandon("its pod was deleted");
        }
        forwarding.logged().await;
        assert_eq!(counted(), (0, 1, u64::from(protocol == Protocol::Udp), 5, 5), "{protocol}");
    }
}

#[tokio::test]
async fn a_connection_made_too_early_waits_for_the_session() {
    let forwarding = forwarding(Protocol::Tcp, 80, SOON);
    let mut socket = TcpStream::connect(forwarding.local).await.unwrap();
    socket.write_all(b"early").await.unwrap();
    forwarding.current.send_replace(Current::Session { session: session().await, ready: true });
    let mut reply = [0; 5];
    timeout(SOON, socket.read_exact(&mut reply)).await.unwrap().unwrap();
    assert_eq!(&reply, b"early");
}

#[tokio::test]
async fn without_a_wait_a_connection_made_too_early_is_reset_at_once() {
    let forwarding = forwarding(Protocol::Tcp, 80, Duration::ZERO);
    let mut socket = TcpStream::connect(forwarding.local).await.unwrap();
    let error = timeout(SOON, socket.read(&mut [0; 1])).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_target_that_refuses_resets_the_local_connection_and_the_next_is_unharmed() {
    let session = session().await;
    let refused = forwarding(Protocol::Tcp, 1, SOON);
    refused.current.send_replace(Current::Session { session: session.clone(), ready: true });
    let mut socket = TcpStream::connect(refused.local).await.unwrap();
    let error = timeout(SOON, socket.read(&mut [0; 1])).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);

    let fine = forwarding(Protocol::Tcp, 80, SOON);
    fine.current.send_replace(Current::Session { session, ready: true });
    let mut socket = TcpStream::connect(fine.local).await.unwrap();
    socket.write_all(b"x").await.unwrap();
    assert_eq!(timeout(SOON, socket.read_u8()).await.unwrap().unwrap(), b'x');
}

#[tokio::test]
async fn two_hundred_udp_peers_each_get_their_own_answers() {
    let forwarding = forwarding(Protocol::Udp, 53, SOON);
    forwarding.current.send_replace(Current::Session { session: session().await, ready: true });
    let mut peers = Vec::new();
    for number in 0..200u32 {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.send_to(&number.to_be_bytes(), forwarding.local).await.unwrap();
        peers.push((number, socket));
    }
    for (number, socket) in peers {
        let mut answer = [0; 16];
        let (length, from) = timeout(SOON, socket.recv_from(&mut answer)).await.unwrap().unwrap();
        assert_eq!((&answer[..length], from), (&number.to_be_bytes()[..], forwarding.local));
    }
}

#[tokio::test]
async fn udp_goes_on_with_the_next_agent_from_the_same_local_socket() {
    let forwarding = forwarding(Protocol::Udp, 53, SOON);
    let first = session().await;
    forwarding.current.send_replace(Current::Session { session: first.clone(), ready: true });
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(forwarding.local).await.unwrap();
    let mut answer = [0; 16];
    socket.send(b"one").await.unwrap();
    assert_eq!(timeout(SOON, socket.recv(&mut answer)).await.unwrap().unwrap(), 3);

    forwarding.current.send_replace(Current::Starting);
    first.abandon("its pod was deleted");
    socket.send(b"second").await.unwrap();
    forwarding.current.send_replace(Current::Session { session: session().await, ready: true });
    let length = timeout(SOON, socket.recv(&mut answer)).await.unwrap().unwrap();
    assert_eq!(&answer[..length], b"second");
}

#[tokio::test]
async fn while_the_path_is_down_a_new_connection_is_reset_after_its_wait() {
    let forwarding = forwarding(Protocol::Tcp, 80, Duration::from_millis(200));
    let session = session().await;
    forwarding.current.send_replace(Current::Session { session: session.clone(), ready: false });
    let started = std::time::Instant::now();
    let mut waited = TcpStream::connect(forwarding.local).await.unwrap();
    waited.write_all(b"into nothing?").await.unwrap();
    let error = timeout(SOON, waited.read(&mut [0; 1])).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    assert!(started.elapsed() >= Duration::from_millis(200), "{:?}", started.elapsed());
    assert!(started.elapsed() < SOON);

    forwarding.current.send_replace(Current::Session { session, ready: true });
    let mut next = TcpStream::connect(forwarding.local).await.unwrap();
    next.write_all(b"x").await.unwrap();
    assert_eq!(timeout(SOON, next.read_u8()).await.unwrap().unwrap(), b'x');
}

#[tokio::test]
async fn one_connection_more_than_the_agent_allows_waits_and_is_told_what_is_missing() {
    let forwarding = forwarding(Protocol::Tcp, 80, Duration::ZERO);
    let two = AgentConfig { max_streams: 2, ..AgentConfig::default() };
    let session = session_with(&ClientConfig::default(), &two).await;
    forwarding.current.send_replace(Current::Session { session, ready: true });
    let connect = async || {
        let mut socket = TcpStream::connect(forwarding.local).await.unwrap();
        socket.write_all(b"x").await.unwrap();
        socket
    };
    let mut carried = [connect().await, connect().await];
    for socket in &mut carried {
        assert_eq!(timeout(SOON, socket.read_u8()).await.unwrap().unwrap(), b'x');
    }
    let mut further = connect().await;
    let error = timeout(SOON, further.read_u8()).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    let logged = forwarding.logged().await;
    assert!(logged.contains("status=\"too many streams\""), "{logged}");
    let told = forwarding.stderr.text();
    assert!(told.contains("ip/10.0.0.1: the agent takes no more connections at the same time"), "{told}");
    assert!(told.contains("--server.limits memory=256Mi"), "{told}");

    let mut waits = connect().await;
    drop(carried);
    assert_eq!(timeout(SOON, waits.read_u8()).await.unwrap().unwrap(), b'x');
}

#[tokio::test]
async fn connections_that_wait_are_reset_when_the_run_ends() {
    let Forwarding { local, current, .. } = forwarding(Protocol::Tcp, 80, SOON);
    let mut socket = TcpStream::connect(local).await.unwrap();
    drop(current);
    let error = timeout(SOON, socket.read(&mut [0; 1])).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

/// A route to this port of ready pods of these addresses.
async fn pods(addresses: &[&str], port: u16) -> Route {
    let pod = |(index, address): (usize, &&str)| {
        serde_json::json!({
            "metadata": {"name": format!("pod-{index}"), "resourceVersion": "1"},
            "status": {"phase": "Running", "podIP": address, "conditions": [{"type": "Ready", "status": "True"}]},
        })
    };
    let items: Vec<_> = addresses.iter().enumerate().map(pod).collect();
    let list = serde_json::json!({"metadata": {"resourceVersion": "1"}, "items": items}).to_string();
    let service = tower::service_fn(move |request: Request<Body>| {
        let list = list.clone();
        async move {
            if request.uri().query().is_some_and(|query| query.contains("watch=true")) {
                std::future::pending::<()>().await;
            }
            Ok::<_, Infallible>(Response::new(Body::from(list.into_bytes())))
        }
    });
    let access = Access::from(Client::new(service, "dev"));
    let call = Call::new("list", "", "pods", "dev");
    let api = Api::namespaced(access.client(), "dev");
    let follow = Follow::start(&access, api, watcher::Config::default(), call);
    follow.synced().await.unwrap();
    Route::Pods(Arc::new(follow), EndpointPort::Number(port), AtomicUsize::default())
}

#[tokio::test]
async fn what_one_of_several_endpoints_refuses_goes_to_another_with_every_byte() {
    let route = pods(&["10.0.0.2", "10.0.0.66"], 80).await;
    let forwarding = forwarding_by(route, Protocol::Tcp, SOON);
    forwarding.current.send_replace(Current::Session { session: session().await, ready: true });
    // More than is sent before the answer.
    let said: Vec<u8> = (0..100_000u32).map(|index| (index % 251) as u8).collect();
    for round in 0..6 {
        let socket = TcpStream::connect(forwarding.local).await.unwrap();
        let (mut read, mut write) = socket.into_split();
        let (sent, mut back) = (said.clone(), Vec::new());
        let sending = tokio::spawn(async move {
            write.write_all(&sent).await.unwrap();
            write.shutdown().await.unwrap();
        });
        timeout(SOON, read.read_to_end(&mut back)).await.unwrap().unwrap();
        assert!(back == said, "round {round}: {} bytes came back", back.len());
        sending.await.unwrap();
    }
}

#[tokio::test]
async fn a_client_that_says_nothing_and_ends_reaches_another_endpoint_too() {
    let route = pods(&["10.0.0.2", "10.0.0.66"], 80).await;
    let forwarding = forwarding_by(route, Protocol::Tcp, SOON);
    forwarding.current.send_replace(Current::Session { session: session().await, ready: true });
    for _ in 0..4 {
        let mut socket = TcpStream::connect(forwarding.local).await.unwrap();
        socket.shutdown().await.unwrap();
        assert_eq!(timeout(SOON, socket.read(&mut [0; 1])).await.unwrap().unwrap(), 0, "a clean end");
    }
}

#[tokio::test]
async fn a_connection_that_every_endpoint_refuses_is_reset() {
    let route = pods(&["10.0.0.66", "10.0.0.66"], 80).await;
    let forwarding = forwarding_by(route, Protocol::Tcp, SOON);
    forwarding.current.send_replace(Current::Session { session: session().await, ready: true });
    let mut socket = TcpStream::connect(forwarding.local).await.unwrap();
    let error = timeout(SOON, socket.read(&mut [0; 1])).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_reset_that_overtakes_the_answer_of_one_of_several_endpoints_is_passed_on() {
    let route = pods(&["10.0.0.2", "10.0.0.3"], TURNS_AWAY).await;
    let forwarding = forwarding_by(route, Protocol::Tcp, SOON);
    let mut socket = TcpStream::connect(forwarding.local).await.unwrap();
    socket.write_all(&[7; 1_000]).await.unwrap();
    // What the program has said takes many round trips, and the reset falls into them.
    let config = ClientConfig { send_pool: Pool::new(64), ..ClientConfig::default() };
    forwarding.current.send_replace(Current::Session {
        session: session_with(&config, &AgentConfig::default()).await,
        ready: true,
    });
    let mut said = Vec::new();
    let error = timeout(SOON, socket.read_to_end(&mut said)).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    assert_eq!(said, SORRY, "what it was told before");
}
