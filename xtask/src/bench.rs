//! `cargo xtask bench`: `kubectl relay` beside `kubectl port-forward`, on a real cluster, in turns.

mod load;
mod machine;
mod measure;
mod process;
mod report;
mod rows;
mod stage;
mod target;
mod tools;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand, ValueEnum};

use crate::shell::{say, step};
use crate::test::{Runner, build_plugin};
use crate::{cluster, image, paths};
use machine::Machine;
use measure::{Bench, Effort};
use report::Results;
use rows::Group;
use stage::Stage;
use tools::{Running, Tool};

const NAME: &str = "relay-bench";
/// The link without anything between client and API server.
const HERE: &str = "On the machine itself";

/// Options of `cargo xtask bench`.
#[derive(Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    role: Option<Role>,
    /// How often everything is measured; medians are shown [default: 5, with --quick 3].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    runs: Option<u32>,
    /// Shorter measurements, fewer of them, and docs/performance.md stays as it is.
    #[arg(long)]
    quick: bool,
    /// Only these rows.
    #[arg(long, value_enum, value_name = "ROWS", value_delimiter = ',')]
    only: Vec<Group>,
    /// The cluster; if it is not running it is started, and removed afterwards.
    #[arg(long, default_value = NAME)]
    name: String,
    /// The running cluster of `cargo xtask cluster up` (or $RELAY_CLUSTER), with the agent's image
    /// that is loaded there.
    #[arg(long, conflicts_with = "name")]
    current: bool,
}

/// What this program is when the bench runs it again.
#[derive(Subcommand)]
enum Role {
    /// The servers in the pod.
    #[command(hide = true)]
    Target,
    /// One measurement.
    #[command(hide = true)]
    Load(load::Options),
}

/// Runs the bench, or a part of it in a process of its own.
pub(crate) fn run(options: &Options) -> Result<()> {
    match &options.role {
        Some(Role::Target) => return target::run(),
        Some(Role::Load(options)) => return load::run(options),
        None => {}
    }
    let runner = Runner::new()?;
    // $RELAY_BIN is for those who have built one already.
    let plugin = match env::var_os("RELAY_BIN") {
        Some(plugin) => PathBuf::from(plugin),
        None => build_plugin(&runner)?,
    };
    if options.current {
        let name = env::var("RELAY_CLUSTER").unwrap_or_else(|_| cluster::DEFAULT_NAME.to_owned());
        return on_cluster(&name, &plugin, &runner, options);
    }
    let agent = image::build_server()?;
    let ours = !stage::is_running(&options.name)?;
    let measured = cluster::start(&options.name)
        .and_then(|()| cluster::load(&options.name, &[agent]))
        .and_then(|()| on_cluster(&options.name, &plugin, &runner, options));
    if ours { measured.and(cluster::stop(&options.name)) } else { measured }
}

fn on_cluster(name: &str, plugin: &Path, runner: &Runner, options: &Options) -> Result<()> {
    let folder = paths::target().join("bench");
    fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
    let stage = Stage::set(name)?;
    let machine = Machine::look(&stage, plugin);
    let warning = machine.warning();
    if let Some(warning) = &warning {
        say(format!("warning: {warning}"));
    }
    let runs = options.runs.unwrap_or(if options.quick { 3 } else { 5 });
    let effort = if options.quick { Effort::QUICK } else { Effort::FULL };
    let bench = Bench { stage: &stage, runner, effort };
    let groups: Vec<Group> = Group::value_variants()
        .iter()
        .copied()
        .filter(|group| options.only.is_empty() || options.only.contains(group))
        .collect();
    let mut results = Results::new(HERE);
    for number in 0..runs {
        step(&format!("run {} of {runs} (load average {})", number + 1, machine::load_average()), || {
            round(&bench, plugin, &folder, number as usize, &groups, &mut results)
        })?;
    }
    let mut facts = machine.facts;
    // A program that was built elsewhere may be older than the checkout.
    let brought = [("plugin", env::var_os("RELAY_BIN").is_some()), ("agent", options.current)];
    let brought: Vec<_> = brought.iter().filter(|(_, brought)| *brought).map(|(part, _)| *part).collect();
    if !brought.is_empty() {
        let commit = facts["commit"].as_str().unwrap_or_default();
        facts["commit"] =
            format!("{commit} (but not built from it in this run: {})", brought.join(" and ")).into();
    }
    facts["load_average_after"] = machine::load_average().into();
    let results = [results];
    let page = report::page(&facts, warning.as_deref(), runs, &results);
    println!("{page}");
    let all: Vec<_> = results.iter().map(Results::json).collect();
    let json = serde_json::json!({ "machine": facts, "warning": warning, "runs": runs, "links": all });
    let file = folder.join("bench.json");
    fs::write(&file, serde_json::to_string_pretty(&json)?)?;
    fs::write(folder.join("bench.md"), &page)?;
    say(format!("written: {} and bench.md beside it", file.display()));
    if !options.quick && options.only.is_empty() {
        let place = paths::root().join("docs/performance.md");
        fs::write(&place, &page)?;
        say(format!("written: {}", place.display()));
    }
    Ok(())
}

/// Every group once with every tool; who comes first changes from round to round.
fn round(
    bench: &Bench<'_>,
    plugin: &Path,
    logs: &Path,
    number: usize,
    groups: &[Group],
    results: &mut Results,
) -> Result<()> {
    let mut order = Tool::ALL;
    order.rotate_left(number % Tool::ALL.len());
    let mut tools = Vec::new();
    for tool in order {
        tools.push(Running::start(tool, bench.stage, plugin, logs)?);
    }
    if groups.contains(&Group::Memory) {
        // What starting needed is given back, or not, within a second.
        thread::sleep(Duration::from_secs(1));
        for running in &tools {
            bench.idle_memory(running, results);
        }
    }
    for group in groups {
        for running in &mut tools {
            let measured = if running.is_alive() {
                bench.measure(*group, running, results)
            } else {
                Err(anyhow::anyhow!("it has ended by itself"))
            };
            if bench.runner.interrupted() {
                bail!("interrupted");
            }
            if let Err(error) = measured {
                say(format!("  {}, {group:?}: {error:#}", running.tool.name()));
                results.fail(*group, running.tool, &error);
                // Whatever state it is in must not spoil the next figure.
                *running = Running::start(running.tool, bench.stage, plugin, logs)?;
            }
        }
    }
    if groups.contains(&Group::Memory) {
        for running in &tools {
            if let Err(error) = bench.loaded_memory(running, results) {
                results.fail(Group::Memory, running.tool, &error);
            }
        }
    }
    Ok(())
}

/// Bytes to send: neither zeros nor anything that has to be made while time is taken.
fn scratch() -> Arc<[u8]> {
    static BYTES: OnceLock<Arc<[u8]>> = OnceLock::new();
    let make = || (0..256 * 1024u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    BYTES.get_or_init(make).clone()
}
