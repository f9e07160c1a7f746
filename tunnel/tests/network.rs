//! What a client's session does about a network that changes and an API server that refuses.
//!
//! The clock stands still while anything runs, so that times can be asserted and take none.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::BytesMut;
use relay_protocol::{Header, Protocol};
use relay_tunnel::{Agent, AgentConfig, ClientConfig, DialError, Dialer, Incoming, Session, State};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, ReadHalf, WriteHalf};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep};

const SECOND: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Path {
    Works,
    /// What is connected stays so, and brings nothing any more; dials find nobody.
    Silent,
    /// Nothing is connected, and dials find nobody.
    Broken,
    /// Nothing is connected, and the API server refuses.
    Refused,
}

struct Wire {
    agent: Agent,
    path: watch::Receiver<Path>,
    dials: Arc<AtomicUsize>,
}

impl Dialer for Wire {
    type Io = DuplexStream;

    async fn dial(&self) -> Result<DuplexStream, DialError> {
        self.dials.fetch_add(1, Ordering::SeqCst);
        let path = *self.path.borrow();
        if path != Path::Works {
            let fatal = path == Path::Refused;
            return Err(DialError { message: format!("{path:?}"), fatal, gone: false });
        }
        let (client, mut near) = tokio::io::duplex(64 * 1024);
        let (mut far, agent) = tokio::io::duplex(64 * 1024);
        let (mut path, serving) = (self.path.clone(), self.agent.clone());
        tokio::spawn(async move { serving.serve_lane(agent, BytesMut::new()).await });
        tokio::spawn(async move {
            tokio::select! {
                _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                _ = path.wait_for(|path| *path != Path::Works) => {}
            }
            // Held open for as long as the path is only silent.
            let _ = path.wait_for(|path| !matches!(path, Path::Works | Path::Silent)).await;
        });
        Ok(client)
    }
}

struct Rig {
    session: Session,
    state: watch::Receiver<State>,
    path: watch::Sender<Path>,
    dials: Arc<AtomicUsize>,
}

impl Rig {
    async fn start() -> Self {
        let (agent, incoming) = Agent::new(&AgentConfig::default()).unwrap();
        // Nothing is opened; the agent only has to be there.
        std::mem::forget(incoming);
        let (path, watched) = watch::channel(Path::Works);
        let dials = Arc::<AtomicUsize>::default();
        let wire = Wire { agent, path: watched, dials: dials.clone() };
        let (session, mut state) = Session::start(&ClientConfig::default(), wire);
        state.wait_for(|state| *state == State::Ready).await.unwrap();
        Self { session, state, path, dials }
    }

    async fn until(&mut self, is: impl Fn(&State) -> bool) -> Duration {
        let start = Instant::now();
        self.state.wait_for(is).await.unwrap();
        start.elapsed()
    }
}

#[tokio::test(start_paused = true)]
async fn a_probe_finds_a_silent_path_before_a_ping_would() {
    let mut rig = Rig::start().await;
    rig.path.send_replace(Path::Silent);
    rig.session.probe();
    let took = rig.until(|state| matches!(state, State::Reconnecting { .. })).await;
    assert!(took < 4 * SECOND, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn probes_without_end_do_not_hide_a_silent_path() {
    let mut rig = Rig::start().await;
    rig.path.send_replace(Path::Silent);
    let session = rig.session.clone();
    let restless = tokio::spawn(async move {
        loop {
            session.probe();
            sleep(SECOND / 2).await;
        }
    });
    let took = rig.until(|state| matches!(state, State::Reconnecting { .. })).await;
    assert!(took < 4 * SECOND, "{took:?}");
    restless.abort();
}

#[tokio::test(start_paused = true)]
async fn a_probe_dials_at_once_where_the_next_attempt_is_seconds_away() {
    let mut rig = Rig::start().await;
    rig.path.send_replace(Path::Broken);
    rig.until(|state| matches!(state, State::Reconnecting { .. })).await;
    // By now attempts are one to two seconds apart; the latest has just failed.
    sleep(55 * SECOND).await;
    let before = rig.dials.load(Ordering::SeqCst);
    while rig.dials.load(Ordering::SeqCst) == before {
        sleep(SECOND / 1000).await;
    }
    rig.path.send_replace(Path::Works);
    rig.session.probe();
    let took = rig.until(|state| *state == State::Ready).await;
    assert!(took < SECOND / 2, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn refusals_alone_are_final_after_fifteen_seconds_and_told_as_such() {
    let mut rig = Rig::start().await;
    rig.path.send_replace(Path::Refused);
    let took = rig.until(|state| matches!(state, State::Lost { .. })).await;
    assert!((15 * SECOND..20 * SECOND).contains(&took), "{took:?}");
    let state = rig.state.borrow().clone();
    assert!(matches!(state, State::Lost { refused: true, gone: false, .. }), "{state:?}");
}

#[tokio::test(start_paused = true)]
async fn refusals_with_other_failures_between_them_are_not_final() {
    let mut rig = Rig::start().await;
    for _ in 0..4 {
        rig.path.send_replace(Path::Refused);
        sleep(10 * SECOND).await;
        rig.path.send_replace(Path::Broken);
        sleep(3 * SECOND).await;
    }
    rig.path.send_replace(Path::Works);
    let took = rig.until(|state| *state == State::Ready).await;
    assert!(took <= 10 * SECOND, "{took:?}");
}

/// Far away: a dial takes a second, and a lane's bytes ten milliseconds each way.
struct Far {
    agent: Agent,
    dials: mpsc::UnboundedSender<Instant>,
}

impl Dialer for Far {
    type Io = DuplexStream;

    async fn dial(&self) -> Result<DuplexStream, DialError> {
        self.dials.send(Instant::now()).unwrap();
        sleep(SECOND).await;
        let (client, near) = tokio::io::duplex(64 * 1024);
        let (far, agent) = tokio::io::duplex(64 * 1024);
        let serving = self.agent.clone();
        tokio::spawn(async move { serving.serve_lane(agent, BytesMut::new()).await });
        let ((near_read, near_write), (far_read, far_write)) =
            (tokio::io::split(near), tokio::io::split(far));
        tokio::spawn(late(near_read, far_write));
        tokio::spawn(late(far_read, near_write));
        Ok(client)
    }
}

async fn late(mut from: ReadHalf<DuplexStream>, mut to: WriteHalf<DuplexStream>) {
    let mut bytes = vec![0; 64 * 1024];
    while let Ok(len @ 1..) = from.read(&mut bytes).await {
        sleep(SECOND / 100).await;
        if to.write_all(&bytes[..len]).await.is_err() {
            return;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn all_lanes_of_a_far_path_are_dialled_at_the_same_time() {
    let (agent, mut incoming) = Agent::new(&AgentConfig::default()).unwrap();
    let (dials, mut times) = mpsc::unbounded_channel();
    let (session, mut state) = Session::start(&ClientConfig::default(), Far { agent, dials });
    state.wait_for(|state| *state == State::Ready).await.unwrap();
    let first = times.recv().await.unwrap();
    tokio::spawn(async move {
        while let Some(Incoming::Stream(mut stream)) = incoming.recv().await {
            stream.accept().await.unwrap();
            tokio::io::copy(&mut stream, &mut tokio::io::sink()).await.unwrap();
        }
    });
    let address = "web.default".parse().unwrap();
    let header = Header { request_id: uuid::Uuid::nil(), protocol: Protocol::Tcp, port: 80, address };
    let mut stream = session.open(header).await.unwrap();
    let writing = tokio::spawn(async move { stream.write_all(&vec![7; 4 << 20]).await });
    let mut extra = Vec::new();
    for _ in 0..ClientConfig::default().lanes {
        extra.push(times.recv().await.unwrap());
    }
    // The second lane is asked for first; by the time that it is there, so are the others.
    assert!(extra[0] >= first + SECOND);
    let (earliest, latest) = (extra[0], extra[extra.len() - 1]);
    assert!(latest < earliest + SECOND, "{:?} apart", latest - earliest);
    writing.await.unwrap().unwrap();
    assert!(times.try_recv().is_err(), "and no more than those");
}
