//! What is on the screen, without a screen.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use tokio::time::Instant;

use super::Command;
use crate::ledger::{ForwardSnapshot, ForwardState, Snapshot};

/// Rates that are remembered of each forward: a minute's.
const RATES: usize = 60;
/// What is nearer together gives no rate.
const RATE_FROM: Duration = Duration::from_millis(500);
/// Messages that are remembered.
const MESSAGES: usize = 20;

/// What a forward has carried lately.
#[derive(Debug, Clone)]
pub(super) struct History {
    at: Instant,
    moved: (u64, u64),
    /// Bytes a second, each way.
    pub(super) rate: (u64, u64),
    /// Bytes a second, both ways together; the newest last.
    pub(super) rates: VecDeque<u64>,
}

impl History {
    fn new(at: Instant, moved: (u64, u64)) -> Self {
        Self { at, moved, rate: (0, 0), rates: VecDeque::with_capacity(RATES) }
    }

    fn add(&mut self, at: Instant, moved: (u64, u64)) {
        let passed = at.duration_since(self.at);
        if passed < RATE_FROM {
            return;
        }
        let per_second =
            |now: u64, then: u64| (now.saturating_sub(then) as f64 / passed.as_secs_f64()) as u64;
        self.rate = (per_second(moved.0, self.moved.0), per_second(moved.1, self.moved.1));
        if self.rates.len() >= RATES {
            self.rates.pop_front();
        }
        self.rates.push_back(self.rate.0.saturating_add(self.rate.1));
        (self.at, self.moved) = (at, moved);
    }
}

/// What is shown, and where whoever watches has got to.
#[derive(Debug, Default)]
pub struct Model {
    pub(super) snapshot: Option<Snapshot>,
    pub(super) histories: HashMap<u64, History>,
    /// The number of the forward that keys are about.
    selected: Option<u64>,
    pub(super) shows_help: bool,
    /// The newest last.
    pub(super) messages: VecDeque<String>,
}

impl Model {
    /// Takes what is new.
    pub fn update(&mut self, snapshot: Snapshot, at: Instant) {
        for forward in &snapshot.forwards {
            let moved = (forward.bytes.sent, forward.bytes.received);
            self.histories.entry(forward.id).or_insert_with(|| History::new(at, moved)).add(at, moved);
        }
        self.histories.retain(|id, _| snapshot.forwards.iter().any(|forward| forward.id == *id));
        let place = self.place();
        self.snapshot = Some(snapshot);
        if self.selected().is_none() {
            // What was selected is gone: its neighbour has moved up.
            let forwards = self.forwards();
            let next = forwards.get(place.unwrap_or_default()).or(forwards.last());
            self.selected = next.map(|forward| forward.id);
        }
    }

    /// Takes a message; one of several lines is several.
    pub fn say(&mut self, message: &str) {
        for line in message.lines().filter(|line| !line.trim().is_empty()) {
            if self.messages.len() >= MESSAGES {
                self.messages.pop_front();
            }
            self.messages.push_back(line.to_owned());
        }
    }

    /// All forwards.
    pub(super) fn forwards(&self) -> &[ForwardSnapshot] {
        self.snapshot.as_ref().map_or(&[], |snapshot| &snapshot.forwards)
    }

    /// The place of the one that keys are about.
    pub(super) fn place(&self) -> Option<usize> {
        let id = self.selected?;
        self.forwards().iter().position(|forward| forward.id == id)
    }

    /// The one that keys are about.
    pub(super) fn selected(&self) -> Option<&ForwardSnapshot> {
        self.forwards().get(self.place()?)
    }

    /// So many further down, or up where it is negative.
    pub(super) fn go(&mut self, by: isize) {
        let last = self.forwards().len().saturating_sub(1);
        let place = self.place().unwrap_or_default().saturating_add_signed(by).min(last);
        self.selected = self.forwards().get(place).map(|forward| forward.id);
    }

    /// Stops what runs, starts what does not.
    pub(super) fn stop_or_start(&self) -> Option<Command> {
        let forward = self.selected()?;
        Some(match forward.state {
            ForwardState::Stopped | ForwardState::Failed => Command::Start(forward.id),
            _ => Command::Stop(forward.id),
        })
    }

    /// Starts it anew.
    pub(super) fn restart(&self) -> Option<Command> {
        Some(Command::Restart(self.selected()?.id))
    }
}
