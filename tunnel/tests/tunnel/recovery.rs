//! How the driver comes back: when it dials, what a lane leaves that died too early, what full pools hold up.
//!
//! The clock stands still while anything runs, so that times can be asserted and take none.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BytesMut;
use relay_protocol::Header;
use relay_protocol::hello::{Hello, Request, Secret, SessionId};
use relay_protocol::pool::Pool;
use relay_tunnel::{
    Agent, AgentConfig, ClientConfig, DialError, Dialer, LaneError, Session, State, TunnelStream,
};
use tokio::io::{AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, Empty, Sink};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use crate::support::{Kind, Rig, content, port};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

async fn echoed(stream: &mut TunnelStream, sent: &[u8]) {
    stream.write_all(sent).await.unwrap();
    let mut back = vec![0; sent.len()];
    stream.read_exact(&mut back).await.unwrap();
    assert!(back == sent);
}

#[tokio::test(start_paused = true)]
async fn the_last_lane_is_dialled_again_at_once_although_an_extra_one_was_refused() {
    let rig = Rig::start(Kind::Memory).await;
    let mut stream = rig.open(port::ECHO).await;
    echoed(&mut stream, b"one").await;
    // An open stream is worth a second lane.
    rig.dialled(2).await;
    echoed(&mut stream, b"two").await;
    rig.refuse_dials(true);
    rig.cut_one_lane();
    rig.dialled(3).await;
    assert_eq!(*rig.state().borrow(), State::Ready, "the other lane works");
    tokio::time::sleep(100 * MS).await;
    rig.refuse_dials(false);
    let start = Instant::now();
    rig.cut_all_lanes();
    echoed(&mut stream, b"three").await;
    assert!(start.elapsed() <= SECOND, "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_the_broken_path_swallowed_is_not_waited_for() {
    let rig = Rig::start(Kind::Memory).await;
    let mut stream = rig.open(port::ECHO).await;
    echoed(&mut stream, b"one").await;
    rig.swallow_dials(true);
    // One for an extra lane is under way when the last lane is lost.
    rig.dialled(2).await;
    rig.cut_all_lanes();
    rig.state().wait_for(|state| *state != State::Ready).await.unwrap();
    rig.swallow_dials(false);
    let start = Instant::now();
    echoed(&mut stream, b"two").await;
    assert!(start.elapsed() <= 4 * SECOND, "{:?}", start.elapsed());
}

/// Reaches nobody, and tells when it was asked to.
struct Failing {
    after: Duration,
    fatal: bool,
    asked: mpsc::UnboundedSender<Instant>,
}

impl Failing {
    fn new(after: Duration, fatal: bool) -> (Self, mpsc::UnboundedReceiver<Instant>) {
        let (asked, times) = mpsc::unbounded_channel();
        (Self { after, fatal, asked }, times)
    }
}

impl Dialer for Failing {
    type Io = (Empty, Sink);

    async fn dial(&self) -> Result<Self::Io, DialError> {
        self.asked.send(Instant::now()).unwrap();
        tokio::time::sleep(self.after).await;
        Err(DialError { message: "no".into(), fatal: self.fatal, gone: false })
    }
}

#[tokio::test(start_paused = true)]
async fn only_before_anything_worked_is_a_first_refusal_final_at_once() {
    for (first, expected) in [(true, Duration::ZERO), (false, 15 * SECOND)] {
        let start = Instant::now();
        let config = ClientConfig { first, ..ClientConfig::default() };
        let (dialer, _times) = Failing::new(Duration::ZERO, true);
        let (_session, mut state) = Session::start(&config, dialer);
        state.wait_for(|state| matches!(state, State::Lost { refused: true, .. })).await.unwrap();
        let took = start.elapsed();
        assert!((expected..expected + 3 * SECOND).contains(&took), "first: {first}, after {took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn for_a_minute_attempts_begin_a_second_apart_or_as_soon_as_the_last_has_failed() {
    for (each_takes, most) in [(Duration::ZERO, SECOND), (3 * SECOND, 3 * SECOND)] {
        let start = Instant::now();
        let (dialer, mut times) = Failing::new(each_takes, false);
        let (_session, _state) = Session::start(&ClientConfig::default(), dialer);
        let mut last = start;
        while last.duration_since(start) < 55 * SECOND {
            let next = times.recv().await.unwrap();
            let gap = next.duration_since(last);
            // Timers count whole milliseconds.
            assert!(gap <= most + 5 * MS, "{gap:?} between attempts of {each_takes:?}");
            last = next;
        }
    }
}

/// Takes no byte, and is gone.
struct Closed;

impl AsyncWrite for Closed {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[tokio::test(start_paused = true)]
async fn a_lane_that_dies_within_its_welcome_leaves_no_session_for_ever() {
    let (agent, _incoming) = Agent::new(&AgentConfig::default()).unwrap();
    let hello = Hello {
        request: Request::Create { secret: Secret([2; 32]) },
        session: SessionId([1; 16]),
        lane: 1,
        versions: (1, 1),
        features: 0,
        initial_credit: 2_048,
    };
    let early = BytesMut::from(&hello.encode()[..]);
    let served = agent.serve_lane((tokio::io::empty(), Closed), early).await;
    assert!(matches!(served, Err(LaneError::Io(_))), "{served:?}");
    let mut activity = agent.activity();
    assert_eq!(activity.borrow().sessions, 1, "its client may come again");
    let over = timeout(120 * SECOND, activity.wait_for(|activity| activity.sessions == 0));
    over.await.expect("a session without lanes ends after a minute").unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_stream_opened_while_others_hold_all_memory_still_begins_with_its_header() {
    let client = ClientConfig { send_pool: Pool::new(64 << 10), ..ClientConfig::default() };
    let rig = Rig::with(Kind::Memory, &client, &AgentConfig::default()).await;
    rig.refuse_dials(true);
    rig.cut_all_lanes();
    rig.state().wait_for(|state| *state != State::Ready).await.unwrap();
    // Each holds little enough to be let at the last of the pool.
    let mut waiting = Vec::new();
    while let Ok(mut stream) = timeout(SECOND, rig.session.open(header_of(waiting.len()))).await {
        let stream = tokio::spawn(async move {
            let sent = content(7, 3_000);
            let stream = stream.as_mut().unwrap();
            echoed(stream, &sent).await;
        });
        waiting.push(stream);
        tokio::time::sleep(MS).await;
        assert!(waiting.len() < 100, "nothing but the agent's limit holds it back");
    }
    let opening = tokio::spawn({
        let session = rig.session.clone();
        async move { session.open(Rig::header(port::LENGTH)).await }
    });
    tokio::time::sleep(SECOND).await;
    assert!(!opening.is_finished(), "its header would not have fitted");
    rig.refuse_dials(false);
    let mut stream = opening.await.unwrap().unwrap();
    stream.write_all(b"five!").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut reply = Vec::new();
    stream.read_to_end(&mut reply).await.unwrap();
    assert!(reply == content(5, 5));
    for stream in waiting {
        stream.await.unwrap();
    }
}

/// All alike to the agent, apart in the log of a failure.
fn header_of(number: usize) -> Header {
    Header { request_id: uuid::Uuid::from_u128(number as u128), ..Rig::header(port::ECHO) }
}
