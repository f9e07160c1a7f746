//! Bytes for a lane: what goes out, in which order, on which lane.

use std::time::{Duration, Instant};

use super::{Event, FlowKey, ResetOut, Session, Stream, StreamKey};
use crate::frame::{self, Frame};
use crate::lane::{Closing, Item, Lane};
use crate::path::INITIAL;

/// Bytes of frames for one write to a transport: with the transport's own framing they fill four TLS records.
pub const BATCH: usize = 64 * 1024 - 256;
/// Bytes of a frame on a lane that has not shown to be quick, and of any at the least.
const CAREFUL_TURN: usize = 4 * 1024;
/// What a far lane carries in this time is one frame at the most.
const FRAME_TIME: Duration = Duration::from_millis(8);
/// A lane is quick that answers within this time.
const QUICK: Duration = Duration::from_millis(500);
/// Left free in a batch for what leads a stream's bytes and for acknowledgements: what spilled over into another
/// message would cost as much on the way as a whole one.
const HEADROOM: usize = 128;
/// Bytes of a stream that fills a batch: its turn on a quick path, before the next has its own.
pub(super) const WHOLE_TURN: usize = BATCH - HEADROOM;
/// Bytes of an interactive stream before it counts as bulk.
const SMALL_TURN: usize = 4 * 1024;
/// A program that waits to write is woken when this little is left unsent: it writes the next batch while this one
/// goes out.
const WAKE_BELOW: u64 = WHOLE_TURN as u64;

/// A near path has so many times the usual bytes in flight, until they take this long.
const NEAR_CAPS: u64 = 3;
/// A far path has at most so many times the usual bytes in flight on one lane, whatever it holds.
const FAR_CAPS: u64 = 4;
const CROWDED: Duration = Duration::from_millis(100);

/// On a far path so many bytes are in flight before what follows is spread over time: an answer that any queue takes should not
/// have to wait.
const UNPACED: u64 = 32 * 1024;

/// Bulk that may go on a lane.
#[derive(Clone, Copy, Default)]
struct Room {
    bytes: u64,
    /// Bytes per second that it counts as, where it is spread over time.
    pace: Option<u64>,
}

/// What may go on a lane.
#[derive(Clone, Copy)]
struct Duty {
    urgent: bool,
    bulk: bool,
}

impl Session {
    fn duty(&self, id: u64) -> Duty {
        let usable = self.lanes.iter().any(|lane| lane.id == id && lane.is_usable());
        match self.express {
            _ if !usable => Duty { urgent: false, bulk: false },
            None => Duty { urgent: true, bulk: true },
            Some(express) => Duty { urgent: express == id, bulk: express != id && !self.is_passed_over(id) },
        }
    }

    fn has_control(&self) -> bool {
        if self.ended.is_some() {
            return self.goodbye_due;
        }
        !self.control.is_empty()
            || self.max_streams_due
            || self.drain_due
            || self.goodbye_due
            || !self.flow_close_queue.is_empty()
    }

    /// Bytes received on a lane after which an acknowledgement does not wait.
    fn ack_threshold(&self) -> u64 {
        (self.config.lane_cap / 4).clamp(1, 1 << 20)
    }

    /// Whether [`Session::transmit`] would have something for this lane now.
    pub fn has_work(&self, id: u64, now: Instant) -> bool {
        let Some(lane) = self.lanes.iter().find(|lane| lane.id == id) else { return false };
        let ack = lane.owes_ack(now, self.ack_threshold());
        let close = lane.closing == Closing::Due && !lane.has_outstanding();
        if ack || close || lane.ping_due || !lane.pongs.is_empty() {
            return true;
        }
        let duty = self.duty(id);
        let room = lane.in_flight() < self.cap(lane);
        (duty.urgent && self.has_control())
            || (room && duty.urgent && (!self.flow_queue.is_empty() || !self.small.is_empty()))
            || (duty.bulk && !self.bulk.is_empty() && self.bulk_room(id, now).bytes > 0)
    }

    /// Appends frames for one write to the lane's transport, about [`BATCH`] bytes at most (a frame is never cut, so
    /// up to one frame more). Appends nothing where there is nothing to do.
    ///
    /// Whatever was appended counts as sent: if it can't be written in full, the lane must be given up.
    pub fn transmit(&mut self, id: u64, now: Instant, out: &mut Vec<u8>) {
        let start = out.len();
        let duty = self.duty(id);
        if duty.urgent && !self.passengers.is_empty() && self.has_work(id, now) {
            self.take_passengers(None);
        }
        self.put_signs_of_life(id, now, out);
        if duty.urgent {
            self.put_control(id, now, out);
        }
        let limit = start + BATCH;
        if duty.urgent {
            // Datagrams get half while others wait, and small writes three quarters.
            let others = !self.small.is_empty() || (duty.bulk && !self.bulk.is_empty());
            self.put_datagrams(id, now, out, if others { start + BATCH / 2 } else { limit });
            let others = duty.bulk && !self.bulk.is_empty();
            self.put_small(id, now, out, if others { start + BATCH / 4 * 3 } else { limit });
        }
        if duty.bulk {
            self.put_bulk(id, now, out, limit);
        }
        self.put_riders(id, now, out, start);
        self.put_acks(id, now, out, start);
        self.note_dry(id);
        self.finish_lane(id);
    }

    fn put(&mut self, id: u64, now: Instant, out: &mut Vec<u8>, frame: &Frame<'_>, item: Item) {
        let before = out.len();
        frame.encode(out);
        self.note(id, now, out.len() - before, item);
    }

    fn note(&mut self, id: u64, now: Instant, len: usize, item: Item) {
        self.again.earn(len);
        if let Some(lane) = self.lane(id) {
            lane.sent_frame(now, len, item);
        }
    }

    fn put_signs_of_life(&mut self, id: u64, now: Instant, out: &mut Vec<u8>) {
        let token = self.token;
        let Some(lane) = self.lane(id) else { return };
        let before = out.len();
        while let Some(token) = lane.pongs.pop_front() {
            Frame::Pong { token }.encode(out);
        }
        lane.sent_plain(out.len() - before);
        let close = lane.closing == Closing::Due && !lane.has_outstanding();
        if std::mem::take(&mut lane.ping_due) && !close && lane.closing != Closing::Sent {
            lane.ping_out = Some(token);
            lane.ping_sent = Some(now);
            self.token += 1;
            self.put(id, now, out, &Frame::Ping { token }, Item::Ping);
        } else if close {
            lane.closing = Closing::Sent;
            self.put(id, now, out, &Frame::LaneClose, Item::LaneClose);
        }
    }

    /// Queues what waited for a message: all of it, or what waits no longer at this time.
    pub(super) fn take_passengers(&mut self, now: Option<Instant>) {
        while let Some(&(until, key)) = self.passengers.front()
            && now.is_none_or(|now| until <= now)
        {
            self.passengers.pop_front();
            if let Some(stream) = self.streams.get_mut(key.0) {
                stream.riding = false;
            }
            self.queue_data(key);
        }
    }

    /// Credit that is not urgent, where something goes out anyway.
    fn put_riders(&mut self, id: u64, now: Instant, out: &mut Vec<u8>, start: usize) {
        let threshold = self.ack_threshold();
        let goes =
            |lane: &&mut Lane| lane.is_usable() && (out.len() > start || lane.owes_ack(now, threshold));
        if self.lane(id).filter(goes).is_none() {
            return;
        }
        while let Some(key) = self.riders.pop_front() {
            self.put_stream_control(id, key, now, out);
        }
    }

    fn put_acks(&mut self, id: u64, now: Instant, out: &mut Vec<u8>, start: usize) {
        let threshold = self.ack_threshold();
        let something = out.len() > start;
        let before = out.len();
        for lane in &mut self.lanes {
            let due = lane.owes_ack(now, threshold);
            // A stalled lane's acknowledgement travels on one that works.
            let wanted = if lane.id == id { something || due } else { something && lane.suspect };
            if wanted && let Some(position) = lane.take_ack() {
                lane.acked_on = (lane.id != id).then_some(id);
                Frame::LaneAck { lane: lane.id, position }.encode(out);
            }
        }
        let len = out.len() - before;
        if let Some(lane) = self.lane(id) {
            lane.sent_plain(len);
        }
    }

    fn put_control(&mut self, id: u64, now: Instant, out: &mut Vec<u8>) {
        if std::mem::take(&mut self.goodbye_due)
            && let Some((status, text)) = self.goodbye.clone()
        {
            self.put(id, now, out, &Frame::Goodbye { status, text: &text }, Item::Goodbye);
        }
        if self.ended.is_some() {
            return;
        }
        if std::mem::take(&mut self.drain_due)
            && let Some(grace) = self.drain
        {
            self.put(id, now, out, &Frame::Drain { grace }, Item::Drain);
        }
        if std::mem::take(&mut self.max_streams_due) {
            self.put(id, now, out, &Frame::MaxStreams { limit: self.max_streams }, Item::MaxStreams);
        }
        while let Some(flow) = self.flow_close_queue.pop_front() {
            if let Some(&status) = self.flow_closes.get(&flow) {
                self.put(id, now, out, &Frame::FlowClose { id: flow, status }, Item::FlowClose(flow));
            }
        }
        while let Some(key) = self.next_control() {
            self.put_stream_control(id, key, now, out);
        }
    }

    fn put_stream_control(&mut self, id: u64, key: StreamKey, now: Instant, out: &mut Vec<u8>) {
        // An id is given only with a frame: the peer would wait for ever for those of an id that was skipped.
        let over = |stream: &Stream| {
            stream.reset_in.is_some() || matches!(stream.reset_out, Some((_, _, ResetOut::Acked)))
        };
        if self.streams.get(key.0).is_none_or(over) {
            return;
        }
        let Some(wire) = self.begin(key) else { return };
        let Some(stream) = self.streams.get_mut(key.0) else { return };
        if let Some((status, final_offset, state)) = &mut stream.reset_out {
            if *state == ResetOut::Due {
                *state = ResetOut::Sent;
                let frame = Frame::Reset { id: wire, status: *status, final_offset: *final_offset };
                self.put(id, now, out, &frame, Item::Reset(key));
            }
        } else if std::mem::take(&mut stream.max_data_due) {
            let limit = stream.recv.limit();
            self.put(id, now, out, &Frame::MaxData { id: wire, limit }, Item::MaxData(key, limit));
        }
    }

    /// The stream's id, given now if it has none. `None` for a stream that is gone.
    fn begin(&mut self, key: StreamKey) -> Option<u64> {
        let stream = self.streams.get_mut(key.0)?;
        if let Some(id) = stream.id {
            return Some(id);
        }
        let id = self.begun << 1;
        stream.id = Some(id);
        self.begun += 1;
        self.unbegun -= 1;
        self.stream_ids.insert(id, key);
        Some(id)
    }

    /// Bytes that may be in flight on a lane: what its path holds. The processes of a near path work in large pieces
    /// only while all their buffers are full, and empty them so fast that nobody waits long.
    fn cap(&self, lane: &Lane) -> u64 {
        let limit = self.config.lane_cap;
        if self.is_near() {
            return if lane.rtt.smoothed() < CROWDED { NEAR_CAPS * limit } else { limit };
        }
        let least = if self.only_loses() { INITIAL } else { 0 };
        lane.path.cap(self.least_round_trip()).max(least).min(FAR_CAPS * limit)
    }

    fn room(&self, id: u64) -> bool {
        self.lanes.iter().any(|lane| lane.id == id && lane.in_flight() < self.cap(lane))
    }

    /// What bulk may go on a lane now. Lanes that are held up fill no buffer that others share, and the express lane carries
    /// none.
    fn bulk_room(&self, id: u64, now: Instant) -> Room {
        let Some(lane) = self.lanes.iter().find(|lane| lane.id == id) else { return Room::default() };
        let bytes = self.cap(lane).saturating_sub(lane.in_flight());
        if self.is_near() || bytes == 0 || self.only_loses() {
            return Room { bytes, pace: None };
        }
        let moving = || {
            let used = self.lanes.iter().filter(|lane| lane.in_flight() > 0 || lane.id == id);
            used.filter(|lane| lane.is_usable() && !lane.lagging)
                .filter(|lane| Some(lane.id) != self.express || lane.id == id)
        };
        let in_flight: u64 = moving().map(Lane::in_flight).sum();
        let paths = || moving().map(|lane| &lane.path);
        let least = self.least_round_trip();
        let bytes = bytes.min(self.total.cap(paths(), least).saturating_sub(in_flight));
        if in_flight < UNPACED {
            return Room { bytes: bytes.min(UNPACED - in_flight), pace: None };
        }
        let pace = self.total.pace(paths(), least);
        Room { bytes: bytes.min(pace.map_or(u64::MAX, |rate| self.pace.room(now, rate))), pace }
    }

    /// Takes note of a lane that could carry more than there is: its rate then says nothing about its path.
    fn note_dry(&mut self, id: u64) {
        let duty = self.duty(id);
        let waiting = (duty.urgent && !(self.small.is_empty() && self.flow_queue.is_empty()))
            || (duty.bulk && !self.bulk.is_empty());
        if waiting || !self.room(id) {
            return;
        }
        if duty.bulk {
            self.total.ran_dry();
        }
        if let Some(lane) = self.lane(id) {
            let in_flight = lane.in_flight();
            lane.path.ran_dry(in_flight);
        }
    }

    fn put_datagrams(&mut self, id: u64, now: Instant, out: &mut Vec<u8>, limit: usize) {
        while out.len() < limit && self.room(id) {
            let Some(key) = self.flow_queue.pop_front() else { break };
            let mut dropped = 0;
            let more = self.put_datagram(id, key, now, out, &mut dropped);
            self.stats.datagrams_dropped += dropped;
            match self.flows.get_mut(key.0) {
                Some(_) if more => self.flow_queue.push_back(key),
                Some(flow) => flow.queued = false,
                None => {}
            }
        }
    }

    /// One datagram of a flow; true if it has more.
    fn put_datagram(
        &mut self,
        id: u64,
        key: FlowKey,
        now: Instant,
        out: &mut Vec<u8>,
        dropped: &mut u64,
    ) -> bool {
        let keep = !self.is_near() && self.usable_lanes() > 1;
        let Some(flow) = self.flows.get_mut(key.0) else { return false };
        *dropped = flow.expire(now);
        let Some((seq, datagram)) = flow.take_out(keep).filter(|_| flow.closed.is_none()) else {
            return false;
        };
        let wire = match flow.id {
            Some(wire) => wire,
            None => {
                let wire = self.flows_begun;
                self.flows_begun += 1;
                flow.id = Some(wire);
                self.flow_ids.insert(wire, key);
                wire
            }
        };
        let header = (!flow.known).then(|| flow.header.clone());
        let more = flow.has_more();
        let frame = Frame::Datagram { id: wire, seq, header: header.as_deref(), data: &datagram };
        self.put(id, now, out, &frame, Item::Datagram(key, seq));
        self.saw_data(now, datagram.len());
        more
    }

    fn put_small(&mut self, id: u64, now: Instant, out: &mut Vec<u8>, limit: usize) {
        while out.len() < limit && self.room(id) {
            let Some(key) = self.small.pop_front() else { break };
            self.put_stream(id, key, SMALL_TURN, now, out);
        }
    }

    fn put_bulk(&mut self, id: u64, now: Instant, out: &mut Vec<u8>, limit: usize) {
        let whole = self.whole_frame(id);
        loop {
            let Room { bytes, pace } = self.bulk_room(id, now);
            let room = usize::try_from(bytes).unwrap_or(usize::MAX);
            let left = limit.saturating_sub(out.len() + HEADROOM);
            if room == 0 || left == 0 {
                break;
            }
            // What is in flight is exceeded by little, and not by many little frames.
            let left = left.min(room.max(CAREFUL_TURN));
            let Some(key) = self.bulk.pop_front() else { break };
            let before = out.len();
            self.put_stream(id, key, left.min(whole), now, out);
            if let Some(rate) = pace {
                self.pace.sent(now, (out.len() - before) as u64, rate);
            }
        }
    }

    /// Bytes that a frame of bulk may have on a lane: it counts, and is acknowledged, only when all of it has come. On a
    /// slow path a large one takes longer than a silent lane is given, and would go out again on one lane after the other.
    fn whole_frame(&self, id: u64) -> usize {
        let Some(lane) = self.lanes.iter().find(|lane| lane.id == id) else { return CAREFUL_TURN };
        match () {
            () if !lane.rtt.known() || lane.rtt.smoothed() >= QUICK => CAREFUL_TURN,
            () if self.is_near() => BATCH,
            () => usize::try_from(lane.path.bytes_in(FRAME_TIME)).unwrap_or(BATCH).max(CAREFUL_TURN),
        }
    }

    /// One frame of a stream, which queues up again if it has more.
    fn put_stream(&mut self, id: u64, key: StreamKey, turn: usize, now: Instant, out: &mut Vec<u8>) {
        if let Some(stream) = self.streams.get_mut(key.0) {
            stream.in_data = false;
            // Here too, no id without a frame.
            if stream.reset_in.is_some() || !stream.send.has_work() {
                return;
            }
        }
        let Some(wire) = self.begin(key) else { return };
        let Some(stream) = self.streams.get_mut(key.0) else { return };
        let Some(piece) = stream.send.take(turn) else { return };
        let before = out.len();
        frame::put_stream_head(out, wire, piece.offset, piece.fin, piece.len);
        stream.send.copy(piece, out);
        let wake = stream.wants_write && stream.send.unsent() <= WAKE_BELOW;
        let more = stream.send.has_work();
        self.note(id, now, out.len() - before, Item::Stream(key, piece));
        self.saw_data(now, piece.len);
        if wake {
            self.wake_writer(key);
        }
        if more {
            self.queue_data(key);
        }
    }

    /// The peer's events aside: whether any lane has work, for drivers that wake their writers.
    pub fn lanes_with_work(&self, now: Instant) -> impl Iterator<Item = u64> + '_ {
        self.lanes.iter().map(|lane| lane.id).filter(move |&id| self.has_work(id, now))
    }

    pub(super) fn lane_over(&mut self, id: u64, now: Instant) {
        self.lane_lost(id, now);
        self.events.push_back(Event::LaneOver(id, false));
    }
}
