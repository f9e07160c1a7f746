//! What one connection meets or does harms no other: floods of new ones, resets, targets that answer nothing or do
//! not exist, datagrams into the void. New connections may have to queue behind a flood; open ones notice nothing.

use std::io::Write as _;
use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use relay_tests::{
    Echoes, Relay, Signal, Transfers, beside_others, connect, connect_from, echo_once, short_or_long,
    wait_until,
};

use crate::MIB;

/// A conversation may wait this long for an answer beside all that, and as much longer as one of a relay without such
/// neighbours has to wait on the same machine at the same time.
const ANSWER: Duration = Duration::from_secs(5);

#[test]
fn floods_resets_and_targets_that_do_not_answer_harm_nobody_else() {
    let _beside = beside_others();
    let args = [
        "svc/web",
        ":echo@tcp",
        ":sink",
        ":source",
        ":reset",
        ":7099",
        "ip/192.0.2.1",
        ":80",
        ":53@udp",
        "host/no-such-name.relay.test",
        ":80",
    ];
    let (relay, echo) = Relay::start(&args);
    let next = || relay.next_forward();
    let (sink, source, reset, closed) = (next(), next(), next(), next());
    let (silent, void, nowhere) = (next(), next(), next());
    let (_elsewhere, far_echo) = Relay::start(&["svc/web", ":echo@tcp"]);
    let echoes = Echoes::start(echo, 20);
    let elsewhere = Echoes::start(far_echo, 20);
    let transfers = Transfers::start(sink, source, short_or_long(192, 1024) * MIB);
    let (stop, floods) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let begun = Instant::now();
    let flood = |number: u8, address| {
        let (stop, floods) = (stop.clone(), floods.clone());
        thread::spawn(move || {
            let mut held = std::collections::VecDeque::new();
            while !stop.load(Ordering::Relaxed) {
                let Ok(mut stream) = connect_from([127, 0, 1, number], address) else { continue };
                let _ = stream.write_all(b"anything");
                held.push_back(stream);
                // Some hundred at a time, so that those which get no answer are many.
                if held.len() > 300 {
                    held.pop_front();
                }
                floods.fetch_add(1, Ordering::Relaxed);
                thread::sleep(Duration::from_millis(5));
            }
        })
    };
    let neighbours: Vec<_> = [reset, closed, silent, nowhere]
        .into_iter()
        .zip(1..)
        .map(|(address, number)| flood(number, address))
        .collect();
    let transferred = thread::spawn(move || transfers.finish());
    let sockets: Vec<_> = (0..50).map(|_| UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
    let at_least = Duration::from_secs(short_or_long(12, 120));
    while begun.elapsed() < at_least || !transferred.is_finished() {
        for socket in &sockets {
            let _ = socket.send_to(b"is anybody there?", void);
        }
        thread::sleep(Duration::from_millis(50));
    }
    stop.store(true, Ordering::Relaxed);
    for neighbour in neighbours {
        neighbour.join().unwrap();
    }
    let (gap, without) = (echoes.longest_gap_since(begun), elsewhere.longest_gap_since(begun));
    let calm = Instant::now();
    transferred.join().expect("the transfers that were open are whole");
    wait_until("a new connection works", Duration::from_secs(30), || {
        echo_once(&mut connect(echo), b"new").is_ok()
    });
    println!(
        "beside {} unruly connections: longest wait for an answer {gap:?}, elsewhere {without:?}, {} answers, both \
         transfers whole, a new connection worked {:?} later, the plugin holds {} MiB",
        floods.load(Ordering::Relaxed),
        echoes.finish(),
        calm.elapsed(),
        relay.memory() / MIB
    );
    elsewhere.finish();
    assert!(gap < ANSWER + without, "an answer took {gap:?}, elsewhere {without:?}");
    let exited = relay.stop(Signal::INT);
    assert_eq!(exited.code, Some(0), "{}", exited.stderr);
}
