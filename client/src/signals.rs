//! SIGINT, SIGTERM and SIGHUP: the orderly ends of a run.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Catches the three signals from its creation on.
pub struct Signals([Signal; 3]);

impl Signals {
    /// Begins to catch. Must be called within a runtime.
    ///
    /// # Errors
    /// What the system says.
    pub fn new() -> io::Result<Self> {
        Ok(Self([
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
            signal(SignalKind::hangup())?,
        ]))
    }

    /// Waits for the next one. Cancellation safe.
    pub async fn next(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}
