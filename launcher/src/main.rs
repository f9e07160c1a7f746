//! The agent without an image of its own: unpacks it from behind this program into memory and becomes it, with the same
//! arguments. It needs no shell, no writable file system and no right beyond those of the agent.

#![forbid(unsafe_code)]

use std::convert::Infallible;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use relay_launcher::{UnpackError, unpack};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::Errno;

/// A program that was found and could not be run, as shells have it.
const NOT_RUN: u8 = 126;

#[derive(Debug, thiserror::Error)]
enum LaunchError {
    #[error("cannot read itself: {0}")]
    Itself(io::Error),
    #[error("the node gives no memory for a program: {0}")]
    Memory(Errno),
    #[error(transparent)]
    Unpack(#[from] UnpackError),
    #[error("the node does not let a program run from memory: {0}")]
    Run(io::Error),
}

fn main() -> ExitCode {
    match launch() {
        Ok(never) => match never {},
        Err(error) => {
            // Nowhere else to say it: the plugin shows the end of the container's log.
            let _ = writeln!(io::stderr(), "launcher: {error}");
            ExitCode::from(NOT_RUN)
        }
    }
}

fn launch() -> Result<Infallible, LaunchError> {
    let itself = fs::read("/proc/self/exe").map_err(LaunchError::Itself)?;
    let mut program = memory().map_err(LaunchError::Memory)?;
    unpack(&itself, &mut program)?;
    let mut arguments = std::env::args_os();
    let mut command = Command::new(format!("/proc/self/fd/{}", program.as_raw_fd()));
    if let Some(name) = arguments.next() {
        command.arg0(name);
    }
    // The file is closed by that, and lives on as the program.
    Err(LaunchError::Run(command.args(arguments).exec()))
}

/// A file in memory that may be run.
fn memory() -> Result<File, Errno> {
    let create = |flags| memfd_create(c"relay-server", flags | MemfdFlags::CLOEXEC);
    match create(MemfdFlags::EXEC) {
        // Kernels before 6.3 do not know that flag and let every such file be run.
        Err(Errno::INVAL) => create(MemfdFlags::empty()),
        outcome => outcome,
    }
    .map(File::from)
}
