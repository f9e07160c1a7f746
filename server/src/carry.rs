//! What direct streams and those of sessions have in common, on their entry in the ledger.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use bytes::Bytes;
use relay_dial::{DialError, FlowPeer};
use relay_observe::Entry;
use relay_protocol::Status;
use relay_protocol::hello::SessionId;
use tokio::net::UdpSocket;
use tracing::{debug, warn};

use crate::agent::Shared;

impl Shared {
    /// Notes why no target was reached, and warns of what the policy denied.
    pub fn not_reached(&self, entry: &mut Entry<'_>, error: &DialError) {
        entry.not_reached(error.status);
        let about = entry.about();
        let (id, address, port) = (&about.request, &about.address, about.port);
        match error.status {
            Status::Denied => match self.denials.admit(Instant::now()) {
                Some(0) => warn!(id, %address, port, %error, "target denied"),
                Some(unsaid) => warn!(id, %address, port, %error, unsaid, "target denied"),
                None => debug!(id, %address, port, %error, "target denied"),
            },
            _ => debug!(id, %error, "target not reached"),
        }
    }

    /// Carries a flow to its end.
    pub async fn carry(
        &self,
        entry: &mut Entry<'_>,
        session: Option<SessionId>,
        peer: &mut impl FlowPeer,
        socket: &UdpSocket,
    ) -> Status {
        let mut counted = Counted { peer, entry };
        let owner = session.map_or(0, |session| u128::from_be_bytes(session.0));
        let status = self.flows.run(owner, &mut counted, socket).await;
        entry.ended(status);
        status
    }
}

/// A flow whose datagrams are entered.
struct Counted<'a, 'b, P> {
    peer: &'a mut P,
    entry: &'a Entry<'b>,
}

impl<P: FlowPeer> FlowPeer for Counted<'_, '_, P> {
    async fn recv(&mut self) -> Result<Bytes, Status> {
        let datagram = self.peer.recv().await?;
        self.entry.add(datagram.len(), 0);
        Ok(datagram)
    }

    fn send(&mut self, datagram: &[u8]) -> Result<(), Status> {
        self.peer.send(datagram)?;
        self.entry.add(0, datagram.len());
        Ok(())
    }
}

/// Lets a few lines of a kind through each second, and counts the others: whoever is denied may try again and again,
/// and a log is written by the thread that carries everybody's bytes.
#[derive(Debug)]
pub struct Seldom {
    state: Mutex<(Instant, u32, u64)>,
}

impl Seldom {
    /// Lines per second.
    const MOST: u32 = 10;

    /// From now on.
    pub fn new(now: Instant) -> Self {
        Self { state: Mutex::new((now, 0, 0)) }
    }

    /// How many lines were left out since the last one; `None` where this one is to be left out too.
    fn admit(&self, now: Instant) -> Option<u64> {
        let mut state = self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let (since, said, unsaid) = &mut *state;
        if now.duration_since(*since) >= Duration::from_secs(1) {
            (*since, *said) = (now, 0);
        }
        if *said == Self::MOST {
            *unsaid += 1;
            return None;
        }
        *said += 1;
        Some(std::mem::take(unsaid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_lines_a_few_are_said_and_the_others_counted() {
        let start = Instant::now();
        let seldom = Seldom::new(start);
        let said = (0..100).filter(|_| seldom.admit(start).is_some()).count();
        assert_eq!(said, 10);
        assert_eq!(seldom.admit(start + Duration::from_secs(1)), Some(90));
        assert_eq!(seldom.admit(start + Duration::from_secs(1)), Some(0));
    }
}
