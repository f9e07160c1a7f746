//! A user who takes all he can get of a shared agent, and one who wants a little.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use relay_protocol::Protocol::{Tcp, Udp};
use relay_protocol::hello::{Secret, SessionId};
use relay_protocol::session::{Config, Session as Core};
use relay_server::settings::{Limits, Settings};
use relay_tunnel::{ClientConfig, Session};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::hostile::ByHand;
use crate::observe::scrape;
use crate::process::Process;
use crate::session::{Loopback, client, to};
use crate::support::*;

async fn shared() -> Running {
    Running::with(Settings { shared: true, ..local() }, Limits::default(), names(0, &[])).await
}

/// Which part of a pool is taken.
async fn taken(agent: &Running, pool: &str) -> f64 {
    let samples = scrape(agent).await;
    samples[&format!("relay_agent_memory_bytes{{pool=\"{pool}\"}}")]
        / samples[&format!("relay_agent_memory_limit_bytes{{pool=\"{pool}\"}}")]
}

/// Which part is taken when it has become no more for a while.
async fn settled(agent: &Running, pool: &str) -> f64 {
    let mut before = taken(agent, pool).await;
    loop {
        // Nothing tells that nothing moves any more.
        let _ = timeout(Duration::from_millis(500), std::future::pending::<()>()).await;
        let now = taken(agent, pool).await;
        if now <= before {
            return now;
        }
        before = now;
    }
}

/// What everybody may expect: a session, much both ways, and the end.
async fn is_served(agent: &Running) {
    let session = client(agent);
    let stream = session.open(to(Tcp, "127.0.0.1", echo().await.port())).await.unwrap();
    stream.opened().await.unwrap();
    let (mut read, mut write) = tokio::io::split(stream);
    let bytes = pattern(4 << 20);
    let mut got = Vec::new();
    let send = async {
        write.write_all(&bytes).await.unwrap();
        write.shutdown().await.unwrap();
    };
    let both = async { tokio::join!(send, read.read_to_end(&mut got)).1.unwrap() };
    // A window that holds no segment of the target's would make it 50 seconds.
    timeout(Duration::from_secs(30), both).await.unwrap();
    assert!(got == bytes);
}

/// Accepts and neither reads nor ends.
fn swallow(listener: TcpListener) {
    tokio::spawn(async move {
        let mut kept = Vec::new();
        while let Ok((socket, _)) = listener.accept().await {
            kept.push(socket);
        }
    });
}

#[tokio::test]
async fn uploads_that_nobody_takes_fill_half_of_the_memory_at_most() {
    let agent = shared().await;
    let (listener, address) = target().await;
    swallow(listener);
    let greedy = client(&agent);
    let mut uploads = Vec::new();
    for _ in 0..800 {
        let greedy = greedy.clone();
        uploads.push(tokio::spawn(async move {
            // Some wait for ever: the agent has no memory for more of this session's.
            let mut stream = greedy.open(to(Tcp, "127.0.0.1", address.port())).await.unwrap();
            while stream.write_all(&[7; 65_536]).await.is_ok() {}
        }));
    }
    let greedy_part = settled(&agent, "receive").await;
    println!("{greedy_part:.3} of the pool");
    assert!((0.2..0.51).contains(&greedy_part), "{greedy_part}");
    is_served(&agent).await;
    uploads.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test]
async fn downloads_that_nobody_takes_leave_others_alone() {
    let agent = shared().await;
    let (listener, address) = target().await;
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move { while socket.write_all(&[7; 65_536]).await.is_ok() {} });
        }
    });
    // Much credit, and a connection from which nothing is read.
    let config = Config { initial_credit: 1 << 20, ..Config::client() };
    let session = Core::client(config, SessionId([1; 16]), Secret([2; 32]), Instant::now());
    let (mut greedy, _) = ByHand::create(&agent, session).await;
    let mut header = Vec::new();
    to(Tcp, "127.0.0.1", address.port()).encode(&mut header);
    let header = Bytes::from(header);
    for _ in 0..64 {
        let key = greedy.session.open().unwrap();
        assert_eq!(greedy.session.write(key, &header), Ok(header.len()));
        greedy.send().await;
    }
    let greedy_part = settled(&agent, "send").await;
    println!("{greedy_part:.3} of the pool");
    assert!((0.2..0.51).contains(&greedy_part), "the agent was not tried, or gave too much: {greedy_part}");
    is_served(&agent).await;
}

#[tokio::test]
async fn connections_flows_and_dials_without_end_leave_others_alone() {
    let connect = Duration::from_secs(3600);
    let limits = Limits { dial: relay_dial::Limits { connect, ..Default::default() }, ..Limits::default() };
    let agent = Running::with(Settings { shared: true, ..local() }, limits, names(0, &[])).await;
    let (hole, _hole) = black_hole().await;
    let greedy = client(&agent);
    let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let (mut kept, mut dialling) = (Vec::new(), Vec::new());
    for _ in 0..800 {
        let greedy_too = greedy.clone();
        dialling.push(tokio::spawn(async move {
            // As above; whoever gets through keeps its place until the test ends.
            let stream = greedy_too.open(to(Tcp, "127.0.0.1", hole.port())).await.unwrap();
            let _ = stream.opened().await;
        }));
        let flow = greedy.open_flow(to(Udp, "127.0.0.1", udp.local_addr().unwrap().port())).await.unwrap();
        flow.send(Bytes::from_static(b"x")).unwrap();
        kept.push(flow);
    }
    // All places but one for connections that say nothing.
    let mut silent = Vec::new();
    for _ in 1..Limits::default().greeting_connections {
        silent.push(agent.connect().await);
    }
    is_served(&agent).await;
    // They are opened beside all that, as quickly as the agent takes them.
    let tried = async {
        while scrape(&agent).await["relay_agent_streams"] < 200.0 {
            tokio::task::yield_now().await;
        }
    };
    timeout(Duration::from_secs(30), tried).await.expect("the agent is tried");
    dialling.iter().for_each(tokio::task::JoinHandle::abort);
}

fn at(agent: &Process) -> Loopback {
    Loopback(SocketAddr::from(([127, 0, 0, 1], agent.port)))
}

/// What an echo took in the middle of many, and at most in 9 of 10.
#[derive(Clone, Copy, Debug)]
struct Latency {
    p50: Duration,
    p90: Duration,
}

/// Echoes, one after the other, each after a pause in which everybody else has time to be in its way.
async fn echoes(agent: &Process, port: u16) -> Latency {
    const EXCHANGES: usize = 300;
    let session = Session::start(&ClientConfig::default(), at(agent)).0;
    let mut stream = session.open(to(Tcp, "127.0.0.1", port)).await.unwrap();
    stream.opened().await.unwrap();
    let mut took = Vec::new();
    for _ in 0..EXCHANGES {
        let since = Instant::now();
        stream.write_all(&[3; 64]).await.unwrap();
        stream.read_exact(&mut [0; 64]).await.unwrap();
        took.push(since.elapsed());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    took.sort_unstable();
    Latency { p50: took[EXCHANGES / 2], p90: took[EXCHANGES * 9 / 10] }
}

/// Runs `work` beside somebody who has a hundred streams, each of them always busy, on an own thread.
async fn beside_flood<T>(agent: &Process, work: impl Future<Output = T>) -> T {
    let agent = at(agent);
    let (stop, stopped) = oneshot::channel::<()>();
    let (busy, begun) = oneshot::channel();
    let flood = async move {
        let target = echo().await;
        let session = Session::start(&ClientConfig::default(), agent).0;
        let mut streams = JoinSet::new();
        for _ in 0..100 {
            let session = session.clone();
            let mut stream = session.open(to(Tcp, "127.0.0.1", target.port())).await.unwrap();
            stream.opened().await.unwrap();
            streams.spawn(async move {
                while stream.write_all(&[7; 64]).await.is_ok()
                    && stream.read_exact(&mut [0; 64]).await.is_ok()
                {}
            });
        }
        busy.send(()).unwrap();
        let _ = stopped.await;
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let thread = std::thread::spawn(move || runtime.block_on(flood));
    begun.await.unwrap();
    let result = work.await;
    drop(stop);
    thread.join().unwrap();
    result
}

/// What a flood costs the machine it costs through whatever agent: so it is compared with one that goes elsewhere.
#[tokio::test]
async fn an_echo_beside_a_flood_takes_what_it_takes_when_the_flood_goes_through_another_agent() {
    /// As quick as this is quick enough; a thread that is shared with the flood costs several milliseconds.
    const QUICK: Duration = Duration::from_micros(500);
    let (agent, elsewhere) = (Process::with("--shared").await, Process::with("--shared").await);
    let port = echo().await.port();
    let within = |one: Duration, other: Duration| one <= QUICK.max(other * 2);
    for _ in 0..6 {
        let control = beside_flood(&elsewhere, echoes(&agent, port)).await;
        let got = beside_flood(&agent, echoes(&agent, port)).await;
        println!("with the flood elsewhere {control:?}, on the same agent {got:?}");
        if within(got.p50, control.p50) && within(got.p90, control.p90) {
            return;
        }
    }
    panic!("an echo took more than twice as long, six times");
}
