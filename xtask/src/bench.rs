//! `cargo xtask bench`: `kubectl relay` beside `kubectl port-forward`, on a real cluster, in turns.

mod amount;
mod load;
mod machine;
mod many;
mod measure;
mod place;
mod process;
mod proxy;
mod published;
mod report;
mod rows;
mod stage;
mod start;
mod target;
mod tools;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};

use crate::cluster::LinkSettings;
use crate::shell::{say, step};
use crate::test::{Runner, build_plugin};
use crate::{cluster, image, paths};
use machine::Machine;
use measure::{Bench, Effort};
use place::{Place, Places};
use report::Results;
use rows::{Choice, Group};
use stage::Stage;
use tools::{Client, Running, Tool};

const NAME: &str = "relay-bench";

/// Options of `cargo xtask bench`.
#[derive(Args)]
#[command(after_help = "\
On the machine itself 5 runs take about 20 minutes, and one run over all links that have goals about as long. \
What was measured in full, without --quick and --only, replaces its section of docs/performance.md; the others \
stay as they were: so the links can be measured at another time. The machine should have nothing else to do.")]
pub(crate) struct Options {
    #[command(subcommand)]
    role: Option<Role>,
    /// How often everything is measured; medians are shown [default: 5, with --quick 3].
    #[arg(long, visible_alias = "rounds", value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    runs: Option<u32>,
    /// Shorter measurements, fewer of them, and docs/performance.md stays as it is.
    #[arg(long)]
    quick: bool,
    /// Only these rows: download for all that begin so, download8 for one kind.
    #[arg(long, visible_alias = "rows", value_name = "ROWS", value_delimiter = ',')]
    only: Vec<Choice>,
    /// Where the client stands: here, or behind a link such as 80ms, 20ms/1% or 20ms/50mbit/4q; goals stands for all
    /// links that have goals, grid for 0, 20 and 80 ms with 0, 1 and 3 % loss.
    #[arg(long, value_name = "LINK", value_delimiter = ',', default_value = "here")]
    link: Vec<Places>,
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
    let places: Vec<Place> = options.link.iter().flat_map(|places| &places.0).copied().collect();
    let mut link = Link::new(name);
    if places.iter().any(|place| groups(*place, options).contains(&Group::Start)) {
        stage.install_shared(plugin)?;
    }
    let mut facts = machine.facts;
    if places.iter().any(|place| *place != Place::Here) {
        let place = Place::Behind(LinkSettings::default());
        let client = link.set(place, &stage)?;
        let bench = Bench { stage: &stage, runner, effort, client, place };
        let (down, up) = step("what the link itself carries", || {
            bench.ceiling(&Running::start(Tool::Straight, &stage, client, plugin, &folder)?)
        })?;
        say(format!("  plain TCP over the link without delay: {down:.0} MiB/s down, {up:.0} up"));
        facts["link_down_mib_s"] = down.into();
        facts["link_up_mib_s"] = up.into();
    }
    let mut results: Vec<Results> = places.iter().map(|place| Results::new(*place)).collect();
    let mut interrupted = false;
    'measuring: for number in 0..runs {
        for (place, results) in places.iter().zip(&mut results) {
            let title = format!("run {} of {runs}, {place}", number + 1);
            let measured = step(&format!("{title} (load average {})", machine::load_average()), || {
                let client = link.set(*place, &stage)?;
                let bench = Bench { stage: &stage, runner, effort, client, place: *place };
                round(&bench, plugin, &folder, number as usize, &groups(*place, options), results)
            });
            // What there is until then is shown all the same.
            interrupted = runner.interrupted();
            if interrupted {
                break 'measuring;
            }
            measured?;
        }
    }
    drop(link);
    // A program that was built elsewhere may be older than the checkout.
    let brought = [("plugin", env::var_os("RELAY_BIN").is_some()), ("agent", options.current)];
    let brought: Vec<_> = brought.iter().filter(|(_, brought)| *brought).map(|(part, _)| *part).collect();
    if !brought.is_empty() {
        let commit = facts["commit"].as_str().unwrap_or_default();
        facts["commit"] =
            format!("{commit} (but not built from it in this run: {})", brought.join(" and ")).into();
    }
    facts["load_average_after"] = machine::load_average().into();
    let sections: Vec<_> =
        results.iter().map(|results| report::section(results, &facts, warning.as_deref(), runs)).collect();
    let page = report::page(&facts, &sections, "");
    println!("{page}");
    let all: Vec<_> = results.iter().map(Results::json).collect();
    let json = serde_json::json!({ "machine": facts, "warning": warning, "runs": runs, "links": all });
    let file = folder.join("bench.json");
    fs::write(&file, serde_json::to_string_pretty(&json)?)?;
    fs::write(folder.join("bench.md"), &page)?;
    say(format!("written: {} and bench.md beside it", file.display()));
    if interrupted {
        bail!("interrupted");
    }
    if !options.quick && options.only.is_empty() {
        let file = paths::root().join("docs/performance.md");
        let before = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
        let new: Vec<_> = places.into_iter().zip(sections).collect();
        fs::write(&file, report::page(&facts, &published::merged(&before, &new)?, &before))?;
        say(format!("written: {}", file.display()));
    }
    Ok(())
}

/// What is measured at a place: what was chosen, or what has its place there.
fn groups(place: Place, options: &Options) -> Vec<Group> {
    if options.only.is_empty() {
        return place.groups().to_vec();
    }
    let chosen = options.only.iter().flat_map(|choice| &choice.0).copied();
    // How much memory and processor time something needs does not depend on the path; the proxy's rows are of here only.
    chosen.filter(|group| place == Place::Here || !matches!(group, Group::Memory | Group::Proxy)).collect()
}

/// The cluster's link, which the bench sets as it needs it; removed with this.
struct Link<'a> {
    name: &'a str,
    is_up: bool,
}

impl<'a> Link<'a> {
    fn new(name: &'a str) -> Self {
        Self { name, is_up: false }
    }

    /// Puts clients in this place.
    fn set(&mut self, place: Place, stage: &Stage) -> Result<Client> {
        let Place::Behind(settings) = place else { return Ok(Client::Here) };
        self.is_up = true;
        let (process, address) = cluster::link_up(self.name, settings)?;
        stage.answer_over_link(&address)?;
        Ok(Client::Of(process))
    }
}

impl Drop for Link<'_> {
    fn drop(&mut self) {
        if self.is_up
            && let Err(error) = cluster::link_down(self.name)
        {
            say(format!("the link may be left over: {error:#}"));
        }
    }
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
    if groups.contains(&Group::Start)
        && let Err(error) = start::measure(bench, plugin, logs, number, results)
    {
        results.fail(Group::Start, Tool::Relay, &error);
    }
    let mut order = Tool::ALL;
    order.rotate_left(number % Tool::ALL.len());
    let mut tools = Vec::new();
    for tool in order {
        tools.push(Running::start(tool, bench.stage, bench.client, plugin, logs)?);
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
                *running = Running::start(running.tool, bench.stage, bench.client, plugin, logs)?;
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
    if groups.contains(&Group::Proxy)
        && let Err(error) = proxy::measure(bench, plugin, logs, &tools, results)
    {
        results.fail(Group::Proxy, Tool::Proxy, &error);
    }
    if groups.contains(&Group::Many) {
        let straight = tools.iter().find(|running| running.tool == Tool::Straight);
        // Their processes are of no use any more, and would be in the way.
        many::measure(bench, plugin, logs, straight, results);
    }
    Ok(())
}

/// Bytes to send: neither zeros nor anything that has to be made while time is taken.
fn scratch() -> Arc<[u8]> {
    static BYTES: OnceLock<Arc<[u8]>> = OnceLock::new();
    let make = || (0..256 * 1024u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    BYTES.get_or_init(make).clone()
}
