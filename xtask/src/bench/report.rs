//! From samples to medians, ratios, Markdown and JSON.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::{Value, json};

use super::place::Place;
use super::rows::{Goal, Group, Row, rows_of};
use super::tools::Tool;

/// All samples of one place, by row and tool.
#[derive(Debug)]
pub(super) struct Results {
    place: Place,
    rows: Vec<Row>,
    samples: BTreeMap<(String, Tool), Vec<f64>>,
    /// What went wrong, with the number of times.
    failures: BTreeMap<String, u32>,
}

impl Results {
    /// No samples yet.
    pub(super) fn new(place: Place) -> Self {
        Self { place, rows: rows_of(place), samples: BTreeMap::new(), failures: BTreeMap::new() }
    }

    /// One more sample.
    pub(super) fn add(&mut self, key: impl Into<String>, tool: Tool, value: f64) {
        self.samples.entry((key.into(), tool)).or_default().push(value);
    }

    /// A measurement that gave no figure.
    pub(super) fn fail(&mut self, group: Group, tool: Tool, error: &anyhow::Error) {
        *self.failures.entry(format!("{}, {group:?}: {error:#}", tool.name())).or_default() += 1;
    }

    fn median(&self, row: &Row, tool: Tool) -> Option<f64> {
        let mut samples = self.samples.get(&(row.key.to_owned(), tool))?.clone();
        samples.sort_by(f64::total_cmp);
        Some(percentile(&samples, 0.5))
    }

    fn ratio(&self, row: &Row) -> Option<f64> {
        let theirs = self.median(row, Tool::PortForward)?;
        (theirs > 0.0).then_some(self.median(row, Tool::Relay)? / theirs)
    }

    /// Whether the row's goal is met; none where it has none or nothing was measured.
    fn met(&self, row: &Row) -> Option<bool> {
        let (value, wanted) = match row.goal {
            Goal::Ratio(wanted) => (self.ratio(row)?, wanted),
            Goal::RatioBeyondStraight(wanted) => {
                let (ours, straight) = (self.median(row, Tool::Relay)?, self.median(row, Tool::Straight)?);
                if row.more_is_better == (ours <= straight) {
                    return Some(false);
                }
                (self.ratio(row)?, wanted)
            }
            Goal::Value(wanted) => (self.median(row, Tool::Relay)?, wanted),
            Goal::None => return None,
        };
        Some(if row.more_is_better { value >= wanted } else { value <= wanted })
    }

    fn measured_rows(&self) -> impl Iterator<Item = &Row> {
        self.rows.iter().filter(|row| Tool::ALL.iter().any(|tool| self.median(row, *tool).is_some()))
    }

    /// The table, and below it what failed.
    pub(super) fn markdown(&self) -> String {
        let mut text = String::from(
            "| | straight | `kubectl port-forward` | `kubectl relay` | ratio | wanted | |\n\
             | --- | --: | --: | --: | --: | --: | --- |\n",
        );
        for row in self.measured_rows() {
            let unit = if row.unit.is_empty() { String::new() } else { format!(" ({})", row.unit) };
            let cell = |tool| self.median(row, tool).map_or("–".to_owned(), number);
            let ratio = self.ratio(row).map_or("–".to_owned(), |ratio| format!("{} ×", number(ratio)));
            let sign = if row.more_is_better { "≥" } else { "≤" };
            let wanted = match row.goal {
                Goal::Ratio(wanted) => format!("{sign} {wanted} ×"),
                Goal::RatioBeyondStraight(wanted) => format!("{sign} {wanted} ×, better than straight"),
                Goal::Value(wanted) => format!("{sign} {wanted}"),
                Goal::None => String::new(),
            };
            let met = match self.met(row) {
                Some(true) => "met",
                Some(false) => "missed",
                None => "",
            };
            let (straight, theirs, ours) = (cell(Tool::Straight), cell(Tool::PortForward), cell(Tool::Relay));
            let _ = writeln!(
                text,
                "| {}{unit} | {straight} | {theirs} | {ours} | {ratio} | {wanted} | {met} |",
                row.title
            );
        }
        if !self.failures.is_empty() {
            text.push_str("\nMeasurements without a figure:\n\n");
            for (failure, times) in &self.failures {
                let _ = writeln!(text, "- {failure} ({times} ×)");
            }
        }
        text
    }

    /// Medians and every sample.
    pub(super) fn json(&self) -> Value {
        let rows = self.measured_rows().map(|row| {
            let tools = Tool::ALL.iter().filter_map(|tool| {
                let samples = self.samples.get(&(row.key.to_owned(), *tool))?;
                Some((
                    tool.name().to_owned(),
                    json!({ "median": self.median(row, *tool), "samples": samples }),
                ))
            });
            json!({
                "key": row.key,
                "title": row.title,
                "unit": row.unit,
                "more_is_better": row.more_is_better,
                "tools": Value::Object(tools.collect()),
                "ratio": self.ratio(row),
                "met": self.met(row),
            })
        });
        json!({ "link": self.place.to_string(), "rows": rows.collect::<Vec<_>>(), "failures": self.failures })
    }
}

/// The page for readers.
pub(super) fn page(facts: &Value, warning: Option<&str>, runs: u32, results: &[Results]) -> String {
    let fact = |key: &str| match &facts[key] {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let mut text = format!(
        "# Performance\n\n\
         Made by `cargo xtask bench`: do not edit. Medians of {runs} runs; in each run the tools take turns, \
         measurement by measurement, on one real cluster that is all on one machine.\n\n\
         | | |\n| --- | --- |\n\
         | processor | {}, {} cores |\n| kernel | {}, {} |\n| date | {} |\n\
         | `kubectl port-forward` | {} |\n| API server | {} |\n| `kubectl relay` | {}, commit {} |\n\
         | load average before and after | {}; {} |\n",
        fact("processor"),
        fact("cores"),
        fact("kernel"),
        fact("congestion_control"),
        fact("date"),
        fact("kubectl"),
        fact("api_server"),
        fact("relay"),
        fact("commit"),
        fact("load_average"),
        fact("load_average_after"),
    );
    if let (Some(down), Some(up)) = (facts["link_down_mib_s"].as_f64(), facts["link_up_mib_s"].as_f64()) {
        let (down, up) = (number(down), number(up));
        let _ = writeln!(
            text,
            "| the emulated link itself, no delay, plain TCP | {down} MiB/s down, {up} MiB/s up |"
        );
    }
    if let Some(warning) = warning {
        let _ = write!(text, "\n**Not a quiet machine:** {warning}.\n");
    }
    text.push_str(EXPLANATION);
    for result in results {
        let _ = write!(text, "\n## {}\n\n{}", result.place.title(), result.markdown());
    }
    text
}

const EXPLANATION: &str = "
*Straight* is plain TCP or UDP from the node to the pod without any tool: the limit. A ratio is `kubectl relay`'s figure
over `kubectl port-forward`'s. Throughput counts until the last byte has arrived; the end of the stream is a row of its
own. In the proxy's rows `kubectl relay` is `kubectl relay proxy`, and the others make the same connections as elsewhere:
`kubectl port-forward` with a stream pair for each, as proxies that are built on it do. The target discards or sends bytes
without looking at them; that bytes arrive unharmed is what the tests check.
Agent memory is that of its cgroup, kernel buffers included. Processor time is for one stream, per GiB carried.

Over a link, client and load run in a network of their own behind an emulated link (see `docs/cluster.md`), and *straight*
is plain TCP or UDP over the same link to the pod; TCP is cubic at both ends. There, bulk rows send for a fixed time and
count until the last byte has arrived. Where an echo waits until the download beside it is over, that is its time.
";

/// The value below which a part of the sorted samples lies; NaN without samples.
pub(super) fn percentile(sorted: &[f64], part: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    let at = part * last as f64;
    let (low, high) = (at.floor() as usize, at.ceil() as usize);
    match (sorted.get(low), sorted.get(high)) {
        (Some(a), Some(b)) => a + (b - a) * (at - at.floor()),
        _ => f64::NAN,
    }
}

/// Three significant digits, and no exponent.
fn number(value: f64) -> String {
    let digits = match value.abs() {
        size if size >= 100.0 || size == 0.0 => 0,
        size if size >= 10.0 => 1,
        size if size >= 1.0 => 2,
        _ => 3,
    };
    format!("{value:.digits$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_lies_between_the_middle_samples() {
        assert_eq!(percentile(&[1.0, 2.0, 9.0], 0.5), 2.0);
        assert_eq!(percentile(&[1.0, 2.0, 4.0, 9.0], 0.5), 3.0);
        assert!(percentile(&[], 0.5).is_nan());
    }

    #[test]
    fn a_goal_is_met_in_the_direction_of_its_row() {
        let mut results = Results::new(Place::Here);
        for (key, theirs, ours) in [("download_1", 100.0, 130.0), ("echo_p50", 100.0, 130.0)] {
            results.add(key, Tool::PortForward, theirs);
            results.add(key, Tool::Relay, ours);
        }
        let text = results.markdown();
        let line = |title: &str| text.lines().find(|line| line.contains(title)).unwrap().to_owned();
        assert!(line("download, 1 stream").ends_with("| 1.30 × | ≥ 1.2 × | met |"));
        assert!(line("echo 64 bytes, p50").ends_with("| 1.30 × | ≤ 1 × | missed |"));
    }

    #[test]
    fn twice_their_figure_is_not_enough_where_plain_tcp_is_faster_still() {
        let mut results = Results::new("80ms".parse().unwrap());
        results.add("download_1", Tool::PortForward, 10.0);
        results.add("download_1", Tool::Relay, 30.0);
        let met = |results: &Results| results.met(&results.rows[2]);
        results.add("download_1", Tool::Straight, 40.0);
        assert_eq!(met(&results), Some(false));
        results.add("download_1", Tool::Straight, 10.0);
        assert_eq!(met(&results), Some(true));
    }
}
