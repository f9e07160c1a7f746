//! A load balancer that ends connections on which nothing passes. Pings keep the lanes; without them the relay dials
//! again, and what was open goes on.

use std::thread;
use std::time::{Duration, Instant};

use relay_tests::{Path, Relay, beside_others, connect, echo_once, short_or_long, wait_until};

#[test]
fn pings_keep_the_lanes_of_an_idle_session() {
    let _beside = beside_others();
    let (limit, idle) = short_or_long((6, 25), (60, 3600));
    let path = Path::that_kills_what_is_idle(Duration::from_secs(limit));
    let ping = short_or_long("--ping=2s", "--ping=5s");
    let (relay, echo) = Relay::start_as(&path.kubeconfig(), &["-o", "json", ping, "svc/web", ":echo@tcp"]);
    let mut stream = connect(echo);
    echo_once(&mut stream, b"before").unwrap();
    let since = Instant::now();
    thread::sleep(Duration::from_secs(idle));
    echo_once(&mut stream, b"after").unwrap();
    let lost: Vec<_> = relay.events().into_iter().filter(|event| event.at > since).collect();
    println!(
        "idle for {idle} s behind a killer at {limit} s: {} other connections were ended",
        path.idle_ends()
    );
    assert!(lost.is_empty(), "the relay did not stay as it was: {lost:#?}");
}

#[test]
fn without_pings_it_dials_again_and_goes_on() {
    let _beside = beside_others();
    // An agent that asked for signs of life by itself would do so before this.
    let limit = short_or_long(Duration::from_secs(10), Duration::from_secs(60));
    let path = Path::that_kills_what_is_idle(limit);
    // One lane: of two, one may live while the other is dialled again, and nobody would see a thing.
    let args = ["-o", "json", "--ping=0", "--lanes=1", "svc/web", ":echo@tcp"];
    let (relay, echo) = Relay::start_as(&path.kubeconfig(), &args);
    let mut stream = connect(echo);
    for _ in 0..2 {
        echo_once(&mut stream, b"before").unwrap();
        let since = Instant::now();
        relay.wait_state("reconnecting", since, limit + Duration::from_secs(30));
        let back = relay.wait_state("ready", since, Duration::from_secs(30));
        println!("without pings: dialled again {:?} after the last byte", back.at - since);
        echo_once(&mut stream, b"after").unwrap();
    }
    wait_until("the killer has killed", Duration::from_secs(5), || path.idle_ends() >= 2);
}
