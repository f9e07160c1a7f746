//! Very many streams: what each takes while it only waits, how quickly they open, and what they carry together. The
//! agent has twice its usual memory for it.

use std::path::Path;

use anyhow::{Context, Result};

use super::measure::{Bench, Load, figure};
use super::process;
use super::report::Results;
use super::rows::Group;
use super::tools::{Running, Tool};

/// Streams at a time, each ten times as many as before.
const COUNTS: [u32; 3] = [100, 1_000, 10_000];
/// `kubectl port-forward` takes half a minute and a gibibyte for ten thousand.
const MOST_OF_THEIRS: u32 = 1_000;
/// So many are opened at once.
const AT_ONCE: &str = "16";
const MIB: f64 = 1024.0;

/// Measures all of them with clients that live as long.
pub(super) fn measure(
    bench: &Bench<'_>,
    plugin: &Path,
    logs: &Path,
    straight: Option<&Running>,
    results: &mut Results,
) {
    if let Some(straight) = straight {
        report(carried(bench, straight, results), straight.tool, results);
    }
    for tool in [Tool::PortForward, Tool::Roomy] {
        match Running::start(tool, bench.stage, bench.client, plugin, logs) {
            Ok(running) => {
                report(held(bench, &running, results), tool, results);
                report(carried(bench, &running, results), tool, results);
            }
            Err(error) => report(Err(error), tool, results),
        }
    }
}

fn report(measured: Result<()>, tool: Tool, results: &mut Results) {
    if let Err(error) = measured {
        results.fail(Group::Many, tool, &error);
    }
}

/// In whose column a tool's figures stand.
fn column(tool: Tool) -> Tool {
    if tool == Tool::Roomy { Tool::Relay } else { tool }
}

fn counts_of(tool: Tool) -> impl Iterator<Item = u32> {
    COUNTS.into_iter().filter(move |count| tool != Tool::PortForward || *count <= MOST_OF_THEIRS)
}

/// Streams that only stay open, after one exchange each.
fn held(bench: &Bench<'_>, running: &Running, results: &mut Results) -> Result<()> {
    let tool = column(running.tool);
    let memory = || {
        let client = running.pid().and_then(|pid| process::memory_mib(pid, "VmRSS"));
        (client, running.agent.and_then(process::cgroup_memory_mib))
    };
    let before = memory();
    for count in counts_of(running.tool) {
        let number = count.to_string();
        let work = ["hold", "--address", &running.offer.echo, "--count", &number, "--streams", AT_ONCE];
        let mut load = Load::start(bench, running.tool, &work)?;
        let found = load.figures(bench).with_context(|| format!("{count} streams that wait"))?;
        results.add(format!("many_opened_{count}"), tool, f64::from(count) / figure(&found, "opened_s")?);
        let after = memory();
        let each = |before: f64, after: f64| (after - before) * MIB / f64::from(count);
        if let (Some(before), Some(after)) = (before.0, after.0) {
            results.add(format!("many_client_{count}"), tool, each(before, after));
        }
        if let (Some(before), Some(after)) = (before.1, after.1) {
            results.add(format!("many_agent_{count}"), tool, each(before, after));
            results.add(format!("many_agent_all_{count}"), tool, after);
        }
    }
    Ok(())
}

/// All of them carry something at once.
fn carried(bench: &Bench<'_>, running: &Running, results: &mut Results) -> Result<()> {
    let bytes = bench.effort.bulk.to_string();
    for count in counts_of(running.tool) {
        let number = count.to_string();
        let work = ["download", "--address", &running.offer.source, "--streams", &number, "--bytes", &bytes];
        let found = bench.load(running.tool, &work).with_context(|| format!("{count} downloads"))?;
        results.add(format!("many_download_{count}"), column(running.tool), figure(&found, "mib_s")?);
    }
    Ok(())
}
