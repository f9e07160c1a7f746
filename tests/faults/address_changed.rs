//! The API server is found elsewhere: its old address answers no more, the kubeconfig has another for the same
//! context. What was open goes on there, and new agents and targets are found there too.

use std::time::{Duration, Instant};

use relay_tests::{Echoes, Path, Relay, beside_others, connect, echo_once};

#[test]
fn a_kubeconfig_with_another_address_is_followed() {
    let _beside = beside_others();
    let (old, new) = (Path::new(), Path::new());
    let kubeconfig = old.kubeconfig();
    let (relay, echo) = Relay::start_as(&kubeconfig, &["-o", "json", "svc/web", ":echo@tcp"]);
    let echoes = Echoes::start(echo, 10);
    let since = Instant::now();
    old.refuse();
    relay.wait_state("reconnecting", since, Duration::from_secs(20));
    let changed = Instant::now();
    // A whole file appears at once, as kubectl writes it.
    std::fs::rename(new.kubeconfig(), &kubeconfig).unwrap();
    let all = echoes.all_answered(changed) - changed;
    echo_once(&mut connect(echo), b"new").unwrap();
    println!("another address: every conversation went on {all:?} after the kubeconfig had changed");
    echoes.finish();
}
