//! Packets vanish without a word, as behind a VPN that changed. A short cut is survived; one that outlives the
//! session is told to every connection, and new ones work without anybody doing anything.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpListener};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use relay_tests::{
    Echoes, Path, Relay, Transfers, alone, beside_others, connect, echo_once, half_close, receive_pattern,
    send_pattern, short_or_long, this_machine, wait_until, xtask,
};

use crate::MIB;

/// After the path is healed, the first byte may take this long.
const FIRST_BYTE: Duration = Duration::from_secs(3);
/// After the path is healed, a new connection may take this long to work.
const NEW_SESSION: Duration = Duration::from_secs(15);
const CONVERSATIONS: usize = 50;
/// The status of a stream whose session is over.
const AGENT_LOST: u64 = 13;

#[test]
fn a_silent_cut_is_survived() {
    let _alone = alone();
    let (relay, sink) = Relay::start(&["-o", "json", "svc/web", ":sink", ":source", ":echo@tcp"]);
    let (source, echo) = (relay.next_forward(), relay.next_forward());
    let echoes = Echoes::start(echo, CONVERSATIONS);
    let transfers = Transfers::start(sink, source, short_or_long(128, 1024) * MIB);
    let before = Instant::now();
    xtask(&["path", "cut"]);
    let cut = Instant::now();
    let told = relay.wait_state("reconnecting", before, Duration::from_secs(30));
    let found = told.at.saturating_duration_since(before);
    thread::sleep(
        short_or_long(Duration::from_secs(20), Duration::from_secs(60)).saturating_sub(cut.elapsed()),
    );
    xtask(&["path", "heal"]);
    let healed = Instant::now();
    let first = echoes.first_answer(cut).saturating_duration_since(healed);
    let all = echoes.all_answered(cut).saturating_duration_since(healed);
    let (up, down) = transfers.finish();
    println!(
        "cut for {:?}: told after {found:?}; first answer {first:?}, last of {CONVERSATIONS} {all:?} after the heal; \
         {up} uploads and {down} downloads whole; longest wait for an answer {:?}",
        healed - cut,
        echoes.longest_gap()
    );
    echoes.finish();
    assert!(found < Duration::from_secs(16), "a dead path was told after {found:?}");
    assert!(first < FIRST_BYTE, "the first byte took {first:?}");
}

#[test]
fn a_cut_longer_than_the_session_lives_resets_every_stream_and_new_ones_work() {
    let _beside = beside_others();
    let path = Path::new();
    // The agent gives the lane up after six seconds and the session ten later.
    let args = ["-o", "json", "--ping=2s", "--dead-after=6s", "--session-life=10s", "svc/web", ":echo@tcp"];
    let (relay, echo) = Relay::start_as(&path.kubeconfig(), &args);
    let mut streams: Vec<_> = (0..10).map(|_| connect(echo)).collect();
    for stream in &mut streams {
        echo_once(stream, b"before").unwrap();
    }
    path.cut();
    let cut = Instant::now();
    relay.wait_state("reconnecting", cut, Duration::from_secs(20));
    thread::sleep(Duration::from_secs(30).saturating_sub(cut.elapsed()));
    path.heal();
    let healed = Instant::now();
    for stream in &mut streams {
        assert_eq!(stream.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    }
    let reset = healed.elapsed();
    wait_until("a new connection works", NEW_SESSION, || echo_once(&mut connect(echo), b"new").is_ok());
    let new = healed.elapsed();
    let lost = relay.wait_state("agentLost", cut, Duration::from_secs(5));
    let told = relay.events().into_iter().filter(|event| event.is_stream_end(AGENT_LOST)).count();
    println!(
        "a session that died in the cut: its streams reset {reset:?}, new ones worked {new:?} after the heal: {}",
        lost.value
    );
    assert!(new < NEW_SESSION, "new connections worked after {new:?}");
    assert_eq!(told, streams.len(), "the end of each stream is told: {:#?}", relay.events());
}

#[test]
fn half_closed_streams_survive_a_cut() {
    let _beside = beside_others();
    let path = Path::new();
    let args = ["-o", "json", "svc/web", ":half-close", ":echo@tcp"];
    let (relay, half) = Relay::start_as(&path.kubeconfig(), &args);
    let echo = relay.next_forward();
    // Its reply falls into the cut.
    let waiting = thread::spawn(move || half_close(half, Duration::from_secs(5), 4 * MIB));
    // This one has ended its own direction, and its answer is still coming when the path goes.
    let mut talking = connect(echo);
    echo_once(&mut talking, b"before").unwrap();
    let since = Instant::now();
    path.cut();
    talking.write_all(b"last words").unwrap();
    talking.shutdown(Shutdown::Write).unwrap();
    relay.wait_state("reconnecting", since, Duration::from_secs(20));
    // What the old connections held is lost with them.
    path.reset();
    path.heal();
    let healed = Instant::now();
    let mut answer = String::new();
    talking.read_to_string(&mut answer).unwrap();
    println!("a half-closed stream got its answer and its end {:?} after the heal", healed.elapsed());
    assert_eq!(answer, "last words");
    waiting.join().unwrap().expect("the reply that fell into the cut is whole");
}

#[test]
fn a_reset_and_an_end_that_fell_into_a_cut_arrive_as_what_they_were() {
    let _beside = beside_others();
    let path = Path::new();
    let listener = TcpListener::bind((this_machine(), 0)).unwrap();
    let here = listener.local_addr().unwrap();
    let target = format!("ip/{}", here.ip());
    let (relay, address) =
        Relay::start_as(&path.kubeconfig(), &["-o", "json", &target, &format!(":{}", here.port())]);
    let pair = || {
        let mut local = connect(address);
        local.write_all(b"x").unwrap();
        let (mut far, _) = listener.accept().unwrap();
        far.read_exact(&mut [0]).unwrap();
        (local, far)
    };
    let (mut reset, far_reset) = pair();
    let (mut ended, mut far_ended) = pair();
    let since = Instant::now();
    path.cut();
    // Bytes ahead of the end belong to it.
    let (sent, done) = channel();
    thread::spawn(move || {
        send_pattern(&mut far_ended, MIB).unwrap();
        far_ended.shutdown(Shutdown::Write).unwrap();
        sent.send(far_ended).unwrap();
    });
    socket2::SockRef::from(&far_reset).set_linger(Some(Duration::ZERO)).unwrap();
    drop(far_reset);
    relay.wait_state("reconnecting", since, Duration::from_secs(20));
    path.reset();
    path.heal();
    let healed = Instant::now();
    assert_eq!(reset.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    println!("a reset that fell into the cut arrived {:?} after the heal", healed.elapsed());
    receive_pattern(&mut ended, MIB).unwrap();
    // The other direction is still open.
    ended.write_all(b"y").unwrap();
    done.recv().unwrap().read_exact(&mut [0]).unwrap();
}
