//! The table: as many columns as there is room for, and the page with the selected forward.

use jiff::Timestamp;
use ratatui::{
    buffer::Buffer,
    layout::Rect,
    style::{Modifier, Style},
};

use super::{Look, cut};
use crate::{
    ledger::ForwardSnapshot,
    view::{
        model::{History, Model},
        text::{ASCII, BLOCKS, ago, bytes, millis, sparkline},
    },
};

/// From this width on whole addresses are shown, and below it ports.
const WIDE: u16 = 100;
/// Before the first column: which is selected.
const MARK: usize = 2;

/// A forward, and what its row needs to know.
struct Row<'a> {
    forward: &'a ForwardSnapshot,
    history: Option<&'a History>,
    agent: &'a str,
    now: Timestamp,
    letters: &'static [&'static str; 9],
}

/// A column: in what order they are given room, and what is in them.
struct Column {
    title: &'static str,
    /// The least it needs.
    width: usize,
    /// What is left over goes to these, up to so much.
    most: usize,
    /// The lower, the more important.
    rank: u8,
    is_number: bool,
    cell: fn(&Row<'_>) -> String,
}

const fn text(
    title: &'static str,
    rank: u8,
    width: usize,
    most: usize,
    cell: fn(&Row<'_>) -> String,
) -> Column {
    Column { title, width, most, rank, is_number: false, cell }
}

const fn number(title: &'static str, rank: u8, width: usize, cell: fn(&Row<'_>) -> String) -> Column {
    Column { title, width, most: width, rank, is_number: true, cell }
}

/// In the order from left to right.
const COLUMNS: [Column; 15] = [
    text("LOCAL", 0, 21, 21, local),
    text("STATE", 1, 12, 12, |row| row.forward.state.as_str().into()),
    text("TARGET", 2, 14, 40, target),
    number("B/S", 3, 6, |row| row.history.map_or_else(String::new, rate)),
    text("TRAFFIC", 5, 10, 20, |row| row.history.map_or_else(String::new, |history| spark(history, row))),
    number("OPEN", 4, 4, |row| row.forward.connections.open.to_string()),
    number("SINCE", 6, 5, |row| ago(row.forward.since, row.now)),
    number("SENT", 7, 5, |row| bytes(row.forward.bytes.sent)),
    number("RECVD", 8, 5, |row| bytes(row.forward.bytes.received)),
    number("DELAY", 9, 6, |row| row.forward.latency_millis.map(millis).unwrap_or_default()),
    number("TOTAL", 11, 6, |row| row.forward.connections.total.to_string()),
    number("FAILED", 12, 6, |row| row.forward.connections.failed.to_string()),
    text("NAMESPACE", 14, 10, 16, |row| row.forward.namespace.clone()),
    text("AGENT", 13, 12, 30, |row| row.agent.into()),
    text("LAST ERROR", 10, 16, 60, last_error),
];

fn local(row: &Row<'_>) -> String {
    row.forward.local.first().map_or_else(|| "-".into(), ToString::to_string)
}

fn port(row: &Row<'_>) -> String {
    row.forward.local.first().map_or_else(|| "-".into(), |address| address.port().to_string())
}

fn target(row: &Row<'_>) -> String {
    let suffix = if row.forward.protocol == "udp" { "/udp" } else { "" };
    let target = format!("{}:{}{suffix}", row.forward.target, row.forward.remote_port);
    match &row.forward.name {
        Some(name) => format!("{name} {target}"),
        None => target,
    }
}

fn rate(history: &History) -> String {
    match history.rate.0.saturating_add(history.rate.1) {
        0 => "-".into(),
        rate => bytes(rate),
    }
}

/// As wide as the column can be: it is cut on the left.
fn spark(history: &History, row: &Row<'_>) -> String {
    sparkline(history.rates.iter().copied(), 20, row.letters)
}

fn last_error(row: &Row<'_>) -> String {
    let reason = row.forward.reason.as_ref();
    let error = row.forward.last_error.as_ref().map(|error| &error.message);
    reason.or(error).cloned().unwrap_or_default()
}

/// Which columns there are for a width, and how wide each is.
fn layout(width: u16) -> Vec<(usize, usize)> {
    let local = if width < WIDE { 5 } else { COLUMNS[0].width };
    let least = |at: usize| if at == 0 { local } else { COLUMNS[at].width };
    let mut by_rank: Vec<usize> = (0..COLUMNS.len()).collect();
    by_rank.sort_by_key(|at| COLUMNS[*at].rank);
    let mut left = usize::from(width).saturating_sub(MARK);
    let mut shown = Vec::new();
    for at in by_rank {
        let gap = usize::from(!shown.is_empty());
        let needs = least(at) + gap;
        match left.checked_sub(needs) {
            Some(rest) => left = rest,
            // On a terminal that is too narrow for anything, the address is cut.
            None if shown.is_empty() => {}
            None => break,
        }
        shown.push((at, least(at)));
    }
    for (at, its_width) in &mut shown {
        if *at > 0 {
            let more = COLUMNS[*at].most.saturating_sub(*its_width).min(left);
            (*its_width, left) = (*its_width + more, left - more);
        }
    }
    shown.sort_unstable();
    shown
}

/// Draws it into an area.
pub(super) fn table(model: &Model, look: Look, now: Timestamp, area: Rect, buffer: &mut Buffer) {
    if area.height == 0 {
        return;
    }
    let columns = layout(area.width);
    let bold = Style::new().add_modifier(Modifier::BOLD | Modifier::UNDERLINED);
    let titles = columns.iter().map(|(at, width)| match at {
        0 if area.width < WIDE => (0, *width, "PORT".into()),
        at => (*at, *width, COLUMNS[*at].title.to_owned()),
    });
    put(buffer, area, area.y, "", titles, |_| bold);

    let rows = usize::from(area.height - 1).max(1);
    let place = model.place().unwrap_or_default();
    let first = place / rows * rows;
    let forwards = model.forwards().iter().enumerate().skip(first).take(rows);
    for ((number, forward), y) in forwards.zip(area.y + 1..area.bottom()) {
        let agents = model.snapshot.iter().flat_map(|snapshot| &snapshot.agents);
        let agent = agents.into_iter().find(|agent| agent.id == forward.agent);
        let row = Row {
            forward,
            history: model.histories.get(&forward.id),
            agent: agent.and_then(|agent| agent.pod.as_deref()).unwrap_or_default(),
            now,
            letters: if look.is_utf8 { &BLOCKS } else { &ASCII },
        };
        let cells = columns.iter().map(|(at, width)| {
            let is_narrow = *at == 0 && area.width < WIDE;
            (*at, *width, if is_narrow { port(&row) } else { (COLUMNS[*at].cell)(&row) })
        });
        let is_selected = number == place;
        let base = if is_selected { Style::new().add_modifier(Modifier::REVERSED) } else { Style::new() };
        let style = |at| if at == 1 { base.patch(look.of_state(forward.state)) } else { base };
        put(buffer, area, y, if is_selected { ">" } else { "" }, cells, style);
    }
}

/// Writes one line.
fn put(
    buffer: &mut Buffer,
    area: Rect,
    y: u16,
    mark: &str,
    cells: impl Iterator<Item = (usize, usize, String)>,
    style: impl Fn(usize) -> Style,
) {
    if y >= area.bottom() {
        return;
    }
    buffer.set_stringn(area.x, y, mark, usize::from(area.width), Style::new());
    let mut x = area.x.saturating_add(MARK as u16);
    for (at, width, text) in cells {
        let Some(room) = area.right().checked_sub(x).map(usize::from).filter(|room| *room > 0) else {
            return;
        };
        let width = width.min(room);
        let is_spark = COLUMNS[at].title == "TRAFFIC" && text.chars().count() > width;
        let text = if is_spark {
            text.chars().skip(text.chars().count() - width).collect()
        } else {
            cut(&text, width)
        };
        let text = if COLUMNS[at].is_number { format!("{text:>width$}") } else { format!("{text:<width$}") };
        buffer.set_stringn(x, y, text, width, style(at));
        x = x.saturating_add(width as u16 + 1);
    }
}
