//! What a path holds: its delivery rate, and so how much may be in flight without filling the buffers on the way.
//!
//! Modelled as BBR does (draft-ietf-ccwg-bbr), for a lane and for all lanes together. The proxies between the ends
//! would swallow megabytes more, and whatever lies in their buffers makes everybody else wait.

use std::time::{Duration, Instant};

/// In flight while nothing is known, in bytes.
pub(crate) const INITIAL: u64 = 128 * 1024;
/// In flight at the least, in bytes.
const LEAST: u64 = 32 * 1024;
/// What may wait in the path's buffers so that they never run empty, as time.
const STANDING: Duration = Duration::from_millis(2);
/// Where that is less than some frames, these bytes may wait, but no longer than `SLOW_STANDING`.
const STANDING_BYTES: u64 = 64 * 1024;
const SLOW_STANDING: Duration = Duration::from_millis(6);
/// Bytes that waited less than this found the buffers that all lanes share empty.
const PROMPT: Duration = Duration::from_millis(8);
/// A maximum is remembered for so many rounds in which data was not what was short.
const ROUNDS: usize = 10;
/// Rounds in a row without growth by a quarter, or with filled buffers, after which the rate counts as found.
const FLAT_ROUNDS: u32 = 3;
/// Such a round took this much longer than one and a half times the least round trip: the path's buffers fill, even if
/// what limits the rate is elsewhere.
const CROWDED: Duration = Duration::from_millis(10);
/// After this much quiet the path may have become another.
const QUIET: Duration = Duration::from_secs(1);
/// Acknowledgements that come in bunches allow this much more in flight, as time, or `STANDING_BYTES` within `SLOW_BUNCHED`.
const BUNCHED: Duration = Duration::from_millis(2);
const SLOW_BUNCHED: Duration = Duration::from_millis(6);
/// Between two times that the path's buffers are emptied, at the least; less than a least round trip is remembered.
const DRAINED: Duration = Duration::from_secs(2);
/// The rate of all lanes is taken over two round trips, and at least this: acknowledgements come in bunches.
const SPAN: Duration = Duration::from_millis(20);
/// What arrives is counted over so long, which a repair behind a far path takes too.
const ARRIVING_SPAN: Duration = Duration::from_millis(100);

/// The greatest of what the last rounds brought.
#[derive(Clone, Copy, Debug, Default)]
struct Greatest {
    rounds: [u64; ROUNDS],
    now: usize,
}

impl Greatest {
    fn put(&mut self, value: u64) {
        self.rounds[self.now] = self.rounds[self.now].max(value);
    }

    fn turn(&mut self) {
        self.now = (self.now + 1) % ROUNDS;
        self.rounds[self.now] = 0;
    }

    fn get(&self) -> u64 {
        self.rounds.iter().copied().max().unwrap_or(0)
    }
}

/// Bytes per second.
fn per_second(bytes: u64, time: Duration) -> u64 {
    let nanos = time.as_nanos().max(1);
    u64::try_from(u128::from(bytes) * 1_000_000_000 / nanos).unwrap_or(u64::MAX)
}

/// Bytes that pass in this time.
pub(crate) fn bytes_in(rate: u64, time: Duration) -> u64 {
    u64::try_from(u128::from(rate) * time.as_nanos() / 1_000_000_000).unwrap_or(u64::MAX)
}

/// How long bytes may wait in buffers at this rate: `usual`, or until some frames have passed, but no longer than `most`.
fn waiting(rate: u64, usual: Duration, most: Duration) -> Duration {
    Duration::from_nanos(STANDING_BYTES * 1_000_000_000 / rate.max(1)).clamp(usual, most)
}

/// Bytes in flight that keep a path busy at this rate, where a round trip takes `least`.
fn held(rate: u64, least: Duration) -> u64 {
    bytes_in(rate, least + waiting(rate, STANDING, SLOW_STANDING))
}

/// Bytes beyond that at the most, for acknowledgements that come in bunches.
fn bunched(rate: u64) -> u64 {
    bytes_in(rate, waiting(rate, BUNCHED, SLOW_BUNCHED))
}

const fn with_quarter(bytes: u64) -> u64 {
    bytes.saturating_add(bytes / 4)
}

/// How things stood when a frame was sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Snapshot {
    delivered: u64,
    delivered_at: Instant,
    /// When the frame was sent from which the sending rate is counted.
    first_sent: Instant,
    /// There was not enough to send.
    limited: bool,
}

/// One lane's path.
#[derive(Debug, Default)]
pub(crate) struct Path {
    /// Bytes that were acknowledged.
    delivered: u64,
    delivered_at: Option<Instant>,
    first_sent: Option<Instant>,
    last_sent: Option<Instant>,
    /// What is delivered up to here was sent when there was not enough to send.
    limited_until: Option<u64>,
    /// The round ends when something is acknowledged that was sent after this much had been delivered.
    round_end: u64,
    /// The round saw a rate that the path set.
    telling: bool,
    rates: Greatest,
    /// Bytes acknowledged beyond what the rate explains.
    bunches: Greatest,
    bunch: Option<(Instant, u64)>,
    /// The rate is found; until then twice as much is in flight.
    found: bool,
    best: u64,
    flat_rounds: u32,
    /// Rounds in a row whose bytes waited in the path's buffers.
    crowded_rounds: u32,
}

impl Path {
    /// A frame goes out while `in_flight` bytes are on their way.
    pub(crate) fn sent(&mut self, now: Instant, in_flight: u64) -> Snapshot {
        if self.last_sent.is_some_and(|last| now.saturating_duration_since(last) > QUIET) {
            *self = Self {
                delivered: self.delivered,
                limited_until: self.limited_until,
                round_end: self.delivered,
                ..Self::default()
            };
        }
        self.last_sent = Some(now);
        if in_flight == 0 {
            self.first_sent = Some(now);
            self.delivered_at = Some(now);
        }
        Snapshot {
            delivered: self.delivered,
            delivered_at: *self.delivered_at.get_or_insert(now),
            first_sent: *self.first_sent.get_or_insert(now),
            limited: self.limited_until.is_some_and(|until| until >= self.delivered),
        }
    }

    /// Nothing is left to send, though more might be in flight.
    pub(crate) fn ran_dry(&mut self, in_flight: u64) {
        self.limited_until = Some(self.delivered.saturating_add(in_flight));
    }

    /// `bytes` were acknowledged, the newest of them sent at `sent_at`.
    pub(crate) fn acked(
        &mut self,
        now: Instant,
        bytes: u64,
        sent_at: Instant,
        sent: Snapshot,
        least: Duration,
    ) {
        self.delivered = self.delivered.saturating_add(bytes);
        self.delivered_at = Some(now);
        self.first_sent = Some(sent_at);
        let sending = sent_at.saturating_duration_since(sent.first_sent);
        let acking = now.saturating_duration_since(sent.delivered_at);
        let took = sending.max(acking);
        if took >= least && !took.is_zero() {
            let rate = per_second(self.delivered.saturating_sub(sent.delivered), took);
            if !sent.limited || rate > self.rates.get() {
                self.rates.put(rate);
            }
            self.telling |= !sent.limited;
        }
        self.note_bunch(now, bytes);
        if sent.delivered >= self.round_end {
            self.round_end = self.delivered;
            // Lanes that share the data run dry in turn, though the path is full.
            let in_flight = self.delivered.saturating_sub(sent.delivered);
            self.telling |= in_flight >= self.cap(least) / 2;
            let crowded = now.saturating_duration_since(sent_at) > least * 3 / 2 + CROWDED;
            self.crowded_rounds = if crowded { self.crowded_rounds + 1 } else { 0 };
            self.end_round();
        }
    }

    fn end_round(&mut self) {
        self.found |= self.crowded_rounds >= FLAT_ROUNDS;
        if !std::mem::take(&mut self.telling) {
            return;
        }
        let rate = self.rates.get();
        if !self.found {
            if rate >= with_quarter(self.best) {
                (self.best, self.flat_rounds) = (rate, 0);
            } else {
                self.flat_rounds += 1;
                self.found = self.flat_rounds >= FLAT_ROUNDS;
            }
        }
        self.rates.turn();
        self.bunches.turn();
    }

    fn note_bunch(&mut self, now: Instant, bytes: u64) {
        let rate = self.rates.get();
        let most = bunched(rate);
        let (start, before) = self.bunch.unwrap_or((now, 0));
        let explained = bytes_in(rate, now.saturating_duration_since(start));
        if before <= explained {
            self.bunch = Some((now, bytes));
            self.bunches.put(bytes.min(most));
        } else {
            let sum = before.saturating_add(bytes);
            self.bunch = Some((start, sum));
            let more = sum.saturating_sub(explained);
            self.bunches.put(more.min(most));
        }
    }

    /// Bytes per second; 0 where nothing is known.
    pub(crate) fn rate(&self) -> u64 {
        self.rates.get()
    }

    /// Bytes that pass in this time; 0 where nothing is known.
    pub(crate) fn bytes_in(&self, time: Duration) -> u64 {
        bytes_in(self.rate(), time)
    }

    /// Bytes allowed for acknowledgements that come in bunches.
    fn allowance(&self) -> u64 {
        self.bunches.get()
    }

    /// Whether the lane still finds out what its path holds.
    pub(crate) fn is_starting(&self) -> bool {
        !self.found
    }

    /// Bytes that may be in flight on this lane, where a round trip takes `least`.
    pub(crate) fn cap(&self, least: Duration) -> u64 {
        let held = held(self.rate(), least);
        if self.found {
            with_quarter(held).saturating_add(self.allowance()).max(LEAST)
        } else {
            held.saturating_mul(2).max(INITIAL)
        }
    }
}

/// All lanes of a session: those that share a bottleneck don't add up.
#[derive(Debug, Default)]
pub(crate) struct Total {
    rates: Greatest,
    since: Option<Instant>,
    bytes: u64,
    /// Some lane had room and there was nothing to send.
    limited: bool,
    /// Of the bytes of this span and of the one before, those that did not wait.
    prompt: [u64; 2],
    /// Nearly all bytes of the span before waited.
    crowded: bool,
    /// Of eight rounds the first has a quarter more in flight.
    turn: u8,
    /// The second has a quarter less where none had for a while, which empties the buffers and shows the least round trip.
    drains: bool,
    drained: Option<Instant>,
}

impl Total {
    /// `bytes` were acknowledged on some lane, the newest of which had `waited` beyond the lane's least round trip.
    pub(crate) fn acked(&mut self, now: Instant, bytes: u64, waited: Duration, least: Duration) {
        let span = (least * 2).max(SPAN);
        let since = *self.since.get_or_insert(now);
        let took = now.saturating_duration_since(since);
        self.bytes = self.bytes.saturating_add(bytes);
        if waited < PROMPT {
            self.prompt[0] = self.prompt[0].saturating_add(bytes);
        }
        if took < span {
            return;
        }
        if took > QUIET {
            *self = Self::default();
        } else {
            self.rates.put(per_second(self.bytes, took));
            if !std::mem::take(&mut self.limited) {
                self.rates.turn();
            }
            self.turn = (self.turn + 1) % 8;
            let drained = self.drained.is_some_and(|at| now.saturating_duration_since(at) < DRAINED);
            self.drains = self.turn == 1 && !drained;
            if self.drains {
                self.drained = Some(now);
            }
            self.crowded = self.prompt[0] < self.bytes / 8;
        }
        (self.since, self.bytes) = (Some(now), 0);
        self.prompt = [0, self.prompt[0]];
    }

    /// Bytes that all lanes carry in this time; 0 where nothing is known.
    pub(crate) fn bytes_in(&self, time: Duration) -> u64 {
        bytes_in(self.rates.get(), time)
    }

    pub(crate) fn ran_dry(&mut self) {
        self.limited = true;
    }

    /// Whether the buffers that all lanes share hold nothing: some bytes did not wait.
    pub(crate) fn is_empty(&self) -> bool {
        self.prompt != [0; 2]
    }

    /// Whether nearly all bytes waited of late.
    pub(crate) fn is_crowded(&self) -> bool {
        self.crowded
    }

    /// Bytes that may be in flight together on `paths`, which are in use.
    pub(crate) fn cap<'a>(&self, paths: impl Iterator<Item = &'a Path>, least: Duration) -> u64 {
        let (mut rates, mut allowances) = (0u64, 0u64);
        for path in paths {
            if path.is_starting() {
                return u64::MAX;
            }
            rates = rates.saturating_add(path.rate());
            allowances = allowances.saturating_add(path.allowance());
        }
        let held = held(self.rates.get().min(rates), least);
        let cap = match self.turn {
            0 => with_quarter(held).saturating_add(allowances),
            _ if self.drains => held / 4 * 3,
            _ => held.saturating_add(allowances),
        };
        cap.max(LEAST)
    }

    /// Bytes per second at which bulk leaves on `paths`, which are in use: somewhat more than they carry, so that what is in
    /// flight is what limits it; `None` where nothing is known.
    pub(crate) fn pace<'a>(&self, paths: impl Iterator<Item = &'a Path>, least: Duration) -> Option<u64> {
        let (mut rates, mut starting) = (0u64, false);
        for path in paths {
            let unknown = path.rate() == 0;
            let rate = if unknown { per_second(INITIAL, least) } else { path.rate() };
            rates = rates.saturating_add(rate);
            starting |= path.is_starting();
        }
        let all = self.rates.get();
        let pace = if starting {
            // It is allowed twice as much in flight as it is known to hold.
            with_quarter(rates.max(all)).saturating_mul(2)
        } else {
            let rate = rates.min(all);
            rate.saturating_add(rate / 2)
        };
        (pace > 0).then_some(pace)
    }
}

/// How much the peer sends on all lanes, of late.
#[derive(Debug, Default)]
pub(crate) struct Arriving {
    since: Option<Instant>,
    bytes: u64,
    /// Bytes per second, in the span before and the one before that.
    rates: [u64; 2],
}

impl Arriving {
    pub(crate) fn arrived(&mut self, now: Instant, bytes: u64) {
        let since = *self.since.get_or_insert(now);
        let took = now.saturating_duration_since(since);
        self.bytes = self.bytes.saturating_add(bytes);
        if took > QUIET {
            *self = Self { since: Some(now), ..Self::default() };
        } else if took >= ARRIVING_SPAN {
            self.rates = [per_second(self.bytes, took), self.rates[0]];
            (self.since, self.bytes) = (Some(now), 0);
        }
    }

    /// Bytes that arrive in this time; 0 where nothing is known.
    pub(crate) fn bytes_in(&self, time: Duration) -> u64 {
        bytes_in(self.rates[0].max(self.rates[1]), time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;

    const MS: Duration = Duration::from_millis(1);
    const FRAME: u64 = 16 * 1024;

    /// A sender that always has data, behind a path of this rate and round trip. Returns what is in flight and the
    /// bytes per second of the last second.
    fn run(path: &mut Path, rate: u64, round_trip: Duration, time: Duration) -> (u64, u64) {
        let start = Instant::now();
        let (mut now, mut free) = (start, start);
        let mut flying: VecDeque<(Instant, Instant, Snapshot)> = VecDeque::new();
        let mut late = 0;
        while now < start + time {
            while (flying.len() as u64) * FRAME < path.cap(round_trip) {
                let sent = path.sent(now, flying.len() as u64 * FRAME);
                free = free.max(now) + Duration::from_nanos(FRAME * 1_000_000_000 / rate);
                flying.push_back((free + round_trip, now, sent));
            }
            let Some((at, sent_at, sent)) = flying.pop_front() else { break };
            now = at;
            path.acked(now, FRAME, sent_at, sent, round_trip);
            late += if now > start + time.saturating_sub(Duration::from_secs(1)) { FRAME } else { 0 };
        }
        (flying.len() as u64 * FRAME, late)
    }

    #[test]
    fn a_path_is_filled_and_not_overfilled() {
        for (rate, round_trip) in
            [(1 << 20, 20 * MS), (6 << 20, 20 * MS), (100 << 20, 80 * MS), (30 << 20, 200 * MS)]
        {
            let mut path = Path::default();
            let (in_flight, got) = run(&mut path, rate, round_trip, Duration::from_secs(8));
            assert!(!path.is_starting());
            assert!(got as f64 > 0.95 * rate as f64, "{got} of {rate} bytes/s at {round_trip:?}");
            let allowed = with_quarter(held(rate, round_trip)) + bunched(rate);
            let most = allowed.max(LEAST) + FRAME;
            assert!(in_flight <= most, "{in_flight} > {most} at {rate} bytes/s and {round_trip:?}");
        }
    }

    #[test]
    fn a_sender_without_data_learns_nothing_wrong() {
        let (mut path, mut now) = (Path::default(), Instant::now());
        for _ in 0..200 {
            let sent = path.sent(now, 0);
            path.ran_dry(100);
            path.acked(now + 20 * MS, 100, now, sent, 20 * MS);
            now += 30 * MS;
        }
        assert!(path.is_starting(), "a trickle does not show what the path holds");
        assert_eq!(path.cap(20 * MS), INITIAL);
    }

    #[test]
    fn quiet_begins_anew() {
        let mut path = Path::default();
        run(&mut path, 100 << 20, 20 * MS, Duration::from_secs(2));
        assert!(path.cap(20 * MS) > INITIAL);
        path.sent(Instant::now() + Duration::from_secs(3600), 0);
        assert_eq!(path.cap(20 * MS), INITIAL);
    }

    #[test]
    fn together_lanes_have_no_more_in_flight_than_they_deliver() {
        let mut paths = [Path::default(), Path::default()];
        for path in &mut paths {
            run(path, 10 << 20, 20 * MS, Duration::from_secs(2));
        }
        let (mut total, mut now) = (Total::default(), Instant::now());
        // Each alone had 10 MiB/s; together they get no more.
        for _ in 0..200 {
            now += 5 * MS;
            total.acked(now, (10 << 20) / 200, 10 * MS, 20 * MS);
        }
        (total.turn, total.drains) = (2, false);
        let most = (held(10 << 20, 20 * MS) + 2 * bunched(10 << 20)) * 11 / 10;
        let cap = total.cap(paths.iter(), 20 * MS);
        assert!(cap <= most && cap >= bytes_in(10 << 20, 20 * MS), "{cap}, {most}");
    }

    #[test]
    fn buffers_are_emptied_now_and_then() {
        let mut path = Path::default();
        run(&mut path, 10 << 20, 20 * MS, Duration::from_secs(2));
        let (mut total, start) = (Total::default(), Instant::now());
        let (mut now, mut emptied) = (start, Vec::new());
        while now < start + Duration::from_secs(9) {
            now += 5 * MS;
            total.acked(now, (10 << 20) / 200, 10 * MS, 20 * MS);
            let rate = total.rates.get();
            let empties = rate > 0 && total.cap(std::iter::once(&path), 20 * MS) < bytes_in(rate, 20 * MS);
            if empties && emptied.last().is_none_or(|last| now > *last + 100 * MS) {
                emptied.push(now);
            }
        }
        assert!(emptied.windows(2).all(|two| two[1] - two[0] >= DRAINED));
        assert!((3..=5).contains(&emptied.len()), "{} times", emptied.len());
    }

    #[test]
    fn nothing_is_too_large_or_too_quick() {
        let now = Instant::now();
        let mut path = Path::default();
        let sent = path.sent(now, 0);
        path.acked(now, u64::MAX / 2, now, sent, Duration::ZERO);
        path.acked(now + Duration::from_nanos(1), u64::MAX / 4, now, sent, Duration::ZERO);
        assert!(path.cap(Duration::from_secs(60)) >= INITIAL);
    }
}
