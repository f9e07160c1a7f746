//! The command while it runs: signals go to it, and nobody ends before it.

#[cfg_attr(unix, path = "program/unix.rs")]
#[cfg_attr(windows, path = "program/windows.rs")]
mod system;

use std::io;

use tokio::process::{Child, Command};

use super::{CommandError, CommandLine, Variables};
use crate::{
    file_limit::FileLimit,
    signals::{Signal, Signals},
};

/// A started command.
pub struct Program {
    child: Child,
    _quit: Option<system::Quit>,
}

impl CommandLine {
    /// Starts the program, with the terminal and this process's environment and `variables`.
    ///
    /// # Errors
    /// The system does not start it.
    pub fn start(&self, variables: &Variables, limit: &FileLimit) -> Result<Program, CommandError> {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).envs(variables.iter().map(|(name, value)| (name, value)));
        let quit = system::forget_quit();
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
                status = self.child.wait() => return Ok(system::code(status?)),
                signal = signals.next() => system::pass_on(&mut self.child, signal),
            }
        }
    }

    /// Asks it to end.
    pub fn terminate(&mut self) {
        system::send(&mut self.child, Signal::Terminate);
    }
}
