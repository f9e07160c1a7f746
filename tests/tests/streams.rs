//! What a TCP connection does must arrive as it was done, and no connection may harm another.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that fails here should panic")]

use std::io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::net::Shutdown;
use std::thread;
use std::time::{Duration, Instant};

use relay_tests::{
    Agent, Namespace, Relay, Signal, Took, connect, download, echo_once, half_close, in_time,
    receive_pattern, send_pattern, upload,
};
use relay_workload::BANNER;

const MIB: u64 = 1 << 20;

#[test]
fn half_close_brings_the_whole_reply_thirty_seconds_later() {
    let (_relay, address) = Relay::start(&["svc/web", ":half-close"]);
    half_close(address, Duration::from_secs(30), MIB).unwrap();
}

#[test]
fn the_server_may_speak_first() {
    let (_relay, address) = Relay::start(&["svc/web", ":banner"]);
    let mut line = String::new();
    BufReader::new(connect(address)).read_line(&mut line).unwrap();
    assert!(line.starts_with(BANNER), "{line}");
}

#[test]
fn a_reset_by_the_server_is_a_reset_and_a_second_connection_is_unharmed() {
    let (relay, reset) = Relay::start(&["svc/web", ":reset", ":echo@tcp"]);
    let mut unharmed = connect(relay.next_forward());
    echo_once(&mut unharmed, b"before").unwrap();
    let mut stream = connect(reset);
    stream.write_all(b"anything").unwrap();
    assert_eq!(stream.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    echo_once(&mut unharmed, b"after").unwrap();
}

#[test]
fn a_refused_connection_is_reset_at_once_and_the_forward_stays() {
    let (_relay, address) = Relay::start(&["pod/pod-echo", ":7099"]);
    for _ in 0..2 {
        in_time(|| {
            let since = Instant::now();
            let mut stream = connect(address);
            assert_eq!(stream.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
            [Took::new("a refused connection was reset", since.elapsed(), Duration::from_secs(3))]
        });
    }
}

#[test]
fn a_gibibyte_each_way_at_once_arrives_byte_by_byte() {
    let (relay, sink) = Relay::start(&["svc/web", ":sink", ":source"]);
    let source = relay.next_forward();
    let up = thread::spawn(move || upload(sink, 1024 * MIB));
    let down = thread::spawn(move || download(source, 1024 * MIB));
    up.join().unwrap().unwrap();
    down.join().unwrap().unwrap();
    let memory = relay.memory();
    assert!(memory < 160 * MIB, "the plugin holds {} MiB", memory / MIB);
}

#[test]
fn a_thousand_connections_are_open_and_all_work() {
    let (relay, address) = Relay::start(&["svc/web", ":echo@tcp"]);
    let mut streams: Vec<_> = (0..1000).map(|_| connect(address)).collect();
    for round in 0..2 {
        for (number, stream) in streams.iter_mut().enumerate() {
            let message = format!("connection {number}, round {round}");
            echo_once(stream, message.as_bytes()).unwrap_or_else(|error| panic!("{message}: {error}"));
        }
    }
    println!("1,000 open connections: the plugin holds {} MiB", relay.memory() / MIB);
}

#[test]
fn a_client_that_never_reads_slows_nobody_and_fills_no_memory() {
    let namespace = Namespace::new("stuck", &[]);
    let (relay, source) =
        Relay::start(&["--server.namespace", namespace.name(), "svc/web", ":source", ":echo@tcp"]);
    let echo = relay.next_forward();
    let mut stuck = connect(source);
    writeln!(stuck, "{}", 10_240 * MIB).unwrap();
    stuck.read_exact(&mut [0; 1000]).unwrap();

    download(source, 200 * MIB).unwrap();
    let mut stream = connect(echo);
    for round in 0..200u32 {
        echo_once(&mut stream, &round.to_be_bytes()).unwrap();
    }
    let memory = relay.memory();
    assert!(memory < 160 * MIB, "the plugin holds {} MiB", memory / MIB);
    let agent = Agent::of(namespace.name()).peak_memory();
    assert!(agent < 100 * MIB, "the agent held {} MiB", agent / MIB);
    println!("beside a stuck reader: plugin {} MiB, agent at most {} MiB", memory / MIB, agent / MIB);
    drop(stuck);
    let exited = relay.stop(Signal::INT);
    assert_eq!(exited.code, Some(0), "{}", exited.stderr);
}

#[test]
fn a_download_aborted_in_the_middle_is_noticed_by_nobody_else() {
    let (relay, source) = Relay::start(&["svc/web", ":source", ":echo@tcp"]);
    let mut other = connect(relay.next_forward());
    for _ in 0..10 {
        let mut aborted = connect(source);
        writeln!(aborted, "{}", 1024 * MIB).unwrap();
        aborted.read_exact(&mut [0; 100_000]).unwrap();
        drop(aborted);
        echo_once(&mut other, b"still here").unwrap();
    }
    download(source, MIB).unwrap();
}

#[test]
fn an_upload_into_a_program_that_never_reads_is_noticed_by_nobody_else() {
    in_time(|| {
        let (relay, never) = Relay::start(&["svc/web", ":never-read", ":sink"]);
        let sink = relay.next_forward();
        let mut stuck = connect(never);
        stuck.set_write_timeout(Some(Duration::from_secs(2))).unwrap();
        assert!(send_pattern(&mut stuck, 1024 * MIB).is_err(), "the path takes only so much");
        upload(sink, 20 * MIB).unwrap();
        let exited = relay.stop(Signal::INT);
        assert_eq!(exited.code, Some(0), "{}", exited.stderr);
        [Took::new("Ctrl-C ended the plugin", exited.took, Duration::from_secs(3))]
    });
}

#[test]
fn the_end_arrives_with_the_last_byte() {
    let (_relay, address) = Relay::start(&["svc/web", ":source"]);
    let mut ends: Vec<Duration> = (0..10)
        .map(|_| {
            let mut stream = connect(address);
            writeln!(stream, "5000").unwrap();
            stream.read_exact(&mut [0; 5000]).unwrap();
            let last = Instant::now();
            assert_eq!(stream.read(&mut [0]).unwrap(), 0);
            last.elapsed()
        })
        .collect();
    ends.sort();
    println!("end after the last byte: median {:?}, worst {:?}", ends[5], ends[9]);
    // `kubectl port-forward` takes a second; this leaves room for a busy machine.
    assert!(ends[5] < Duration::from_millis(200), "{ends:?}");
}

#[test]
fn a_client_that_leaves_without_a_word_does_no_harm() {
    let (_relay, address) = Relay::start(&["svc/web", ":echo@tcp"]);
    for _ in 0..50 {
        drop(connect(address));
    }
    let mut stream = connect(address);
    stream.write_all(b"whole").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut back = String::new();
    stream.read_to_string(&mut back).unwrap();
    assert_eq!(back, "whole");
}

#[test]
fn a_slow_stream_comes_through_unchanged() {
    let (_relay, address) = Relay::start(&["svc/web", ":slow"]);
    let mut stream = connect(address);
    writeln!(stream, "{}", 20 * 1024).unwrap();
    receive_pattern(&mut stream, 20 * 1024).unwrap();
}
