//! The paths between two ends: pipes that deliver in order or not at all, over links that they may share.

use std::collections::VecDeque;
use std::time::Duration;

use super::rng::Rng;

/// One of the two ends of a pipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Side {
    Client,
    Agent,
}

impl Side {
    pub(crate) const BOTH: [Self; 2] = [Self::Client, Self::Agent];

    pub(crate) const fn index(self) -> usize {
        self as usize
    }

    pub(crate) const fn other(self) -> Self {
        match self {
            Self::Client => Self::Agent,
            Self::Agent => Self::Client,
        }
    }
}

/// What a path does to bytes.
#[derive(Clone, Debug)]
pub(crate) struct Path {
    /// One way.
    pub(crate) delay: Duration,
    /// Up to this much is added to a segment's delay; order is kept.
    pub(crate) jitter: Duration,
    /// Bytes per second of a bottleneck of the pipe's own; `None` where it is the one that all share.
    pub(crate) rate: Option<u64>,
    /// Bytes that may be on their way before the writer has to wait.
    pub(crate) queue: usize,
    /// Bytes that travel together.
    pub(crate) segment: usize,
    /// Segments in a thousand that are lost once, and so hold up all that follow them.
    pub(crate) loss: u64,
    /// How long a loss holds them up, unless one of them is acknowledged sooner and so tells of it.
    pub(crate) stall: Duration,
    /// The most bytes that one read brings.
    pub(crate) read: usize,
}

impl Path {
    /// Fast, near and without fault.
    pub(crate) fn good() -> Self {
        Self {
            delay: Duration::from_millis(10),
            jitter: Duration::ZERO,
            rate: Some(50 << 20),
            queue: 1 << 20,
            segment: 16 * 1024,
            loss: 0,
            stall: Duration::from_millis(200),
            read: 64 * 1024,
        }
    }
}

/// One way through a pipe. Indexed by the side that writes.
#[derive(Debug)]
pub(crate) struct Way {
    pub(crate) link: usize,
    /// Written, not yet on the link.
    pub(crate) queue: VecDeque<u8>,
    /// Bytes on the link or behind it.
    pub(crate) travelling: usize,
    /// What has left the link, and when it arrives.
    pub(crate) on_its_way: VecDeque<(Duration, Vec<u8>)>,
    /// Arrived, not yet read.
    pub(crate) arrived: VecDeque<u8>,
    /// Bytes that were delivered so far.
    pub(crate) delivered: u64,
    /// The pipe dies when this many bytes have been delivered.
    pub(crate) dies_after: Option<u64>,
    /// Bytes vanish without a word.
    pub(crate) swallows: bool,
    /// The writer has closed: the end follows the last byte.
    pub(crate) finished: bool,
    /// The reader has been told that it ended.
    pub(crate) ended: bool,
}

impl Way {
    /// When the last of what is on its way arrives; long ago where nothing is.
    pub(crate) fn last_arrival(&self) -> Duration {
        self.on_its_way.back().map_or(Duration::ZERO, |(due, _)| *due)
    }
}

/// A transport connection between the two ends.
#[derive(Debug)]
pub(crate) struct Pipe {
    pub(crate) path: Path,
    pub(crate) ways: [Way; 2],
    /// When bytes last left for either end.
    pub(crate) last_used: Duration,
    pub(crate) dead: bool,
}

impl Pipe {
    pub(crate) fn new(path: Path, links: [usize; 2]) -> Self {
        let way = |link| Way {
            link,
            queue: VecDeque::new(),
            travelling: 0,
            on_its_way: VecDeque::new(),
            arrived: VecDeque::new(),
            delivered: 0,
            dies_after: None,
            swallows: false,
            finished: false,
            ended: false,
        };
        Self { path, ways: links.map(way), last_used: Duration::ZERO, dead: false }
    }

    /// How many more bytes `side` may write now.
    pub(crate) fn room(&self, side: Side) -> usize {
        let way = &self.ways[side.index()];
        if self.dead || way.finished {
            return 0;
        }
        self.path.queue.saturating_sub(way.queue.len() + way.travelling + way.arrived.len())
    }

    /// A segment leaves the link now: when it arrives, and when those before it do that it has freed, if there are any.
    ///
    /// As TCP does it (RFC 8985): the acknowledgement of a segment tells what was lost before it, which then goes out again.
    pub(crate) fn leave(
        &mut self,
        side: Side,
        now: Duration,
        bytes: Vec<u8>,
        rng: &mut Rng,
    ) -> (Duration, Option<Duration>) {
        let mut at = now + self.path.delay;
        if self.path.jitter > Duration::ZERO {
            at += rng.duration(Duration::ZERO..self.path.jitter);
        }
        let way = &mut self.ways[side.index()];
        let mut freed = None;
        if rng.below(1000) < self.path.loss {
            at += self.path.stall;
        } else {
            let repaired = at + 2 * self.path.delay;
            for (due, _) in way.on_its_way.iter_mut().rev().take_while(|(due, _)| *due > repaired) {
                *due = repaired;
                freed = Some(repaired);
            }
        }
        let at = at.max(way.last_arrival());
        way.on_its_way.push_back((at, bytes));
        (at, freed)
    }

    /// The next segment that has arrived by now.
    pub(crate) fn arrived(&mut self, from: Side, now: Duration) -> Option<Vec<u8>> {
        let way = &mut self.ways[from.index()];
        way.on_its_way.pop_front_if(|(due, _)| *due <= now).map(|(_, bytes)| bytes)
    }
}

/// A bottleneck: one segment at a time, from the pipes that have something in turn.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) rate: u64,
    pub(crate) busy: bool,
    pub(crate) pipes: Vec<(usize, Side)>,
    turn: usize,
}

impl Link {
    pub(crate) fn new(rate: u64) -> Self {
        Self { rate, busy: false, pipes: Vec::new(), turn: 0 }
    }

    /// The next segment to go on the link, if there is one: its pipe, its direction, its bytes.
    pub(crate) fn next(&mut self, pipes: &mut [Pipe]) -> Option<(usize, Side, Vec<u8>)> {
        self.pipes.retain(|&(pipe, _)| !pipes[pipe].dead);
        for step in 0..self.pipes.len() {
            let index = (self.turn + step) % self.pipes.len();
            let (id, side) = self.pipes[index];
            let pipe = &mut pipes[id];
            let way = &mut pipe.ways[side.index()];
            if way.queue.is_empty() {
                continue;
            }
            let len = way.queue.len().min(pipe.path.segment);
            let bytes: Vec<u8> = way.queue.drain(..len).collect();
            way.travelling += len;
            self.turn = index + 1;
            return Some((id, side, bytes));
        }
        None
    }

    pub(crate) fn time(&self, len: usize) -> Duration {
        Duration::from_nanos(len as u64 * 1_000_000_000 / self.rate.max(1))
    }
}
