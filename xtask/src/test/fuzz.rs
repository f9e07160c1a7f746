//! Runs every fuzz target for its share of the time.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::runner::{Count, Runner};
use super::tools;
use crate::paths;
use crate::shell::{self, say};

/// All targets together, in seconds, in a run of every day.
const BUDGET: u64 = 360;
/// One target at most, in seconds, in a run of every day.
const SHARE: u64 = 60;
/// One target, in seconds, in a long run.
const LONG: u64 = 600;

/// Runs all targets that `fuzz/` has; a workspace without that folder has none.
pub(crate) fn run(runner: &Runner, long: bool, count: &mut Count) -> Result<()> {
    let folder = paths::root().join("fuzz");
    if !folder.join("Cargo.toml").exists() {
        say("no fuzz/Cargo.toml: there are no fuzz targets");
        return Ok(());
    }
    tools::nightly(runner)?;
    let program = tools::cargo_fuzz(runner)?;
    let listed = shell::output(fuzz(&program).arg("list")).context("list the fuzz targets")?;
    let targets: Vec<&str> = listed.split_whitespace().collect();
    if targets.is_empty() {
        bail!("fuzz/ names no target");
    }
    runner.run(fuzz(&program).arg("build")).context("build the fuzz targets")?;
    let seconds = if long { LONG } else { SHARE.min(BUDGET / targets.len() as u64).max(1) };
    let mut failed = Vec::new();
    for target in targets {
        say(format!("fuzz target {target}, {seconds} s"));
        match run_target(runner, &program, &folder, target, seconds) {
            Ok(()) => count.passed += 1,
            Err(error) => {
                count.failed += 1;
                failed.push(format!("{target}: {error:#}"));
            }
        }
        if runner.interrupted() {
            bail!("interrupted");
        }
    }
    if !failed.is_empty() {
        bail!("{}", failed.join("\n"));
    }
    Ok(())
}

fn run_target(runner: &Runner, program: &Path, folder: &Path, target: &str, seconds: u64) -> Result<()> {
    // What is found goes to the first folder, so that the committed corpus stays as it is.
    let found = paths::target().join("fuzz-corpus").join(target);
    std::fs::create_dir_all(&found)?;
    let mut run = fuzz(program);
    run.args(["run", target]).arg(&found);
    let corpus = folder.join("corpus").join(target);
    if corpus.is_dir() {
        run.arg(corpus);
    }
    run.arg("--").arg(format!("-max_total_time={seconds}"));
    run.args(["-timeout=10", "-rss_limit_mb=2048", "-print_final_stats=1", "-verbosity=0"]);
    runner.run(&mut run)
}

/// cargo-fuzz under the nightly toolchain, whatever toolchain runs us.
fn fuzz(program: &Path) -> Command {
    let mut command = Command::new("rustup");
    command.args(["run", tools::NIGHTLY]).arg(program).arg("fuzz");
    command.current_dir(paths::root()).env_remove("CARGO").env_remove("RUSTUP_TOOLCHAIN");
    command
}
