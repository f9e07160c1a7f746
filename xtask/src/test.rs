//! `cargo xtask test`: everything that must hold before a change lands, in order of patience.

mod cross;
mod e2e;
mod fuzz;
mod runner;
mod tools;

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};

use crate::paths;
use crate::shell::say;
pub(crate) use e2e::build_plugin;
use runner::Count;
pub(crate) use runner::Runner;

/// Options of `cargo xtask test`.
#[derive(Args)]
pub(crate) struct Options {
    /// Leave out what needs root and a cluster.
    #[arg(long)]
    no_cluster: bool,
    /// Full-length faults and fuzzing instead of those that fit into every run.
    #[arg(long)]
    long: bool,
    /// Run this part only; may be given several times.
    #[arg(long, value_enum, value_name = "PART")]
    only: Vec<Part>,
    /// Run only end-to-end tests whose names contain this.
    #[arg(long, value_name = "NAME")]
    filter: Option<String>,
    /// Leave the test cluster running, for the next run.
    #[arg(long, conflicts_with = "no_cluster")]
    keep_cluster: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Formatting.
    Fmt,
    /// Lints.
    Clippy,
    /// Lints for Windows.
    Cross,
    /// Documentation.
    Doc,
    /// Licences, sources and duplicate dependencies.
    Deny,
    /// Unit and property tests.
    Unit,
    /// Every fuzz target for a while.
    Fuzz,
    /// End to end, on a real cluster.
    E2e,
}

impl Part {
    fn name(self) -> &'static str {
        match self {
            Self::Fmt => "fmt",
            Self::Clippy => "clippy",
            Self::Cross => "clippy for Windows",
            Self::Doc => "doc",
            Self::Deny => "deny",
            Self::Unit => "unit and property tests",
            Self::Fuzz => "fuzz",
            Self::E2e => "end to end",
        }
    }
}

/// What became of a part.
struct Outcome {
    part: Part,
    took: Duration,
    count: Count,
    error: Option<anyhow::Error>,
}

/// Runs the parts; all of them, even when one fails, so that one run says everything.
pub(crate) fn run(options: &Options) -> Result<()> {
    let runner = Runner::new()?;
    let mut outcomes = Vec::new();
    for part in Part::value_variants() {
        let chosen = options.only.is_empty() || options.only.contains(part);
        if !chosen || (options.no_cluster && *part == Part::E2e) || runner.interrupted() {
            continue;
        }
        say(format!("\n=== {} ===", part.name()));
        let start = Instant::now();
        let mut count = Count::default();
        let error = run_part(*part, options, &runner, &mut count).err();
        if let Some(error) = &error {
            say(format!("{} failed: {error:#}", part.name()));
        }
        outcomes.push(Outcome { part: *part, took: start.elapsed(), count, error });
    }
    summary(&outcomes, runner.interrupted())
}

fn run_part(part: Part, options: &Options, runner: &Runner, count: &mut Count) -> Result<()> {
    match part {
        Part::Fmt => runner.run(cargo().args(["fmt", "--all", "--check"])),
        Part::Clippy => {
            runner.run(cargo().args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))
        }
        Part::Cross => cross::run(runner),
        Part::Doc => {
            runner.run(cargo().args(["doc", "--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "-D warnings"))
        }
        Part::Deny => {
            let deny = tools::cargo_deny(runner)?;
            runner.run(
                Command::new(deny).args(["check", "bans", "licenses", "sources"]).current_dir(paths::root()),
            )
        }
        Part::Unit => {
            let mut tests = cargo();
            tests.args(["test", "--workspace", "--exclude", "relay-tests", "--no-fail-fast"]);
            runner.count(&mut tests, count)
        }
        Part::Fuzz => fuzz::run(runner, options.long, count),
        Part::E2e => e2e::run(runner, options.long, options.filter.as_deref(), options.keep_cluster, count),
    }
}

fn summary(outcomes: &[Outcome], interrupted: bool) -> Result<()> {
    let mut total = Count::default();
    let mut failed_parts = Vec::new();
    println!();
    for outcome in outcomes {
        let result = if outcome.error.is_some() { "FAILED" } else { "ok" };
        println!("{:<26} {result:<7} {:>6.1} s", outcome.part.name(), outcome.took.as_secs_f32());
        total.passed += outcome.count.passed;
        total.failed += outcome.count.failed;
        if outcome.error.is_some() {
            failed_parts.push(outcome.part.name());
            // A part that failed as a whole must not look like a success in the last line.
            total.failed += u64::from(outcome.count.failed == 0);
        }
    }
    println!("{} passed, {} failed", total.passed, total.failed);
    if interrupted {
        bail!("interrupted");
    }
    if !failed_parts.is_empty() {
        bail!("failed: {}", failed_parts.join(", "));
    }
    Ok(())
}

/// Cargo, in the checkout.
fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(paths::root());
    command
}
