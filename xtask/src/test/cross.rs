//! Whether the plugin still compiles for Windows, where no test runs. Nothing is linked, so no linker for it is needed. (What
//! only macOS has comes from other packages, one of which takes Apple's compiler: that is left to the workflow's Mac.)

use anyhow::Result;

use super::runner::Runner;
use crate::workspace::add_target;

const WINDOWS: &str = "x86_64-pc-windows-gnu";

/// Lints the plugin for it.
pub(super) fn run(runner: &Runner) -> Result<()> {
    add_target(WINDOWS)?;
    let mut clippy = super::cargo();
    clippy.args(["clippy", "--package", "kubectl-relay", "--target", WINDOWS]);
    // A package with C in it compiles it, whatever becomes of the result: this machine's own compiler will do.
    clippy.env("CC_x86_64_pc_windows_gnu", "cc").env("AR_x86_64_pc_windows_gnu", "ar");
    runner.run(clippy.args(["--", "-D", "warnings"]))
}
