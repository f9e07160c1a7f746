//! What a cut path costs in memory, counted by the allocator: alone in its process, so that nothing else counts.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that fails here should panic")]

#[path = "tunnel/support.rs"]
#[allow(dead_code, reason = "the other suite uses the rest")]
mod support;

use std::alloc::System;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cap::Cap;
use relay_protocol::pool::Pool;
use relay_tunnel::{AgentConfig, ClientConfig, State, TunnelStream};
use support::{Kind, Rig, port};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

#[global_allocator]
static MEMORY: Cap<System> = Cap::new(System, usize::MAX);

const STREAMS: u64 = 1_000;
const MIB: usize = 1 << 20;
const RECEIVE: usize = 32 * MIB;
const SEND: usize = 8 * MIB;
/// Lanes, their pipes, tables that grow with what is under way.
const REST: usize = 8 * MIB;

/// Writes for ever, reads what comes back, and counts what it wrote and read.
async fn busy(stream: TunnelStream, moved: Arc<AtomicU64>) {
    let (mut read, mut write) = tokio::io::split(stream);
    let writes = async {
        loop {
            write.write_all(&[7; 1_024]).await.unwrap();
            moved.fetch_add(1_024, Ordering::Relaxed);
        }
    };
    let reads = async {
        let mut buffer = [0; 1_024];
        loop {
            let len = read.read(&mut buffer).await.unwrap();
            assert!(len > 0 && buffer[..len].iter().all(|byte| *byte == 7));
            moved.fetch_add(len as u64, Ordering::Relaxed);
        }
    };
    tokio::join!(writes, reads);
}

// The clock stands still while anything runs, so that a sleep ends when nothing moves any more.
#[tokio::test(start_paused = true)]
async fn a_thousand_busy_streams_behind_a_cut_stay_within_the_pools() {
    let client = ClientConfig {
        receive_pool: Pool::new(RECEIVE),
        send_pool: Pool::new(SEND),
        ..ClientConfig::default()
    };
    let agent = AgentConfig {
        receive_pool: Pool::new(RECEIVE),
        send_pool: Pool::new(SEND),
        ..AgentConfig::default()
    };
    let rig = Rig::with(Kind::Memory, &client, &agent).await;
    let moved = Arc::new(AtomicU64::new(0));
    let mut streams = Vec::new();
    for _ in 0..STREAMS {
        let mut stream = rig.open(port::ECHO).await;
        stream.write_all(b"x").await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), b'x');
        streams.push(stream);
    }
    let before = MEMORY.allocated();
    let mut tasks = tokio::task::JoinSet::new();
    for stream in streams {
        tasks.spawn(busy(stream, moved.clone()));
    }
    while moved.load(Ordering::Relaxed) < 12 << 20 {
        tokio::task::yield_now().await;
    }
    rig.refuse_dials(true);
    rig.cut_all_lanes();
    rig.state().wait_for(|state| *state != State::Ready).await.unwrap();

    tokio::time::sleep(Duration::from_secs(5)).await;
    let stopped = moved.load(Ordering::Relaxed);
    let held = MEMORY.allocated() - before;
    let pools = [&client.receive_pool, &client.send_pool, &agent.receive_pool, &agent.send_pool];
    println!("{} MiB held, of pools {:?}", held / MIB, pools.map(|pool| pool.used() / MIB));
    assert!(client.send_pool.used() > SEND / 2, "the pool was tried");
    assert!(held <= 2 * (RECEIVE + SEND) + REST, "{held} bytes are held");
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(moved.load(Ordering::Relaxed), stopped, "nothing more is taken from the programs");

    rig.refuse_dials(false);
    // From here on there is always something to do, and no sleep would end.
    rig.state().wait_for(|state| *state == State::Ready).await.unwrap();
    while moved.load(Ordering::Relaxed) < stopped + (2 << 20) {
        tokio::task::yield_now().await;
    }
    tasks.shutdown().await;
}
