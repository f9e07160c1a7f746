//! The plugin `kubectl relay`: local TCP and UDP ports, forwarded through an agent to anything a cluster can reach.
#![forbid(unsafe_code)]

pub mod agent;
#[cfg(test)]
#[path = "../tests/support/captured.rs"]
mod captured;
pub mod cli;
pub mod cluster;
pub mod command;
pub mod completion;
pub mod dial_failure;
pub mod dialer;
pub mod direct;
pub mod doctor;
pub mod error;
pub mod file_limit;
pub mod forward;
pub mod hints;
pub mod ledger;
pub mod metrics;
pub mod network;
pub mod output;
pub mod port;
pub mod ports_file;
pub mod proxy;
pub mod relay_file;
pub mod run;
pub mod shared;
pub mod signals;
pub mod target;
mod terminal;
pub mod trace;
#[cfg(unix)]
pub mod up;
pub mod version;
pub mod view;
