//! A port scan, as somebody in the cluster would do it: which TCP ports of an address take connections.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::Result;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// So many are tried at once.
const AT_ONCE: usize = 256;
/// What says nothing for this long is closed.
const PATIENCE: Duration = Duration::from_secs(2);

/// Tries every port of `address`; prints those that are open, and how many were tried.
pub(crate) async fn run(address: IpAddr) -> Result<()> {
    let (mut tries, mut tried, mut open) = (JoinSet::new(), 0u32, Vec::new());
    let mut ports = 1..=u16::MAX;
    loop {
        while tries.len() < AT_ONCE
            && let Some(port) = ports.next()
        {
            tries.spawn(async move {
                let connected = timeout(PATIENCE, TcpStream::connect((address, port))).await;
                connected.is_ok_and(|connected| connected.is_ok()).then_some(port)
            });
        }
        let Some(port) = tries.join_next().await else { break };
        tried += 1;
        open.extend(port?);
    }
    open.sort_unstable();
    for port in open {
        println!("open: {port}");
    }
    println!("tried: {tried}");
    Ok(())
}
