//! A DNS server that answers nothing itself: it passes queries to one name server and answers back, over whatever
//! carries datagrams and byte streams there. Messages go through byte for byte, with another id; only a name that the
//! search list completes is read and written anew.
#![forbid(unsafe_code)]

pub mod forwarder;
mod line;
pub mod message;
pub mod search;
pub mod server;
pub mod upstream;

pub use forwarder::Forwarder;
pub use search::{BadDomain, Search};
pub use server::Server;
pub use upstream::{Datagrams, Upstream};
