//! Connections outlive the connection to the API server. These tests break the cluster for everybody, so each runs
//! alone in this program.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that fails here should panic")]

use std::io::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use relay_tests::{
    Relay, connect, download, download_watched, echo_once, half_close, upload, wait_until, xtask,
};

const MIB: u64 = 1 << 20;

/// The cluster, for one test at a time; whole again afterwards.
struct Alone(#[expect(dead_code, reason = "held, not read")] MutexGuard<'static, ()>);

fn alone() -> Alone {
    static CLUSTER: Mutex<()> = Mutex::new(());
    Alone(CLUSTER.lock().unwrap_or_else(PoisonError::into_inner))
}

impl Drop for Alone {
    fn drop(&mut self) {
        xtask(&["path", "heal"]);
        xtask(&["apiserver", "start"]);
    }
}

#[test]
fn an_api_server_killed_and_restarted_in_the_middle_of_transfers() {
    let _alone = alone();
    let (relay, sink) = Relay::start(&["svc/web", ":sink", ":source", ":echo@tcp", ":half-close"]);
    let (source, echo, half) = (relay.next_forward(), relay.next_forward(), relay.next_forward());
    let mut stream = connect(echo);
    echo_once(&mut stream, b"before").unwrap();
    let up = thread::spawn(move || upload(sink, 512 * MIB));
    let arrived = Arc::new(AtomicU64::new(0));
    let watched = arrived.clone();
    let down = thread::spawn(move || download_watched(source, 512 * MIB, &watched));
    let half = thread::spawn(move || half_close(half, Duration::from_secs(8), MIB));
    wait_until("the transfers are under way", Duration::from_secs(60), || {
        arrived.load(Ordering::Relaxed) > 32 * MIB
    });
    xtask(&["apiserver", "kill"]);
    stream.write_all(b"meanwhile").unwrap();
    relay.wait_stderr("reconnecting", Duration::from_secs(20));
    xtask(&["apiserver", "start"]);
    let back = Instant::now();
    let mut answer = [0; 9];
    std::io::Read::read_exact(&mut stream, &mut answer).unwrap();
    assert_eq!(&answer, b"meanwhile");
    println!("first byte {:?} after the API server was ready again", back.elapsed());
    up.join().unwrap().expect("the upload is whole");
    down.join().unwrap().expect("the download is whole");
    half.join().unwrap().expect("the half-closed stream's reply is whole");
    echo_once(&mut stream, b"after").unwrap();
    echo_once(&mut connect(echo), b"new").unwrap();
}

#[test]
fn a_path_that_is_reset_again_and_again() {
    let _alone = alone();
    let (relay, source) = Relay::start(&["svc/web", ":source", ":echo@tcp"]);
    let mut stream = connect(relay.next_forward());
    let down = thread::spawn(move || download(source, 512 * MIB));
    for round in 0..5u8 {
        xtask(&["path", "reset"]);
        relay.wait_stderr("reconnecting", Duration::from_secs(20));
        xtask(&["path", "heal"]);
        echo_once(&mut stream, &[round]).unwrap();
    }
    down.join().unwrap().expect("the download is whole");
}
