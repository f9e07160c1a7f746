//! `cargo xtask count`: how many instructions the cases of the micro-benchmarks take, which depends on the code and its
//! compiler only. Valgrind runs each case twice, more often the second time: the difference is without what goes before.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use clap::Args;
use serde_json::Value;

use crate::paths;
use crate::shell::{self, say, step};
use crate::workspace::cargo;

/// Where the cases are.
const PACKAGES: [&str; 2] = ["relay-protocol", "relay-transport"];
/// So often a case is run, the first time and the second: what grows or wraps around now and then is in both.
const TIMES: [u64; 2] = [50, 250];

/// Options of `cargo xtask count`.
#[derive(Args)]
pub(crate) struct Options {
    /// Only cases whose names contain this.
    filter: Option<String>,
    /// Keep the figures, for later ones to be compared with; and for docs/performance.md, which the next `cargo xtask
    /// bench` writes.
    #[arg(long, conflicts_with = "filter")]
    keep: bool,
}

/// Counts, prints a table, compares with what was kept.
pub(crate) fn run(options: &Options) -> Result<()> {
    let programs = step("build the cases", build)?;
    let kept_in = paths::target().join("bench/instructions.json");
    let kept: BTreeMap<String, u64> =
        fs::read(&kept_in).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
    let mut counts = BTreeMap::new();
    println!("| | instructions | kept | |\n| --- | --: | --: | --: |");
    for program in programs {
        let names = shell::output(Command::new(&program).arg("--cases"))?;
        let wanted = |name: &&str| options.filter.as_ref().is_none_or(|filter| name.contains(filter));
        for name in names.lines().filter(wanted) {
            let count = count(&program, name)?;
            let (before, change) = match kept.get(name) {
                Some(before) => (before.to_string(), change(*before, count)),
                None => ("–".to_owned(), String::new()),
            };
            println!("| {name} | {count} | {before} | {change} |");
            counts.insert(name.to_owned(), count);
        }
    }
    if options.keep {
        fs::create_dir_all(kept_in.with_file_name("")).context("make the folder of what is kept")?;
        fs::write(&kept_in, serde_json::to_string_pretty(&counts)?)?;
        say(format!("kept in {}", kept_in.display()));
    }
    Ok(())
}

/// What was kept, as a part of the published page; none where nothing was.
pub(crate) fn section() -> Option<String> {
    let text = fs::read(paths::target().join("bench/instructions.json")).ok()?;
    let kept: BTreeMap<String, u64> = serde_json::from_slice(&text).ok()?;
    let rows: String = kept.iter().map(|(name, count)| format!("| {name} | {count} |\n")).collect();
    Some(format!(
        "## Instructions\n\nOf one run of each case of the micro-benchmarks, profile `fast`, counted by valgrind \
         (`cargo xtask count`). `out` and `in` are what one payload of so many bytes costs as a message, masked and with \
         its header, and back.\n\n| | instructions |\n| --- | --: |\n{rows}"
    ))
}

/// Builds the programs of cases.
fn build() -> Result<Vec<PathBuf>> {
    let mut command = cargo();
    command.current_dir(paths::root()).args(["bench", "--no-run", "--benches", "--profile", "fast"]);
    command.args(["--quiet", "--message-format", "json"]);
    command.args(PACKAGES.iter().flat_map(|package| ["--package", package]));
    Ok(programs_in(&shell::output(&mut command)?))
}

/// The programs of benches that Cargo's messages tell of.
fn programs_in(messages: &str) -> Vec<PathBuf> {
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let benches = messages.filter(|message| message["target"]["kind"][0] == "bench");
    benches.filter_map(|message| Some(message["executable"].as_str()?.into())).collect()
}

fn count(program: &Path, name: &str) -> Result<u64> {
    let [few, many] = TIMES;
    let instructions = |times: u64| {
        let mut command = Command::new("valgrind");
        command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--log-fd=1"]);
        command.arg(program).args(["--case", name, "--times", &times.to_string()]);
        let text = shell::output(&mut command)?;
        collected(&text).with_context(|| format!("valgrind tells no number: {text}"))
    };
    Ok((instructions(many)? - instructions(few)?) / (many - few))
}

/// The number in valgrind's line `==PID== Collected : NUMBER`.
fn collected(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.split_once("Collected :"))?.1;
    line.split_whitespace().next()?.parse().ok()
}

/// As in `+3.1 %`.
fn change(before: u64, after: u64) -> String {
    let percent = (after as f64 / (before.max(1)) as f64 - 1.0) * 100.0;
    format!("{percent:+.1} %")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn valgrinds_number_and_cargos_programs_are_found() {
        let text = "==7== Events    : Ir\n==7== Collected : 123456\n==7==\n";
        assert_eq!(collected(text), Some(123_456));
        assert_eq!(collected("nothing"), None);
        let messages = "{\"reason\":\"compiler-artifact\",\"target\":{\"kind\":[\"lib\"]},\"executable\":null}\n\
             {\"reason\":\"compiler-artifact\",\"target\":{\"kind\":[\"bench\"]},\"executable\":\"/x/wire\"}\n";
        assert_eq!(programs_in(messages), [PathBuf::from("/x/wire")]);
    }

    #[test]
    fn a_change_has_a_sign() {
        assert_eq!((change(100, 103), change(200, 100)), ("+3.0 %".to_owned(), "-50.0 %".to_owned()));
    }
}
