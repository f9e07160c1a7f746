//! The agent of `kubectl relay`: one small program in a pod that dials whatever its user may reach from there.
//!
//! It listens on loopback only, so that nobody but the port-forward into this pod can talk to it. `main.rs` is the
//! command; this library is all of it, so that tests can run it with shorter limits and a resolver of their own.

pub mod agent;
pub mod carry;
pub mod direct;
pub mod listen;
pub mod log;
pub mod metrics;
pub mod places;
pub mod session;
pub mod settings;
