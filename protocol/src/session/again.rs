//! Frames that are late go out again on another lane, so that nobody waits behind a lane that is held up.
//!
//! A lane is a chain of TCP connections: when one of them loses a packet, everything behind it waits. The other lanes
//! do not. What arrives twice is dropped by its offset or number.

use std::time::{Duration, Instant};

use super::lanes::NEAR;
use super::timers::SUSPECT_AFTER;
use super::{Session, StreamKey};
use crate::lane::{Closing, Item, Lane, Late};
use crate::send::Piece;

/// Frames with more stream bytes than this are bulk: sent again only when a stream can't go on without them.
const SMALL: usize = 4 * 1024;
/// Bytes that may wait at the peer for a range on a lane that is held up.
const REASSEMBLY: u64 = 4 << 20;
/// A lane this late, or four round trips, has everything on it sent again.
const HOPELESS: Duration = Duration::from_secs(1);
/// Stalls within two round trips, and within this, have one cause.
const STALLS_APART: Duration = Duration::from_millis(100);
/// Where each lane holds as much, in bytes, losses are too rare to limit anything: a lane that is held up waits for a busy
/// processor, and more lanes would make it busier.
const HOLDS_MUCH: u64 = 256 * 1024;
/// Two stalls within this time ask for more lanes.
const RESTLESS_WITHIN: Duration = Duration::from_secs(10);
/// For so long after the last of them.
const RESTLESS_FOR: Duration = Duration::from_secs(60);
/// After so long without one it may be another path.
const LOSES_FOR: Duration = Duration::from_secs(5);
/// Nothing is late before this; on a near path only a busy processor makes anything wait.
const LEAST_PATIENCE: Duration = Duration::from_millis(10);
const NEAR_PATIENCE: Duration = Duration::from_millis(50);
/// Before a round trip is known.
const UNKNOWN_PATIENCE: Duration = Duration::from_millis(500);
/// Between two looks at a lane that is held up, at the least.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Bytes that may be sent a second time: a tenth of what is sent, and 16 KiB each second.
#[derive(Debug)]
pub(super) struct Budget {
    bytes: u64,
    since: Instant,
}

impl Budget {
    const PER_SECOND: u64 = 16 * 1024;
    const MOST: u64 = 256 * 1024;
    /// What any frame costs at the least.
    const FRAME: usize = 64;

    pub(super) fn new(now: Instant) -> Self {
        Self { bytes: Self::PER_SECOND, since: now }
    }

    /// So many bytes were sent.
    pub(super) fn earn(&mut self, bytes: usize) {
        self.bytes = (self.bytes + bytes as u64 / 10).min(Self::MOST);
    }

    fn spend(&mut self, now: Instant, bytes: usize) -> bool {
        let millis = now.saturating_duration_since(self.since).as_millis();
        let earned = u64::try_from(millis).unwrap_or(u64::MAX).saturating_mul(Self::PER_SECOND) / 1000;
        if earned > 0 {
            self.bytes = self.bytes.saturating_add(earned).min(Self::MOST);
            self.since = now;
        }
        let cost = bytes.max(Self::FRAME) as u64;
        let enough = cost <= self.bytes;
        if enough {
            self.bytes -= cost;
        }
        enough
    }
}

impl Session {
    /// Whether the way to the peer is so short that its processes, not its links, are what takes time.
    pub(super) fn is_near(&self) -> bool {
        self.lanes.iter().filter_map(|lane| lane.rtt.least()).min().is_some_and(|least| least < NEAR)
    }

    /// The least round trip of late of the lanes that work; zero while none is known.
    pub(super) fn least_round_trip(&self) -> Duration {
        let usable = self.lanes.iter().filter(|lane| lane.is_usable());
        usable.filter_map(|lane| lane.rtt.least_lately()).min().unwrap_or_default()
    }

    fn patience(&self, lane: &Lane) -> Duration {
        let least = if self.is_near() { NEAR_PATIENCE } else { LEAST_PATIENCE };
        lane.rtt.patience().unwrap_or(UNKNOWN_PATIENCE).clamp(least, SUSPECT_AFTER)
    }

    /// Whether bulk had better go elsewhere: the lane is held up, and another that may carry bulk is not.
    pub(super) fn is_passed_over(&self, id: u64) -> bool {
        self.lanes.iter().any(|lane| lane.id == id && lane.lagging)
            && self
                .lanes
                .iter()
                .any(|lane| lane.is_usable() && !lane.lagging && Some(lane.id) != self.express)
    }

    /// When the lane has to be looked at for late frames. A single lane has no other to send them on, but where the path
    /// may lose packets it can be told to hurry.
    pub(super) fn look_at(&self, lane: &Lane) -> Option<Instant> {
        let is_alone = self.usable_lanes() < 2;
        if lane.suspect || (is_alone && (self.is_near() || !lane.holds_more_than_pings())) {
            return None;
        }
        let late = lane.next_to_look_at().and_then(|sent| sent.checked_add(self.patience(lane)));
        match (lane.look_at, late) {
            (Some(at), Some(late)) => Some(at.max(late)),
            // Held up, with nothing new to be late: whether streams wait for it may have changed.
            (Some(at), None) if lane.lagging && lane.holds_more_than_pings() => Some(at),
            (_, late) => late,
        }
    }

    /// Sends again what is late.
    pub(super) fn look_for_late(&mut self, now: Instant) {
        for index in 0..self.lanes.len() {
            let lane = &self.lanes[index];
            if self.look_at(lane).is_none_or(|at| at > now) {
                continue;
            }
            let patience = self.patience(lane);
            let pause = if self.usable_lanes() < 2 { patience } else { lane.rtt.smoothed().max(LOOK_AGAIN) };
            let id = lane.id;
            let sent_by = now.checked_sub(patience).unwrap_or(now);
            let late: Vec<Late> = lane.late(sent_by).collect();
            let crowded = self.total.is_crowded();
            let lane = &mut self.lanes[index];
            if !late.is_empty() && !lane.lagging {
                (lane.lagging, lane.alone, lane.silent) = (true, !crowded, Duration::ZERO);
            }
            lane.look_at = Some(now + pause);
            self.hurry(index, patience, now);
            self.choose_express();
            if !self.lanes.iter().any(|lane| lane.is_usable() && !lane.lagging) {
                // Nowhere to send it that is any better.
                continue;
            }
            for late in late {
                if !self.send_again(now, late.item) {
                    break;
                }
                if let Some(lane) = self.lane(id) {
                    lane.looked = late.end;
                }
            }
            self.relieve(id, now);
        }
    }

    /// Sends a PING behind what is late. TCP notices the loss of the last packet that it sent by a timer of 200 ms at the
    /// least (RFC 8985, section 7.2), but that of an earlier one as soon as a later is acknowledged: a round trip.
    fn hurry(&mut self, index: usize, patience: Duration, now: Instant) {
        if self.is_near() {
            return;
        }
        let lane = &mut self.lanes[index];
        let lost = lane.ping_sent.is_none_or(|at| now.saturating_duration_since(at) >= patience);
        lane.ping_due |=
            lane.lagging && lost && lane.holds_more_than_pings() && lane.closing != Closing::Sent;
    }

    /// What a lane held up has come through. The second time within a while shows a path that loses packets; not where bytes
    /// fill a buffer that all lanes share, which holds them up at the same time.
    pub(super) fn note_repair(&mut self, now: Instant) {
        let since = self.repaired.map(|at| now.saturating_duration_since(at));
        let apart = (self.least_round_trip() * 2).max(STALLS_APART);
        if self.lanes_hold_much() || self.total.is_crowded() || since.is_some_and(|since| since < apart) {
            return;
        }
        self.repaired = Some(now);
        if since.is_some_and(|since| since <= RESTLESS_WITHIN) && !self.is_near() {
            self.restless = Some(now);
        }
    }

    /// Whether bulk has so much on each of its lanes, in the direction that has more.
    fn lanes_hold_much(&self) -> bool {
        let round_trip = self.least_round_trip();
        let all = self.total.bytes_in(round_trip).max(self.arriving.bytes_in(round_trip));
        all >= HOLDS_MUCH * self.usable_lanes().saturating_sub(1).max(1) as u64
    }

    /// Whether lanes are held up so often that two of them often are at the same time.
    pub(super) fn is_restless(&self, now: Instant) -> bool {
        self.restless.is_some_and(|at| now.saturating_duration_since(at) <= RESTLESS_FOR)
    }

    /// Whether bytes are lost now, while no buffer that all lanes share holds anything. What is in flight then waits behind
    /// them, each on its own lane, and must not keep the other lanes idle.
    pub(super) fn only_loses(&self) -> bool {
        self.restless.is_some_and(|at| self.last_data.saturating_duration_since(at) <= LOSES_FOR)
            && self.total.is_empty()
            && !self.total.is_crowded()
    }

    /// Queues what a late frame brought, if it is small or state; false where the budget is spent.
    fn send_again(&mut self, now: Instant, item: Item) -> bool {
        match item {
            Item::Stream(_, piece) if piece.len > SMALL => {}
            Item::Stream(key, piece) => {
                if self.streams.get(key.0).is_some() {
                    if !self.again.spend(now, piece.len) {
                        return false;
                    }
                    self.requeue(key, piece);
                }
            }
            Item::Datagram(key, seq) => {
                let Some(flow) = self.flows.get_mut(key.0).filter(|flow| flow.closed.is_none()) else {
                    return true;
                };
                let Some(len) = flow.kept(seq) else { return true };
                if !self.again.spend(now, len) {
                    return false;
                }
                flow.send_again(seq);
                if !std::mem::replace(&mut flow.queued, true) {
                    self.flow_queue.push_back(key);
                }
            }
            Item::MaxData(..) | Item::Reset(_) | Item::FlowClose(_) | Item::MaxStreams | Item::Drain => {
                if !self.again.spend(now, 0) {
                    return false;
                }
                self.item_lost(item);
            }
            Item::Goodbye | Item::LaneClose | Item::Ping => {}
        }
        true
    }

    fn requeue(&mut self, key: StreamKey, piece: Piece) {
        if let Some(stream) = self.streams.get_mut(key.0) {
            stream.send.requeue(piece);
            self.stats.bytes_resent += piece.len as u64;
            self.queue_data(key);
        }
    }

    /// Gives to other lanes what streams can't go on without, and everything on a lane that is hopelessly late.
    fn relieve(&mut self, id: u64, now: Instant) {
        let Some(lane) = self.lanes.iter().find(|lane| lane.id == id && lane.lagging) else { return };
        let (oldest, records) = lane.oldest();
        let limit = HOPELESS.max(lane.rtt.smoothed() * 4);
        let is_hopeless = oldest.is_some_and(|sent| now.saturating_duration_since(sent) >= limit);
        let mut pieces = Vec::new();
        let mut given_up = lane.given_up;
        for Late { end, item } in records {
            match item {
                Item::Stream(key, piece) if piece.len > SMALL => {
                    let stream = self.streams.get(key.0);
                    if !is_hopeless && !stream.is_some_and(|stream| stream.send.is_held_up(REASSEMBLY)) {
                        break;
                    }
                    pieces.push((key, piece));
                }
                _ => {}
            }
            given_up = end;
        }
        if let Some(lane) = self.lane(id) {
            lane.given_up = given_up;
        }
        for (key, piece) in pieces {
            self.requeue(key, piece);
        }
    }
}
