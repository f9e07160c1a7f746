//! The rows of the table: what each figure is, which way is better, and what is wanted.

use std::str::FromStr;

use anyhow::{Result, bail};
use clap::ValueEnum;

use super::place::Place;
use crate::cluster::LinkSettings;

/// Measurements that are made together and can be chosen together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Group {
    /// Time to the first Forwarding line: with an agent to be started, from its image or carried, and with one that is there.
    Start,
    /// From connecting to the first answer.
    First,
    /// Round trips of 64 bytes.
    Echo,
    /// The same while a download runs.
    Busy,
    /// One stream.
    Download1,
    /// Eight at once.
    Download8,
    /// Sixty-four at once.
    Download64,
    /// One stream.
    Upload1,
    /// Eight at once.
    Upload8,
    /// Sixty-four at once.
    Upload64,
    /// From the last byte to the end of a stream.
    End,
    /// Connections per second, one at a time.
    Connections1,
    /// Connections per second, 16 at once.
    Connections16,
    /// Datagrams: rate or times, and loss.
    Udp,
    /// Memory: idle, after load, with 1,000 idle connections.
    Memory,
    /// Through `kubectl relay proxy`: connections per second, throughput, memory.
    Proxy,
    /// A thousand connections that are all busy.
    Busy1000,
    /// A hundred, a thousand and ten thousand streams: memory of each, how they open, what they carry.
    Many,
}

/// The groups whose names begin with a word: `download` for all three, `download8` for one.
#[derive(Debug, Clone)]
pub(super) struct Choice(pub(super) Vec<Group>);

impl FromStr for Choice {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let name = |group: &Group| group.to_possible_value().map(|value| value.get_name().to_owned());
        let all = Group::value_variants();
        let exact = |group: &&Group| name(group).is_some_and(|name| name == text);
        let begins =
            |group: &&Group| !text.is_empty() && name(group).is_some_and(|name| name.starts_with(text));
        let chosen: Vec<Group> = match all.iter().find(exact) {
            Some(group) => vec![*group],
            None => all.iter().filter(begins).copied().collect(),
        };
        if chosen.is_empty() {
            let names: Vec<String> = all.iter().filter_map(name).collect();
            bail!("there are no rows called {text:?}; there are {}", names.join(", "));
        }
        Ok(Self(chosen))
    }
}

/// What a figure has to reach.
#[derive(Debug, Clone, Copy)]
pub(super) enum Goal {
    /// Times the figure of `kubectl port-forward`.
    Ratio(f64),
    /// The same, and better than plain TCP over the same path.
    RatioBeyondStraight(f64),
    /// In the row's own unit.
    Value(f64),
    /// Times our own figure in the row of this key.
    Of(&'static str, f64),
    /// Reported only.
    None,
}

/// One row.
#[derive(Debug, Clone, Copy)]
pub(super) struct Row {
    /// Its name in JSON.
    pub(super) key: &'static str,
    pub(super) title: &'static str,
    pub(super) unit: &'static str,
    pub(super) more_is_better: bool,
    pub(super) goal: Goal,
    /// Shows the highest sample of another row instead of a median of its own.
    pub(super) highest_of: Option<&'static str>,
}

const MORE: bool = true;
const LESS: bool = false;

const fn row(
    key: &'static str,
    title: &'static str,
    unit: &'static str,
    more_is_better: bool,
    goal: Goal,
) -> Row {
    Row { key, title, unit, more_is_better, goal, highest_of: None }
}

/// The worst sample of another row where less is better.
const fn worst(
    key: &'static str,
    of: &'static str,
    title: &'static str,
    unit: &'static str,
    goal: Goal,
) -> Row {
    Row { key, title, unit, more_is_better: LESS, goal, highest_of: Some(of) }
}

/// The rows of a place, in the table's order.
pub(super) fn rows_of(place: Place) -> Vec<Row> {
    match place {
        Place::Here => ROWS.to_vec(),
        Place::Behind(link) => BEHIND.iter().map(|row| Row { goal: goal(row.key, &link), ..*row }).collect(),
    }
}

/// What is wanted over a link; nothing where the link is not one of those that have goals.
fn goal(key: &str, link: &LinkSettings) -> Goal {
    let rtt = link.rtt.as_secs_f64() * 1e3;
    let percent = (link.loss * 100.0).round() as u32;
    let plain = link.rate.is_none() && percent == 0;
    let near = rtt == 20.0 && link.rate.is_none();
    match key {
        "start_shared" if plain && rtt == 80.0 => Goal::Ratio(0.75),
        "first" if plain => Goal::Value(rtt + 5.0),
        "download_1" | "upload_1" if plain && rtt == 80.0 => Goal::RatioBeyondStraight(2.0),
        "download_8" | "upload_8" if plain && rtt == 80.0 => Goal::Ratio(2.5),
        "download_1" | "upload_1" if near && percent == 1 => Goal::Ratio(2.5),
        "download_8" | "upload_8" if near && percent == 1 => Goal::Ratio(3.0),
        "download_1" | "upload_1" if link.rate.is_some() && percent == 0 => Goal::Ratio(0.95),
        "busy_p50" if percent == 0 => Goal::Value(rtt + 15.0),
        "busy_p99" if plain => Goal::Value(rtt + 60.0),
        "busy_p50" if near && percent == 1 => Goal::Value(rtt * 1.5),
        "busy_p99" if near && percent == 1 => Goal::Value(150.0),
        "echo_p99" if near && percent == 1 => Goal::Value(60.0),
        "echo_p99" if near && percent == 3 => Goal::Value(120.0),
        "udp_p99" if near && percent == 1 => Goal::Value(80.0),
        "udp_duplicates" => Goal::Value(0.0),
        _ => Goal::None,
    }
}

/// All rows over a link; the goals depend on the link.
#[rustfmt::skip]
const BEHIND: &[Row] = &[
    row("start", "time to the first Forwarding line (relay: its agent starts too)", "ms", LESS, Goal::None),
    row("start_over_pod", "the same without the pod's own start (its Job is made to its container runs)", "ms", LESS, Goal::None),
    row("start_carried", "time to the first Forwarding line, carried agent", "ms", LESS, Goal::None),
    row("start_carried_later", "later than with the image, pair by pair", "ms", LESS, Goal::None),
    worst("start_carried_worst", "start_carried_later", "the worst of these pairs", "ms", Goal::None),
    row("start_shared", "time to the first Forwarding line, an agent already there", "ms", LESS, Goal::None),
    row("first", "a new connection's first answer", "ms", LESS, Goal::None),
    row("download_1", "download, 1 stream", "MiB/s", MORE, Goal::None),
    row("download_8", "download, 8 streams", "MiB/s", MORE, Goal::None),
    row("download_64", "download, 64 streams", "MiB/s", MORE, Goal::None),
    row("upload_1", "upload, 1 stream", "MiB/s", MORE, Goal::None),
    row("upload_8", "upload, 8 streams", "MiB/s", MORE, Goal::None),
    row("upload_64", "upload, 64 streams", "MiB/s", MORE, Goal::None),
    row("echo_p50", "echo 64 bytes, p50", "ms", LESS, Goal::None),
    row("echo_p99", "echo 64 bytes, p99", "ms", LESS, Goal::None),
    row("busy_p50", "echo beside a download, p50", "ms", LESS, Goal::None),
    row("busy_p99", "echo beside a download, p99", "ms", LESS, Goal::None),
    row("end", "end of a stream after its last byte", "ms", LESS, Goal::None),
    row("connections_1", "connect + echo + close, one at a time", "1/s", MORE, Goal::None),
    row("connections_16", "connect + echo + close, 16 at once", "1/s", MORE, Goal::None),
    row("udp_p50", "UDP echo, 512 bytes, one every 5 ms, p50", "ms", LESS, Goal::None),
    row("udp_p99", "the same, p99 of those that came back", "ms", LESS, Goal::None),
    row("udp_loss", "the same, loss", "%", LESS, Goal::None),
    row("udp_duplicates", "the same, duplicates", "", LESS, Goal::None),
];

/// All rows on the machine itself.
#[rustfmt::skip]
const ROWS: &[Row] = &[
    row("download_1", "download, 1 stream", "MiB/s", MORE, Goal::Ratio(1.2)),
    row("download_8", "download, 8 streams", "MiB/s", MORE, Goal::Ratio(1.2)),
    row("download_64", "download, 64 streams", "MiB/s", MORE, Goal::None),
    row("upload_1", "upload, 1 stream", "MiB/s", MORE, Goal::Ratio(1.1)),
    row("upload_8", "upload, 8 streams", "MiB/s", MORE, Goal::Ratio(1.1)),
    row("upload_64", "upload, 64 streams", "MiB/s", MORE, Goal::None),
    row("connections_1", "connect + echo + close, one at a time", "1/s", MORE, Goal::Ratio(4.0)),
    row("connections_16", "connect + echo + close, 16 at once", "1/s", MORE, Goal::Ratio(6.0)),
    row("echo_p50", "echo 64 bytes, p50", "µs", LESS, Goal::Ratio(1.0)),
    row("echo_p99", "echo 64 bytes, p99", "µs", LESS, Goal::Ratio(1.0)),
    row("busy_p50", "echo beside a download, p50", "µs", LESS, Goal::Ratio(0.2)),
    row("busy_p99", "echo beside a download, p99", "µs", LESS, Goal::None),
    row("end", "end of a stream after its last byte", "ms", LESS, Goal::Value(5.0)),
    row("start", "time to the first Forwarding line (relay: its agent starts too)", "ms", LESS, Goal::None),
    row("start_over_pod", "the same without the pod's own start (its Job is made to its container runs)", "ms", LESS, Goal::Value(150.0)),
    row("start_after_agent", "from the start of the agent's container to the first Forwarding line", "ms", LESS, Goal::None),
    row("start_carried", "time to the first Forwarding line, carried agent", "ms", LESS, Goal::None),
    row("start_carried_over_pod", "the same without the pod's own start", "ms", LESS, Goal::None),
    row("start_carried_later", "later than with the image, pair by pair", "ms", LESS, Goal::Value(1_000.0)),
    worst("start_carried_worst", "start_carried_later", "the worst of these pairs", "ms", Goal::Value(1_000.0)),
    // A round trip more is allowed, which is nothing here.
    row("start_shared", "time to the first Forwarding line, an agent already there", "ms", LESS, Goal::Ratio(1.0)),
    row("client_idle", "client memory, idle", "MiB", LESS, Goal::Ratio(0.3)),
    row("client_peak", "client memory, highest under load", "MiB", LESS, Goal::Ratio(0.6)),
    row("client_1000", "client memory, 1,000 idle connections", "MiB", LESS, Goal::None),
    row("open_1000", "time to open those 1,000 in turn", "s", LESS, Goal::None),
    row("agent_idle", "agent memory (cgroup), idle", "MiB", LESS, Goal::Value(6.0)),
    row("agent_after", "agent memory (cgroup), after load", "MiB", LESS, Goal::None),
    row("agent_1000", "agent memory (cgroup), 1,000 idle connections", "MiB", LESS, Goal::Value(64.0)),
    row("udp_rate", "UDP echo, 512 bytes, 64 in flight", "1/s", MORE, Goal::Value(15_000.0)),
    row("udp_loss", "UDP echo, loss", "%", LESS, Goal::Value(0.0)),
    row("udp_duplicates", "UDP echo, duplicates", "", LESS, Goal::Value(0.0)),
    row("busy_1000_rate", "1,000 connections that are all busy: echoes of 64 bytes", "1/s", MORE, Goal::None),
    row("busy_1000_p50", "the same, p50 of one", "ms", LESS, Goal::None),
    row("busy_1000_p99", "the same, p99 of one", "ms", LESS, Goal::None),
    row("many_download_100", "download, 100 streams (larger agent)", "MiB/s", MORE, Goal::Of("download_8", 0.9)),
    row("many_download_1000", "download, 1,000 streams", "MiB/s", MORE, Goal::Of("many_download_100", 0.9)),
    row("many_download_10000", "download, 10,000 streams", "MiB/s", MORE, Goal::Of("many_download_1000", 0.9)),
    row("many_opened_100", "opening 100 connections, 16 at once", "1/s", MORE, Goal::None),
    row("many_opened_1000", "opening 1,000 connections, 16 at once", "1/s", MORE, Goal::None),
    row("many_opened_10000", "opening 10,000 connections, 16 at once", "1/s", MORE, Goal::None),
    row("many_client_100", "client memory, each of 100 idle connections", "KiB", LESS, Goal::None),
    row("many_client_1000", "client memory, each of 1,000", "KiB", LESS, Goal::Of("many_client_100", 1.1)),
    row("many_client_10000", "client memory, each of 10,000", "KiB", LESS, Goal::Of("many_client_1000", 1.1)),
    row("many_agent_100", "agent memory (cgroup), each of 100 idle connections", "KiB", LESS, Goal::None),
    row("many_agent_1000", "agent memory (cgroup), each of 1,000", "KiB", LESS, Goal::Of("many_agent_100", 1.1)),
    row("many_agent_10000", "agent memory (cgroup), each of 10,000", "KiB", LESS, Goal::Of("many_agent_1000", 1.1)),
    row("many_agent_all_10000", "agent memory (cgroup), 10,000 idle connections", "MiB", LESS, Goal::Value(256.0)),
    row("proxy_socks5_1", "proxy, SOCKS5: connect + echo + close, one at a time", "1/s", MORE, Goal::None),
    row("proxy_socks5_16", "proxy, SOCKS5: the same, 16 at once", "1/s", MORE, Goal::None),
    row("proxy_connect_1", "proxy, HTTP CONNECT: connect + echo + close, one at a time", "1/s", MORE, Goal::None),
    row("proxy_connect_16", "proxy, HTTP CONNECT: the same, 16 at once", "1/s", MORE, Goal::None),
    row("proxy_download_8", "proxy, SOCKS5: download, 8 streams", "MiB/s", MORE, Goal::None),
    row("proxy_upload_8", "proxy, SOCKS5: upload, 8 streams", "MiB/s", MORE, Goal::None),
    row("proxy_idle", "proxy: client memory, idle", "MiB", LESS, Goal::None),
    row("proxy_1000", "proxy: client memory, 1,000 idle connections", "MiB", LESS, Goal::None),
    row("proxy_open_1000", "proxy: time to open those 1,000 in turn", "s", LESS, Goal::None),
    row("download_cpu_client", "download: processor time, client", "s/GiB", LESS, Goal::Ratio(0.35)),
    row("download_cpu_agent", "download: processor time, agent", "s/GiB", LESS, Goal::None),
    row("download_cpu_kube-apiserver", "download: processor time, API server", "s/GiB", LESS, Goal::None),
    row("download_cpu_kubelet", "download: processor time, kubelet", "s/GiB", LESS, Goal::None),
    row("download_cpu_containerd", "download: processor time, containerd", "s/GiB", LESS, Goal::None),
    row("download_cpu_load", "download: processor time, load and target", "s/GiB", LESS, Goal::None),
    row("upload_cpu_client", "upload: processor time, client", "s/GiB", LESS, Goal::Ratio(0.35)),
    row("upload_cpu_agent", "upload: processor time, agent", "s/GiB", LESS, Goal::None),
    row("upload_cpu_kube-apiserver", "upload: processor time, API server", "s/GiB", LESS, Goal::None),
    row("upload_cpu_kubelet", "upload: processor time, kubelet", "s/GiB", LESS, Goal::None),
    row("upload_cpu_containerd", "upload: processor time, containerd", "s/GiB", LESS, Goal::None),
    row("upload_cpu_load", "upload: processor time, load and target", "s/GiB", LESS, Goal::None),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_of_a_place_has_a_name_of_its_own() {
        for place in Place::all().unwrap() {
            let rows = rows_of(place);
            let mut keys: Vec<_> = rows.iter().map(|row| row.key).collect();
            keys.sort_unstable();
            keys.dedup();
            assert_eq!(keys.len(), rows.len(), "{place}");
        }
    }

    #[test]
    fn a_word_chooses_the_rows_that_begin_with_it() {
        let choose = |text: &str| text.parse::<Choice>().unwrap().0;
        assert_eq!(choose("download"), [Group::Download1, Group::Download8, Group::Download64]);
        assert_eq!(choose("connections1"), [Group::Connections1]);
        assert!("".parse::<Choice>().is_err());
        assert!("nonsense".parse::<Choice>().is_err());
    }

    #[test]
    fn goals_follow_the_link() {
        let goal = |key, link: &str| goal(key, &link.parse().unwrap());
        assert!(matches!(goal("first", "20ms"), Goal::Value(25.0)));
        assert!(matches!(goal("download_1", "80ms"), Goal::RatioBeyondStraight(2.0)));
        assert!(matches!(goal("download_8", "20ms/1%"), Goal::Ratio(3.0)));
        assert!(matches!(goal("upload_1", "20ms/50mbit/4q"), Goal::Ratio(0.95)));
        assert!(matches!(goal("download_1", "33ms"), Goal::None));
    }
}
