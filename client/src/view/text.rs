//! Numbers and times, as short as a column.

use std::{env, time::Duration};

use jiff::Timestamp;

/// Bytes in at most five letters.
pub(super) fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["K", "M", "G", "T", "P", "E"];
    if count < 1000 {
        return count.to_string();
    }
    let (mut value, mut unit) = (count as f64 / 1024.0, 0);
    while value >= 999.5 && unit + 1 < UNITS.len() {
        (value, unit) = (value / 1024.0, unit + 1);
    }
    let digits = usize::from(value < 9.95);
    format!("{value:.digits$}{}", UNITS[unit])
}

/// A time that has passed, in at most five letters: it changes once a second for a minute, then once a minute at most.
pub(super) fn ago(since: Timestamp, now: Timestamp) -> String {
    let seconds = now.duration_since(since).as_secs().max(0);
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m", seconds / 60),
        3_600..86_400 => format!("{}h{:02}", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// Milliseconds in at most six letters.
pub(super) fn millis(millis: f64) -> String {
    match millis {
        ..10.0 => format!("{millis:.1}ms"),
        10.0..9_999.5 => format!("{millis:.0}ms"),
        _ => format!("{:.0}s", millis / 1000.0),
    }
}

/// Letters for a sparkline, from nothing to the most.
pub(super) const BLOCKS: [&str; 9] =
    [" ", "\u{2581}", "\u{2582}", "\u{2583}", "\u{2584}", "\u{2585}", "\u{2586}", "\u{2587}", "\u{2588}"];
/// The same for a terminal that knows ASCII only.
pub(super) const ASCII: [&str; 9] = [" ", ".", ":", "-", "=", "+", "*", "#", "@"];

/// Rates as letters, the last ones on the right, against the largest of them.
pub(super) fn sparkline(
    rates: impl DoubleEndedIterator<Item = u64>,
    width: usize,
    letters: &[&str; 9],
) -> String {
    let mut shown: Vec<u64> = rates.rev().take(width).collect();
    shown.reverse();
    let most = shown.iter().copied().max().unwrap_or_default();
    let letter = |rate: u64| match rate {
        0 => letters[0],
        // Something is never nothing, and only the most is the most.
        _ => letters[usize::try_from(1 + (rate as u128 * 7 / u128::from(most)) as u64).unwrap_or(8)],
    };
    let line: String = shown.into_iter().map(letter).collect();
    format!("{}{line}", " ".repeat(width - line.chars().count()))
}

/// Whether the terminal is told to take more than ASCII.
pub(super) fn knows_utf8() -> bool {
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"]
        .into_iter()
        .find_map(|name| env::var(name).ok().filter(|value| !value.is_empty()));
    locale.is_some_and(|locale| {
        let locale = locale.to_ascii_lowercase();
        locale.contains("utf-8") || locale.contains("utf8")
    })
}

/// How long ago a snapshot's times are is told to the second.
pub(super) const TICK: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_fit_a_column() {
        let shown = [0, 999, 1000, 1024, 10_189, 1_023_000, 1_048_576, 5 << 40, u64::MAX].map(bytes);
        assert_eq!(shown, ["0", "999", "1.0K", "1.0K", "10K", "999K", "1.0M", "5.0T", "16E"]);
        for power in 0..64 {
            assert!(bytes((1 << power) - 1).len() <= 5, "{}", bytes((1 << power) - 1));
        }
    }

    #[test]
    fn times_get_coarser() {
        let since = Timestamp::UNIX_EPOCH;
        let shown = [-5, 0, 59, 60, 3_599, 3_600, 86_399, 86_400, 864_000]
            .map(|seconds| ago(since, Timestamp::from_second(seconds).unwrap()));
        assert_eq!(shown, ["0s", "0s", "59s", "1m", "59m", "1h00", "23h59", "1d", "10d"]);
        assert_eq!(
            [0.04, 9.9, 10.4, 9_999.0, 12_345.0].map(millis),
            ["0.0ms", "9.9ms", "10ms", "9999ms", "12s"]
        );
    }

    #[test]
    fn a_sparkline_ends_at_its_right_and_shows_the_least_of_something() {
        assert_eq!(sparkline([0, 1, 500, 1000].into_iter(), 6, &ASCII), "   .=@");
        assert_eq!(sparkline([9, 0, 0].into_iter(), 2, &ASCII), "  ");
        assert_eq!(sparkline([u64::MAX, 1].into_iter(), 2, &BLOCKS), "\u{2588}\u{2581}");
        assert_eq!(sparkline(std::iter::empty(), 0, &ASCII), "");
    }
}
