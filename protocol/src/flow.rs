//! Flows: datagrams of one UDP association, with bounded queues, numbers and a window against duplicates.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::Status;
use crate::pool::{Pool, Share};

/// How many numbers back a late datagram is still told apart from a duplicate.
const WINDOW: u64 = 1_024;
const WORDS: usize = (WINDOW / 64) as usize;
/// A datagram that waited this long to be sent is dropped.
pub const MAX_WAIT: Duration = Duration::from_secs(1);
/// Bytes queued per flow and direction, above which the oldest datagrams are dropped.
const MAX_QUEUED: usize = 512 * 1024;
/// Datagrams queued per flow and direction.
const MAX_COUNT: usize = 2_048;
/// What a queued datagram costs besides its bytes.
const OVERHEAD: usize = 128;
/// Datagrams kept per flow until they are acknowledged, in case their lane is held up.
const MAX_KEPT: usize = 256;
/// A larger datagram is not kept.
const KEEP_BELOW: usize = 4 * 1024;
/// Bytes queued by all flows of a session, in both directions.
pub(crate) const SESSION_QUEUED: usize = 8 << 20;

/// Which numbers have been seen.
#[derive(Clone, Debug)]
struct Seen {
    /// One above the highest number seen.
    next: u64,
    bits: [u64; WORDS],
}

impl Seen {
    /// True the first time; false for duplicates and for what is too old to tell.
    fn first(&mut self, seq: u64) -> bool {
        if seq >= self.next {
            let skipped = seq - self.next;
            if skipped >= WINDOW {
                self.bits = [0; WORDS];
            } else {
                for gone in self.next..seq {
                    self.set(gone, false);
                }
            }
            self.next = seq + 1;
            self.set(seq, true);
            return true;
        }
        if self.next - seq > WINDOW {
            return false;
        }
        let fresh = self.bits[(seq % WINDOW / 64) as usize] & 1 << (seq % 64) == 0;
        self.set(seq, true);
        fresh
    }

    fn set(&mut self, seq: u64, on: bool) {
        let (word, bit) = ((seq % WINDOW / 64) as usize, 1u64 << (seq % 64));
        if on { self.bits[word] |= bit } else { self.bits[word] &= !bit }
    }
}

/// Datagrams in one direction, oldest first.
#[derive(Debug)]
struct Queue {
    datagrams: VecDeque<(Instant, Bytes)>,
    /// What they take of what all flows of the session may take.
    held: Share,
}

impl Queue {
    fn new(pool: &Pool) -> Self {
        Self { datagrams: VecDeque::new(), held: Share::new(pool.clone()) }
    }

    /// Returns how many had to go: older ones of this queue, and the new one itself where others hold all there is.
    fn push(&mut self, now: Instant, datagram: Bytes) -> u64 {
        let cost = datagram.len() + OVERHEAD;
        let mut dropped = 0;
        while self.datagrams.len() >= MAX_COUNT
            || self.held.held() + cost > MAX_QUEUED
            || !self.held.try_reserve(cost)
        {
            dropped += 1;
            if self.pop().is_none() {
                return dropped;
            }
        }
        self.datagrams.push_back((now, datagram));
        dropped
    }

    fn pop(&mut self) -> Option<Bytes> {
        let (_, datagram) = self.datagrams.pop_front()?;
        self.held.release(datagram.len() + OVERHEAD);
        Some(datagram)
    }
}

/// Datagrams that were sent and not acknowledged, lowest number first.
#[derive(Debug)]
struct Kept {
    datagrams: VecDeque<(u64, Bytes)>,
    /// Numbers that go out again.
    again: VecDeque<u64>,
    held: Share,
}

impl Kept {
    fn new(pool: &Pool) -> Self {
        Self { datagrams: VecDeque::new(), again: VecDeque::new(), held: Share::new(pool.clone()) }
    }

    /// Where there is no room for it, it is sent only once.
    fn keep(&mut self, seq: u64, datagram: &Bytes) {
        if self.datagrams.len() >= MAX_KEPT {
            self.drop_at(0);
        }
        if datagram.len() <= KEEP_BELOW && self.held.try_reserve(datagram.len() + OVERHEAD) {
            self.datagrams.push_back((seq, datagram.clone()));
        }
    }

    fn find(&self, seq: u64) -> Option<usize> {
        self.datagrams.binary_search_by_key(&seq, |&(seq, _)| seq).ok()
    }

    fn drop_at(&mut self, index: usize) {
        if let Some((_, datagram)) = self.datagrams.remove(index) {
            self.held.release(datagram.len() + OVERHEAD);
        }
    }

    fn forget(&mut self, seq: u64) {
        if let Some(index) = self.find(seq) {
            self.drop_at(index);
        }
    }

    fn take_again(&mut self) -> Option<(u64, Bytes)> {
        loop {
            let seq = self.again.pop_front()?;
            if let Some(index) = self.find(seq) {
                let datagram = self.datagrams[index].1.clone();
                self.drop_at(index);
                return Some((seq, datagram));
            }
        }
    }
}

#[derive(Debug)]
pub(crate) struct Flow {
    /// Given at the first transmission.
    pub(crate) id: Option<u64>,
    /// The encoded header.
    pub(crate) header: Bytes,
    /// The peer knows the header.
    pub(crate) known: bool,
    pub(crate) closed: Option<Status>,
    pub(crate) queued: bool,
    pub(crate) last_active: Instant,
    next_seq: u64,
    seen: Seen,
    out: Queue,
    kept: Kept,
    incoming: Queue,
}

impl Flow {
    pub(crate) fn new(now: Instant, header: Bytes, id: Option<u64>, pool: &Pool) -> Self {
        Self {
            id,
            header,
            known: id.is_some(),
            closed: None,
            queued: false,
            last_active: now,
            next_seq: 0,
            seen: Seen { next: 0, bits: [0; WORDS] },
            out: Queue::new(pool),
            kept: Kept::new(pool),
            incoming: Queue::new(pool),
        }
    }

    pub(crate) fn push_out(&mut self, now: Instant, datagram: Bytes) -> u64 {
        self.last_active = now;
        self.out.push(now, datagram)
    }

    /// Drops what waited too long, and returns how many went.
    pub(crate) fn expire(&mut self, now: Instant) -> u64 {
        let mut dropped = 0;
        while self.out.datagrams.front().is_some_and(|(at, _)| now.duration_since(*at) > MAX_WAIT) {
            self.out.pop();
            dropped += 1;
        }
        dropped
    }

    pub(crate) fn has_more(&self) -> bool {
        !self.out.datagrams.is_empty() || !self.kept.again.is_empty()
    }

    /// The next datagram to send, with its number; with `keep` it may go out once more later.
    pub(crate) fn take_out(&mut self, keep: bool) -> Option<(u64, Bytes)> {
        if let Some(again) = self.kept.take_again() {
            return Some(again);
        }
        let datagram = self.out.pop()?;
        let seq = self.next_seq;
        self.next_seq += 1;
        if keep {
            self.kept.keep(seq, &datagram);
        }
        Some((seq, datagram))
    }

    /// The peer has the datagram with this number.
    pub(crate) fn acked(&mut self, seq: u64) {
        self.known = true;
        self.kept.forget(seq);
    }

    /// The lane of the datagram with this number is gone: it is not worth another.
    pub(crate) fn lost(&mut self, seq: u64) {
        self.kept.forget(seq);
    }

    /// The length of the datagram with this number, if it was kept.
    pub(crate) fn kept(&self, seq: u64) -> Option<usize> {
        self.kept.find(seq).map(|index| self.kept.datagrams[index].1.len())
    }

    /// The datagram with this number is late, and goes out once more if it was kept.
    pub(crate) fn send_again(&mut self, seq: u64) {
        self.kept.again.push_back(seq);
    }

    /// Stores a datagram unless it is a duplicate (`None`); tells how many older ones had to go.
    pub(crate) fn arrived(&mut self, now: Instant, seq: u64, datagram: &[u8]) -> Option<u64> {
        self.last_active = now;
        self.seen.first(seq).then(|| self.incoming.push(now, Bytes::copy_from_slice(datagram)))
    }

    pub(crate) fn take_in(&mut self) -> Option<Bytes> {
        self.incoming.pop()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    proptest! {
        #[test]
        fn each_number_passes_once(seqs in proptest::collection::vec(0u64..1500, 0..600)) {
            let mut seen = Seen { next: 0, bits: [0; WORDS] };
            let (mut passed, mut highest) = (HashSet::new(), 0);
            for seq in seqs {
                let first = seen.first(seq);
                prop_assert!(!first || passed.insert(seq));
                if seq + WINDOW > highest {
                    prop_assert!(passed.contains(&seq), "a recent number is never lost");
                }
                highest = highest.max(seq);
            }
        }
    }

    #[test]
    fn a_full_queue_drops_the_oldest() {
        let now = Instant::now();
        let mut flow = Flow::new(now, Bytes::new(), None, &Pool::new(SESSION_QUEUED));
        let dropped: u64 = (0..20u8).map(|n| flow.push_out(now, vec![n; 60_000].into())).sum();
        assert_eq!(dropped, 12);
        assert_eq!(flow.take_out(false).unwrap().1[0], 12);
    }

    #[test]
    fn a_late_datagram_goes_out_once_more_and_no_more() {
        let now = Instant::now();
        let pool = Pool::new(SESSION_QUEUED);
        let mut flow = Flow::new(now, Bytes::new(), None, &pool);
        for n in 0..3 {
            flow.push_out(now, vec![n; 10].into());
        }
        while flow.take_out(true).is_some() {}
        flow.acked(0);
        assert_eq!((flow.kept(0), flow.kept(1), flow.kept(2)), (None, Some(10), Some(10)));
        flow.send_again(1);
        flow.send_again(2);
        flow.acked(1);
        assert_eq!(flow.take_out(true), Some((2, vec![2; 10].into())));
        assert_eq!(flow.kept(2), None);
        assert!(!flow.has_more());
        assert_eq!(pool.used(), 0);
    }

    #[test]
    fn many_flows_share_what_their_session_may_hold() {
        let now = Instant::now();
        let pool = Pool::new(SESSION_QUEUED);
        let mut flows: Vec<Flow> = (0..1_000).map(|n| Flow::new(now, Bytes::new(), Some(n), &pool)).collect();
        let mut dropped = 0;
        for flow in &mut flows {
            for seq in 0..20 {
                dropped += flow.arrived(now, seq, &[0; 60_000]).unwrap();
            }
        }
        assert!(pool.used() <= SESSION_QUEUED);
        let kept: u64 =
            flows.iter_mut().map(|flow| std::iter::from_fn(|| flow.take_in()).count() as u64).sum();
        assert_eq!(kept + dropped, 20_000, "what is dropped is counted");
        assert_eq!(pool.used(), 0);
    }

    #[test]
    fn datagrams_that_waited_too_long_are_dropped() {
        let now = Instant::now();
        let mut flow = Flow::new(now, Bytes::new(), None, &Pool::new(SESSION_QUEUED));
        flow.push_out(now, Bytes::from_static(b"old"));
        flow.push_out(now + MAX_WAIT, Bytes::from_static(b"new"));
        assert_eq!(flow.expire(now + MAX_WAIT + Duration::from_millis(1)), 1);
        assert_eq!(flow.take_out(false).unwrap().1, "new");
    }
}
