//! The proxy between real sockets, with a way out that the tests decide on.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that fails here should panic")]

mod fair;
mod plain;
mod smuggling;
mod socks;
mod support;
mod tunnels;
mod udp;
