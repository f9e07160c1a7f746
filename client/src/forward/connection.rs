//! One local connection or flow from its beginning to its end, for whoever wants to know of each.

use std::net::SocketAddr;

use jiff::Timestamp;
use relay_protocol::Status;
use tokio::time::Instant;

use super::{Path, Relay};
use crate::{
    ledger::Tally,
    output::{Connection, EndedBy},
};

/// What has begun.
pub(super) struct Began {
    peer: SocketAddr,
    start: Timestamp,
    instant: Instant,
    tally: Tally,
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
    pub(super) fn now(peer: SocketAddr, path: &Path) -> Self {
        Self { peer, start: Timestamp::now(), instant: Instant::now(), tally: path.account.begin() }
    }

    /// To be told of what is carried.
    pub(super) fn tally(&self) -> &Tally {
        &self.tally
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
        self.tally.ended(ended.status, ended.by);
    }
}
