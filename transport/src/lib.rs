//! Byte streams to a pod's port through the Kubernetes API server.
//!
//! [`connect::client`] builds a `kube::Client` whose connections suit long-lived streams;
//! [`PortForward::dial`] upgrades one of them and gives a [`Connection`]. Nothing here knows what the bytes
//! mean. Without the feature `kube`, which is on by default, there are only the codecs.

#[cfg(feature = "kube")]
pub mod connect;
#[cfg(feature = "kube")]
pub mod connection;
#[cfg(feature = "kube")]
mod dial;
#[cfg(feature = "kube")]
mod error;
pub mod framing;
pub mod spdy;
pub mod v4;
pub mod websocket;

#[cfg(feature = "kube")]
pub use connection::{Connection, ReadHalf, WriteHalf};
#[cfg(feature = "kube")]
pub use dial::{DIAL_TIMEOUT, Mode, PortForward};
#[cfg(feature = "kube")]
pub use error::{DialError, RESOURCE, Verb, Verbs, of_credential_plugin};
pub use framing::{ConnectionError, Negotiated};
