//! An error on its way to another process: what, what to do, and the exit code that it makes.

use serde::{Deserialize, Serialize};

use crate::error::Error;

/// An error as it is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
#[serde(rename_all = "camelCase")]
pub struct Told {
    /// What and why.
    pub message: String,
    /// What to do about it.
    pub hint: String,
    /// 2 for misuse, 1 for everything else.
    #[serde(default = "failure")]
    pub code: u8,
}

fn failure() -> u8 {
    1
}

impl Told {
    /// A failure.
    pub fn new(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { message: message.into(), hint: hint.into(), code: 1 }
    }
}

impl From<Error> for Told {
    fn from(error: Error) -> Self {
        match error {
            Error::Told(told) => told,
            error => Self { message: error.to_string(), hint: error.hint(), code: error.exit_code() },
        }
    }
}
