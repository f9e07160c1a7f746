//! A steady client without a relay, for comparison: it asks at a rate until its input ends, and tells each failure.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Result;
use tokio::io::AsyncReadExt;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::http;

/// A request without an answer for this long has failed.
const PATIENCE: Duration = Duration::from_secs(10);

/// Asks `per_second` times for the page at `address`, each time on a connection of its own.
pub(crate) async fn run(address: &str, per_second: u32) -> Result<()> {
    let mut tick = interval(Duration::from_secs(1) / per_second.max(1));
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let address: Arc<str> = address.into();
    let (failures, mut asked, mut requests) = (Arc::new(AtomicU64::new(0)), 0u64, JoinSet::new());
    let (mut stdin, mut waste) = (tokio::io::stdin(), [0; 64]);
    loop {
        tokio::select! {
            read = stdin.read(&mut waste) => if matches!(read, Ok(0) | Err(_)) { break },
            _ = tick.tick() => {
                asked += 1;
                let (address, failures) = (address.clone(), failures.clone());
                requests.spawn(async move {
                    let why = match timeout(PATIENCE, http::get(&address, "/")).await {
                        Ok(Ok(_)) => return,
                        Ok(Err(error)) => format!("{error:#}"),
                        Err(_) => format!("no answer within {PATIENCE:?}"),
                    };
                    failures.fetch_add(1, Ordering::Relaxed);
                    println!("request {asked}: {why}");
                });
            }
            Some(_) = requests.join_next() => {}
        }
    }
    while requests.join_next().await.is_some() {}
    println!("{asked} requests, {} failures", failures.load(Ordering::Relaxed));
    Ok(())
}
