//! A lane: one transport of a session, what was sent on it and not yet acknowledged, and its times.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::path::{Path, Snapshot};
use crate::rtt::Rtt;
use crate::send::Piece;
use crate::session::{FlowKey, StreamKey};

/// PONGs that wait to be sent; a peer that sends more PINGs than it reads loses the oldest.
const MAX_PONGS: usize = 4;

/// To repair a loss takes this long at the least: twice what a frame takes and waits for.
const REPAIR: Duration = Duration::from_millis(20);

/// What a frame that is in flight brought, for when it is acknowledged or lost.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Item {
    Stream(StreamKey, Piece),
    MaxData(StreamKey, u64),
    Reset(StreamKey),
    /// With its number.
    Datagram(FlowKey, u64),
    FlowClose(u64),
    MaxStreams,
    Drain,
    Goodbye,
    LaneClose,
    Ping,
}

#[derive(Clone, Copy, Debug)]
struct Record {
    /// Position behind the frame.
    end: u64,
    len: u64,
    at: Instant,
    item: Item,
    snapshot: Snapshot,
}

/// A frame that has been without an acknowledgement for longer than its lane takes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Late {
    /// Position behind the frame.
    pub(crate) end: u64,
    pub(crate) item: Item,
}

/// What an acknowledgement said.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Acked {
    /// Bytes of frames that were on their way.
    pub(crate) bytes: u64,
    /// They were held up for so long that something was lost on the way.
    pub(crate) repaired: bool,
}

/// How far the orderly end of a lane has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Closing {
    No,
    /// LANE_CLOSE is to be sent.
    Due,
    Sent,
}

#[derive(Debug)]
pub(crate) struct Lane {
    pub(crate) id: u64,
    pub(crate) rtt: Rtt,
    pub(crate) closing: Closing,
    pub(crate) peer_closing: bool,
    /// Something is outstanding and nothing has come for long: no new frames here.
    pub(crate) suspect: bool,
    /// Something on the way is held up: an acknowledgement is overdue.
    pub(crate) lagging: bool,
    /// For so long nothing came meanwhile.
    pub(crate) silent: Duration,
    /// When that began, bytes on other lanes did not wait.
    pub(crate) alone: bool,
    /// Frames that end at or before this position have been looked at for being late.
    pub(crate) looked: u64,
    /// Not to be looked at for late frames before this.
    pub(crate) look_at: Option<Instant>,
    /// What the lane holds up of bulk streams has been given to others up to this position.
    pub(crate) given_up: u64,
    pub(crate) path: Path,
    /// Bytes handed to the transport.
    sent: u64,
    records: VecDeque<Record>,
    in_flight: u64,
    /// Bytes of whole frames taken from the transport.
    pub(crate) received: u64,
    /// Of these, bytes that ask for an acknowledgement and have none yet.
    eliciting: u64,
    ack_due: Option<Instant>,
    /// The acknowledgement has fallen due and waits for the transport.
    ack_overdue: bool,
    /// The lane on which the latest acknowledgement travelled, if not on this one.
    pub(crate) acked_on: Option<u64>,
    pub(crate) last_received: Instant,
    /// Since when something has been outstanding without a sign of life.
    pub(crate) waiting_since: Option<Instant>,
    pub(crate) ping_due: bool,
    pub(crate) ping_out: Option<u64>,
    pub(crate) ping_sent: Option<Instant>,
    pub(crate) pongs: VecDeque<u64>,
}

impl Lane {
    pub(crate) fn new(id: u64, now: Instant) -> Self {
        Self {
            id,
            rtt: Rtt::default(),
            closing: Closing::No,
            peer_closing: false,
            suspect: false,
            lagging: false,
            silent: Duration::ZERO,
            alone: false,
            looked: 0,
            look_at: None,
            given_up: 0,
            path: Path::default(),
            sent: 0,
            records: VecDeque::new(),
            in_flight: 0,
            received: 0,
            eliciting: 0,
            ack_due: None,
            ack_overdue: false,
            acked_on: None,
            last_received: now,
            waiting_since: None,
            ping_due: false,
            ping_out: None,
            ping_sent: None,
            pongs: VecDeque::new(),
        }
    }

    /// New frames may be put here.
    pub(crate) fn is_usable(&self) -> bool {
        !self.suspect && self.closing == Closing::No && !self.peer_closing
    }

    /// Nothing is left to do on a lane that both ends have closed.
    pub(crate) fn is_finished(&self) -> bool {
        self.closing == Closing::Sent && self.peer_closing && self.records.is_empty() && self.eliciting == 0
    }

    pub(crate) fn in_flight(&self) -> u64 {
        self.in_flight
    }

    /// Bytes were handed to the transport that carry nothing to be acknowledged.
    pub(crate) fn sent_plain(&mut self, len: usize) {
        self.sent += len as u64;
    }

    pub(crate) fn sent_frame(&mut self, now: Instant, len: usize, item: Item) {
        let snapshot = self.path.sent(now, self.in_flight);
        self.sent += len as u64;
        self.in_flight += len as u64;
        if self.waiting_since.is_none() {
            self.waiting_since = Some(now);
        }
        self.records.push_back(Record { end: self.sent, len: len as u64, at: now, item, snapshot });
    }

    /// Takes note of whole frames; `eliciting` of their bytes ask for an acknowledgement.
    pub(crate) fn received_frames(&mut self, now: Instant, len: u64, eliciting: u64, delay: Duration) {
        self.received += len;
        self.eliciting += eliciting;
        if self.eliciting > 0 && self.ack_due.is_none() && !self.ack_overdue {
            self.ack_due = Some(now + delay);
        }
    }

    /// Anything came at all.
    pub(crate) fn heard(&mut self, now: Instant) {
        if self.lagging {
            self.silent = self.silent.max(now.saturating_duration_since(self.last_received));
        }
        self.last_received = now;
        self.suspect = false;
        self.waiting_since = self.waits().then_some(now);
    }

    /// Whether anything must come from the peer, be it only its LANE_CLOSE.
    fn waits(&self) -> bool {
        self.has_outstanding() || self.closing == Closing::Sent
    }

    pub(crate) fn eliciting(&self) -> u64 {
        self.eliciting
    }

    /// When an acknowledgement falls due that isn't yet.
    pub(crate) fn ack_due(&self) -> Option<Instant> {
        self.ack_due
    }

    /// Whether an acknowledgement waits no longer for company.
    pub(crate) fn owes_ack(&self, now: Instant, threshold: u64) -> bool {
        self.ack_overdue || self.eliciting >= threshold || self.ack_due.is_some_and(|due| due <= now)
    }

    /// Turns a time that has come into a state, so that a transport that takes nothing doesn't keep a timer in the
    /// past.
    pub(crate) fn note_ack_due(&mut self, now: Instant) {
        if self.ack_due.is_some_and(|due| due <= now) {
            self.ack_due = None;
            self.ack_overdue = true;
        }
    }

    /// The position to acknowledge, which counts as done.
    pub(crate) fn take_ack(&mut self) -> Option<u64> {
        if self.eliciting == 0 {
            return None;
        }
        self.eliciting = 0;
        self.ack_due = None;
        self.ack_overdue = false;
        Some(self.received)
    }

    /// The latest acknowledgement may not have arrived.
    pub(crate) fn owe_ack_again(&mut self) {
        self.acked_on = None;
        self.eliciting = self.eliciting.max(1);
        self.ack_overdue = true;
        self.ack_due = None;
    }

    pub(crate) fn pong(&mut self, token: u64) {
        if self.pongs.len() == MAX_PONGS {
            self.pongs.pop_front();
        }
        self.pongs.push_back(token);
    }

    /// Takes out the frames that end at or before `position`; `None` where it lies beyond what was sent. `least` is the least
    /// round trip of all lanes until now: a lane that came while the path's buffers were full does not know it.
    pub(crate) fn acknowledged(
        &mut self,
        now: Instant,
        position: u64,
        least: Duration,
        items: &mut Vec<Item>,
    ) -> Option<Acked> {
        if position > self.sent {
            return None;
        }
        let (mut newest, mut bytes, mut repaired) = (None, 0, false);
        let oldest = self.records.front().map(|record| record.at);
        while let Some(record) = self.records.front().filter(|record| record.end <= position) {
            bytes += record.len;
            newest = Some((record.at, record.snapshot));
            items.push(record.item);
            self.records.pop_front();
        }
        self.in_flight -= bytes;
        if let Some((at, snapshot)) = newest {
            let usual = self.rtt.smoothed();
            self.rtt.sample(now, now.saturating_duration_since(at));
            let own = self.rtt.least_lately().unwrap_or_default();
            let least = if least.is_zero() { own } else { own.min(least) };
            self.path.acked(now, bytes, at, snapshot, least);
            let took = oldest.map_or(Duration::ZERO, |oldest| now.saturating_duration_since(oldest));
            // To repair a loss takes a round trip, beyond what bytes wait in a buffer of this lane's own; and nothing at all
            // comes meanwhile.
            let repair = (least * 3 / 4).max(REPAIR);
            repaired = self.lagging && self.alone && self.silent >= repair && took >= usual + repair;
            self.lagging = false;
            self.look_at = None;
        }
        if !self.waits() {
            self.waiting_since = None;
        }
        Some(Acked { bytes, repaired })
    }

    /// The answer to a PING came.
    pub(crate) fn ponged(&mut self, now: Instant) {
        self.ping_out = None;
        if let Some(at) = self.ping_sent.take() {
            self.rtt.sample_least(now, now.saturating_duration_since(at));
        }
    }

    /// The first frame that has not been looked at for being late: when it was sent.
    pub(crate) fn next_to_look_at(&self) -> Option<Instant> {
        self.records.get(self.unseen()).map(|record| record.at)
    }

    fn unseen(&self) -> usize {
        self.records.partition_point(|record| record.end <= self.looked)
    }

    /// The frames not looked at yet that were sent at or before this time.
    pub(crate) fn late(&self, sent_by: Instant) -> impl Iterator<Item = Late> + '_ {
        let unseen = self.records.range(self.unseen()..);
        unseen
            .take_while(move |record| record.at <= sent_by)
            .map(|record| Late { end: record.end, item: record.item })
    }

    /// The oldest frames, and when the very oldest was sent.
    pub(crate) fn oldest(&self) -> (Option<Instant>, impl Iterator<Item = Late> + '_) {
        let records = self.records.iter().filter(|record| record.end > self.given_up);
        (
            self.records.front().map(|record| record.at),
            records.map(|record| Late { end: record.end, item: record.item }),
        )
    }

    /// Everything not acknowledged, oldest first; the lane keeps nothing.
    pub(crate) fn take_outstanding(&mut self) -> impl Iterator<Item = Item> + use<> {
        self.in_flight = 0;
        self.lagging = false;
        std::mem::take(&mut self.records).into_iter().map(|record| record.item)
    }

    pub(crate) fn holds_more_than_pings(&self) -> bool {
        self.records.iter().any(|record| !matches!(record.item, Item::Ping))
    }

    pub(crate) fn has_outstanding(&self) -> bool {
        !self.records.is_empty() || self.ping_out.is_some()
    }
}
