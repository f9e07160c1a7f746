//! Whether the plugin still compiles for systems that no test runs on. Nothing is linked, so no linker for them is needed.

use anyhow::Result;

use super::runner::Runner;
use crate::workspace::add_target;

const WINDOWS: &str = "x86_64-pc-windows-gnu";
const MACOS: &str = "aarch64-apple-darwin";

/// Lints the plugin for each.
pub(super) fn run(runner: &Runner) -> Result<()> {
    for target in [WINDOWS, MACOS] {
        add_target(target)?;
        let mut clippy = super::cargo();
        clippy.args(["clippy", "--package", "kubectl-relay", "--target", target]);
        // A package with C in it compiles it, whatever becomes of the result: this machine's own compiler will do, told
        // nothing that only another system's knows.
        let name = target.replace('-', "_");
        clippy
            .env(format!("CC_{name}"), "cc")
            .env(format!("AR_{name}"), "ar")
            .env("CRATE_CC_NO_DEFAULTS", "1");
        clippy.env("CARGO_PROFILE_DEV_DEBUG", "0");
        runner.run(clippy.args(["--", "-D", "warnings"]))?;
    }
    Ok(())
}
