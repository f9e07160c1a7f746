//! The budgets as a walk over all streams finds them, where the other figures only say what was booked. It takes as
//! long as there are streams: for tests, and for whoever looks for a leak.

use super::Session;

/// What all streams of one end hold at this moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Audit {
    /// Bytes that the peer may still send or that were not taken yet, over all streams and those that the peer may
    /// begin. Never more than [`Stats::receive_reserved`](super::Stats::receive_reserved).
    pub credit: u64,
    /// Bytes that arrived and were not taken.
    pub stored: u64,
    /// The same, as allocated.
    pub allocated: usize,
    /// Bytes written and not acknowledged. Exactly [`Stats::send_held`](super::Stats::send_held).
    pub sending: usize,
    /// Gaps in the stream that has most of them.
    pub most_gaps: usize,
}

impl Session {
    /// Counts what all streams hold.
    pub fn audit(&self) -> Audit {
        let unbegun = self.max_streams - self.peer_begun;
        let mut audit = Audit { credit: unbegun * self.config.initial_credit, ..Audit::default() };
        for (_, stream) in self.streams.iter() {
            let (stored, allocated) = stream.recv.held();
            audit.credit += stream.recv.outstanding();
            audit.stored += stored;
            audit.allocated += allocated;
            audit.sending += stream.send.held();
            audit.most_gaps = audit.most_gaps.max(stream.recv.gaps());
        }
        audit
    }
}
