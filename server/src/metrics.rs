//! The metrics' listener: one small page for whoever asks.

use std::io;
use std::sync::Arc;

use relay_observe::http;
use relay_observe::metrics::Gauges;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{Duration, sleep, timeout};
use tracing::{debug, warn};

use crate::agent::Shared;

/// Connections at a time, of all listeners.
pub const MOST: usize = 16;
/// How long one may take, all in all.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long to wait before accepting again after an error such as too many open files.
const BACK_OFF: Duration = Duration::from_millis(100);

/// Answers for ever; further connections wait in the kernel's queue while `places` are taken.
pub async fn accept(listener: TcpListener, shared: Arc<Shared>, places: Arc<Semaphore>) {
    // The semaphore is never closed.
    while let Ok(place) = places.clone().acquire_owned().await {
        match listener.accept().await {
            Ok((client, _)) => {
                let shared = shared.clone();
                shared.tasks.clone().spawn(async move {
                    match timeout(PATIENCE, serve(client, &shared)).await {
                        Ok(Ok(())) => {}
                        Ok(Err(error)) => debug!(%error, "metrics not delivered"),
                        Err(_) => debug!("metrics not taken in time"),
                    }
                    drop(place);
                });
            }
            Err(error) => {
                warn!(%error, "connection not accepted");
                sleep(BACK_OFF).await;
            }
        }
    }
}

async fn serve(mut client: TcpStream, shared: &Shared) -> io::Result<()> {
    let mut request = Vec::with_capacity(1_024);
    let answer = loop {
        if let Some(answer) = http::answer(&request, || page(shared)) {
            break answer;
        }
        if client.read_buf(&mut request).await? == 0 {
            return Ok(());
        }
    };
    client.write_all(&answer).await?;
    client.shutdown().await
}

fn page(shared: &Shared) -> String {
    let activity = *shared.sessions.activity().borrow();
    let kernel = shared.dialer.kernel_bytes();
    let mut memory: Vec<_> = shared
        .sessions
        .pools()
        .into_iter()
        .filter(|(_, pool)| pool.limit() < usize::MAX)
        .map(|(name, pool)| (name, pool.used() as u64, pool.limit() as u64))
        .collect();
    memory.push(("kernel", kernel.0 as u64, kernel.1 as u64));
    let gauges = Gauges { sessions: activity.sessions as u64, memory };
    shared.ledger.metrics.render(env!("CARGO_PKG_VERSION"), &gauges)
}
