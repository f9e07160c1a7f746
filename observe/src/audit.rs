//! Audit lines: one JSON object for the beginning and one for the end of each stream and flow.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use relay_protocol::{Address, Protocol, Status};

/// What a stream's or flow's header says, and whose it is.
#[derive(Clone, Debug)]
pub struct About {
    /// The session's id, which is not secret; `None` for a direct stream.
    pub session: Option<[u8; 16]>,
    /// The stream's or flow's number within its session.
    pub stream: Option<u64>,
    /// The client's own id of the request.
    pub request: String,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// What was asked for.
    pub address: Address,
    /// The port that was asked for.
    pub port: u16,
}

/// How a stream or flow ended.
#[derive(Clone, Copy, Debug)]
pub struct End {
    /// The address that was dialled and answered.
    pub resolved: Option<SocketAddr>,
    /// How.
    pub status: Status,
    /// Bytes to the target.
    pub sent: u64,
    /// Bytes from the target.
    pub received: u64,
    /// From the header to the end.
    pub duration: Duration,
}

/// The line for what happens to `about` at `now`, with its line feed: an end, or the beginning.
pub fn line(now: SystemTime, about: &About, end: Option<&End>) -> String {
    let mut line = String::with_capacity(384);
    line.push('{');
    text(&mut line, "time", &timestamp(now));
    text(&mut line, "event", if end.is_some() { "end" } else { "open" });
    if let Some(session) = about.session {
        text(&mut line, "session", &format!("{:032x}", u128::from_be_bytes(session)));
    }
    if let Some(stream) = about.stream {
        number(&mut line, "stream", stream);
    }
    text(&mut line, "request", &about.request);
    text(&mut line, "protocol", if about.protocol == Protocol::Udp { "udp" } else { "tcp" });
    text(&mut line, "address", &about.address.to_string());
    number(&mut line, "port", about.port.into());
    if let Some(end) = end {
        if let Some(resolved) = end.resolved {
            text(&mut line, "resolved", &resolved.to_string());
        }
        text(&mut line, "status", &end.status.to_string());
        number(&mut line, "code", end.status.as_u8().into());
        number(&mut line, "sent", end.sent);
        number(&mut line, "received", end.received);
        number(&mut line, "milliseconds", u64::try_from(end.duration.as_millis()).unwrap_or(u64::MAX));
    }
    line.push_str("}\n");
    line
}

fn name(line: &mut String, name: &str) {
    if !line.ends_with('{') {
        line.push(',');
    }
    line.push('"');
    line.push_str(name);
    line.push_str("\":");
}

fn number(line: &mut String, key: &str, value: u64) {
    name(line, key);
    // Writing to a string does not fail.
    let _ = write!(line, "{value}");
}

/// A string as RFC 8259, section 7, has it.
fn text(line: &mut String, key: &str, value: &str) {
    name(line, key);
    line.push('"');
    for c in value.chars() {
        match c {
            '"' | '\\' => line.extend(['\\', c]),
            c if c.is_control() => {
                let _ = write!(line, "\\u{:04x}", u32::from(c));
            }
            c => line.push(c),
        }
    }
    line.push('"');
}

/// RFC 3339 in UTC, to the millisecond.
fn timestamp(now: SystemTime) -> String {
    let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let seconds = since.as_secs();
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = date(days);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:03}Z",
        second / 3_600,
        second / 60 % 60,
        second % 60,
        since.subsec_millis()
    )
}

/// Year, month and day, so many days after the first of January 1970.
fn date(days: u64) -> (u64, u64, u64) {
    // Counted from the first of March of the year 0, a leap day is the last of its year, and every span of 400, 100,
    // 4 and 1 years has a fixed length but for that day.
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    // From March on, five months have 153 days.
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (era * 400 + year + next, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    proptest! {
        #[test]
        fn times_are_those_of_a_calendar(millis in 0u64..253_402_300_800_000) {
            let now = SystemTime::UNIX_EPOCH + Duration::from_millis(millis);
            let known: jiff::Timestamp = timestamp(now).parse().unwrap();
            prop_assert_eq!(known, jiff::Timestamp::from_millisecond(millis as i64).unwrap());
        }

        #[test]
        fn whatever_a_client_calls_its_request_the_line_stays_one_object(request in any::<String>()) {
            let about = About {
                session: Some([0xab; 16]),
                stream: Some(4),
                request: request.clone(),
                protocol: Protocol::Tcp,
                address: "web.ns".parse().unwrap(),
                port: 80,
            };
            let line = line(SystemTime::UNIX_EPOCH, &about, None);
            prop_assert_eq!(line.find('\n'), Some(line.len() - 1));
            let known: Value = serde_json::from_str(&line).unwrap();
            prop_assert_eq!(known, json!({
                "time": "1970-01-01T00:00:00.000Z", "event": "open", "session": "ab".repeat(16), "stream": 4,
                "request": request, "protocol": "tcp", "address": "web.ns", "port": 80,
            }));
        }
    }
}
