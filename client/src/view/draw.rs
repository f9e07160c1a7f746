//! The whole screen as text: a line of sums, a table, what is known of the selected forward, messages, keys. What there is
//! no room for is left out, the least important first.

mod table;

use std::env;

use jiff::Timestamp;
use ratatui::{
    buffer::Buffer,
    layout::Rect,
    style::{Color, Modifier, Style},
};

use self::table::table;
use super::{
    model::Model,
    text::{ago, knows_utf8, millis},
};
use crate::ledger::{ForwardSnapshot, ForwardState};

const KEYS: &str = "? help  q quit  s stop/start  r restart  c copy";
const HELP: [&str; 9] = [
    "up, down   choose a forward (also k, j)",
    "page keys  ten further",
    "home, end  the first, the last",
    "s          stop it, or start it",
    "r          restart it",
    "c          copy its address",
    "q, Ctrl-C  leave",
    "?          this",
    "Open connections of a stopped forward go on to their end.",
];
/// From this height on the selected forward is told of below the table.
const DETAILS_FROM: u16 = 16;

/// What the terminal can show.
#[derive(Debug, Clone, Copy)]
pub(super) struct Look {
    pub(super) has_colours: bool,
    pub(super) is_utf8: bool,
}

impl Look {
    /// What this process is told of it.
    pub(super) fn of_this_process() -> Self {
        let refused = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self { has_colours: !refused, is_utf8: knows_utf8() }
    }

    /// A state's colour, which says nothing that its word does not.
    fn of_state(self, state: ForwardState) -> Style {
        let colour = match state {
            _ if !self.has_colours => return Style::new(),
            ForwardState::Ready => Color::Green,
            ForwardState::Starting | ForwardState::Reconnecting => Color::Yellow,
            ForwardState::Failed => Color::Red,
            ForwardState::Stopped => Color::Reset,
        };
        Style::new().fg(colour)
    }
}

/// Draws everything.
pub(super) fn draw(model: &Model, look: Look, now: Timestamp, buffer: &mut Buffer) {
    let area = buffer.area;
    if area.width == 0 || area.height == 0 {
        return;
    }
    let mut lines = Lines { buffer, top: area.top(), bottom: area.bottom() };
    lines.first(&sums(model), Style::new().add_modifier(Modifier::BOLD));
    lines.last(KEYS, Style::new().add_modifier(Modifier::DIM));
    if model.shows_help {
        HELP.into_iter().for_each(|line| lines.first(line, Style::new()));
        return;
    }
    let room = match area.height {
        ..6 => 0,
        6..DETAILS_FROM => 1,
        DETAILS_FROM..40 => 2,
        _ => 4,
    };
    // Where there is one line, a hint without its warning helps nobody.
    let is_worth = |message: &&String| room > 1 || !message.starts_with("hint: ");
    for message in model.messages.iter().rev().filter(is_worth).take(room) {
        lines.last(message, Style::new());
    }
    if area.height >= DETAILS_FROM
        && let Some(forward) = model.selected()
    {
        details(model, forward, now).iter().rev().for_each(|line| lines.last(line, Style::new()));
        lines.last("", Style::new());
    }
    table(model, look, now, lines.left(), buffer);
}

/// Lines from above and from below.
struct Lines<'a> {
    buffer: &'a mut Buffer,
    top: u16,
    bottom: u16,
}

impl Lines<'_> {
    fn first(&mut self, text: &str, style: Style) {
        if self.top < self.bottom {
            self.put(self.top, text, style);
            self.top += 1;
        }
    }

    fn last(&mut self, text: &str, style: Style) {
        // A line of the table and its head stay.
        if self.top + 2 < self.bottom {
            self.bottom -= 1;
            self.put(self.bottom, text, style);
        }
    }

    fn put(&mut self, row: u16, text: &str, style: Style) {
        let width = usize::from(self.buffer.area.width);
        self.buffer.set_stringn(self.buffer.area.left(), row, cut(text, width), width, style);
    }

    fn left(&self) -> Rect {
        Rect { y: self.top, height: self.bottom.saturating_sub(self.top), ..self.buffer.area }
    }
}

/// As much as fits, with a sign where something is missing.
pub(super) fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let kept: String = text.chars().take(width.saturating_sub(1)).collect();
    if width == 0 { kept } else { format!("{kept}~") }
}

/// How many there are in each state.
pub(super) fn sums(model: &Model) -> String {
    let forwards = model.forwards();
    if model.snapshot.is_none() {
        return "looking".into();
    }
    let count = |state| forwards.iter().filter(|forward| forward.state == state).count();
    let mut text = format!("{} of {} ready", count(ForwardState::Ready), forwards.len());
    for state in
        [ForwardState::Starting, ForwardState::Reconnecting, ForwardState::Failed, ForwardState::Stopped]
    {
        match count(state) {
            0 => {}
            some => text += &format!(", {some} {}", state.as_str()),
        }
    }
    text
}

/// Everything about the selected forward that has no column, or no room in it.
fn details(model: &Model, forward: &ForwardSnapshot, now: Timestamp) -> [String; 3] {
    let local: Vec<String> = forward.local.iter().map(ToString::to_string).collect();
    let listens = if local.is_empty() { "nowhere".into() } else { local.join(", ") };
    let part = |label: &str, value: &Option<String>| {
        value.as_ref().map(|value| format!(", {label} {value}")).unwrap_or_default()
    };
    let what = format!(
        "{listens} -> {}:{}/{} in {}{}{}{}",
        forward.target,
        forward.remote_port,
        forward.protocol,
        forward.namespace,
        part("context", &forward.context),
        part("name", &forward.name),
        part("group", &forward.group),
    );
    let error = match (&forward.last_error, &forward.reason) {
        (_, Some(reason)) => format!("{}: {reason}", forward.state.as_str()),
        (Some(error), None) => format!("last error, {} ago: {}", ago(error.time, now), error.message),
        (None, None) => "no error so far".into(),
    };
    let agents = model.snapshot.iter().flat_map(|snapshot| &snapshot.agents);
    let agent =
        agents.into_iter().find(|agent| agent.id == forward.agent).map_or_else(String::new, |agent| {
            let pod = agent.pod.as_deref().unwrap_or("no pod yet");
            let latency = agent.latency_millis.map(|time| format!(", {}", millis(time))).unwrap_or_default();
            let lanes = match agent.lanes {
                1 => "1 lane".to_owned(),
                lanes => format!("{lanes} lanes"),
            };
            format!("agent {pod} in {}: {}, {lanes}{latency}", agent.namespace, agent.state.as_str())
        });
    [what, error, agent]
}

#[cfg(test)]
mod tests;
