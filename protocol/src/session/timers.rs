//! What time brings: pings, suspicion, lanes that are given up, sessions that end.

use std::time::{Duration, Instant};

use super::{Event, Session};
use crate::Status;
use crate::lane::{Closing, Item, Lane};

/// A lane with something outstanding that is silent for this long, or four round trips, is suspect.
pub(super) const SUSPECT_AFTER: Duration = Duration::from_secs(3);

impl Session {
    fn suspect_at(&self, lane: &Lane) -> Option<Instant> {
        let wait = SUSPECT_AFTER.min(self.config.dead_after).max(lane.rtt.smoothed() * 4);
        lane.waiting_since.filter(|_| !lane.suspect)?.checked_add(wait)
    }

    fn dead_at(&self, lane: &Lane) -> Option<Instant> {
        lane.waiting_since?.checked_add(self.config.dead_after)
    }

    fn ping_at(&self, lane: &Lane) -> Option<Instant> {
        let ping = self.config.ping?;
        let may = lane.ping_out.is_none() && !lane.ping_due && lane.closing != Closing::Sent;
        if may { lane.last_received.checked_add(ping) } else { None }
    }

    /// A client that was never welcomed has nothing to lose, and how long it tries is its owner's business.
    fn dies_at(&self) -> Option<Instant> {
        self.instance?;
        let busy = self.streams.len() > 0 || self.flows.len() > 0;
        let life = if busy { self.config.life } else { self.config.idle_life };
        self.no_lanes_since.filter(|_| self.ended.is_none())?.checked_add(life)
    }

    /// When [`Session::handle_timeout`] wants to be called at the latest. An acknowledgement that falls due counts:
    /// [`Session::has_work`] turns true then.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let lanes = self.lanes.iter().flat_map(|lane| {
            [
                lane.ack_due(),
                self.suspect_at(lane),
                self.dead_at(lane),
                self.ping_at(lane),
                self.look_at(lane),
            ]
            .into_iter()
            .flatten()
        });
        let ride = self.passengers.front().map(|(until, _)| *until);
        let pace = self.pace.due().filter(|_| !self.bulk.is_empty());
        lanes.chain(pace).chain(self.dies_at()).chain(ride).min()
    }

    /// Does what has fallen due.
    pub fn handle_timeout(&mut self, now: Instant) {
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        self.take_passengers(Some(now));
        self.pace.note_due(now);
        let (mut dead, mut suspect) = (Vec::new(), Vec::new());
        for index in 0..self.lanes.len() {
            let lane = &self.lanes[index];
            if due(self.dead_at(lane)) {
                dead.push(lane.id);
            } else if due(self.suspect_at(lane)) {
                suspect.push(lane.id);
            }
            if due(self.ping_at(lane)) {
                self.lanes[index].ping_due = true;
            }
            self.lanes[index].note_ack_due(now);
        }
        for id in dead {
            self.lane_over(id, now);
        }
        for id in suspect {
            self.suspect(id);
        }
        self.look_for_late(now);
        if due(self.dies_at()) {
            self.end(Status::AgentLost, "no connection for too long");
        }
        // Another session that shares the pools may have freed what writers and openers here wait for.
        self.wake_write_waiters();
        if std::mem::take(&mut self.open_waiting) {
            self.events.push_back(Event::CanOpen);
        }
        self.retire_lanes(now);
    }

    /// No new frames on a lane that is silent; what is on it goes out again elsewhere, now or as soon as there is
    /// another.
    fn suspect(&mut self, id: u64) {
        let Some(lane) = self.lane(id) else { return };
        lane.suspect = true;
        let items: Vec<Item> = lane.take_outstanding().collect();
        self.acks_lost(id);
        for item in items {
            self.item_lost(item);
        }
        self.choose_express();
    }

    /// The clocks show that this machine slept: silence so far means nothing, and every lane is probed, and the
    /// client wants one more.
    pub fn woke(&mut self, now: Instant) {
        for lane in &mut self.lanes {
            lane.last_received = now;
            lane.waiting_since = lane.waiting_since.map(|_| now);
            lane.ping_due = lane.ping_out.is_none();
        }
        self.no_lanes_since = self.no_lanes_since.map(|_| now);
        self.renew = !self.lanes.is_empty();
    }

    /// Asks every lane for a sign of life. Other than after sleep, silence so far still counts.
    pub fn probe(&mut self) {
        for lane in &mut self.lanes {
            lane.ping_due |= lane.ping_out.is_none() && lane.closing != Closing::Sent;
        }
    }

    /// Whether any lane is under suspicion or none is left: the program's user is told that it reconnects.
    pub fn is_connected(&self) -> bool {
        self.instance.is_some() && self.lanes.iter().any(|lane| !lane.suspect)
    }

    /// Whether a lane's transport may be closed: the session is over, and both ends know.
    pub fn is_done_with(&self, id: u64) -> bool {
        match self.lanes.iter().find(|lane| lane.id == id) {
            None => true,
            Some(lane) => {
                self.ended.is_some()
                    && (self.goodbye.is_none() || self.goodbye_acked)
                    && lane.eliciting() == 0
            }
        }
    }
}
