//! What `doctor` finds, a line for each check: aligned for a terminal of 80 columns, or one JSON object at the end.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde::Serialize;
use serde_json::json;

use crate::{output::Output, version::Format};

/// Columns of a terminal.
const WIDTH: usize = 80;
/// Columns of the verdict and of the check's name, each with the gap behind it.
const VERDICT: usize = 9;
const CHECK: usize = 12;

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// Worth knowing, and nothing that was asked for depends on it.
    Note,
    /// It works, and not as well as it could.
    Warning,
    /// It does not work.
    Failed,
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Line {
    /// The check's name; the same check may have several lines.
    pub check: &'static str,
    /// How it ended.
    pub verdict: Verdict,
    /// What was found.
    pub message: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// How long what was measured took.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub milliseconds: Option<f64>,
}

impl Line {
    fn new(check: &'static str, verdict: Verdict, message: impl Into<String>) -> Self {
        Self { check, verdict, message: message.into(), hint: None, milliseconds: None }
    }

    /// As it should be.
    pub fn ok(check: &'static str, message: impl Into<String>) -> Self {
        Self::new(check, Verdict::Ok, message)
    }

    /// Worth knowing.
    pub fn note(check: &'static str, message: impl Into<String>) -> Self {
        Self::new(check, Verdict::Note, message)
    }

    /// It works, and not as well as it could.
    pub fn warning(check: &'static str, message: impl Into<String>, hint: impl AsRef<str>) -> Self {
        Self { hint: Some(calm(hint.as_ref())), ..Self::new(check, Verdict::Warning, message) }
    }

    /// It does not work.
    pub fn failed(check: &'static str, message: impl Into<String>, hint: impl AsRef<str>) -> Self {
        Self { hint: Some(calm(hint.as_ref())), ..Self::new(check, Verdict::Failed, message) }
    }

    /// What was measured took so long.
    #[must_use]
    pub fn took(self, time: Duration) -> Self {
        Self { milliseconds: Some((time.as_secs_f64() * 10_000.0).round() / 10.0), ..self }
    }
}

/// A Role among many lines would be all that one sees; it can be had by itself.
fn calm(hint: &str) -> String {
    match hint.split_once("\napiVersion: ") {
        Some(_) => MISSING_RIGHTS.into(),
        None => hint.into(),
    }
}

/// What to do about missing rights.
pub(super) const MISSING_RIGHTS: &str = "kubectl relay doctor --print-role prints what to ask for";

/// For people it has a line, or a few, for each finding.
impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = match self.verdict {
            Verdict::Ok => "ok",
            Verdict::Note => "note",
            Verdict::Warning => "warning",
            Verdict::Failed => "failed",
        };
        write!(f, "{verdict:VERDICT$}{:CHECK$}", self.check)?;
        let hint = self.hint.as_ref().map(|hint| format!("hint: {hint}"));
        let texts = [Some(self.message.clone()), hint];
        let lines: Vec<String> =
            texts.into_iter().flatten().flat_map(|text| wrapped(&text, WIDTH - VERDICT - CHECK)).collect();
        f.write_str(&lines.join(&format!("\n{:1$}", "", VERDICT + CHECK)))
    }
}

/// Lines of at most so many columns; a word that is longer has one of its own.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.into()),
        }
    }
    lines
}

/// All findings so far.
pub struct Report {
    format: Format,
    output: Arc<Output>,
    lines: Mutex<Vec<Line>>,
}

impl Report {
    /// Nothing yet; what is found goes there.
    pub fn new(format: Format, output: Arc<Output>) -> Self {
        Self { format, output, lines: Mutex::default() }
    }

    /// One more finding.
    pub fn tell(&self, line: Line) {
        if self.format == Format::Text {
            self.output.answer(&line.to_string());
        }
        self.lines().push(line);
    }

    /// Whether nothing has failed.
    pub fn is_well(&self) -> bool {
        self.lines().iter().all(|line| line.verdict != Verdict::Failed)
    }

    /// Whether this check has a line.
    pub fn has(&self, check: &str) -> bool {
        self.lines().iter().any(|line| line.check == check)
    }

    /// The end: prints what is printed at once.
    pub fn finish(&self) {
        if self.format == Format::Json {
            let (version, ok) = (env!("CARGO_PKG_VERSION"), self.is_well());
            let document = json!({"version": version, "ok": ok, "checks": &*self.lines()});
            self.output.answer(&format!("{document:#}"));
        }
    }

    fn lines(&self) -> MutexGuard<'_, Vec<Line>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A time for people: `0.4 ms`, `12 ms`, `1.3 s`.
pub(super) fn time(time: Duration) -> String {
    let milliseconds = time.as_secs_f64() * 1000.0;
    match milliseconds {
        ..9.95 => format!("{milliseconds:.1} ms"),
        ..999.5 => format!("{milliseconds:.0} ms"),
        _ => format!("{:.1} s", time.as_secs_f64()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::tests::captured;

    #[test]
    fn lines_are_aligned_and_wrapped_at_eighty_columns() {
        let long = "the cluster's DNS gives no answer about \"kubernetes.default.svc\", which every cluster has, and \
                    so it goes";
        let line = Line::failed(
            "dns",
            long,
            "check that kube-dns runs, and that a NetworkPolicy lets the agent reach it",
        );
        let expected = "\
failed   dns         the cluster's DNS gives no answer about
                     \"kubernetes.default.svc\", which every cluster has, and so
                     it goes
                     hint: check that kube-dns runs, and that a NetworkPolicy
                     lets the agent reach it";
        assert_eq!(line.to_string(), expected);
        assert!(expected.lines().all(|line| line.len() <= WIDTH));
    }

    #[test]
    fn a_role_in_a_hint_is_left_to_print_role() {
        let line =
            Line::failed("agent", "no", "ask for this Role, bound to you:\napiVersion: rbac\nkind: Role");
        assert_eq!(line.hint.as_deref(), Some(MISSING_RIGHTS));
    }

    #[test]
    fn json_is_one_document_at_the_end() {
        let (output, out, _) = captured(false);
        let report = Report::new(Format::Json, Arc::new(output));
        report.tell(Line::ok("server", "it answers").took(Duration::from_micros(1234)));
        report.tell(Line::warning("quota", "little room", "free some"));
        assert_eq!(out.text(), "");
        report.finish();
        let document: serde_json::Value = serde_json::from_str(&out.text()).unwrap();
        assert_eq!(
            document,
            json!({"version": env!("CARGO_PKG_VERSION"), "ok": true, "checks": [
                {"check": "server", "verdict": "ok", "message": "it answers", "milliseconds": 1.2},
                {"check": "quota", "verdict": "warning", "message": "little room", "hint": "free some"}]})
        );
    }

    #[test]
    fn times_have_two_digits_that_matter() {
        let cases = [(400, "0.4 ms"), (9_960, "10 ms"), (12_300, "12 ms"), (1_340_000, "1.3 s")];
        for (micros, shown) in cases {
            assert_eq!(time(Duration::from_micros(micros)), shown);
        }
    }
}
