//! The programs' side of streams: open, write, read, finish, reset, let go.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::{Event, OpenError, Read, ResetOut, SMALL, Session, Stream, StreamKey, transmit};
use crate::Status;
use crate::rtt::ACK_DELAY;

/// Bytes written ahead of what has been sent, per stream: whole turns, or what is left over goes out by itself each time.
const AHEAD: u64 = 2 * transmit::WHOLE_TURN as u64;
/// What may ride along waits so long for a message that goes anyway: as acknowledgements do, so that no timer is set for it.
const RIDE: Duration = ACK_DELAY;

impl Session {
    /// Opens a stream. Until something is written, at most its credit goes out.
    ///
    /// # Errors
    /// [`OpenError`], of which [`OpenError::Wait`] passes.
    pub fn open(&mut self) -> Result<StreamKey, OpenError> {
        self.may_open()?;
        let initial = self.config.initial_credit;
        if self.begun + self.unbegun >= self.peer_max_streams || !self.received.try_reserve(initial as usize)
        {
            self.open_waiting = true;
            return Err(OpenError::Wait);
        }
        self.unbegun += 1;
        let key = StreamKey(self.streams.insert(Stream::new(None, self.peer_initial_credit, initial)));
        self.widen_first_window(key);
        Ok(key)
    }

    pub(super) fn may_open(&mut self) -> Result<(), OpenError> {
        if let Some((status, _)) = &self.ended {
            return Err(OpenError::Ended(*status));
        }
        if self.peer_draining || self.drain.is_some() {
            return Err(OpenError::Draining);
        }
        if self.instance.is_none() {
            self.open_waiting = true;
            return Err(OpenError::Wait);
        }
        Ok(())
    }

    /// Gives a stream more than the floor at once while there is plenty. What the peer has begun can wait for a message
    /// that goes anyway: it has just sent its first bytes.
    pub(super) fn widen_first_window(&mut self, key: StreamKey) {
        let Some(stream) = self.streams.get_mut(key.0) else { return };
        let more = self.config.first_window.saturating_sub(stream.recv.window());
        if more == 0 || !self.received.is_plenty() || !self.received.try_reserve(more as usize) {
            return;
        }
        stream.recv.grow_window(more);
        stream.recv.open_window();
        stream.max_data_due = true;
        match stream.id {
            Some(_) => self.riders.push_back(key),
            None => self.queue_control(key),
        }
    }

    /// How many bytes may be written now. At 0, [`Event::Writable`] follows.
    ///
    /// # Errors
    /// The status with which the stream was reset; [`Status::Aborted`] for one that is finished or gone.
    pub fn writable(&mut self, key: StreamKey) -> Result<usize, Status> {
        let room = self.send_room();
        let reserve = self.sending.reserve();
        let stream = self.streams.get_mut(key.0).ok_or(Status::Aborted)?;
        if let Some(status) = stream.reset_in {
            return Err(status);
        }
        if !stream.send.is_open() || stream.reset_out.is_some() {
            return Err(Status::Aborted);
        }
        let mine = stream.send.unsent() + stream.send.in_flight();
        let room = if mine > SMALL { room.saturating_sub(reserve) } else { room };
        let own = stream.send.credit().min(AHEAD.saturating_sub(stream.send.unsent()));
        let writable = own.min(room as u64) as usize;
        if writable == 0 {
            stream.wants_write = true;
            if own > 0 {
                self.wait_for_pool(key);
            }
        }
        Ok(writable)
    }

    fn wait_for_pool(&mut self, key: StreamKey) {
        if let Some(stream) = self.streams.get_mut(key.0).filter(|stream| !stream.waits_for_pool) {
            stream.waits_for_pool = true;
            self.write_waiters.push_back(key);
        }
    }

    /// Bytes that the send pool would still take from this session.
    fn send_room(&self) -> usize {
        self.sending.held().saturating_sub(self.send_held) + self.sending.free()
    }

    /// Writes as much of `data` as [`Session::writable`] allows and returns how much. The slice is kept, not copied.
    ///
    /// # Errors
    /// As [`Session::writable`].
    pub fn write(&mut self, key: StreamKey, data: &Bytes) -> Result<usize, Status> {
        let len = self.keep(key, data)?;
        if len > 0 {
            self.queue_data(key);
        }
        Ok(len)
    }

    /// As [`Session::write`], for bytes that mostly have company within two milliseconds where the peer has said something
    /// that is to be answered: they leave with the next message, whatever it is about, and without one after that time.
    /// A message costs every process on the way more than what is in it. Where nothing has come that is not read yet, the
    /// peer may be waiting for just this: then it leaves at once.
    ///
    /// # Errors
    /// As [`Session::writable`].
    pub fn write_riding(&mut self, now: Instant, key: StreamKey, data: &Bytes) -> Result<usize, Status> {
        let len = self.keep(key, data)?;
        let is_asked = self.streams.get(key.0).is_some_and(|stream| stream.recv.is_readable());
        if len > 0 && is_asked {
            self.ride(now, key);
        } else if len > 0 {
            self.queue_data(key);
        }
        Ok(len)
    }

    /// What the stream has to send waits for the next message.
    fn ride(&mut self, now: Instant, key: StreamKey) {
        if let Some(stream) = self.streams.get_mut(key.0) {
            stream.riding = true;
            self.passengers.push_back((now + RIDE, key));
        }
    }

    /// Takes bytes to be sent.
    fn keep(&mut self, key: StreamKey, data: &Bytes) -> Result<usize, Status> {
        let len = self.writable(key)?.min(data.len());
        if len == 0 {
            return Ok(0);
        }
        let need = (self.send_held + len).saturating_sub(self.sending.held());
        if need > 0 && !self.sending.try_reserve(need) {
            // Another session was quicker.
            if let Some(stream) = self.streams.get_mut(key.0) {
                stream.wants_write = true;
            }
            self.wait_for_pool(key);
            return Ok(0);
        }
        self.send_held += len;
        if let Some(stream) = self.streams.get_mut(key.0) {
            stream.send.write(data.slice(..len));
            stream.heard_last = false;
        }
        Ok(len)
    }

    pub(super) fn release_send(&mut self, bytes: usize) {
        if bytes == 0 {
            return;
        }
        self.send_held -= bytes;
        let keep = self.send_held.max(self.send_floor());
        let surplus = self.sending.held().saturating_sub(keep);
        self.sending.release(surplus);
        self.wake_write_waiters();
    }

    /// Wakes as many writers as there may be room for, and all of them where nothing is held: no acknowledgement
    /// would wake the others later.
    pub(super) fn wake_write_waiters(&mut self) {
        let mut room = if self.send_held == 0 { usize::MAX } else { self.send_room() };
        while room > 0 {
            let Some(key) = self.write_waiters.pop_front() else { break };
            let Some(stream) = self.streams.get_mut(key.0) else { continue };
            stream.waits_for_pool = false;
            if stream.wants_write {
                room = room.saturating_sub(AHEAD as usize);
                self.wake_writer(key);
            }
        }
    }

    pub(super) fn wake_writer(&mut self, key: StreamKey) {
        if let Some(stream) = self.streams.get_mut(key.0).filter(|stream| stream.wants_write) {
            stream.wants_write = false;
            self.events.push_back(Event::Writable(key));
        }
    }

    pub(super) fn wake_reader(&mut self, key: StreamKey) {
        if let Some(stream) = self.streams.get_mut(key.0).filter(|stream| stream.wants_read) {
            stream.wants_read = false;
            self.events.push_back(Event::Readable(key));
        }
    }

    /// Ends this end's direction after what was written.
    pub fn finish(&mut self, key: StreamKey) {
        if let Some(stream) = self.streams.get_mut(key.0).filter(|stream| stream.reset_in.is_none()) {
            stream.send.finish();
            self.queue_data(key);
        }
    }

    /// As [`Session::finish`], for a program that may just have closed its connection: where the peer spoke last, its
    /// answer or its own end, nobody is known to wait for this one, which then leaves with the next message, and without
    /// one after two milliseconds. What ends behind bytes of its own may be a question: that end leaves at once.
    pub fn finish_riding(&mut self, now: Instant, key: StreamKey) {
        let rides =
            self.streams.get(key.0).is_some_and(|stream| stream.heard_last && !stream.send.has_work());
        if rides && let Some(stream) = self.streams.get_mut(key.0).filter(|stream| stream.reset_in.is_none())
        {
            stream.send.finish();
            self.ride(now, key);
        } else {
            self.finish(key);
        }
    }

    /// Sends what rides at once, for whoever is about to end the session: a goodbye overtakes it, and an end in good order
    /// would become a reset. False where nothing rides.
    pub fn send_riding(&mut self) -> bool {
        let rides = !self.passengers.is_empty();
        self.take_passengers(None);
        rides
    }

    /// Whether everything written, and the end if there is one, has been acknowledged.
    pub fn is_flushed(&self, key: StreamKey) -> bool {
        self.streams
            .get(key.0)
            .is_none_or(|stream| stream.send.all_acked() && (stream.send.is_open() || stream.send.is_done()))
    }

    /// Takes the next bytes, at most `max`.
    pub fn read(&mut self, now: Instant, key: StreamKey, max: usize) -> Read {
        let read = self.lend(key, max);
        if let Read::Data(data) = &read {
            self.consume(now, key, data.len());
        }
        read
    }

    /// Takes the next bytes, at most `max`, for somebody who may not want them yet: they go on counting against the
    /// receive pool, and the peer gets no credit for them, until [`Session::consume`].
    pub fn lend(&mut self, key: StreamKey, max: usize) -> Read {
        let Some(stream) = self.streams.get_mut(key.0) else { return Read::Reset(Status::Aborted) };
        if let Some(data) = stream.recv.lend(max) {
            return Read::Data(data);
        }
        match (stream.reset_out, stream.reset_in) {
            (Some((status, ..)), _) => return Read::Reset(status),
            (None, Some(Status::ResetByPeer)) if !stream.recv.is_complete() => {}
            (None, Some(status)) => return Read::Reset(status),
            (None, None) if stream.recv.is_delivered() => return Read::End,
            (None, None) => {}
        }
        stream.wants_read = true;
        Read::Blocked
    }

    /// The first `len` bytes that were lent have left this process.
    pub fn consume(&mut self, now: Instant, key: StreamKey, len: usize) {
        if let Some(stream) = self.streams.get_mut(key.0) {
            stream.recv.consume(len as u64);
            self.renew_credit(now, key);
        }
    }

    fn renew_credit(&mut self, now: Instant, key: StreamKey) {
        // Below this, the programs' own turns count for more than the path.
        let round_trip = self.round_trip().max(Duration::from_millis(5));
        let Some(stream) = self.streams.get_mut(key.0) else { return };
        if stream.reset_in.is_some() || stream.reset_out.is_some() {
            return;
        }
        let plenty = stream.recv.has_plenty();
        let Some(fast) = stream.recv.renew(now, round_trip) else { return };
        if fast {
            let more = stream.recv.window().min(self.received.free() as u64 / 2);
            let more = more.min(self.config.max_window.saturating_sub(stream.recv.window()));
            if more > 0 && self.received.try_reserve(more as usize) {
                stream.recv.grow_window(more);
                stream.recv.open_window();
            }
        }
        if !plenty {
            stream.max_data_due = true;
            self.queue_control(key);
        } else if !std::mem::replace(&mut stream.max_data_due, true) {
            self.riders.push_back(key);
        }
    }

    /// The least smoothed round trip of the lanes that work.
    pub fn round_trip(&self) -> Duration {
        let known = self.lanes.iter().filter(|lane| lane.rtt.known() && !lane.suspect);
        known.map(|lane| lane.rtt.smoothed()).min().unwrap_or_default()
    }

    /// Ends both directions at once. With [`Status::ResetByPeer`] the peer first gets what was written.
    pub fn reset(&mut self, key: StreamKey, status: Status) {
        let Some(stream) = self.streams.get_mut(key.0) else { return };
        if stream.reset_in.is_some() || stream.reset_out.is_some() {
            return;
        }
        if stream.id.is_none() && (status != Status::ResetByPeer || stream.send.written() == 0) {
            // Nothing of it ever went out, so there is nothing to tell.
            stream.reset_out = Some((status, 0, ResetOut::Acked));
            let freed = stream.send.discard();
            stream.recv.discard();
            self.release_send(freed);
        } else {
            let reliable = status == Status::ResetByPeer;
            let final_offset = if reliable { stream.send.written() } else { stream.send.sent() };
            stream.reset_out = Some((status, final_offset, ResetOut::Due));
            stream.recv.discard();
            let freed = if reliable { 0 } else { stream.send.discard() };
            self.release_send(freed);
            self.queue_control(key);
        }
        self.tell_reset(key);
        self.remove_if_over(key);
    }

    pub(super) fn tell_reset(&mut self, key: StreamKey) {
        self.wake_reader(key);
        self.wake_writer(key);
        self.events.push_back(Event::Reset(key));
    }

    /// With which status the stream was reset, whether or not bytes sent before it are still to be read.
    pub fn reset_status(&self, key: StreamKey) -> Option<Status> {
        let Some(stream) = self.streams.get(key.0) else { return Some(Status::Aborted) };
        stream.reset_in.or(stream.reset_out.map(|(status, ..)| status))
    }

    /// The program has no more use for the stream. One that isn't over in both directions is reset.
    pub fn release(&mut self, key: StreamKey) {
        let Some(stream) = self.streams.get_mut(key.0) else { return };
        stream.released = true;
        let finished = !stream.send.is_open() && stream.recv.is_delivered();
        if !finished {
            self.reset(key, Status::Aborted);
        }
        self.remove_if_over(key);
    }

    pub(super) fn remove_if_over(&mut self, key: StreamKey) {
        if !self.streams.get(key.0).is_some_and(Stream::is_over) {
            return;
        }
        let Some(mut stream) = self.streams.remove(key.0) else { return };
        self.release_send_of(&mut stream);
        let window = stream.recv.window() as usize;
        match stream.id {
            Some(id) => {
                self.stream_ids.remove(&id);
                if self.is_mine(id) {
                    self.received.release(window);
                } else {
                    // The initial credit stays reserved for the stream that takes its place.
                    self.received.release(window.saturating_sub(self.config.initial_credit as usize));
                    self.peer_over += 1;
                    self.lower_allowed();
                    self.raise_max_streams();
                }
            }
            None => {
                self.unbegun -= 1;
                self.received.release(window);
            }
        }
        if self.open_waiting {
            self.open_waiting = false;
            self.events.push_back(Event::CanOpen);
        }
    }

    fn release_send_of(&mut self, stream: &mut Stream) {
        let freed = stream.send.discard();
        self.release_send(freed);
    }
}
