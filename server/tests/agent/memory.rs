//! Memory: the agent's limit in a cluster is 128 MiB, of which the kernel's buffers may take 32.

use std::time::Duration;

use relay_protocol::Protocol::Tcp;
use relay_tunnel::{ClientConfig, Session};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use crate::process::Process;
use crate::session::{Loopback, to};
use crate::support::*;

/// Programs that read fast until their stream's window has grown, then no more.
const UPLOADS: usize = 8;
/// Streams that the client does not read.
const DOWNLOADS: usize = 100;
/// What an upload's target reads, in bytes.
const APPETITE: usize = 4 << 20;
const MIB: u64 = 1 << 20;

/// The most that a process ever held in memory, in bytes.
fn peak(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() << 10
}

#[tokio::test]
async fn hundreds_of_stuck_streams_leave_room_for_the_kernel() {
    let agent = Process::with("").await;
    let loopback = Loopback(([127, 0, 0, 1], agent.port).into());
    let session = Session::start(&ClientConfig::default(), loopback).0;
    let (full, full_address) = target().await;
    let (sated, mut next) = mpsc::channel(1);
    tokio::spawn(async move {
        let mut stuck = Vec::new();
        loop {
            let mut socket = full.accept().await.unwrap().0;
            socket.read_exact(&mut vec![0; APPETITE]).await.unwrap();
            stuck.push(socket);
            sated.send(()).await.unwrap();
        }
    });
    let (endless, endless_address) = target().await;
    tokio::spawn(async move {
        loop {
            let mut socket = endless.accept().await.unwrap().0;
            tokio::spawn(async move { while socket.write_all(&[7; 65_536]).await.is_ok() {} });
        }
    });
    let (sent, mut progress) = watch::channel(0);
    let mut unread = Vec::new();
    for _ in 0..DOWNLOADS {
        let stream = session.open(to(Tcp, "127.0.0.1", endless_address.port())).await.unwrap();
        stream.opened().await.unwrap();
        unread.push(stream);
    }
    for _ in 0..UPLOADS {
        let mut stream = session.open(to(Tcp, "127.0.0.1", full_address.port())).await.unwrap();
        let sent = sent.clone();
        tokio::spawn(async move {
            while let Ok(len) = stream.write(&[7; 65_536]).await {
                sent.send_modify(|sent| *sent += len);
            }
        });
        // One after another, so that each has the path for itself and its window grows.
        next.recv().await.unwrap();
    }
    // Everything is stuck when nothing has moved for a while.
    while timeout(Duration::from_secs(1), progress.changed()).await.is_ok() {}
    let stuck = *progress.borrow() - UPLOADS * APPETITE;
    let peak = peak(agent.child.id().unwrap());
    println!("peak {} MiB, {} MiB sent and not read", peak / MIB, stuck as u64 / MIB);
    assert!(stuck as u64 > 8 * MIB, "only {stuck} bytes are stuck: the agent was not tried");
    assert!(peak < 96 * MIB, "{} MiB", peak / MIB);
}
