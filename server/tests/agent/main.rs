//! The agent over loopback: what a client sees on the wire.

mod direct;
mod greeting;
mod names;
mod process;
mod support;
mod udp;
mod v0;
