//! The wire protocol of `kubectl relay`, without I/O.
//!
//! Bytes and the time go in, bytes and events come out: no sockets, no clock, no randomness. Everything that can
//! deadlock, leak or corrupt lives here, so that it can be tested in virtual time. `WIRE.md` documents every byte.

mod cursor;
pub mod flow;
pub mod frame;
pub mod header;
pub mod hello;
mod lane;
mod large;
mod pace;
mod path;
pub mod pool;
pub mod ranges;
mod recv;
mod rtt;
mod send;
pub mod session;
mod slab;
pub mod status;
pub mod varint;

pub use header::{Address, Header, HeaderError, HostName, Protocol};
pub use large::LargeFrame;
pub use session::{Config, Session};
pub use status::Status;

/// The port on which the agent listens, on loopback only. Clients of krelay's port-forward generation expect this one.
pub const AGENT_PORT: u16 = 9527;

/// The largest datagram a flow carries: what fits into one UDP packet over IPv4, in bytes.
pub const MAX_DATAGRAM: usize = 65_507;
