//! The first process of a sandbox or of a process namespace: waits to be told to end, and reaps
//! the orphans that the kernel hands to it.

use anyhow::Result;
use rustix::process::{WaitOptions, wait};
use tokio::signal::unix::{SignalKind, signal};

/// Runs until SIGTERM or SIGINT.
pub(crate) async fn run() -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut child = signal(SignalKind::child())?;
    loop {
        // One SIGCHLD may stand for several children; the first round also takes those from before.
        while let Ok(Some(_)) = wait(WaitOptions::NOHANG) {}
        tokio::select! {
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
            _ = child.recv() => {}
        }
    }
}
