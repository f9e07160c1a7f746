//! Byte streams to a pod's port through the Kubernetes API server.
//!
//! [`connect::client`] builds a `kube::Client` whose connections suit long-lived streams;
//! [`PortForward::dial`] upgrades one of them and gives a [`Connection`]. Nothing here knows what the bytes
//! mean.

pub mod connect;
pub mod connection;
mod dial;
mod error;
pub mod framing;
pub mod spdy;
pub mod v4;
pub mod websocket;

pub use connection::{Connection, ReadHalf, WriteHalf};
pub use dial::{DIAL_TIMEOUT, Mode, PortForward};
pub use error::{DialError, RESOURCE, Verb, Verbs};
pub use framing::{ConnectionError, Negotiated};
