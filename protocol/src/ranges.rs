//! A set of offsets, kept as ranges that neither touch nor overlap.

use std::collections::BTreeMap;
use std::ops::Range;

/// Half-open ranges of `u64`, by their start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ranges(BTreeMap<u64, u64>);

impl Ranges {
    /// No range at all.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many separate ranges there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The end of the highest range.
    pub fn end(&self) -> Option<u64> {
        self.0.last_key_value().map(|(_, &end)| end)
    }

    /// The lowest range.
    pub fn first(&self) -> Option<Range<u64>> {
        self.0.first_key_value().map(|(&start, &end)| start..end)
    }

    /// All ranges, lowest first.
    pub fn iter(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        self.0.iter().map(|(&start, &end)| start..end)
    }

    /// Adds a range, merging it with those that it touches.
    pub fn insert(&mut self, mut range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        while let Some((&start, &end)) = self.0.range(..=range.end).next_back() {
            if end < range.start {
                break;
            }
            range = range.start.min(start)..range.end.max(end);
            self.0.remove(&start);
        }
        self.0.insert(range.start, range.end);
    }

    /// Takes a range out, cutting those that it overlaps.
    pub fn remove(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        while let Some((&start, &end)) = self.0.range(..range.end).next_back() {
            if end <= range.start {
                break;
            }
            self.0.remove(&start);
            if end > range.end {
                self.0.insert(range.end, end);
            }
            if start < range.start {
                self.0.insert(start, range.start);
            }
        }
    }

    /// The parts of `range` that are not in the set, lowest first.
    pub fn missing(&self, range: Range<u64>) -> Vec<Range<u64>> {
        let mut missing = Vec::new();
        let mut at = range.start;
        let from = self.0.range(..=at).next_back().map_or(at, |(&start, _)| start);
        for (&start, &end) in self.0.range(from..range.end.max(from)) {
            if end <= at {
                continue;
            }
            if start > at {
                missing.push(at..start);
            }
            at = end;
        }
        if at < range.end {
            missing.push(at..range.end);
        }
        missing
    }

    /// Takes all offsets below `end` out.
    pub fn remove_below(&mut self, end: u64) {
        while let Some(range) = self.first() {
            if range.start >= end {
                break;
            }
            self.remove(range.start..range.end.min(end));
        }
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn behaves_like_a_set(steps in proptest::collection::vec((any::<bool>(), 0u64..60, 0u64..20), 0..40),
                              ask in (0u64..60, 0u64..20)) {
            let (mut ranges, mut set) = (Ranges::default(), BTreeSet::new());
            for (add, start, len) in steps {
                let range = start..start + len;
                if add {
                    ranges.insert(range.clone());
                    set.extend(range);
                } else {
                    ranges.remove(range.clone());
                    set.retain(|x| !range.contains(x));
                }
                prop_assert!(ranges.iter().flatten().eq(set.iter().copied()));
                let all: Vec<_> = ranges.iter().collect();
                prop_assert!(all.windows(2).all(|pair| pair[0].end < pair[1].start));
            }
            let range = ask.0..ask.0 + ask.1;
            let missing: Vec<u64> = ranges.missing(range.clone()).into_iter().flatten().collect();
            prop_assert!(missing.iter().copied().eq(range.filter(|x| !set.contains(x))));
            ranges.remove_below(ask.0);
            prop_assert!(ranges.iter().flatten().eq(set.iter().copied().filter(|x| *x >= ask.0)));
        }
    }
}
