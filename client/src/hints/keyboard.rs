//! Questions on a terminal: shown on stderr, answered by a line.

use std::io::{self, IsTerminal};

use super::HintError;
use crate::{output::Output, terminal};

/// Somebody who can be asked.
#[derive(Debug, Clone, Copy)]
pub struct Keyboard(());

impl Keyboard {
    /// The terminal of this process: there is one where stdin and stderr are it and this process has it now, as it has not
    /// in the background of a shell.
    pub fn of_process() -> Option<Self> {
        let stdin = io::stdin();
        (io::stderr().is_terminal() && terminal::is_typed_at(&stdin)).then_some(Self(()))
    }

    /// Shows `question` until `understood` makes something of the answer, or tells what to show next.
    ///
    /// # Errors
    /// [`HintError::NoAnswer`] when the terminal is closed (Ctrl-D).
    pub async fn ask<T>(
        self,
        output: &Output,
        mut question: String,
        mut understood: impl FnMut(&str) -> Result<T, String>,
    ) -> Result<T, HintError> {
        loop {
            let shown = Shown { output, is_answered: false };
            output.question(&question);
            let answer = line().await;
            let Some(answer) = answer else { return Err(HintError::NoAnswer) };
            shown.answered();
            match understood(answer.trim()) {
                Ok(meant) => return Ok(meant),
                Err(next) => question = next,
            }
        }
    }
}

/// A question, after which the cursor is in the middle of a line until there is an answer.
struct Shown<'a> {
    output: &'a Output,
    is_answered: bool,
}

impl Shown<'_> {
    fn answered(mut self) {
        self.is_answered = true;
    }
}

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        if !self.is_answered {
            self.output.question("\n");
        }
    }
}

/// The next line; `None` at the end. It is read by a thread of its own, which a signal does not have to wait for. A terminal
/// gives one line at a time, so nothing of what is meant for a command is taken.
async fn line() -> Option<String> {
    let reading = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        io::stdin().read_line(&mut line).ok().filter(|read| *read > 0).map(|_| line)
    });
    reading.await.ok().flatten()
}
