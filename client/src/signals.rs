//! SIGINT, SIGTERM and SIGHUP: the orderly ends of a run.

use std::io;

use futures_util::FutureExt;
pub use rustix::process::Signal;
use tokio::signal::unix::{Signal as Caught, SignalKind, signal};

/// Catches the three signals from its creation on.
pub struct Signals([Caught; 3]);

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
    pub async fn next(&mut self) -> Signal {
        let [interrupt, terminate, hangup] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => Signal::INT,
            _ = terminate.recv() => Signal::TERM,
            _ = hangup.recv() => Signal::HUP,
        }
    }

    /// Forgets what has come so far.
    pub fn forget(&mut self) {
        while self.next().now_or_never().is_some() {}
    }
}

/// What a shell gives as the exit code of a program that this signal ended.
pub fn exit_code(signal: i32) -> u8 {
    u8::try_from(128 + signal).unwrap_or(u8::MAX)
}
