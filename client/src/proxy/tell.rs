//! What is told of the proxy's connections: to programs each end that was not good, to whoever asked every one. The
//! clients themselves have been answered, so the terminal is not told of what could not be reached.

use std::sync::Arc;

use jiff::Timestamp;
use relay_protocol::{
    Status,
    header::{Address, Protocol},
};
use relay_proxy::{Ended, Observer, Spoken};

use crate::{
    forward::AGAIN,
    output::{Connection, EndedBy, Output},
};

/// Tells the terminal.
pub(super) struct Teller(pub(super) Arc<Output>);

impl Observer for Teller {
    fn ended(&self, ended: &Ended<'_>) {
        let connection = ended.connection;
        let by = if ended.by_client { EndedBy::Local } else { EndedBy::Remote };
        let (sent, received) = connection.moved.get();
        let host = match &connection.target.address {
            Address::Ip(ip) => ip.to_string(),
            Address::Host(name) => name.to_string(),
        };
        if let Some(refused) = ended.refused {
            tracing::info!(target = %connection.target, spoken = %connection.spoken, %refused, "refused");
        }
        if ended.status != Status::Ok {
            self.0.stream_ended(&connection.target.to_string(), ended.status, by, sent, received);
        }
        let protocol = if connection.spoken == Spoken::Socks5Udp { Protocol::Udp } else { Protocol::Tcp };
        let start = Timestamp::try_from(connection.start).unwrap_or_default();
        self.0.connection(&Connection {
            target: &host,
            remote: connection.target.port,
            protocol,
            peer: connection.peer,
            start,
            end: Timestamp::now(),
            took: ended.took,
            sent,
            received,
            status: ended.status,
            by,
        });
    }

    fn trouble(&self, sentence: &str) {
        self.0.not_forwarded("proxy", sentence, AGAIN);
    }
}
