//! The forwards at a glance: a screen that is calm, or lines for pipes and screen readers. It shows snapshots, from this
//! process or another, and asks whoever keeps the forwards to stop and start them.

mod draw;
mod keys;
mod model;
mod plain;
mod screen;
mod source;
mod terminal;
mod text;
#[cfg(unix)]
mod top;

use std::io::{self, IsTerminal};

use tokio::sync::mpsc;

#[cfg(unix)]
pub use self::top::{TopArgs, TopError, top};
pub use self::{
    model::Model,
    source::{InProcess, Lines, Source, SourceError},
};
use crate::output::Output;

/// Messages that wait to be shown; more are dropped, as they would scroll by unread.
const MESSAGES: usize = 64;
/// Commands that wait to be obeyed; more are dropped, as keys that are held down.
const COMMANDS: usize = 16;

/// How it is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// On the whole of a terminal.
    Screen,
    /// Line by line.
    Plain,
}

impl Kind {
    /// A screen where there is one, unless lines are asked for.
    pub fn of_this_process(plain: bool) -> Self {
        let is_screen = !plain && io::stdin().is_terminal() && io::stdout().is_terminal();
        if is_screen { Self::Screen } else { Self::Plain }
    }
}

/// What is to be done with a forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// End it until it is started again.
    Stop(u64),
    /// Start it again.
    Start(u64),
    /// Both.
    Restart(u64),
}

/// Where commands go. Full: dropped.
pub type Commands = mpsc::Sender<Command>;

/// A channel for commands.
pub fn commands() -> (Commands, mpsc::Receiver<Command>) {
    mpsc::channel(COMMANDS)
}

/// Why there is no view, or no longer.
#[derive(Debug, thiserror::Error)]
pub enum ViewError {
    /// The terminal does not do what is asked of it.
    #[error("the terminal cannot show the forwards: {0}")]
    Terminal(#[from] io::Error),
    /// There is nothing to show any more.
    #[error(transparent)]
    Source(#[from] SourceError),
}

impl ViewError {
    /// What to do about it.
    pub fn hint(&self) -> String {
        match self {
            Self::Terminal(_) => "--plain shows them line by line".into(),
            Self::Source(error) => error.hint(),
        }
    }
}

/// Shows what the source tells until whoever watches has seen enough, or the source ends. A terminal is as it was before
/// when this is done, or dropped.
///
/// # Errors
/// What keeps it from being shown.
pub async fn show(
    kind: Kind,
    source: impl Source,
    commands: Commands,
    output: &Output,
) -> Result<(), ViewError> {
    match kind {
        Kind::Plain => plain::show(source, output).await,
        Kind::Screen => {
            let (sender, messages) = mpsc::channel(MESSAGES);
            // What is said meanwhile goes into the view, not across it.
            let _said_here = output.redirect(sender);
            screen::show(source, commands, messages).await
        }
    }
}
