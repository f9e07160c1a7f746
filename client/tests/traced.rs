//! What `kubectl relay trace` tells and writes of connections that pass, between a local program and an agent in the same
//! process.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "support/captured.rs"]
mod captured;
#[path = "support/in_memory.rs"]
mod in_memory;

use std::{
    convert::Infallible, fs, net::SocketAddr, os::unix::fs::PermissionsExt, path::Path as FilePath,
    sync::Arc, time::Duration,
};

use bytes::Bytes;
use captured::Captured;
use etherparse::{SlicedPacket, TransportSlice};
use http::{HeaderMap, Request, Response};
use in_memory::InMemory;
use kube::{Client, client::Body};
use kubectl_relay::{
    agent::supervisor::Current,
    cli::{args::TransportArg, settings::ListenAddress},
    cluster::{
        access::Access,
        ready::{Destination, Route},
    },
    direct::Direct,
    forward::{
        Path, Relay,
        listen::{Bound, bind},
        tcp, udp,
    },
    ledger::{About, Ledger},
    output::Output,
    port::LocalPort,
    trace::{TraceSettings, Tracing},
};
use pcap_parser::{Block, PcapBlockOwned, PcapError, PcapNGReader, traits::PcapReaderIterator as _};
use relay_protocol::header::{Address, Protocol};
use relay_tunnel::{Agent, AgentConfig, ClientConfig, Incoming, Session, State, TunnelStream};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    sync::watch,
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

const SOON: Duration = Duration::from_secs(20);

/// Where the agent has a server of HTTP/1.1, and one of HTTP/2; elsewhere it echoes.
const WEB: u16 = 80;
const GRPC: u16 = 81;
const ECHO: u16 = 7;

async fn session() -> Session {
    let (agent, mut incoming) = Agent::new(&AgentConfig::default()).unwrap();
    tokio::spawn(async move {
        while let Some(incoming) = incoming.recv().await {
            match incoming {
                Incoming::Stream(stream) => {
                    tokio::spawn(async move {
                        stream.accept().await.unwrap();
                        match stream.header().port {
                            WEB => web(stream).await,
                            GRPC => grpc(stream).await,
                            _ => echo(stream).await,
                        }
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
    let (session, mut state) = Session::start(&ClientConfig::default(), InMemory(agent));
    timeout(SOON, state.wait_for(|state| matches!(state, State::Ready))).await.unwrap().unwrap();
    session
}

/// Answers two requests.
async fn web(mut stream: TunnelStream) {
    for answer in ["HTTP/1.1 404 No\r\nContent-Length: 4\r\n\r\nnone", "HTTP/1.1 204 No\r\n\r\n"] {
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            request.push(stream.read_u8().await.unwrap());
        }
        stream.write_all(answer.as_bytes()).await.unwrap();
    }
    stream.shutdown().await.unwrap();
}

async fn grpc(stream: TunnelStream) {
    let mut connection = h2::server::handshake(stream).await.unwrap();
    while let Some(Ok((_, mut respond))) = connection.accept().await {
        let mut send = respond.send_response(Response::new(()), false).unwrap();
        send.send_data(Bytes::from_static(b"body"), false).unwrap();
        let trailers = HeaderMap::from_iter([("grpc-status".parse().unwrap(), "7".parse().unwrap())]);
        send.send_trailers(trailers).unwrap();
    }
}

async fn echo(stream: TunnelStream) {
    let (mut read, mut write) = tokio::io::split(stream);
    tokio::io::copy(&mut read, &mut write).await.unwrap();
    write.shutdown().await.unwrap();
}

struct Traced {
    tracing: Tracing,
    output: Arc<Output>,
    stdout: Captured,
    stderr: Captured,
    tasks: TaskTracker,
    current: watch::Receiver<Current>,
    _session: watch::Sender<Current>,
}

impl Traced {
    async fn start(pcap: Option<&FilePath>) -> Self {
        let (stdout, stderr) = (Captured::default(), Captured::default());
        let output = Arc::new(Output::to(false, 0, Box::new(stdout.clone()), Box::new(stderr.clone())));
        let settings = TraceSettings { show_query: false, pcap: pcap.map(Into::into) };
        let tracing = Tracing::start(settings, &output).unwrap();
        let (sender, current) = watch::channel(Current::Session { session: session().await, ready: true });
        Self { tracing, output, stdout, stderr, tasks: TaskTracker::new(), current, _session: sender }
    }

    /// A forward to a port of an address; gives its local one.
    fn forward(&self, port: u16, protocol: Protocol) -> SocketAddr {
        let nobody = tower::service_fn(|_: Request<Body>| {
            std::future::pending::<Result<Response<Body>, Infallible>>()
        });
        let access = Access::from(Client::new(nobody, "dev"));
        let relay = Relay {
            current: self.current.clone(),
            connect_wait: SOON,
            direct: Direct::new(access, TransportArg::Auto, Arc::clone(&self.output)),
            output: Arc::clone(&self.output),
            tasks: self.tasks.clone(),
            trace: Some(self.tracing.clone()),
        };
        let destination = Destination { address: Address::Ip([10, 0, 0, 1].into()), port };
        let route = Arc::new(Route::Fixed(destination));
        let about = About {
            name: None,
            group: None,
            context: None,
            namespace: "dev".into(),
            target: "ip/10.0.0.1".into(),
            remote_port: port,
            protocol,
        };
        let ledger = Ledger::new();
        let path = Path {
            target: "ip/10.0.0.1".into(),
            route,
            protocol,
            remote: port,
            direct: None,
            account: ledger.add_forward(about, &ledger.add_agent(None, "dev")),
            ended: CancellationToken::new(),
        };
        let loopback = ListenAddress::Ip([127, 0, 0, 1].into());
        let bound = bind(&[loopback], LocalPort::Free, protocol).unwrap().remove(0);
        let local = bound.local_addr().unwrap();
        match bound {
            Bound::Tcp(listener) => tokio::spawn(tcp::serve(listener, path, relay)),
            Bound::Udp(socket) => tokio::spawn(udp::serve(socket, path, relay)),
        };
        local
    }

    /// Waits for every connection's end, and for what is told of it: the lines without their times.
    async fn lines(&self) -> Vec<String> {
        self.tasks.close();
        timeout(SOON, self.tasks.wait()).await.unwrap();
        self.tracing.finish(&self.output).await;
        let without_time = |line: &str| {
            let line = line.split_once(' ').unwrap().1;
            let is_time = |word: &&str| !(word.ends_with('s') && word.starts_with("0."));
            line.split(' ').filter(is_time).collect::<Vec<_>>().join(" ")
        };
        self.stdout.text().lines().map(without_time).collect()
    }
}

/// The payloads of a capture that come from a port, put together.
fn from_port(capture: &FilePath, port: u16) -> Vec<u8> {
    let file = fs::File::open(capture).unwrap();
    let mut reader = PcapNGReader::new(1 << 20, file).unwrap();
    let mut bytes = Vec::new();
    loop {
        match reader.next() {
            Ok((size, block)) => {
                if let PcapBlockOwned::NG(Block::EnhancedPacket(packet)) = block {
                    let sliced = SlicedPacket::from_ethernet(&packet.data[..packet.caplen as usize]).unwrap();
                    match sliced.transport.unwrap() {
                        TransportSlice::Tcp(tcp) if tcp.source_port() == port => bytes.extend(tcp.payload()),
                        TransportSlice::Udp(udp) if udp.source_port() == port => bytes.extend(udp.payload()),
                        _ => {}
                    }
                }
                reader.consume(size);
            }
            Err(PcapError::Eof) => return bytes,
            Err(PcapError::Incomplete(_)) => reader.refill().unwrap(),
            Err(error) => panic!("{error:?}"),
        }
    }
}

#[tokio::test]
async fn requests_are_told_with_their_status_and_nothing_that_is_secret() {
    let traced = Traced::start(None).await;
    let web = traced.forward(WEB, Protocol::Tcp);
    let mut client = TcpStream::connect(web).await.unwrap();
    for request in ["GET /a?token=secret HTTP/1.1\r\nCookie: secret\r\n\r\n", "DELETE /b HTTP/1.1\r\n\r\n"] {
        client.write_all(request.as_bytes()).await.unwrap();
    }
    client.shutdown().await.unwrap();
    let mut all = String::new();
    client.read_to_string(&mut all).await.unwrap();
    assert!(all.ends_with("204 No\r\n\r\n"), "{all}");
    assert_eq!(
        traced.lines().await,
        [
            "ip/10.0.0.1 80 \"GET /a?... HTTP/1.1\" 404 sent=48 received=42",
            "ip/10.0.0.1 80 \"DELETE /b HTTP/1.1\" 204 sent=22 received=19",
        ]
    );
    assert_eq!(traced.stderr.text(), "");
}

#[tokio::test]
async fn grpc_is_told_with_its_own_status() {
    let traced = Traced::start(None).await;
    let socket = TcpStream::connect(traced.forward(GRPC, Protocol::Tcp)).await.unwrap();
    let (sender, connection) = h2::client::handshake(socket).await.unwrap();
    let connection = tokio::spawn(connection);
    let mut sender = sender.ready().await.unwrap();
    let request = Request::post("http://web/shop.Cart/Add").body(()).unwrap();
    let (response, _) = sender.send_request(request, true).unwrap();
    let mut body = response.await.unwrap().into_body();
    while let Some(data) = body.data().await {
        data.unwrap();
    }
    assert!(body.trailers().await.unwrap().is_some());
    drop((body, sender));
    let _ = connection.await;
    let lines = traced.lines().await;
    assert_eq!(lines.len(), 1);
    let begin = "ip/10.0.0.1 81 \"POST /shop.Cart/Add HTTP/2\" 200 grpc=7 ";
    assert!(lines[0].starts_with(begin) && !lines[0].contains("end="), "{lines:?}");
}

#[tokio::test]
async fn a_capture_holds_every_byte_for_its_owner_alone() {
    let folder = tempfile::tempdir().unwrap();
    let capture = folder.path().join("all.pcapng");
    fs::write(&capture, "what was there before").unwrap();
    fs::set_permissions(&capture, fs::Permissions::from_mode(0o644)).unwrap();
    let traced = Traced::start(Some(&capture)).await;

    let mut client = TcpStream::connect(traced.forward(ECHO, Protocol::Tcp)).await.unwrap();
    let port = client.local_addr().unwrap().port();
    let sent: Vec<u8> = (0..2_000_000u32).map(|at| (at / 3) as u8).collect();
    let (mut read, mut write) = client.split();
    let mut back = Vec::new();
    let (_, read) = tokio::join!(
        async {
            write.write_all(&sent).await.unwrap();
            write.shutdown().await.unwrap();
        },
        read.read_to_end(&mut back)
    );
    read.unwrap();
    assert!(back == sent);

    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(traced.forward(53, Protocol::Udp)).await.unwrap();
    socket.send(b"a question").await.unwrap();
    let mut answer = [0; 100];
    let length = timeout(SOON, socket.recv(&mut answer)).await.unwrap().unwrap();
    assert_eq!(&answer[..length], b"a question");

    traced.tracing.finish(&traced.output).await;
    let told = traced.stdout.text();
    assert!(told.contains("datagrams, not HTTP"), "{told}");
    assert!(traced.stderr.text().contains("; none is missing"), "{}", traced.stderr.text());
    assert_eq!(fs::metadata(&capture).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(from_port(&capture, port) == sent && from_port(&capture, ECHO) == sent);
    assert_eq!(from_port(&capture, 53), b"a question");
}

#[tokio::test]
async fn a_reader_that_is_stuck_holds_up_nothing_and_what_is_missing_is_counted() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    // Opened for both, it lets the other side open at once; nobody reads.
    let _stuck = fs::File::options().read(true).write(true).open(&pipe).unwrap();
    let traced = Traced::start(Some(&pipe)).await;

    let mut client = TcpStream::connect(traced.forward(ECHO, Protocol::Tcp)).await.unwrap();
    let (mut read, mut write) = client.split();
    let (piece, mut back) = (vec![7; 1 << 20], vec![0; 1 << 20]);
    let echoed = async {
        // More than the queue holds.
        for _ in 0..20 {
            let (written, read) = tokio::join!(write.write_all(&piece), read.read_exact(&mut back));
            written.unwrap();
            read.unwrap();
        }
    };
    timeout(SOON * 3, echoed).await.unwrap();
    traced.tracing.finish(&traced.output).await;
    let said = traced.stderr.text();
    assert!(said.contains("ends in the middle") && said.contains("bytes are missing"), "{said}");
}
