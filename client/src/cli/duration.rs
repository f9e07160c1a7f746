//! Durations as kubectl's users write them: `10s`, `1m30s`, `500ms`, `0`; a bare number is seconds.

use std::time::Duration;

/// Reads a duration.
///
/// # Errors
/// A sentence on what is wrong, for the argument parser to show.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("\"{text}\" is no duration; write for example 10s, 1m30s, 500ms or 0");
    if let Ok(seconds) = text.parse::<u32>() {
        return Ok(Duration::from_secs(seconds.into()));
    }
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
        let (number, after) = rest.split_at(digits);
        let unit_end = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, next) = after.split_at(unit_end);
        let part = parse_part(number, unit).ok_or_else(wrong)?;
        total = total.checked_add(part).ok_or_else(wrong)?;
        rest = next;
    }
    if text.is_empty() { Err(wrong()) } else { Ok(total) }
}

/// One number with its unit, in whole nanoseconds: a fraction of a second must not come out rounded.
fn parse_part(number: &str, unit: &str) -> Option<Duration> {
    let nanos_per_unit: u64 = match unit {
        "h" => 3_600_000_000_000,
        "m" => 60_000_000_000,
        "s" => 1_000_000_000,
        "ms" => 1_000_000,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || fraction.contains('.') || fraction.len() > 6 {
        return None;
    }
    let mut nanos = whole.parse::<u64>().ok()?.checked_mul(nanos_per_unit)?;
    if !fraction.is_empty() {
        let digits = u32::try_from(fraction.len()).ok()?;
        nanos = nanos.checked_add(fraction.parse::<u64>().ok()? * nanos_per_unit / 10u64.pow(digits))?;
    }
    Some(Duration::from_nanos(nanos))
}

/// A duration for messages and for the agent's arguments: whole units where they fit.
pub fn show_duration(duration: Duration) -> String {
    let millis = duration.as_millis();
    match millis {
        0 => "0s".into(),
        _ if millis.is_multiple_of(3_600_000) => format!("{}h", millis / 3_600_000),
        _ if millis.is_multiple_of(60_000) => format!("{}m", millis / 60_000),
        _ if millis.is_multiple_of(1000) => format!("{}s", millis / 1000),
        _ => format!("{millis}ms"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_are_read_as_kubectl_reads_them() {
        let cases =
            [("0", 0), ("5", 5000), ("10s", 10_000), ("1m30s", 90_000), ("500ms", 500), ("1.5h", 5_400_000)];
        for (text, millis) in cases {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
    }

    #[test]
    fn what_is_no_duration_is_refused() {
        for text in ["", "s", "10x", "-1s", "1s2", "1e9h", ".s", "99999999999999999999h"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_is_read_back_the_same(millis in 0u64..10_000_000_000) {
            let duration = Duration::from_millis(millis);
            prop_assert_eq!(parse_duration(&show_duration(duration)), Ok(duration));
        }

        #[test]
        fn any_text_gives_a_duration_or_an_error(text in ".{0,20}") {
            let _ = parse_duration(&text);
        }
    }
}
