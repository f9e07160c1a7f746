//! A small generator of numbers that follow from a seed (SplitMix64), so that every schedule can be run again.

use std::ops::Range;
use std::time::Duration;

/// The generator.
#[derive(Clone, Debug)]
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// A generator of its own, so that one part's draws don't shift another's.
    pub(crate) fn fork(&mut self) -> Self {
        Self(self.next())
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }

    pub(crate) fn in_range(&mut self, range: Range<u64>) -> u64 {
        range.start + self.below(range.end - range.start)
    }

    /// A number whose order of magnitude is even in the range: small ones are as likely as large ones.
    pub(crate) fn magnitude(&mut self, range: Range<u64>) -> u64 {
        let (low, high) = (range.start.max(1).ilog2(), range.end.max(2).ilog2());
        let top = 1u64 << self.in_range(u64::from(low)..u64::from(high) + 1);
        (top + self.below(top)).clamp(range.start, range.end - 1)
    }

    pub(crate) fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    pub(crate) fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }

    pub(crate) fn duration(&mut self, range: Range<Duration>) -> Duration {
        Duration::from_nanos(self.in_range(range.start.as_nanos() as u64..range.end.as_nanos() as u64))
    }
}
