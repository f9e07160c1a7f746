//! From samples to medians, ratios, Markdown and JSON.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::{Value, json};

use super::place::Place;
use super::published;
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

    fn row(&self, key: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.key == key)
    }

    /// What the row shows of a tool: mostly a median.
    fn shown(&self, row: &Row, tool: Tool) -> Option<f64> {
        let key = row.highest_of.unwrap_or(row.key);
        let mut samples = self.samples.get(&(key.to_owned(), tool))?.clone();
        samples.sort_by(f64::total_cmp);
        Some(percentile(&samples, if row.highest_of.is_some() { 1.0 } else { 0.5 }))
    }

    fn ratio(&self, row: &Row) -> Option<f64> {
        let theirs = self.shown(row, Tool::PortForward)?;
        (theirs > 0.0).then_some(self.shown(row, Tool::Relay)? / theirs)
    }

    /// Whether the row's goal is met; none where it has none or nothing was measured.
    fn met(&self, row: &Row) -> Option<bool> {
        let (value, wanted) = match row.goal {
            Goal::Ratio(wanted) => (self.ratio(row)?, wanted),
            Goal::RatioBeyondStraight(wanted) => {
                let (ours, straight) = (self.shown(row, Tool::Relay)?, self.shown(row, Tool::Straight)?);
                if row.more_is_better == (ours <= straight) {
                    return Some(false);
                }
                (self.ratio(row)?, wanted)
            }
            Goal::Value(wanted) => (self.shown(row, Tool::Relay)?, wanted),
            Goal::Of(key, wanted) => {
                let other = self.row(key)?;
                (self.shown(row, Tool::Relay)?, self.shown(other, Tool::Relay)? * wanted)
            }
            Goal::None => return None,
        };
        Some(if row.more_is_better { value >= wanted } else { value <= wanted })
    }

    /// How many times as much a tool could carry that took no processor time: what `kubectl port-forward` and everybody on
    /// its way need together, over what the others need.
    fn most(&self, direction: &str) -> Option<f64> {
        let theirs = |name: &str| {
            let key = format!("{direction}_cpu_{name}");
            self.shown(self.row(&key)?, Tool::PortForward)
        };
        let rest: f64 =
            ["kube-apiserver", "kubelet", "containerd", "load"].iter().filter_map(|name| theirs(name)).sum();
        let client = theirs("client")?;
        (rest > 0.0).then_some((client + rest) / rest)
    }

    fn measured_rows(&self) -> impl Iterator<Item = &Row> {
        self.rows.iter().filter(|row| Tool::ALL.iter().any(|tool| self.shown(row, *tool).is_some()))
    }

    /// The table, and below it what failed.
    pub(super) fn markdown(&self) -> String {
        let mut text = String::from(
            "| | straight | `kubectl port-forward` | `kubectl relay` | ratio | wanted | |\n\
             | --- | --: | --: | --: | --: | --: | --- |\n",
        );
        for row in self.measured_rows() {
            let unit = if row.unit.is_empty() { String::new() } else { format!(" ({})", row.unit) };
            let cell = |tool| self.shown(row, tool).map_or("–".to_owned(), number);
            let ratio = self.ratio(row).map_or("–".to_owned(), |ratio| format!("{} ×", number(ratio)));
            let sign = if row.more_is_better { "≥" } else { "≤" };
            let wanted = match row.goal {
                Goal::Ratio(wanted) => format!("{sign} {wanted} ×"),
                Goal::RatioBeyondStraight(wanted) => format!("{sign} {wanted} ×, better than straight"),
                Goal::Value(wanted) => format!("{sign} {wanted}"),
                Goal::Of(key, wanted) => {
                    let title = self.row(key).map_or(key, |row| row.title);
                    format!("{sign} {wanted} × its own for “{title}”")
                }
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
                    json!({ "median": self.shown(row, *tool), "samples": samples }),
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

fn fact(facts: &Value, key: &str) -> String {
    match &facts[key] {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// What the page says of one place: when and how it was measured, and the table.
pub(super) fn section(results: &Results, facts: &Value, warning: Option<&str>, runs: u32) -> String {
    let fact = |key| fact(facts, key);
    let mut text = format!(
        "## {}\n\nMedians of {runs} runs, {}, commit {}, load average before and after {}; {}.",
        results.place.title(),
        fact("date"),
        fact("commit"),
        fact("load_average"),
        fact("load_average_after"),
    );
    if let (Place::Behind(_), Some(down), Some(up)) =
        (results.place, facts["link_down_mib_s"].as_f64(), facts["link_up_mib_s"].as_f64())
    {
        let (down, up) = (number(down), number(up));
        let _ = write!(text, " Without delay plain TCP gets {down} MiB/s down the link, {up} up.");
    }
    text.push('\n');
    if let Some(warning) = warning {
        let _ = write!(text, "\n**Not a quiet machine:** {warning}.\n");
    }
    let _ = write!(text, "\n{}", results.markdown());
    for direction in ["download", "upload"] {
        if let Some(most) = results.most(direction) {
            let _ = write!(
                text,
                "\nWhere the processor is the limit, a client and an agent that cost nothing would give {} × for one \
                 {direction}: the rest of the way takes that part of what `kubectl port-forward` takes in all.\n",
                number(most)
            );
        }
    }
    text
}

/// The page for readers. What was counted elsewhere is that of the page before.
pub(super) fn page(facts: &Value, sections: &[String], before: &str) -> String {
    let fact = |key| fact(facts, key);
    let mut text = format!(
        "# Performance\n\n\
         Made by `cargo xtask bench`: do not edit.\n\n\
         | | |\n| --- | --- |\n\
         | processor | {}, {} cores |\n| kernel | {}, {} |\n\
         | `kubectl port-forward` | {} |\n| API server | {} |\n| `kubectl relay` | {} |\n",
        fact("processor"),
        fact("cores"),
        fact("kernel"),
        fact("congestion_control"),
        fact("kubectl"),
        fact("api_server"),
        fact("relay"),
    );
    text.push_str(EXPLANATION);
    for section in sections {
        let _ = write!(text, "\n{section}");
    }
    if let Some(instructions) = crate::count::section().or_else(|| published::section(before, "Instructions"))
    {
        let _ = write!(text, "\n{instructions}");
    }
    let _ = write!(text, "\n{}", include_str!("limits.md"));
    text
}

const EXPLANATION: &str = "
## How to read it

In each run the tools take turns, measurement by measurement, on one real cluster that is all on one machine: client, API
server, kubelet, containerd, agent, target and load share its processors. So the figures are for comparing the columns of a
row, in one run; elsewhere all of them differ. A figure is the median of its runs.

- *Straight* is plain TCP or UDP from the node to the pod without any tool: the limit. A ratio is `kubectl relay`'s figure
  over `kubectl port-forward`'s; *wanted* is what this project has set itself, and *missed* says that it is not there yet.
- Throughput counts until the last byte has arrived; the end of the stream is a row of its own. The target discards or
  sends bytes without looking at them; that bytes arrive unharmed is what the tests check.
- Agent memory is that of its cgroup, kernel buffers included. Processor time is for one stream, per GiB carried.
- Starting: *the pod's own start* is from when a watch tells of the agent's Job until the runtime has started its
  container, which no client can change. The namespace is enforced as Pod Security *restricted*.
- The rows of 100 to 10,000 streams are those of an agent with 256 MiB instead of 128. Memory of each stream is the growth
  over none, divided by their number.
- In the proxy's rows `kubectl relay` is `kubectl relay proxy`, and the others make the same connections as elsewhere:
  `kubectl port-forward` with a stream pair for each, as proxies that are built on it do.
- Over a link, client and load run in a network of their own behind an emulated link (see `docs/cluster.md`), and *straight*
  is plain TCP or UDP over the same link to the pod; TCP is cubic at both ends. There, bulk rows
  send for a fixed time and count until the last byte has arrived. Where an echo waits until the download beside it is
  over, that is its time.

What parts of it cost in instructions, which is steadier than time, `cargo xtask count` says.
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
    fn a_goal_may_be_ones_own_figure_of_another_row_and_a_row_the_worst_of_another() {
        let mut results = Results::new(Place::Here);
        for (key, ours) in [("many_download_100", 100.0), ("many_download_1000", 89.0)] {
            results.add(key, Tool::Relay, ours);
        }
        for later in [10.0, 30.0, 20.0] {
            results.add("start_carried_later", Tool::Relay, later);
        }
        let text = results.markdown();
        let line = |title: &str| text.lines().find(|line| line.contains(title)).unwrap().to_owned();
        assert!(line("| download, 1,000 streams").ends_with("| missed |"));
        assert!(line("later than with the image").contains("| 20.0 |"));
        assert!(line("the worst of these pairs").contains("| 30.0 |"));
    }

    #[test]
    fn what_others_need_is_the_limit() {
        let mut results = Results::new(Place::Here);
        for (name, seconds) in
            [("client", 3.0), ("kube-apiserver", 2.0), ("kubelet", 1.0), ("containerd", 1.0)]
        {
            results.add(format!("download_cpu_{name}"), Tool::PortForward, seconds);
        }
        assert_eq!(results.most("download"), Some(1.75));
        assert_eq!(results.most("upload"), None);
    }

    #[test]
    fn twice_their_figure_is_not_enough_where_plain_tcp_is_faster_still() {
        let mut results = Results::new("80ms".parse().unwrap());
        results.add("download_1", Tool::PortForward, 10.0);
        results.add("download_1", Tool::Relay, 30.0);
        let met = |results: &Results| results.met(results.row("download_1").unwrap());
        results.add("download_1", Tool::Straight, 40.0);
        assert_eq!(met(&results), Some(false));
        results.add("download_1", Tool::Straight, 10.0);
        assert_eq!(met(&results), Some(true));
    }
}
