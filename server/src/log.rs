//! One line per event on stderr, without the weight of a logging framework.
//!
//! Lines carry the time since the start; `kubectl logs --timestamps` adds the time of day.

use std::fmt;
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

/// Appends the message, then ` name=value` for each field; control characters are escaped, so that nothing from the
/// network can forge a line.
struct Line<'a>(&'a mut String);

impl Visit for Line<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() != "message" {
            self.0.extend([" ", field.name(), "="]);
        }
        for c in format!("{value:?}").chars() {
            match c.is_control() {
                true => self.0.extend(c.escape_default()),
                false => self.0.push(c),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    /// Keeps the lines it would write.
    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<String>>);

    impl Subscriber for Lines {
        fn enabled(&self, _: &Metadata<'_>) -> bool {
            true
        }
        fn event(&self, event: &Event<'_>) {
            event.record(&mut Line(&mut self.0.lock().unwrap()));
        }
        fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
            span::Id::from_u64(1)
        }
        fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
        fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
        fn enter(&self, _: &span::Id) {}
        fn exit(&self, _: &span::Id) {}
    }

    #[test]
    fn control_characters_cannot_forge_a_line() {
        let lines = Lines::default();
        tracing::subscriber::with_default(lines.clone(), || {
            tracing::info!(host = %"a\nb\x1b[0m é", port = 80, "hello");
        });
        assert_eq!(*lines.0.lock().unwrap(), "hello host=a\\nb\\u{1b}[0m é port=80");
    }
}
