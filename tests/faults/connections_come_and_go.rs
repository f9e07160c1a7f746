//! Thousands of connections, opened and closed while the API server restarts again and again: nothing of them stays,
//! neither here nor at the agent.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use relay_tests::{Agent, Namespace, Relay, alone, connect, echo_once, kubectl, wait_until, xtask};

use crate::MIB;

const CONNECTIONS: usize = 10_000;
const AT_ONCE: usize = 8;
const RESTARTS: usize = 3;
/// What allocators keep for themselves after use.
const SLACK: u64 = 8 * MIB;

#[derive(Debug, Clone, Copy)]
struct Figures {
    descriptors: usize,
    threads: usize,
    memory: u64,
    agent_descriptors: usize,
    agent_memory: u64,
}

fn figures(relay: &Relay, namespace: &Namespace) -> Figures {
    let agent = Agent::of(namespace.name());
    Figures {
        descriptors: relay.descriptors(),
        threads: relay.threads(),
        memory: relay.memory(),
        agent_descriptors: agent.descriptors(),
        agent_memory: agent.memory(),
    }
}

#[test]
fn ten_thousand_connections_across_three_restarts_leave_nothing() {
    let _alone = alone();
    let namespace = Namespace::new("churn", &[]);
    // A node that could not tell for a while that it lives has no pods in Services and no DNS; the pod itself is there.
    let target = format!("ip/{}", kubectl(&["get", "pod", "pod-echo", "-o", "jsonpath={.status.podIP}"]));
    // So that none is given up while the server starts.
    let args = ["-o", "json", "-n", namespace.name(), "--connect-wait=60s", &target, ":7007@tcp"];
    let (relay, echo) = Relay::start(&args);
    // What is made once and kept: lanes, pools, threads.
    let done = Arc::new(AtomicUsize::new(0));
    come_and_go(echo, 500, &done);
    let before = settled(&relay, &namespace, None);

    done.store(0, Ordering::Relaxed);
    let counted = done.clone();
    let begun = Instant::now();
    let clients = thread::spawn(move || come_and_go(echo, CONNECTIONS, &counted));
    for restart in 1..=RESTARTS {
        let due = CONNECTIONS * restart / (RESTARTS + 1);
        wait_until("the next restart is due", Duration::from_secs(300), || {
            done.load(Ordering::Relaxed) >= due || clients.is_finished()
        });
        let since = Instant::now();
        xtask(&["apiserver", "restart", "--kill"]);
        relay.wait_state("ready", since, Duration::from_secs(60));
    }
    clients.join().expect("every connection was served");
    let took = begun.elapsed();
    let after = settled(&relay, &namespace, Some(before));
    println!(
        "{CONNECTIONS} connections and {RESTARTS} restarts in {took:?}\nbefore {before:?}\nafter  {after:?}"
    );
    assert!(after.memory < before.memory + SLACK, "the plugin grew");
    assert!(after.agent_memory < before.agent_memory + SLACK, "the agent grew");
}

/// The figures when everything that ends has ended: no more than before, where that is known.
fn settled(relay: &Relay, namespace: &Namespace, before: Option<Figures>) -> Figures {
    let mut last = figures(relay, namespace);
    let mut steady = Instant::now();
    wait_until("descriptors and threads are as before, and stay so", Duration::from_secs(120), || {
        let now = figures(relay, namespace);
        let is_same = (now.descriptors, now.agent_descriptors) == (last.descriptors, last.agent_descriptors);
        if !is_same {
            steady = Instant::now();
        }
        last = now;
        // A lane or a watch more or less is no leak. A thread that read a file lives ten seconds longer.
        let is_back = before.is_none_or(|before| {
            now.descriptors <= before.descriptors + 4
                && now.agent_descriptors <= before.agent_descriptors + 2
                && now.threads <= before.threads + 2
        });
        is_back && steady.elapsed() > Duration::from_secs(2)
    });
    last
}

fn come_and_go(echo: SocketAddr, count: usize, done: &Arc<AtomicUsize>) {
    let begun = Arc::new(AtomicUsize::new(0));
    let client = || {
        let (begun, done) = (begun.clone(), done.clone());
        thread::spawn(move || {
            loop {
                let number = begun.fetch_add(1, Ordering::Relaxed);
                if number >= count {
                    return;
                }
                let message = number.to_be_bytes();
                echo_once(&mut connect(echo), &message)
                    .unwrap_or_else(|error| panic!("connection {number}: {error}"));
                done.fetch_add(1, Ordering::Relaxed);
            }
        })
    };
    let clients: Vec<_> = (0..AT_ONCE).map(|_| client()).collect();
    for client in clients {
        client.join().expect("a client");
    }
}
