//! What the end-to-end tests share: the plugin as a process, kubectl, and traffic that is checked byte by byte.
//!
//! `cargo xtask test` makes a cluster, builds the plugin and sets the environment that these need.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that fails here should panic")]

mod kubectl;
mod memory;
mod namespace;
mod relay;
mod rights;
mod traffic;

pub use kubectl::{admin_kubeconfig, kubectl, kubectl_apply, try_kubectl, xtask};
pub use memory::agent_memory;
pub use namespace::Namespace;
pub use relay::{Exited, Relay, Signal};
pub use rights::{documented_rules, with_verbs, without};
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
