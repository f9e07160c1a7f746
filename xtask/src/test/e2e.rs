//! The end-to-end tests: a cluster of their own, the agent's image in it, the plugin built.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::cargo;
use super::runner::{Count, Runner};
use crate::plugin::{self, Processor};
use crate::shell::say;
use crate::workspace::Workspace;
use crate::{cluster, image, paths};

const NAME: &str = "relay-test";
/// Tests that wait for the network more than they compute: several at once, but not all.
const THREADS: u32 = 4;

/// Runs the tests; the cluster is taken down again whatever happens.
pub(crate) fn run(
    runner: &Runner,
    long: bool,
    filter: Option<&str>,
    keep: bool,
    count: &mut Count,
) -> Result<()> {
    let tested = prepare(runner).and_then(|plugin| test(runner, &plugin, long, filter, count));
    if keep {
        say(format!("cluster {NAME} keeps running; `cargo xtask cluster down --name {NAME}` ends it"));
        return tested;
    }
    let ended = cluster::stop(NAME).and_then(|()| {
        let left = cluster::leftovers(NAME)?;
        if left.is_empty() { Ok(()) } else { bail!("the cluster left behind: {}", left.join(", ")) }
    });
    tested.and(ended)
}

/// Makes the cluster and everything to be tested in it; gives the plugin.
fn prepare(runner: &Runner) -> Result<PathBuf> {
    // Compiling comes first: what does not build needs no cluster.
    let plugin = build_plugin(runner)?;
    let agent = image::build_server()?;
    cluster::build_all()?;
    cluster::start(NAME)?;
    cluster::load(NAME, &[agent])?;
    Ok(plugin)
}

/// Builds the plugin as the tests run it.
pub(crate) fn build_plugin(runner: &Runner) -> Result<PathBuf> {
    let mut build = cargo();
    build.args(["build", "--package", "kubectl-relay", "--profile", "fast"]);
    // The agent for this machine is the one that the tests start.
    build.env(plugin::AGENTS, plugin::pack_agents(&Workspace::here(), &[Processor::Amd64])?);
    runner.run(&mut build).context("build the plugin")?;
    Ok(paths::target().join("fast/kubectl-relay"))
}

fn test(
    runner: &Runner,
    plugin: &PathBuf,
    long: bool,
    filter: Option<&str>,
    count: &mut Count,
) -> Result<()> {
    let mut tests: Command = cargo();
    tests.args(["test", "--package", "relay-tests", "--profile", "fast", "--no-fail-fast", "--"]);
    tests.arg(format!("--test-threads={THREADS}")).args(filter);
    tests.envs(cluster::environment_of(NAME)?);
    tests.env("RELAY_BIN", plugin).env("RELAY_XTASK", std::env::current_exe()?);
    if long {
        tests.env("RELAY_LONG", "1");
    }
    runner.count(&mut tests, count)
}
