//! Bytes that a lane brought.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::{Event, FlowKey, ResetOut, Role, Session, Stream, StreamKey};
use crate::Status;
use crate::flow::Flow;
use crate::frame::{Frame, Malformed};
use crate::lane::{Acked, Closing, Item};
use crate::large::LargeFrame;
use crate::recv::Piece;
use crate::rtt::ACK_DELAY;

/// Bulk on a near path, which keeps the path's buffers full anyway, is acknowledged later: each message of its own costs
/// the processes between the ends as much as many kilobytes of data.
const BULK_ACK_DELAY: Duration = Duration::from_millis(10);
/// More than this at a time is bulk, in bytes.
const SMALL_READ: u64 = 8 * 1024;
/// Overtaken flow numbers that are remembered.
const MAX_OVERTAKEN: usize = 1_024;

impl Session {
    /// Takes all whole frames from the front of `bytes`, which a lane brought, and returns how many bytes they were.
    /// What follows must be handed in again with more behind it.
    ///
    /// # Errors
    /// [`Malformed`]; the session is over, and a GOODBYE that says why waits to be sent.
    pub fn receive(&mut self, lane: u64, bytes: &[u8], now: Instant) -> Result<usize, Malformed> {
        if !self.heard(lane, now) {
            return Ok(bytes.len());
        }
        let (mut taken, mut eliciting) = (0, 0u64);
        let result = loop {
            let (frame, len) = match Frame::decode(&bytes[taken..]) {
                Ok(Some(decoded)) => decoded,
                Ok(None) => break Ok(taken),
                Err(malformed) => break Err(malformed),
            };
            taken += len;
            if !matches!(frame, Frame::LaneAck { .. } | Frame::Pong { .. }) {
                eliciting += len as u64;
            }
            if let Err(malformed) = self.apply(lane, frame, now) {
                break Err(malformed);
            }
        };
        self.received(lane, taken, eliciting, now);
        self.judge(lane, result)
    }

    /// Takes a frame that was gathered in a buffer of its own; it is whole, and next on this lane.
    ///
    /// # Errors
    /// As [`Self::receive`].
    pub fn receive_large(&mut self, lane: u64, frame: LargeFrame, now: Instant) -> Result<(), Malformed> {
        if !self.heard(lane, now) {
            return Ok(());
        }
        let (id, offset, fin, len) = (frame.id, frame.offset, frame.fin, frame.frame_len());
        let result = match (frame.missing(), &self.ended) {
            (0, None) => self.stream_bytes(id, offset, fin, Piece::Own(frame.into_data()), now),
            (0, Some(_)) => Ok(()),
            _ => Err(Malformed::Violation("a frame is not whole")),
        };
        self.received(lane, len, len as u64, now);
        self.judge(lane, result)
    }

    /// A lane has brought something. False where it is over.
    fn heard(&mut self, lane: u64, now: Instant) -> bool {
        let Some(heard) = self.lane(lane) else { return false };
        let recovered = heard.suspect;
        heard.heard(now);
        if recovered {
            self.choose_express();
        }
        true
    }

    /// So many bytes of frames have been taken from a lane, `eliciting` of them to be acknowledged.
    fn received(&mut self, lane: u64, taken: usize, eliciting: u64, now: Instant) {
        let delay = match eliciting {
            // The peer waits for the answer to its GOODBYE.
            _ if self.ended.is_some() => Duration::ZERO,
            ..=SMALL_READ => ACK_DELAY,
            _ if !self.is_near() => ACK_DELAY,
            _ => BULK_ACK_DELAY,
        };
        self.arriving.arrived(now, taken as u64);
        if let Some(lane) = self.lane(lane) {
            lane.received_frames(now, taken as u64, eliciting, delay);
        }
    }

    /// Ends the session where the peer has broken the rules, and the lane where it is done.
    fn judge<T>(&mut self, lane: u64, result: Result<T, Malformed>) -> Result<T, Malformed> {
        if let Err(malformed) = &result {
            self.goodbye(Status::Unknown, &format!("malformed: {malformed}"));
        }
        self.finish_lane(lane);
        result
    }

    fn apply(&mut self, lane: u64, frame: Frame<'_>, now: Instant) -> Result<(), Malformed> {
        match frame {
            Frame::LaneAck { lane: acked, position } => {
                self.lane_acked(acked, position, now)?;
                // The lane that is being read is looked at when all that it brought has been counted.
                if acked != lane {
                    self.finish_lane(acked);
                }
            }
            Frame::Ping { token } => {
                if let Some(lane) = self.lane(lane) {
                    lane.pong(token);
                }
            }
            Frame::Pong { token } => {
                if let Some(lane) = self.lane(lane).filter(|lane| lane.ping_out == Some(token)) {
                    lane.ponged(now);
                    lane.heard(now);
                }
            }
            Frame::LaneClose => {
                if let Some(lane) = self.lane(lane) {
                    lane.peer_closing = true;
                    if lane.closing == Closing::No {
                        lane.closing = Closing::Due;
                    }
                }
                self.choose_express();
            }
            Frame::Unknown { .. } => {}
            _ if self.ended.is_some() => {}
            Frame::Stream { id, offset, fin, data } => {
                return self.stream_bytes(id, offset, fin, Piece::Borrowed(data), now);
            }
            Frame::Reset { id, status, final_offset } => return self.stream_reset(id, status, final_offset),
            Frame::MaxData { id, limit } => {
                if let Some(key) = self.stream_for(id)?
                    && let Some(stream) = self.streams.get_mut(key.0)
                    && stream.send.raise_limit(limit)
                {
                    self.wake_writer(key);
                }
            }
            Frame::MaxStreams { limit } => {
                if limit > self.peer_max_streams {
                    self.peer_max_streams = limit;
                    self.open_waiting = false;
                    self.events.push_back(Event::CanOpen);
                }
            }
            Frame::Datagram { id, seq, header, data } => self.datagram(id, seq, header, data, now),
            Frame::FlowClose { id, status } => {
                self.flows_overtaken.remove(&id);
                if self.role == Role::Agent && id >= self.flows_begun {
                    self.overtake_flows(id);
                    self.flows_begun = id + 1;
                }
                self.flow_closed(id, status);
            }
            Frame::Drain { grace } => {
                self.peer_draining = true;
                self.events.push_back(Event::Drain(Duration::from_millis(grace)));
                self.events.push_back(Event::CanOpen);
            }
            Frame::Goodbye { status, text } => self.end(status, text),
        }
        Ok(())
    }

    /// The stream with this id, made now if the peer begins it; `None` for one that is over.
    fn stream_for(&mut self, id: u64) -> Result<Option<StreamKey>, Malformed> {
        let index = id >> 1;
        if self.is_mine(id) {
            if index >= self.begun {
                return Err(Malformed::Violation("frame for a stream that was never begun"));
            }
        } else if self.role == Role::Client {
            return Err(Malformed::Violation("the agent may not open streams"));
        } else if index >= self.max_streams {
            return Err(Malformed::Violation("stream beyond the limit"));
        }
        while !self.is_mine(id) && self.peer_begun <= index {
            let new = self.peer_begun << 1 | (id & 1);
            let stream = Stream::new(Some(new), self.peer_initial_credit, self.config.initial_credit);
            let key = StreamKey(self.streams.insert(stream));
            self.stream_ids.insert(new, key);
            self.peer_begun += 1;
            self.raise_max_streams();
        }
        Ok(self.stream_ids.get(&id).copied())
    }

    fn stream_bytes(
        &mut self,
        id: u64,
        offset: u64,
        fin: bool,
        data: Piece<'_>,
        now: Instant,
    ) -> Result<(), Malformed> {
        self.saw_data(now, data.len());
        let Some(key) = self.stream_for(id)? else { return Ok(()) };
        let Some(stream) = self.streams.get_mut(key.0) else { return Ok(()) };
        let discards = stream.reset_out.is_some()
            || stream.reset_in.is_some_and(|status| status != Status::ResetByPeer)
            || (stream.released && stream.reset_in.is_some());
        if discards {
            return Ok(());
        }
        let readable = stream.recv.insert(offset, data, fin)?;
        if stream.recv.has_too_many_gaps() {
            return Err(Malformed::Violation("too many gaps in a stream"));
        }
        let complete = stream.recv.is_complete();
        if readable || complete {
            stream.heard_last = true;
            self.announce(key);
        }
        self.remove_if_over(key);
        Ok(())
    }

    fn announce(&mut self, key: StreamKey) {
        let Some(stream) = self.streams.get_mut(key.0) else { return };
        if stream.announced {
            self.wake_reader(key);
        } else {
            stream.announced = true;
            self.events.push_back(Event::Opened(key));
            self.widen_first_window(key);
        }
    }

    fn stream_reset(&mut self, id: u64, status: Status, final_offset: u64) -> Result<(), Malformed> {
        let Some(key) = self.stream_for(id)? else { return Ok(()) };
        let Some(stream) = self.streams.get_mut(key.0) else { return Ok(()) };
        if stream.reset_in.is_some() {
            return Ok(());
        }
        if stream.reset_out.is_none() {
            if final_offset > stream.recv.limit() {
                return Err(Malformed::Violation("final offset beyond the credit"));
            }
            stream.recv.set_final(final_offset)?;
        }
        stream.reset_in = Some(status);
        if status != Status::ResetByPeer {
            stream.recv.discard();
        }
        let freed = stream.send.discard();
        self.release_send(freed);
        let Some(stream) = self.streams.get_mut(key.0) else { return Ok(()) };
        if !stream.announced
            && (status != Status::ResetByPeer || stream.recv.is_complete())
            && !stream.recv.is_readable()
        {
            // The program never heard of it.
            stream.released = true;
        } else if stream.announced {
            self.tell_reset(key);
        }
        self.remove_if_over(key);
        Ok(())
    }

    fn overtake_flows(&mut self, id: u64) {
        let from = self.flows_begun.max(id.saturating_sub(MAX_OVERTAKEN as u64));
        self.flows_overtaken.extend(from..id);
        while self.flows_overtaken.len() > MAX_OVERTAKEN {
            self.flows_overtaken.pop_first();
        }
    }

    fn datagram(&mut self, id: u64, seq: u64, header: Option<&[u8]>, data: &[u8], now: Instant) {
        self.saw_data(now, data.len());
        let is_new =
            self.role == Role::Agent && (id >= self.flows_begun || self.flows_overtaken.contains(&id));
        if is_new && let Some(header) = header {
            if id >= self.flows_begun {
                self.overtake_flows(id);
                self.flows_begun = id + 1;
            }
            self.flows_overtaken.remove(&id);
            self.make_room_for_flow();
            let flow = Flow::new(now, Bytes::copy_from_slice(header), Some(id), &self.datagrams);
            let key = FlowKey(self.flows.insert(flow));
            self.flow_ids.insert(id, key);
            self.events.push_back(Event::FlowOpened(key));
        }
        let key = self.flow_ids.get(&id).copied();
        let Some((key, flow)) = key.and_then(|key| self.flows.get_mut(key.0).map(|flow| (key, flow))) else {
            self.stats.datagrams_dropped += 1;
            return;
        };
        flow.known = true;
        if let Some(dropped) = flow.arrived(now, seq, data) {
            self.stats.datagrams_dropped += dropped;
            self.events.push_back(Event::FlowReadable(key));
        }
    }

    fn lane_acked(&mut self, id: u64, position: u64, now: Instant) -> Result<(), Malformed> {
        let mut items = std::mem::take(&mut self.acked);
        let least = self.least_round_trip();
        let known = self.lane(id).map(|lane| {
            let acked = lane.acknowledged(now, position, least, &mut items);
            (acked, lane.rtt.waited())
        });
        for item in items.drain(..) {
            self.item_acked(item);
        }
        self.acked = items;
        match known {
            Some((None, _)) => return Err(Malformed::Violation("acknowledgement beyond what was sent")),
            Some((Some(Acked { bytes, repaired }), waited)) if bytes > 0 => {
                self.total.acked(now, bytes, waited, self.least_round_trip());
                if repaired {
                    self.note_repair(now);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn item_acked(&mut self, item: Item) {
        match item {
            Item::Stream(key, piece) => {
                let Some(stream) = self.streams.get_mut(key.0) else { return };
                let freed = stream.send.on_ack(piece);
                // The number of frames in flight may have held it back; what waits for a message is no reason for one.
                if stream.send.has_work() && !stream.riding {
                    self.queue_data(key);
                }
                self.release_send(freed);
                self.remove_if_over(key);
            }
            Item::Reset(key) => {
                if let Some((_, _, state)) =
                    self.streams.get_mut(key.0).and_then(|stream| stream.reset_out.as_mut())
                {
                    *state = ResetOut::Acked;
                    self.remove_if_over(key);
                }
            }
            Item::Datagram(key, seq) => {
                if let Some(flow) = self.flows.get_mut(key.0) {
                    flow.acked(seq);
                }
            }
            Item::FlowClose(id) => {
                self.flow_closes.remove(&id);
            }
            Item::Goodbye => self.goodbye_acked = true,
            Item::MaxData(..) | Item::MaxStreams | Item::Drain | Item::LaneClose | Item::Ping => {}
        }
    }

    /// Gives a lane up that both ends have closed in good order.
    pub(super) fn finish_lane(&mut self, id: u64) {
        if let Some(index) = self.lanes.iter().position(|lane| lane.id == id && lane.is_finished()) {
            self.lanes.remove(index);
            self.events.push_back(Event::LaneOver(id, true));
        }
    }
}
