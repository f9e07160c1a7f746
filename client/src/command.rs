//! The command of `-- COMMAND`: looked for before anything is created in the cluster, started when traffic can flow.
//! It has the terminal; the relay stays beside it until it ends, and ends as it did.

pub mod environment;
mod lookup;
mod program;

use std::{ffi::OsString, fmt, io, path::is_separator};

pub use environment::Variables;
pub use program::Program;

/// What was typed after `--`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandLine {
    /// The program: a path, or a name that is looked for in `PATH`.
    pub program: OsString,
    /// Its arguments.
    pub arguments: Vec<OsString>,
}

/// A command that cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// There is no such program.
    #[error("there is no command \"{command}\"{}", searched(*in_path))]
    NotFound {
        /// As typed.
        command: String,
        /// Whether it was looked for in `PATH`.
        in_path: bool,
    },
    /// There is one, and the system does not run it.
    #[error("the command \"{command}\" cannot be executed: {reason}")]
    NotExecutable {
        /// As typed.
        command: String,
        /// Why.
        reason: String,
    },
}

fn searched(in_path: bool) -> &'static str {
    if in_path { " in PATH" } else { "" }
}

impl CommandError {
    fn of_start(command: &CommandLine, error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => {
                Self::NotFound { command: command.to_string(), in_path: !command.is_path() }
            }
            _ => Self::NotExecutable { command: command.to_string(), reason: error.to_string() },
        }
    }

    /// What to type instead.
    pub fn hint(&self) -> String {
        match self {
            Self::NotFound { in_path: true, .. } => {
                "what follows -- is a program with its arguments, not a line of shell: \
                 for that, use -- sh -c 'LINE'"
                    .into()
            }
            Self::NotFound { .. } => "name a program that is there, or one in PATH".into(),
            Self::NotExecutable { command, .. } => {
                format!("if it is a script: chmod +x {command}, or name its interpreter before it")
            }
        }
    }

    /// As shells have it: 127 for what is not there, 126 for what cannot be executed.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::NotFound { .. } => 127,
            Self::NotExecutable { .. } => 126,
        }
    }
}

impl CommandLine {
    /// From what was typed after `--`; `None` where that is nothing.
    pub fn new(typed: Vec<OsString>) -> Option<Self> {
        let mut words = typed.into_iter();
        let program = words.next()?;
        Some(Self { program, arguments: words.collect() })
    }

    fn is_path(&self) -> bool {
        self.program.as_encoded_bytes().iter().any(|byte| is_separator(char::from(*byte)))
    }
}

/// The program's name, for messages.
impl fmt::Display for CommandLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.program.to_string_lossy())
    }
}
