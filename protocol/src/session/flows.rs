//! The programs' side of flows.

use std::time::Instant;

use bytes::Bytes;

use super::{Event, FlowKey, OpenError, Session};
use crate::flow::Flow;
use crate::{MAX_DATAGRAM, Status};

impl Session {
    /// Opens a flow with its encoded header. Nothing goes out until a datagram does.
    ///
    /// # Errors
    /// [`OpenError`], of which [`OpenError::Wait`] passes.
    pub fn open_flow(&mut self, now: Instant, header: Bytes) -> Result<FlowKey, OpenError> {
        self.may_open()?;
        self.make_room_for_flow();
        Ok(FlowKey(self.flows.insert(Flow::new(now, header, None, &self.datagrams))))
    }

    /// The flow that was quiet for longest ends where the limit is met.
    pub(super) fn make_room_for_flow(&mut self) {
        if self.flows.len() < self.config.max_flows {
            return;
        }
        let quietest = self
            .flows
            .iter()
            .filter(|(_, flow)| flow.closed.is_none())
            .min_by_key(|(_, flow)| flow.last_active);
        if let Some(key) = quietest.map(|(key, _)| FlowKey(key)) {
            self.close_flow_at_both_ends(key, Status::TooManyStreams);
        }
    }

    /// The header that the flow was opened with, encoded.
    pub fn flow_header(&self, key: FlowKey) -> Option<Bytes> {
        self.flows.get(key.0).map(|flow| flow.header.clone())
    }

    /// Queues a datagram; a full queue drops its oldest.
    ///
    /// # Errors
    /// The status with which the flow ended; [`Status::Unknown`] for a datagram above [`MAX_DATAGRAM`].
    pub fn send_datagram(&mut self, now: Instant, key: FlowKey, datagram: Bytes) -> Result<(), Status> {
        let flow = self.flows.get_mut(key.0).ok_or(Status::Aborted)?;
        if let Some(status) = flow.closed {
            return Err(status);
        }
        if datagram.len() > MAX_DATAGRAM {
            return Err(Status::Unknown);
        }
        self.stats.datagrams_dropped += flow.push_out(now, datagram);
        if !flow.queued {
            flow.queued = true;
            self.flow_queue.push_back(key);
        }
        Ok(())
    }

    /// The next datagram; `None` where there is none yet, in which case [`Event::FlowReadable`] follows.
    ///
    /// # Errors
    /// The status with which the flow ended, once all datagrams have been taken.
    pub fn receive_datagram(&mut self, key: FlowKey) -> Result<Option<Bytes>, Status> {
        let flow = self.flows.get_mut(key.0).ok_or(Status::Aborted)?;
        match (flow.take_in(), flow.closed) {
            (None, Some(status)) => Err(status),
            (datagram, _) => Ok(datagram),
        }
    }

    /// Ends a flow; the key is void.
    pub fn close_flow(&mut self, key: FlowKey, status: Status) {
        let Some(flow) = self.flows.remove(key.0) else { return };
        let Some(id) = flow.id else { return };
        self.flow_ids.remove(&id);
        if flow.closed.is_none() && self.ended.is_none() {
            self.queue_flow_close(id, status);
        }
    }

    /// Ends a flow that this end's program still holds.
    fn close_flow_at_both_ends(&mut self, key: FlowKey, status: Status) {
        let Some(flow) = self.flows.get_mut(key.0) else { return };
        flow.closed = Some(status);
        self.events.push_back(Event::FlowReadable(key));
        if let Some(id) = flow.id {
            self.flow_ids.remove(&id);
            self.queue_flow_close(id, status);
        }
    }

    pub(super) fn queue_flow_close(&mut self, id: u64, status: Status) {
        if self.flow_closes.insert(id, status).is_none() {
            self.flow_close_queue.push_back(id);
        }
    }

    /// The peer ended the flow.
    pub(super) fn flow_closed(&mut self, id: u64, status: Status) {
        if let Some(key) = self.flow_ids.remove(&id)
            && let Some(flow) = self.flows.get_mut(key.0)
        {
            flow.closed = Some(status);
            self.events.push_back(Event::FlowReadable(key));
        }
    }

    pub(super) fn end_flows(&mut self, status: Status) {
        for key in self.flows.keys() {
            if let Some(flow) = self.flows.get_mut(key) {
                flow.closed.get_or_insert(status);
                self.events.push_back(Event::FlowReadable(FlowKey(key)));
            }
        }
        self.flow_queue.clear();
        self.flow_close_queue.clear();
    }
}
