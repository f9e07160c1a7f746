//! Round-trip time of a lane, smoothed as in RFC 6298, and the least of it.

use std::time::{Duration, Instant};

/// How long an acknowledgement may wait for company.
pub(crate) const ACK_DELAY: Duration = Duration::from_millis(2);
/// The least round trip is remembered for one to two times this long: a path may become longer.
const REMEMBERED: Duration = Duration::from_secs(5);

#[derive(Clone, Debug, Default)]
pub(crate) struct Rtt {
    latest: Duration,
    smoothed: Option<Duration>,
    variation: Duration,
    least: Option<Duration>,
    /// The least of this span and of the one before, and when this one began.
    spans: [Option<Duration>; 2],
    began: Option<Instant>,
}

impl Rtt {
    pub(crate) fn sample(&mut self, now: Instant, rtt: Duration) {
        self.sample_least(now, rtt);
        self.latest = rtt;
        match self.smoothed {
            None => {
                self.smoothed = Some(rtt);
                self.variation = rtt / 2;
            }
            Some(smoothed) => {
                // What was held up says little about the rest: it counts as just late, or nothing would be late soon.
                let rtt = rtt.min(self.patience().unwrap_or(rtt));
                self.variation = (self.variation * 3 + smoothed.abs_diff(rtt)) / 4;
                self.smoothed = Some((smoothed * 7 + rtt) / 8);
            }
        }
    }

    /// A sample that says nothing about how long acknowledgements take.
    pub(crate) fn sample_least(&mut self, now: Instant, rtt: Duration) {
        let least = |known: Option<Duration>| Some(known.map_or(rtt, |known| known.min(rtt)));
        self.least = least(self.least);
        if self.began.is_none_or(|began| now.saturating_duration_since(began) >= REMEMBERED) {
            self.spans = [None, self.spans[0]];
            self.began = Some(now);
        }
        self.spans[0] = least(self.spans[0]);
    }

    /// How much longer the latest one was than the least of late.
    pub(crate) fn waited(&self) -> Duration {
        self.latest.saturating_sub(self.least_lately().unwrap_or_default())
    }

    /// Zero until there is a sample.
    pub(crate) fn smoothed(&self) -> Duration {
        self.smoothed.unwrap_or_default()
    }

    /// The least ever.
    pub(crate) fn least(&self) -> Option<Duration> {
        self.least
    }

    /// The least of the last five to ten seconds in which there were samples.
    pub(crate) fn least_lately(&self) -> Option<Duration> {
        self.spans.into_iter().flatten().min()
    }

    pub(crate) fn known(&self) -> bool {
        self.smoothed.is_some()
    }

    /// Within this time an acknowledgement comes, unless something on the way is held up; `None` where nothing is
    /// known.
    pub(crate) fn patience(&self) -> Option<Duration> {
        self.smoothed.map(|smoothed| smoothed * 5 / 4 + self.variation * 4 + ACK_DELAY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn the_least_round_trip_is_forgotten_in_time() {
        let (mut rtt, start) = (Rtt::default(), Instant::now());
        rtt.sample(start, 20 * MS);
        rtt.sample(start + 4000 * MS, 90 * MS);
        assert_eq!(rtt.least_lately(), Some(20 * MS));
        rtt.sample(start + 6000 * MS, 80 * MS);
        assert_eq!(rtt.least_lately(), Some(20 * MS));
        rtt.sample(start + 12_000 * MS, 85 * MS);
        assert_eq!(rtt.least_lately(), Some(80 * MS));
        assert_eq!(rtt.least(), Some(20 * MS));
    }
}
