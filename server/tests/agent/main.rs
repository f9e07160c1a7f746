//! The agent over loopback: what a client sees on the wire.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod direct;
mod ends;
mod flood;
mod greeting;
mod hostile;
mod limits;
mod memory;
mod names;
mod observe;
mod policy;
mod process;
mod session;
mod settings;
mod support;
mod udp;
mod v0;
