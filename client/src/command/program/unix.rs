//! Signals to another process, and how one ended.

use std::{fs::File, os::unix::process::ExitStatusExt, process::ExitStatus};

use rustix::{
    process::{Pid, Signal as Number, getpgrp, kill_process},
    termios::tcgetpgrp,
};
use tokio::{
    process::Child,
    signal::unix::{Signal as Caught, SignalKind, signal},
};

use crate::signals::Signal;

/// Catches SIGQUIT while it lives.
pub(super) type Quit = Caught;

/// Catches and forgets: a Ctrl-\ is for the command, which has it from the terminal.
pub(super) fn forget_quit() -> Option<Quit> {
    signal(SignalKind::quit()).ok()
}

/// Sends on what this process got, unless the command got it too.
pub(super) fn pass_on(child: &mut Child, signal: Signal) {
    if signal == Signal::Interrupt && is_in_the_foreground() {
        // Ctrl-C goes to all of the terminal's foreground, so the program has it already.
        return;
    }
    send(child, signal);
}

pub(super) fn send(child: &mut Child, signal: Signal) {
    // No id: it has ended, and the number may be somebody else's.
    let id = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    let Some(id) = id else { return };
    let number = match signal {
        Signal::Interrupt => Number::INT,
        Signal::Terminate => Number::TERM,
        Signal::HangUp => Number::HUP,
    };
    if let Err(error) = kill_process(id, number) {
        tracing::debug!(%error, ?signal, "not passed on");
    }
}

/// Whether what is typed at this process's terminal goes to it.
fn is_in_the_foreground() -> bool {
    File::open("/dev/tty").is_ok_and(|terminal| tcgetpgrp(&terminal).is_ok_and(|group| group == getpgrp()))
}

/// A signal's number comes after 128, as in shells.
pub(super) fn code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX)
}
