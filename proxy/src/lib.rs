//! A proxy on one port: SOCKS5 with UDP, SOCKS4a, HTTP CONNECT and plain HTTP, told apart by their first byte.
//!
//! It knows nothing of clusters: whoever gives it a way out implements [`Dial`]. A client is answered only when its
//! target has been reached, or with the reason why not. Parsers have no sockets and are fuzzed.
#![forbid(unsafe_code)]

mod associate;
mod carry;
mod connections;
mod credentials;
mod dial;

mod pages;
mod reach;
mod rules;
mod server;
mod socket;
mod socks;
pub mod socks4;
pub mod socks5;
mod step;
mod target;
pub mod web;

pub use carry::carry;
pub use connections::{Connection, Connections, Ended, Observer, Spoken, Totals};
pub use credentials::{Credentials, CredentialsError};
pub use dial::{Datagrams, Dial, End, Moved, Outbound, Refused};
pub use pages::{NoPages, PageRequest, Pages};
pub use rules::{Origin, Pattern, PatternError, Rules};
pub use server::{Limits, Proxy, Settings};
pub use step::Step;
pub use target::{Target, TargetError};
