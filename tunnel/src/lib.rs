//! The async driver of `relay-protocol`: connects a session to transports, tasks and time.
//!
//! Each session is one state machine behind a mutex that is held for microseconds. Streams and flows operate on it
//! directly; every lane has a reader task and a writer task, and neither ever waits for the other.

mod agent;
mod buffers;
mod client;
mod clock;
mod flow;
mod lane;
mod shared;
mod splice;
mod stream;
mod turns;

pub use agent::{Activity, Agent, AgentConfig, Incoming, LaneError};
pub use client::{ClientConfig, DialError, Dialer, Health, Session, State};
pub use flow::{FlowClosed, TunnelFlow};
pub use lane::LaneIo;
pub use relay_protocol::pool::Pool;
pub use splice::{SpliceEnd, SpliceReport, Tap, abort, splice, splice_tapped, splice_tuned, splice_watched};
pub use stream::{StreamReset, TunnelStream};
pub use turns::Turns;
