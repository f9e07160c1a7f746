//! Ctrl-C and what else asks a run to end in order.

#[cfg_attr(unix, path = "signals/unix.rs")]
#[cfg_attr(windows, path = "signals/windows.rs")]
mod system;

use std::io;

use futures_util::FutureExt;

/// How a run is asked to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// Ctrl-C.
    Interrupt,
    /// `kill`; on Windows Ctrl-Break.
    Terminate,
    /// The terminal has gone; on Windows its window was closed.
    HangUp,
}

impl Signal {
    /// What a shell gives as the exit code of a program that this signal ended: on every system, so that scripts need
    /// to know one only.
    pub fn exit_code(self) -> u8 {
        128 + match self {
            Self::HangUp => 1,
            Self::Interrupt => 2,
            Self::Terminate => 15,
        }
    }
}

/// Catches them from its creation on.
pub struct Signals(system::Caught);

impl Signals {
    /// Begins to catch. Must be called within a runtime.
    ///
    /// # Errors
    /// What the system says.
    pub fn new() -> io::Result<Self> {
        Ok(Self(system::Caught::new()?))
    }

    /// Waits for the next one. Cancellation safe.
    pub async fn next(&mut self) -> Signal {
        let system::Caught { interrupt, terminate, hang_up } = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => Signal::Interrupt,
            _ = terminate.recv() => Signal::Terminate,
            _ = hang_up.recv() => Signal::HangUp,
        }
    }

    /// Forgets what has come so far.
    pub fn forget(&mut self) {
        while self.next().now_or_never().is_some() {}
    }
}
