//! The command while it runs: signals go to it, and nobody ends before it.

use std::{fs::File, io, os::unix::process::ExitStatusExt, process::ExitStatus};

use rustix::{
    process::{Pid, getpgrp, kill_process},
    termios::tcgetpgrp,
};
use tokio::{
    process::{Child, Command},
    signal::unix::{Signal as Caught, SignalKind, signal},
};

use super::{CommandError, CommandLine, Variables};
use crate::{
    file_limit::FileLimit,
    signals::{Signal, Signals, exit_code},
};

/// A started command.
pub struct Program {
    child: Child,
    /// Caught and forgotten: a Ctrl-\ is for the command, which has it from the terminal.
    _quit: Option<Caught>,
}

impl CommandLine {
    /// Starts the program, with the terminal and this process's environment and `variables`.
    ///
    /// # Errors
    /// The system does not start it.
    pub fn start(&self, variables: &Variables, limit: &FileLimit) -> Result<Program, CommandError> {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).envs(variables.iter().map(|(name, value)| (name, value)));
        let quit = signal(SignalKind::quit()).ok();
        let child =
            limit.restored(|| command.spawn()).map_err(|error| CommandError::of_start(self, &error))?;
        Ok(Program { child, _quit: quit })
    }
}

impl Program {
    /// Waits for its end, passing on what is sent to this process; gives its exit code. Cancellation safe.
    ///
    /// # Errors
    /// What the system says.
    pub async fn ended(&mut self, signals: &mut Signals) -> io::Result<u8> {
        loop {
            tokio::select! {
                status = self.child.wait() => return Ok(code(status?)),
                signal = signals.next() => self.pass_on(signal),
            }
        }
    }

    /// Asks it to end.
    pub fn terminate(&self) {
        self.send(Signal::TERM);
    }

    fn pass_on(&self, signal: Signal) {
        if signal == Signal::INT && is_in_the_foreground() {
            // Ctrl-C goes to all of the terminal's foreground, so the program has it already.
            return;
        }
        self.send(signal);
    }

    fn send(&self, signal: Signal) {
        // No id: it has ended, and the number may be somebody else's.
        let id = self.child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        let Some(id) = id else { return };
        if let Err(error) = kill_process(id, signal) {
            tracing::debug!(%error, ?signal, "not passed on");
        }
    }
}

/// Whether what is typed at this process's terminal goes to it.
fn is_in_the_foreground() -> bool {
    File::open("/dev/tty").is_ok_and(|terminal| tcgetpgrp(&terminal).is_ok_and(|group| group == getpgrp()))
}

/// A signal's number comes after 128, as in shells.
fn code(status: ExitStatus) -> u8 {
    match (status.code(), status.signal()) {
        (Some(code), _) => u8::try_from(code).unwrap_or(u8::MAX),
        (None, Some(signal)) => exit_code(signal),
        (None, None) => u8::MAX,
    }
}
