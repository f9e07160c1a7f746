//! Where text goes in the end: stdout, stderr, and on a terminal one line below that tells what is waited for.

use std::{
    collections::HashMap,
    io::{self, IsTerminal, Write},
    time::Instant,
};

use super::style::is_dumb;
use crate::terminal;

/// Goes to the line's beginning and clears it.
const CLEAR: &str = "\r\x1b[K";

pub(super) struct Sink {
    stdout: Box<dyn Write + Send>,
    stderr: Box<dyn Write + Send>,
    /// Once stdout is closed, nothing more is written there.
    stdout_open: bool,
    pub(super) failures: HashMap<(String, String), Repeated>,
    progress: Progress,
}

pub(super) struct Repeated {
    pub(super) told: Instant,
    pub(super) since: u64,
}

/// Where things are said.
pub(super) struct Said {
    stdout: Box<dyn Write + Send>,
    stderr: Box<dyn Write + Send>,
    stdout_open: bool,
    progress: Progress,
}

impl Said {
    /// There, without a line of what is waited for.
    pub(super) fn to(stdout: Box<dyn Write + Send>, stderr: Box<dyn Write + Send>) -> Self {
        Self { stdout, stderr, stdout_open: true, progress: Progress::None }
    }
}

/// The line of what is waited for.
enum Progress {
    /// Nobody would see it, or nothing is waited for any more.
    None,
    /// It may be shown.
    Hidden,
    /// This is shown: the cursor is at its end.
    Shown(String),
}

impl Sink {
    pub(super) fn new(stdout: Box<dyn Write + Send>, stderr: Box<dyn Write + Send>) -> Self {
        let (failures, progress) = (HashMap::new(), Progress::None);
        Self { stdout, stderr, stdout_open: true, failures, progress }
    }

    /// Tells what is waited for, where stderr is a terminal that can clear a line.
    pub(super) fn with_progress(self) -> Self {
        let is_seen = io::stderr().is_terminal() && !is_dumb();
        Self { progress: if is_seen { Progress::Hidden } else { Progress::None }, ..self }
    }

    /// From now on everything is said there; gives where it was said before.
    pub(super) fn exchange(&mut self, said: Said) -> Said {
        self.clear();
        Said {
            stdout: std::mem::replace(&mut self.stdout, said.stdout),
            stderr: std::mem::replace(&mut self.stderr, said.stderr),
            stdout_open: std::mem::replace(&mut self.stdout_open, said.stdout_open),
            progress: std::mem::replace(&mut self.progress, said.progress),
        }
    }

    pub(super) fn line(&mut self, text: &str) {
        if !self.stdout_open {
            return;
        }
        self.clear();
        let written = writeln!(self.stdout, "{text}").and_then(|()| self.stdout.flush());
        if let Err(error) = written {
            // A script that read the first line and closed the pipe still wants its forward.
            tracing::debug!(%error, "stdout is closed");
            self.stdout_open = false;
        }
    }

    /// From now on nothing is written to stdout.
    pub(super) fn end_stdout(&mut self) {
        self.stdout_open = false;
    }

    pub(super) fn message(&mut self, text: &str) {
        self.clear();
        // There is nowhere left to report this to.
        let _ = writeln!(self.stderr, "{text}").and_then(|()| self.stderr.flush());
    }

    /// Text behind which something is typed.
    pub(super) fn question(&mut self, text: &str) {
        self.clear();
        let _ = write!(self.stderr, "{text}").and_then(|()| self.stderr.flush());
    }

    /// Shows what is waited for, in place of what was shown before.
    pub(super) fn progress(&mut self, text: &str) {
        if matches!(self.progress, Progress::None) {
            return;
        }
        let stderr = io::stderr();
        // In the background of a shell, the line is where somebody types.
        if !terminal::is_looked_at(&stderr) {
            return self.clear();
        }
        let width = terminal::width(&stderr).unwrap_or(80);
        let text = cut(text, width);
        if matches!(&self.progress, Progress::Shown(before) if *before == text) {
            return;
        }
        let _ = write!(self.stderr, "{CLEAR}{text}").and_then(|()| self.stderr.flush());
        self.progress = Progress::Shown(text);
    }

    /// Shows it no more, now or later.
    pub(super) fn end_progress(&mut self) {
        self.clear();
        self.progress = Progress::None;
    }

    fn clear(&mut self) {
        if matches!(self.progress, Progress::Shown(_)) {
            let _ = write!(self.stderr, "{CLEAR}").and_then(|()| self.stderr.flush());
            self.progress = Progress::Hidden;
        }
    }
}

/// What fits on one line: a longer one could not be cleared. The last column is left free, where some terminals break.
fn cut(text: &str, width: usize) -> String {
    let fits = width.max(2) - 1;
    // A letter that is no ASCII may be wider than one column.
    let ascii: String =
        text.chars().map(|letter| if letter.is_ascii_graphic() { letter } else { ' ' }).collect();
    if ascii.len() <= fits {
        return ascii;
    }
    match fits.checked_sub(3) {
        Some(kept) => format!("{}...", &ascii[..kept]),
        None => ascii[..fits].to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_line_is_cut_to_the_terminal() {
        assert_eq!(cut("waiting for a node", 19), "waiting for a node");
        assert_eq!(cut("waiting for a node", 18), "waiting for a ...");
        assert_eq!(cut("node n\u{fc}rn\x1bberg", 80), "node n rn berg");
        for width in 0..20 {
            assert!(cut("waiting for a node", width).len() < width.max(2));
        }
    }
}
