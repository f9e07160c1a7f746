//! Spreads bulk over time: what leaves all at once overflows a queue on the way that would have had room for it.
//!
//! A session's pace and not a socket's (`SO_MAX_PACING_RATE`): a lane alone knows neither that others share the queue, nor
//! that a path which loses packets has nothing queued.

use std::time::{Duration, Instant};

use crate::path::bytes_in;

/// What passes in this time leaves at once.
const AT_ONCE: Duration = Duration::from_millis(1);
/// So much of what might have left before is made up for: timers are late.
const MADE_UP_FOR: Duration = Duration::from_millis(3);

/// When bulk may leave.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    /// Bytes that had left by then before it was their time.
    early: u64,
    /// Bytes that might have left by then and did not.
    spare: u64,
    at: Option<Instant>,
    /// Then more may leave, and nobody has looked yet.
    due: Option<Instant>,
}

impl Pace {
    /// Bytes that are early and spare now, at so many per second.
    fn standing(&self, now: Instant, rate: u64) -> (u64, u64) {
        let passed = bytes_in(rate, now.saturating_duration_since(self.at.unwrap_or(now)));
        let most = bytes_in(rate, MADE_UP_FOR);
        let spare = self.spare.saturating_add(passed.saturating_sub(self.early)).min(most);
        (self.early.saturating_sub(passed), spare)
    }

    /// Bytes that may leave now at so many per second.
    pub(crate) fn room(&self, now: Instant, rate: u64) -> u64 {
        match self.standing(now, rate) {
            (0, spare) => spare.saturating_add(bytes_in(rate, AT_ONCE)).max(1),
            _ => 0,
        }
    }

    /// So many bytes leave.
    pub(crate) fn sent(&mut self, now: Instant, bytes: u64, rate: u64) {
        let (early, spare) = self.standing(now, rate);
        self.early = early.saturating_add(bytes.saturating_sub(spare));
        self.spare = spare.saturating_sub(bytes);
        self.at = Some(now);
        let takes = Duration::from_nanos(self.early.saturating_mul(1_000_000_000) / rate.max(1));
        self.due = now.checked_add(takes).filter(|_| self.early > 0);
    }

    /// When more may leave.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Somebody looks what may leave now. What was early then is in time, even if the rate has fallen: nobody would look again.
    pub(crate) fn note_due(&mut self, now: Instant) {
        if let Some(due) = self.due.take_if(|due| *due <= now) {
            (self.early, self.at) = (0, Some(due));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const FRAME: u64 = 4 * 1024;

    /// Sends frames for a second as soon as there is room, looking again `late` after it is due. Returns the bytes, and the
    /// most at a time.
    fn run(rate: u64, late: Duration) -> (u64, u64) {
        let (mut pace, start) = (Pace::default(), Instant::now());
        let (mut now, mut all, mut most) = (start, 0, 0);
        while now < start + 1000 * MS {
            pace.note_due(now);
            let mut at_once = 0;
            while pace.room(now, rate) > 0 {
                pace.sent(now, FRAME, rate);
                at_once += FRAME;
            }
            all += at_once;
            most = most.max(at_once);
            now = pace.due().unwrap() + late;
        }
        (all, most)
    }

    #[test]
    fn bytes_leave_at_the_rate_and_not_all_at_once() {
        for rate in [300 << 10, 6 << 20, 100 << 20] {
            for late in [Duration::ZERO, MS, 3 * MS] {
                let (all, most) = run(rate, late);
                assert!(all.abs_diff(rate) <= rate / 50 + 2 * FRAME, "{all} at {rate}, {late:?} late");
                assert!(most <= bytes_in(rate, MADE_UP_FOR) + 2 * FRAME, "{most} at {rate}, {late:?} late");
            }
        }
    }

    #[test]
    fn a_pause_does_not_allow_a_burst() {
        let (mut pace, now, rate) = (Pace::default(), Instant::now(), 10 << 20);
        pace.sent(now, FRAME, rate);
        let room = pace.room(now + 10_000 * MS, rate);
        assert_eq!(room, bytes_in(rate, MADE_UP_FOR) + bytes_in(rate, AT_ONCE));
    }

    #[test]
    fn what_a_low_rate_held_back_leaves_at_the_new_one() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        pace.sent(now, FRAME, 10);
        assert_eq!(pace.room(now + MS, 10), 0);
        assert!(pace.room(now + MS, 10 << 20) > 0);
    }

    #[test]
    fn a_rate_that_falls_does_not_break_a_promise() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        pace.sent(now, FRAME, 10 << 20);
        let due = pace.due().unwrap();
        pace.note_due(due);
        assert_eq!(pace.due(), None);
        assert!(pace.room(due, 10) > 0);
    }

    #[test]
    fn no_rate_is_too_small_or_too_large() {
        let now = Instant::now();
        for rate in [0, 1, u64::MAX] {
            let mut pace = Pace::default();
            assert!(pace.room(now, rate) > 0);
            pace.sent(now, u64::MAX, rate);
            pace.sent(now, 1, rate);
            assert_eq!(pace.room(now + 2000 * MS, rate) > 0, rate == u64::MAX);
        }
    }
}
