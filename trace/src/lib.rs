//! Tells what passes a connection, without a part in it: HTTP/1 and HTTP/2 exchanges from the bytes of both directions,
//! and captures in pcapng of packets that might have carried them. No sockets, no clock, no files: time and bytes are
//! passed in. What a peer sends can make it lose track, and cost no more memory than the limits of each part.
#![forbid(unsafe_code)]

pub mod flow;
mod hpack;
mod http1;
mod http2;
mod observer;
mod packet;
pub mod pcapng;
mod seen;
mod text;
mod tls;

pub use observer::Observer;
pub use packet::{Flags, Segment};
pub use seen::{End, Exchange, Hello, Seen, Version};
