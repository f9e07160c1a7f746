//! One line per event on stderr, without the weight of a logging framework.
//!
//! Lines carry the time since the start; `kubectl logs --timestamps` adds the time of day.

use std::fmt::{self, Write as _};
use std::io::Write as _;
use std::time::Instant;

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber, span};

/// Writes events to stderr.
struct Log {
    level: Level,
    start: Instant,
}

/// Starts logging at the level that `-v` asks for. Only the first call has an effect.
pub fn start(verbosity: u8) {
    let level = match verbosity {
        0..=3 => Level::INFO,
        4 => Level::DEBUG,
        _ => Level::TRACE,
    };
    // A second call finds the first one's log in place, which is as good.
    let _ = tracing::subscriber::set_global_default(Log { level, start: Instant::now() });
}

impl Subscriber for Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // Libraries speak up only when something is wrong, or when everything is wanted.
        let ours = metadata.target().starts_with("relay_");
        *metadata.level() <= if ours || self.level == Level::TRACE { self.level } else { Level::ERROR }
    }

    fn event(&self, event: &Event<'_>) {
        let mut line = format!("{:10.3} {:5} ", self.start.elapsed().as_secs_f64(), event.metadata().level());
        event.record(&mut Line(&mut line));
        line.push('\n');
        // A log nobody can read is no reason to stop.
        let _ = std::io::stderr().write_all(line.as_bytes());
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

/// Appends the message, then ` name=value` for each field.
struct Line<'a>(&'a mut String);

impl Visit for Line<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() != "message" {
            let _ = write!(self.0, " {}=", field.name());
        }
        let _ = write!(OneLine(self.0), "{value:?}");
    }
}

/// Escapes control characters, so that nothing from the network can forge a line.
struct OneLine<'a>(&'a mut String);

impl fmt::Write for OneLine<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            if c.is_control() {
                self.0.extend(c.escape_default());
            } else {
                self.0.push(c);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_cannot_forge_a_line() {
        let mut line = String::new();
        write!(OneLine(&mut line), "a\nb\x1b[0m é").unwrap();
        assert_eq!(line, "a\\nb\\u{1b}[0m é");
    }
}
