//! One direction of a link, as a model: a bottleneck with a queue, then a delay, then chance.
//!
//! No sockets and no clock: packets and `now` (since any fixed moment) go in, packets come out when they are due.

use std::collections::VecDeque;
use std::time::Duration;

use super::settings::Settings;

/// However small the product of rate and round trip is, this much may wait: a burst of one sender.
const LEAST_QUEUE: f64 = 32.0 * 1500.0;
/// Without a rate nothing else bounds what is under way.
const MOST_UNDER_WAY: usize = 256 * 1024 * 1024;

/// What became of packets so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// Sent on or under way.
    pub(super) carried: u64,
    /// Taken by chance.
    pub(super) lost: u64,
    /// Dropped because the queue was full.
    pub(super) overflowed: u64,
}

/// One direction; `P` is a packet.
#[derive(Debug)]
pub(super) struct Line<P> {
    settings: Settings,
    random: Random,
    /// When the bottleneck has sent all that was given to it.
    free_at: Duration,
    /// Packets with the moment they are due and their size, in order.
    under_way: VecDeque<(Duration, usize, P)>,
    bytes: usize,
    counts: Counts,
}

impl<P> Line<P> {
    /// An empty line. `stream` tells the directions of one link apart: they lose different packets.
    pub(super) fn new(settings: Settings, stream: u64) -> Self {
        Self {
            settings,
            random: Random(settings.seed ^ stream.wrapping_mul(0xd134_2543_de82_ef95)),
            free_at: Duration::ZERO,
            under_way: VecDeque::new(),
            bytes: 0,
            counts: Counts::default(),
        }
    }

    /// Other settings for packets to come; those under way arrive as planned.
    pub(super) fn change(&mut self, settings: Settings) {
        self.settings = settings;
    }

    /// A packet of `size` bytes enters. Gives it back when it will not arrive.
    pub(super) fn enter(&mut self, now: Duration, size: usize, packet: P) -> Option<P> {
        let sent_at = match self.settings.rate {
            Some(rate) => {
                let start = self.free_at.max(now);
                let waiting = (start - now).as_secs_f64() * rate as f64 / 8.0;
                if waiting + size as f64 > self.queue(rate) {
                    self.counts.overflowed += 1;
                    return Some(packet);
                }
                self.free_at = start + Duration::from_secs_f64(size as f64 * 8.0 / rate as f64);
                self.free_at
            }
            None => now,
        };
        // After the bottleneck: what gets lost on the way has used its share of the rate.
        if self.random.chance(self.settings.loss) {
            self.counts.lost += 1;
            return Some(packet);
        }
        if self.bytes + size > MOST_UNDER_WAY {
            self.counts.overflowed += 1;
            return Some(packet);
        }
        let due = sent_at + self.settings.rtt / 2;
        // A delay that has become shorter overtakes nothing.
        let due = self.under_way.back().map_or(due, |(last, ..)| due.max(*last));
        self.under_way.push_back((due, size, packet));
        self.bytes += size;
        self.counts.carried += 1;
        None
    }

    /// The next packet that is due by now.
    pub(super) fn leave(&mut self, now: Duration) -> Option<P> {
        let (_, size, packet) = self.under_way.pop_front_if(|(due, ..)| *due <= now)?;
        self.bytes -= size;
        Some(packet)
    }

    /// When the next packet is due.
    pub(super) fn next(&self) -> Option<Duration> {
        Some(self.under_way.front()?.0)
    }

    /// What became of packets so far.
    pub(super) fn counts(&self) -> Counts {
        self.counts
    }

    /// Bytes that may wait before the bottleneck.
    fn queue(&self, rate: u64) -> f64 {
        let product = rate as f64 / 8.0 * self.settings.rtt.as_secs_f64();
        (product * self.settings.queue).max(LEAST_QUEUE)
    }
}

/// SplitMix64: a link must lose the same packets again, and needs nothing more of chance.
#[derive(Debug)]
struct Random(u64);

impl Random {
    fn chance(&mut self, share: f64) -> bool {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        // 53 bits make a number from 0 up to but not including 1.
        ((z >> 11) as f64 / (1u64 << 53) as f64) < share
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn line(settings: &str) -> Line<u32> {
        Line::new(settings.parse().unwrap(), 0)
    }

    #[test]
    fn a_packet_arrives_after_half_a_round_trip() {
        let mut line = line("80ms");
        assert_eq!(line.enter(5 * MS, 1500, 7), None);
        assert_eq!(line.next(), Some(45 * MS));
        assert_eq!(line.leave(44 * MS), None);
        assert_eq!(line.leave(45 * MS), Some(7));
        assert_eq!(line.next(), None);
    }

    #[test]
    fn without_delay_a_packet_leaves_at_once() {
        let mut line = line("0ms");
        line.enter(MS, 1500, 7);
        assert_eq!(line.leave(MS), Some(7));
    }

    #[test]
    fn a_rate_spaces_packets_and_an_idle_line_saves_nothing_up() {
        // 1500 bytes at 12 Mbit/s take one millisecond.
        let mut line = line("0ms/12mbit");
        for number in 0..3 {
            line.enter(Duration::ZERO, 1500, number);
        }
        assert_eq!(line.leave(MS), Some(0));
        assert_eq!(line.leave(MS), None);
        assert_eq!(line.leave(3 * MS), Some(1));
        assert_eq!(line.leave(3 * MS), Some(2));
        line.enter(100 * MS, 1500, 3);
        line.enter(100 * MS, 1500, 4);
        assert_eq!(line.next(), Some(101 * MS));
        line.leave(101 * MS);
        assert_eq!(line.next(), Some(102 * MS));
    }

    #[test]
    fn the_queue_holds_its_products_and_drops_the_tail() {
        for (text, held) in [("20ms/120mbit/1q", 200), ("20ms/120mbit/4q", 800), ("0ms/120mbit/1q", 32)] {
            let mut line = line(text);
            let dropped: Vec<u32> =
                (0..1000).filter_map(|number| line.enter(Duration::ZERO, 1500, number)).collect();
            assert_eq!(dropped, (held..1000).collect::<Vec<_>>(), "{text}");
            assert_eq!(
                line.counts(),
                Counts { carried: held.into(), lost: 0, overflowed: 1000 - u64::from(held) }
            );
            // Room comes back as the bottleneck sends.
            assert_eq!(line.enter(MS, 1500, 0), None);
        }
    }

    #[test]
    fn loss_is_the_share_told_and_the_same_again_for_a_seed() {
        let lost = |text: &str, stream| -> Vec<u32> {
            let mut line = Line::new(text.parse().unwrap(), stream);
            (0..100_000).filter_map(|number| line.enter(Duration::ZERO, 100, number)).collect()
        };
        let first = lost("20ms/1%", 0);
        assert!((900..1100).contains(&first.len()), "{}", first.len());
        assert_eq!(first, lost("20ms/1%", 0));
        assert_ne!(first, lost("20ms/1%", 1));
        assert_ne!(first, lost("20ms/1%/seed2", 0));
        assert!(lost("20ms", 0).is_empty());
        assert_eq!(lost("20ms/100%", 0).len(), 100_000);
    }

    #[test]
    fn a_shorter_delay_overtakes_nothing() {
        let mut line = line("80ms");
        line.enter(Duration::ZERO, 1500, 0);
        line.change("0ms".parse().unwrap());
        line.enter(MS, 1500, 1);
        assert_eq!(line.leave(39 * MS), None);
        assert_eq!(line.leave(40 * MS), Some(0));
        assert_eq!(line.leave(40 * MS), Some(1));
    }
}
