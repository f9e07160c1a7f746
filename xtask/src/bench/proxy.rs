//! The proxy's rows: connections and bytes through `kubectl relay proxy`. Beside them the same work with a stream pair of
//! `kubectl port-forward` for each connection, which is what other proxies into a cluster make, and with none.

use std::path::Path;

use anyhow::{Context, Result};

use super::load::Spoken;
use super::measure::{Bench, Load, figure};
use super::process;
use super::report::Results;
use super::rows::Group;
use super::tools::{Running, Tool};

const IDLE_CONNECTIONS: &str = "1000";

/// Measures all of them, with a proxy that lives as long.
pub(super) fn measure(
    bench: &Bench<'_>,
    plugin: &Path,
    logs: &Path,
    others: &[Running],
    results: &mut Results,
) -> Result<()> {
    let proxy = Running::start(Tool::Proxy, bench.stage, bench.client, plugin, logs)?;
    memory("proxy_idle", &proxy, results);
    let beside = others.iter().filter(|running| running.tool != Tool::Relay);
    let ways: Vec<_> = std::iter::once(&proxy).chain(beside).collect();
    for way in &ways {
        let measured = connections(bench, way, results)
            .and_then(|()| bulk(bench, way, results))
            .and_then(|()| held(bench, way, results));
        if let Err(error) = measured {
            results.fail(Group::Proxy, way.tool, &error);
        }
    }
    Ok(())
}

/// In whose column a way's figures stand.
fn column(way: &Running) -> Tool {
    if way.tool == Tool::Proxy { Tool::Relay } else { way.tool }
}

/// The options of a load that goes this way.
fn through(way: &Running, spoken: Spoken) -> Vec<&str> {
    match &way.offer.proxy {
        Some(proxy) => vec!["--proxy", proxy, "--spoken", spoken.name()],
        None => Vec::new(),
    }
}

fn connections(bench: &Bench<'_>, way: &Running, results: &mut Results) -> Result<()> {
    let (count, seconds) = (bench.effort.connections.to_string(), bench.effort.seconds.to_string());
    for streams in ["1", "16"] {
        for spoken in [Spoken::Socks5, Spoken::Connect] {
            let work = ["connections", "--address", &way.offer.echo, "--streams", streams];
            let limits = ["--count", &count, "--seconds", &seconds];
            let found = bench.load(way.tool, &[&work[..], &limits, &through(way, spoken)].concat())?;
            let key = format!("proxy_{}_{streams}", spoken.name());
            results.add(key, column(way), figure(&found, "per_s")?);
        }
    }
    Ok(())
}

fn bulk(bench: &Bench<'_>, way: &Running, results: &mut Results) -> Result<()> {
    let bytes = bench.effort.bulk.to_string();
    for (direction, address) in [("download", &way.offer.source), ("upload", &way.offer.sink)] {
        let work = [direction, "--address", address, "--streams", "8", "--bytes", &bytes];
        let found = bench.load(way.tool, &[&work[..], &through(way, Spoken::Socks5)].concat())?;
        results.add(format!("proxy_{direction}_8"), column(way), figure(&found, "mib_s")?);
    }
    Ok(())
}

/// A thousand connections that only stay open.
fn held(bench: &Bench<'_>, way: &Running, results: &mut Results) -> Result<()> {
    let work = ["hold", "--address", &way.offer.echo, "--count", IDLE_CONNECTIONS];
    let mut load = Load::start(bench, way.tool, &[&work[..], &through(way, Spoken::Socks5)].concat())?;
    let found = load.figures(bench).context("a thousand connections")?;
    results.add("proxy_open_1000", column(way), figure(&found, "opened_s")?);
    memory("proxy_1000", way, results);
    Ok(())
}

/// The client's memory at this moment; straight ways have no client.
fn memory(key: &str, way: &Running, results: &mut Results) {
    if let Some(mib) = way.pid().and_then(|pid| process::memory_mib(pid, "VmRSS")) {
        results.add(key, column(way), mib);
    }
}
