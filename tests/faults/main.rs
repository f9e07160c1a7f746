//! What may happen to a tunnel, one file per fault. Data flows both ways meanwhile and is checked byte by byte; how
//! long the recovery may take is asserted, and printed. Those that break the cluster for everybody run alone.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that fails here should panic")]

mod address_changed;
mod agent_lost;
mod api_server_killed;
mod budgets;
mod connections_come_and_go;
mod credentials;
mod idle_killer;
mod lane_lost;
mod laptop_asleep;
mod live;
mod path_cut;
mod path_reset;
mod proxied;
mod rollout;
mod strangers;
mod stuck_reader;
mod target_moves;
mod unruly_neighbours;

/// Bytes in a MiB.
const MIB: u64 = 1 << 20;
/// What the agent's cgroup may be charged for: well below its limit of 128 MiB.
const AGENT_BUDGET: u64 = 110 * MIB;
/// What the plugin may hold: its pools of 64 and 24 MiB, what the sockets' bytes are copied through, itself.
const PLUGIN_BUDGET: u64 = 160 * MIB;
