//! What the end-to-end tests share: the plugin as a process, kubectl, and traffic that is checked byte by byte.
//!
//! `cargo xtask test` makes a cluster, builds the plugin and sets the environment that these need.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that fails here should panic")]

mod agent;
mod cluster;
mod kubectl;
mod load;
mod namespace;
mod pace;
mod path;
mod proxied;
mod quota;
mod relay;
mod rights;
mod schema;
mod team;
mod terminal;
mod traffic;

pub use agent::{AGENT_LABEL, Agent};
pub use cluster::{Alone, Beside, alone, beside_others, wait_for_controllers};
pub use kubectl::{admin_kubeconfig, kubectl, kubectl_apply, try_kubectl, xtask, xtask_program};
pub use load::{Echoes, Transfers};
pub use namespace::Namespace;
pub use pace::{Took, in_time};
pub use path::{Path, this_machine};
pub use proxied::Spoken;
pub use quota::Quota;
pub use relay::{Event, Exited, Relay, Signal};
pub use rights::{documented_rules, documented_rules_of, with_verbs, without};
pub use team::{shared_agent, shared_agent_status, shared_agent_sum, try_shared_agent};
pub use terminal::{CTRL_BACKSLASH, CTRL_C, CTRL_Z, Terminal};
pub use traffic::{
    connect, connect_from, download, download_watched, echo_once, half_close, http_get, receive_pattern,
    send_pattern, udp_echo, upload, wait_until,
};

/// A file of the repository, by its path from the root.
pub fn repository(path: &str) -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// Whether the run may take its time: faults at full length.
pub fn is_long() -> bool {
    std::env::var_os("RELAY_LONG").is_some()
}

/// One value for every run, another for a run that may take its time.
pub fn short_or_long<T>(short: T, long: T) -> T {
    if is_long() { long } else { short }
}
