//! The rows of the table: what each figure is, which way is better, and what is wanted.

use clap::ValueEnum;

/// Measurements that are made together and can be chosen together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Group {
    /// Time to the first Forwarding line.
    Start,
    /// Round trips of 64 bytes.
    Echo,
    /// The same while a download runs.
    Busy,
    /// 1, 8 and 64 streams.
    Download,
    /// 1, 8 and 64 streams.
    Upload,
    /// From the last byte to the end of a stream.
    End,
    /// Connections per second.
    Connections,
    /// Datagrams per second, and loss.
    Udp,
    /// Memory: idle, after load, with 1,000 idle connections.
    Memory,
}

/// What a figure has to reach.
#[derive(Debug, Clone, Copy)]
pub(super) enum Goal {
    /// Times the figure of `kubectl port-forward`.
    Ratio(f64),
    /// In the row's own unit.
    Value(f64),
    /// Reported only.
    None,
}

/// One row.
#[derive(Debug)]
pub(super) struct Row {
    /// Its name in JSON.
    pub(super) key: &'static str,
    pub(super) title: &'static str,
    pub(super) unit: &'static str,
    pub(super) more_is_better: bool,
    pub(super) goal: Goal,
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
    Row { key, title, unit, more_is_better, goal }
}

/// All rows, in the table's order.
#[rustfmt::skip]
pub(super) const ROWS: &[Row] = &[
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
    row("start_after_agent", "the same, from the making of the agent's container (to 10 ms)", "ms", LESS, Goal::None),
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
