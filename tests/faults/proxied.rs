//! The API server dies while clients of a proxy talk through it: their connections go on where they were, and new ones
//! are answered when it is back.

use std::io::{Read as _, Write as _};
use std::time::{Duration, Instant};

use relay_tests::{Relay, Spoken, alone, echo_once, xtask};

#[test]
fn open_connections_go_on_and_new_ones_wait() {
    let _alone = alone();
    let (relay, proxy) = Relay::start_proxy(&["-o", "json", "--connect-wait", "1m"]);
    let mut open: Vec<_> =
        Spoken::ALL.into_iter().map(|spoken| spoken.connect(proxy, "web", 7007).unwrap()).collect();
    for stream in &mut open {
        echo_once(stream, b"before").unwrap();
    }
    let before = Instant::now();
    xtask(&["apiserver", "kill"]);
    relay.wait_state("reconnecting", before, Duration::from_secs(20));
    for stream in &mut open {
        stream.write_all(b"meanwhile").unwrap();
    }
    // Asked for while there is no way to the agent: nothing is said until there is.
    let mut new: Vec<_> = Spoken::ALL
        .into_iter()
        .map(|spoken| {
            let mut stream = relay_tests::connect(proxy);
            spoken.ask(&mut stream, "web", 7007).unwrap();
            (spoken, stream)
        })
        .collect();
    xtask(&["apiserver", "start"]);
    let ready = Instant::now();
    for stream in &mut open {
        let mut back = [0; 9];
        stream.read_exact(&mut back).unwrap();
        assert_eq!(&back, b"meanwhile");
    }
    println!("open connections went on {:?} after the API server was ready", ready.elapsed());
    for (spoken, stream) in &mut new {
        assert_eq!(spoken.answer(stream).unwrap(), spoken.good());
        echo_once(stream, b"after").unwrap();
    }
    println!("new ones were answered {:?} after it", ready.elapsed());
}
