//! One local connection or flow from its beginning to its end, for whoever wants to know of each.

use std::net::SocketAddr;

use jiff::Timestamp;
use relay_protocol::Status;
use tokio::time::Instant;

use super::{Path, Relay};
use crate::output::{Connection, EndedBy};

/// What has begun.
pub(super) struct Began {
    peer: SocketAddr,
    start: Timestamp,
    instant: Instant,
}

/// How it went.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ended {
    pub(crate) status: Status,
    pub(crate) by: EndedBy,
    /// Bytes of the local program.
    pub(crate) sent: u64,
    /// Bytes for the local program.
    pub(crate) received: u64,
}

impl Began {
    /// Now, with the local program's address.
    pub(super) fn now(peer: SocketAddr) -> Self {
        Self { peer, start: Timestamp::now(), instant: Instant::now() }
    }

    /// Tells of the whole.
    pub(super) fn ended(self, path: &Path, relay: &Relay, ended: Ended) {
        relay.output.connection(&Connection {
            target: &path.target,
            remote: path.remote,
            protocol: path.protocol,
            peer: self.peer,
            start: self.start,
            end: Timestamp::now(),
            took: self.instant.elapsed(),
            sent: ended.sent,
            received: ended.received,
            status: ended.status,
            by: ended.by,
        });
    }
}
