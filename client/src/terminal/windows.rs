//! A console, which has no background: all of its programs may write and read.

use std::io::IsTerminal;

pub(super) fn is_ours(console: &impl IsTerminal) -> bool {
    console.is_terminal()
}

/// Not asked for: the line it is for is shown only where `TERM` says that lines can be cleared, and that is no console.
pub(super) fn width(_: &impl IsTerminal) -> Option<usize> {
    None
}
