//! There are no signals to another process: the console tells all of its programs, and anybody can be ended.

use std::process::ExitStatus;

use tokio::process::Child;

use crate::signals::Signal;

/// Nothing needs to be caught.
pub(super) enum Quit {}

pub(super) fn forget_quit() -> Option<Quit> {
    None
}

/// The console's other programs have been told what this one was told.
pub(super) fn pass_on(_child: &mut Child, _signal: Signal) {}

/// Ends it: there is no way to ask.
pub(super) fn send(child: &mut Child, signal: Signal) {
    if let Err(error) = child.start_kill() {
        tracing::debug!(%error, ?signal, "not ended");
    }
}

/// Codes of more than a byte are larger than any that an end of ours has.
pub(super) fn code(status: ExitStatus) -> u8 {
    status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX)
}
