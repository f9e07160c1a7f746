//! The receiving direction of a stream: puts bytes in order, drops duplicates, accounts for credit.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Deref;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use crate::frame::Malformed;

/// A chunk that small frames are gathered in starts with at least this much room, in bytes.
const LEAST_CHUNK: usize = 64;
/// Above this a frame gets a chunk of exactly its size.
const GATHER_BELOW: usize = 4_096;

/// Gaps in one stream; twice what a sender may cause.
const MAX_GAPS: u64 = 4_096;

/// Bytes that have arrived.
pub(crate) enum Piece<'a> {
    /// In somebody else's buffer.
    Borrowed(&'a [u8]),
    /// In a buffer of their own, which is kept where it is worth it.
    Own(BytesMut),
}

impl Deref for Piece<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Borrowed(data) => data,
            Self::Own(data) => data,
        }
    }
}

#[derive(Debug)]
pub(crate) struct RecvHalf {
    /// In order, not yet taken by the program.
    ready: VecDeque<BytesMut>,
    /// Taken by the program, which still holds it for somebody else.
    lent: u64,
    consumed: u64,
    /// Next offset wanted in order.
    next: u64,
    /// Arrived ahead of a gap, by offset; neither touching `next` nor overlapping.
    ahead: BTreeMap<u64, BytesMut>,
    final_offset: Option<u64>,
    /// What the peer was told it may send up to.
    limit: u64,
    /// How far `limit` may be ahead of `consumed`: what is reserved of the pool.
    window: u64,
    /// Since when, and from which offset, the use of the window is being watched.
    watched: Option<(Instant, u64)>,
}

impl RecvHalf {
    pub(crate) fn new(limit: u64) -> Self {
        Self {
            ready: VecDeque::new(),
            lent: 0,
            consumed: 0,
            next: 0,
            ahead: BTreeMap::new(),
            final_offset: None,
            limit,
            window: limit,
            watched: None,
        }
    }

    pub(crate) fn limit(&self) -> u64 {
        self.limit
    }

    /// Whether the peer can go on for long without more credit.
    pub(crate) fn has_plenty(&self) -> bool {
        self.limit - self.next >= self.window / 2
    }

    pub(crate) fn window(&self) -> u64 {
        self.window
    }

    pub(crate) fn grow_window(&mut self, by: u64) {
        self.window += by;
    }

    pub(crate) fn is_readable(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Every byte up to the end has arrived.
    pub(crate) fn is_complete(&self) -> bool {
        self.final_offset == Some(self.next)
    }

    /// Every byte up to the end has been taken.
    pub(crate) fn is_delivered(&self) -> bool {
        self.is_complete() && self.ready.is_empty()
    }

    /// Whether more pieces lie behind gaps than any sender causes that keeps to the rules.
    pub(crate) fn has_too_many_gaps(&self) -> bool {
        // Of two pieces that touch, at least half a chunk is filled.
        let touching = (self.limit - self.next) / (GATHER_BELOW as u64 / 2);
        self.ahead.len() as u64 > MAX_GAPS + touching
    }

    pub(crate) fn set_final(&mut self, offset: u64) -> Result<(), Malformed> {
        let highest =
            self.ahead.last_key_value().map_or(self.next, |(&start, data)| start + data.len() as u64);
        match self.final_offset {
            Some(known) if known != offset => Err(Malformed::Violation("conflicting final offsets")),
            _ if offset < highest => Err(Malformed::Violation("final offset below bytes that arrived")),
            _ => {
                self.final_offset = Some(offset);
                Ok(())
            }
        }
    }

    /// Stores what is new of `data`. True where something became readable.
    pub(crate) fn insert(&mut self, offset: u64, data: Piece<'_>, fin: bool) -> Result<bool, Malformed> {
        let end = offset + data.len() as u64;
        if end > self.limit {
            return Err(Malformed::Violation("bytes beyond the credit"));
        }
        if self.final_offset.is_some_and(|last| end > last) {
            return Err(Malformed::Violation("bytes beyond the final offset"));
        }
        if fin {
            self.set_final(end)?;
        }
        if end <= self.next {
            return Ok(false);
        }
        if offset > self.next {
            self.keep_ahead(offset, data);
            return Ok(false);
        }
        self.append_from(offset, data);
        while let Some(entry) = self.ahead.first_entry() {
            if *entry.key() > self.next {
                break;
            }
            let (start, data) = entry.remove_entry();
            self.append_from(start, Piece::Own(data));
        }
        Ok(true)
    }

    /// Appends what of a piece that begins at `offset`, or before it, is new.
    fn append_from(&mut self, offset: u64, data: Piece<'_>) {
        match data {
            Piece::Own(chunk) if offset == self.next && chunk.len() > GATHER_BELOW => {
                self.next += chunk.len() as u64;
                self.ready.push_back(chunk);
            }
            data => {
                if let Some(fresh) = data.get((self.next - offset) as usize..) {
                    self.append(fresh);
                }
            }
        }
    }

    /// Fills the gaps between the pieces that are there.
    fn keep_ahead(&mut self, offset: u64, data: Piece<'_>) {
        let end = offset + data.len() as u64;
        let mut at = offset;
        let data = match data {
            Piece::Own(chunk) if chunk.len() > GATHER_BELOW && self.is_gap(offset, end) => {
                self.ahead.insert(offset, chunk);
                return;
            }
            data => data,
        };
        if let Some((&start, piece)) = self.ahead.range(..=offset).next_back() {
            at = at.max(start + piece.len() as u64);
        }
        while at < end {
            let following =
                self.ahead.range(at..).next().map(|(&start, piece)| (start, start + piece.len() as u64));
            let (stop, resume) = following.filter(|&(start, _)| start < end).unwrap_or((end, end));
            if at < stop {
                self.put_ahead(at, &data[(at - offset) as usize..(stop - offset) as usize]);
            }
            at = resume;
        }
    }

    /// Whether nothing between these offsets is here.
    fn is_gap(&self, from: u64, to: u64) -> bool {
        let before = self.ahead.range(..to).next_back();
        before.is_none_or(|(&start, piece)| start + piece.len() as u64 <= from)
    }

    /// Stores a piece behind a gap. Small pieces that touch become one, so that their number, and the memory that
    /// each costs, follows from the gaps and not from the size of the frames.
    fn put_ahead(&mut self, at: u64, data: &[u8]) {
        if let Some((&start, piece)) = self.ahead.range_mut(..at).next_back()
            && start + piece.len() as u64 == at
            && piece.len() + data.len() <= GATHER_BELOW
        {
            piece.extend_from_slice(data);
        } else {
            self.ahead.insert(at, BytesMut::from(data));
        }
    }

    fn append(&mut self, data: &[u8]) {
        self.next += data.len() as u64;
        let mut rest = data;
        if let Some(tail) = self.ready.back_mut() {
            let room = tail.capacity() - tail.len();
            let fits = room.min(rest.len());
            tail.extend_from_slice(&rest[..fits]);
            rest = &rest[fits..];
        }
        if rest.is_empty() {
            return;
        }
        let capacity = if rest.len() >= GATHER_BELOW {
            rest.len()
        } else {
            let last = self.ready.back().map_or(0, BytesMut::capacity);
            rest.len().max(last * 2).clamp(LEAST_CHUNK, GATHER_BELOW)
        };
        let mut chunk = BytesMut::with_capacity(capacity);
        chunk.extend_from_slice(rest);
        self.ready.push_back(chunk);
    }

    /// Takes the next bytes in order, at most `max`. They count as held here until they are consumed.
    pub(crate) fn lend(&mut self, max: usize) -> Option<Bytes> {
        let front = self.ready.front_mut()?;
        let data =
            if front.len() <= max { self.ready.pop_front()?.freeze() } else { front.split_to(max).freeze() };
        self.lent += data.len() as u64;
        Some(data)
    }

    /// The program has done with the first `len` bytes that were lent.
    pub(crate) fn consume(&mut self, len: u64) {
        debug_assert!(len <= self.lent);
        let len = len.min(self.lent);
        self.lent -= len;
        self.consumed += len;
    }

    /// The credit to announce, if it is worth a frame: at least a quarter of the window has been taken.
    ///
    /// Also tells whether the window was used so fast that a larger one would help.
    pub(crate) fn renew(&mut self, now: Instant, round_trip: Duration) -> Option<bool> {
        let limit = self.consumed + self.window;
        if self.final_offset.is_some() || limit < self.limit + self.window / 4 {
            return None;
        }
        self.limit = limit;
        let (since, from) = *self.watched.get_or_insert((now, self.consumed));
        if self.consumed - from < self.window / 2 {
            return Some(false);
        }
        let fast = now.duration_since(since) <= round_trip * 2;
        self.watched = Some((now, self.consumed));
        Some(fast)
    }

    /// Raises the limit to the whole window at once.
    pub(crate) fn open_window(&mut self) {
        self.limit = self.limit.max(self.consumed + self.window);
    }

    /// Drops all data: the stream was reset.
    pub(crate) fn discard(&mut self) {
        self.ready.clear();
        self.ahead.clear();
    }

    /// Bytes that the peer may have sent or may still send, and that were not taken.
    pub(crate) fn outstanding(&self) -> u64 {
        self.limit - self.consumed
    }

    /// Bytes that are here and were not taken: how many, and what they take.
    pub(crate) fn held(&self) -> (u64, usize) {
        let chunks = || self.ready.iter().chain(self.ahead.values());
        (chunks().map(|chunk| chunk.len() as u64).sum(), chunks().map(BytesMut::capacity).sum())
    }

    /// How many gaps lie between what is here.
    pub(crate) fn gaps(&self) -> usize {
        let ends = self.ahead.iter().map(|(&start, piece)| start + piece.len() as u64);
        let before = std::iter::once(self.next).chain(ends);
        self.ahead.keys().zip(before).filter(|&(&start, before)| start > before).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(half: &mut RecvHalf, max: usize) -> Option<Bytes> {
        let data = half.lend(max)?;
        half.consume(data.len() as u64);
        Some(data)
    }

    proptest! {
        #[test]
        fn any_order_any_overlap_any_duplicates(
            data in proptest::collection::vec(any::<u8>(), 1..500),
            cuts in proptest::collection::vec((0usize..500, 1usize..80, any::<bool>()), 0..60),
            reads in proptest::collection::vec(1usize..100, 1..20),
            // So that some pieces are kept in buffers of their own.
            large in prop_oneof![Just(1), Just(100)],
        ) {
            let data: Vec<u8> = data.into_iter().flat_map(|byte| (0..large).map(move |at| byte ^ at as u8)).collect();
            let mut half = RecvHalf::new(data.len() as u64);
            let mut out = Vec::new();
            let mut reads = reads.iter().cycle();
            let whole = (0..data.len() / large).step_by(50).map(|start| (start, 50, false));
            for (start, len, owned) in cuts.into_iter().chain(whole) {
                let start = (start * large).min(data.len());
                let end = (start + len * large).min(data.len());
                let piece = &data[start..end];
                let piece = if owned { Piece::Own(piece.into()) } else { Piece::Borrowed(piece) };
                half.insert(start as u64, piece, end == data.len()).unwrap();
                if let Some(bytes) = read(&mut half, *reads.next().unwrap()) {
                    out.extend_from_slice(&bytes);
                }
            }
            prop_assert!(half.is_complete());
            while let Some(bytes) = read(&mut half, 7) {
                out.extend_from_slice(&bytes);
            }
            prop_assert!(half.is_delivered());
            prop_assert!(half.ahead.is_empty());
            prop_assert_eq!(out, data);
        }

        #[test]
        fn tiny_frames_do_not_blow_up_memory(count in 1usize..5000) {
            let mut half = RecvHalf::new(10_000);
            for offset in 0..count {
                half.insert(offset as u64, Piece::Borrowed(b"x"), false).unwrap();
            }
            let capacity: usize = half.ready.iter().map(BytesMut::capacity).sum();
            prop_assert!(capacity <= 2 * count + GATHER_BELOW, "{capacity} for {count}");
        }
    }

    #[test]
    fn contradictions_are_refused() {
        let mut half = RecvHalf::new(10);
        assert!(half.insert(5, Piece::Borrowed(b"123456"), false).is_err(), "beyond the credit");
        half.insert(0, Piece::Borrowed(b"abc"), true).unwrap();
        assert!(half.insert(0, Piece::Borrowed(b"abcd"), false).is_err(), "beyond the end");
        assert!(half.insert(0, Piece::Borrowed(b"ab"), true).is_err(), "another end");
        assert!(half.set_final(3).is_ok());
        let mut half = RecvHalf::new(10);
        half.insert(4, Piece::Borrowed(b"ef"), false).unwrap();
        assert!(half.set_final(5).is_err(), "an end below what arrived");
    }

    #[test]
    fn what_is_lent_gives_no_credit_before_it_is_consumed() {
        let now = Instant::now();
        let mut half = RecvHalf::new(100);
        half.insert(0, Piece::Borrowed(&[0; 100]), false).unwrap();
        assert_eq!(half.lend(80).unwrap().len(), 80);
        assert_eq!(half.renew(now, Duration::from_millis(10)), None);
        half.consume(30);
        assert_eq!(half.renew(now, Duration::from_millis(10)), Some(false));
        assert_eq!(half.limit(), 130);
    }

    #[test]
    fn credit_is_renewed_by_the_quarter_and_grows_when_used_fast() {
        let now = Instant::now();
        let mut half = RecvHalf::new(100);
        half.insert(0, Piece::Borrowed(&[0; 100]), false).unwrap();
        read(&mut half, 24);
        assert_eq!(half.renew(now, Duration::from_millis(10)), None);
        read(&mut half, 26);
        assert_eq!(half.renew(now, Duration::from_millis(10)), Some(false));
        assert_eq!(half.limit(), 150);
        read(&mut half, 50);
        assert_eq!(half.renew(now, Duration::from_millis(10)), Some(true));
        assert_eq!(half.limit(), 200);
    }
}
