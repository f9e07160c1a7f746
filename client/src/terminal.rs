//! What a terminal is to this process: on Unix it belongs to one group of processes at a time.

#[cfg_attr(unix, path = "terminal/unix.rs")]
#[cfg_attr(windows, path = "terminal/windows.rs")]
mod system;

use std::io::{Stderr, Stdin};

/// Whether what is typed at this terminal is for this process, which is not so in the background of a shell. No, where it
/// is no terminal.
pub(crate) fn is_typed_at(stdin: &Stdin) -> bool {
    system::is_ours(stdin)
}

/// Whether what is shown on this terminal disturbs nobody: it is this process's at present.
pub(crate) fn is_looked_at(stderr: &Stderr) -> bool {
    system::is_ours(stderr)
}

/// Its columns, where they are known.
pub(crate) fn width(stderr: &Stderr) -> Option<usize> {
    system::width(stderr)
}
