//! Tools that a run needs beside Rust itself: installed into the cache when they are missing.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::runner::Runner;
use crate::paths;
use crate::shell::{self, say};

/// The toolchain that sanitizers need.
pub(crate) const NIGHTLY: &str = "nightly";

/// cargo-deny.
pub(crate) fn cargo_deny(runner: &Runner) -> Result<PathBuf> {
    cargo_tool(runner, "cargo-deny", "0.20.2")
}

/// cargo-fuzz.
pub(crate) fn cargo_fuzz(runner: &Runner) -> Result<PathBuf> {
    cargo_tool(runner, "cargo-fuzz", "0.13.2")
}

/// Makes sure of the nightly toolchain.
pub(crate) fn nightly(runner: &Runner) -> Result<()> {
    let present = || shell::succeeds(Command::new("rustup").args(["run", NIGHTLY, "rustc", "--version"]));
    if present() {
        return Ok(());
    }
    say("installing the nightly toolchain, which fuzzing needs");
    let mut install = Command::new("rustup");
    install.args(["toolchain", "install", NIGHTLY, "--profile", "minimal"]);
    let done = runner.run(&mut install);
    if !present() {
        done?;
        bail!("no nightly toolchain; install it with `rustup toolchain install {NIGHTLY}`");
    }
    Ok(())
}

fn cargo_tool(runner: &Runner, name: &str, version: &str) -> Result<PathBuf> {
    let root = paths::cache()?.join("tools").join(format!("{name}-{version}"));
    let program = root.join("bin").join(name);
    if program.is_file() {
        return Ok(program);
    }
    say(format!("installing {name} {version} into {}, once", root.display()));
    let mut install = super::cargo();
    install.args(["install", "--quiet", "--locked", name, "--version", version, "--root"]).arg(&root);
    // These run for seconds: building them fast matters more than their speed.
    for (key, value) in [("LTO", "off"), ("CODEGEN_UNITS", "16"), ("OPT_LEVEL", "1")] {
        install.env(format!("CARGO_PROFILE_RELEASE_{key}"), value);
    }
    // Not into this checkout's output: its settings and features are of no use there.
    install.env_remove("CARGO_TARGET_DIR").current_dir(std::env::temp_dir());
    runner.run(&mut install).with_context(|| {
        format!(
            "cannot install {name}; try `cargo install --locked {name} --version {version} --root {}`",
            root.display()
        )
    })?;
    Ok(program)
}
