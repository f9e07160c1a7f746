use std::{fs, path::Path, time::Duration};

use ratatui::{
    Terminal,
    backend::TestBackend,
    buffer::Cell,
    crossterm::event::{KeyCode, KeyEvent, KeyModifiers},
};
use tokio::time::Instant;

use super::*;
use crate::{
    ledger::{AgentOrigin, AgentSnapshot, AgentState, Bytes, Connections, Failure, Snapshot, VERSION},
    view::{
        Command,
        keys::{Done, press},
    },
};

const PLAIN: Look = Look { has_colours: false, is_utf8: false };

fn start() -> Timestamp {
    "2030-01-01T12:00:00Z".parse().unwrap()
}

fn after(seconds: i64) -> Timestamp {
    Timestamp::from_second(start().as_second() + seconds).unwrap()
}

/// One of thirty, in each state some, `seconds` after the start.
fn forward(number: u64, seconds: u64) -> ForwardSnapshot {
    let state = match number {
        4 => ForwardState::Starting,
        7 => ForwardState::Reconnecting,
        11 => ForwardState::Stopped,
        13 => ForwardState::Failed,
        _ => ForwardState::Ready,
    };
    let local = format!("127.0.0.1:{}", 8000 + number).parse().unwrap();
    let reason = match state {
        ForwardState::Reconnecting => Some("the connection to the cluster was lost".into()),
        ForwardState::Failed => Some("pod db-0 is gone".into()),
        _ => None,
    };
    let refused = Failure { time: start(), message: "connection refused".into() };
    let moved = number * number * 1000 * seconds;
    ForwardSnapshot {
        id: number,
        name: (number == 5).then(|| "db".into()),
        group: None,
        context: Some("one".into()),
        namespace: if number.is_multiple_of(3) { "a-long-name-of-a-namespace" } else { "dev" }.into(),
        target: format!("svc/web-{number}"),
        local: if state == ForwardState::Stopped { vec![] } else { vec![local] },
        remote_port: 80,
        protocol: if number == 9 { "udp" } else { "tcp" }.into(),
        state,
        since: start(),
        reason,
        connections: Connections { open: number % 4, total: number * 100, failed: number % 3 },
        bytes: Bytes { sent: moved / 10, received: moved },
        latency_millis: Some(1.26),
        last_error: (!number.is_multiple_of(3)).then_some(refused),
        agent: 100,
    }
}

fn thirty(seconds: u64) -> Snapshot {
    let agent = AgentSnapshot {
        id: 100,
        context: Some("one".into()),
        namespace: "dev".into(),
        pod: Some("kubectl-relay-abcde".into()),
        source: Some(AgentOrigin::Image),
        state: AgentState::Ready,
        since: start(),
        reason: None,
        lanes: 2,
        latency_millis: Some(1.26),
    };
    Snapshot {
        proxy: None,
        version: VERSION,
        pid: 1,
        started: start(),
        forwards: (1..=30).map(|number| forward(number, seconds)).collect(),
        agents: vec![agent],
    }
}

/// Looked at for eight seconds.
fn model() -> Model {
    let (mut model, at) = (Model::default(), Instant::now());
    for (seconds, moved) in [0, 1, 3, 4, 4, 5, 9, 10, 14].into_iter().enumerate() {
        model.update(thirty(moved), at + Duration::from_secs(seconds as u64));
    }
    model
}

fn shown(model: &Model, look: Look, width: u16, height: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(model, look, after(125), frame.buffer_mut())).unwrap();
    let buffer = terminal.backend().buffer();
    let line = |y: u16| -> String { (0..width).map(|x| buffer[(x, y)].symbol()).collect() };
    (0..height).map(|y| format!("|{}|\n", line(y))).collect()
}

fn is_as_before(name: &str, shown: &str) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/view/draw/shown").join(name);
    if env::var_os("RELAY_UPDATE").is_some() {
        fs::write(&file, shown).unwrap();
    }
    let before = fs::read_to_string(&file).unwrap();
    assert_eq!(shown, before, "differs from {}; RELAY_UPDATE=1 writes it anew", file.display());
}

#[test]
fn thirty_forwards_fit_every_terminal() {
    let mut model = model();
    model.say("warning: svc/web-2: nothing listens on port 80 of 10.0.0.1\nhint: check the port");
    for (width, height) in [(20, 10), (40, 10), (80, 24), (200, 50)] {
        is_as_before(&format!("{width}x{height}.txt"), &shown(&model, PLAIN, width, height));
    }
    let utf8 = Look { is_utf8: true, ..PLAIN };
    assert!(shown(&model, utf8, 80, 24).contains('\u{2588}'));
}

#[test]
fn no_size_is_too_small_and_none_too_large() {
    let (empty, model) = (Model::default(), model());
    for width in (0..30).chain([79, 99, 100, 101, 500]) {
        for height in (0..12).chain([16, 300]) {
            shown(&empty, PLAIN, width, height);
            let shown = shown(&model, PLAIN, width, height);
            let is_there = shown.lines().any(|line| line.starts_with("|> ") && line.contains("8001"));
            assert!(width < 20 || height < 4 || is_there, "{width}x{height}:\n{shown}");
        }
    }
}

#[test]
fn a_state_is_a_word_and_a_colour_is_only_its_company() {
    let draw_with = |has_colours| {
        let mut buffer = Buffer::empty(Rect::new(0, 0, 80, 40));
        draw(&model(), Look { has_colours, ..PLAIN }, after(125), &mut buffer);
        buffer
    };
    let (coloured, plain) = (draw_with(true), draw_with(false));
    let has_colour = |buffer: &Buffer| buffer.content.iter().any(|cell| cell.fg != Color::Reset);
    assert!(has_colour(&coloured) && !has_colour(&plain));
    let symbols = |buffer: &Buffer| -> String { buffer.content.iter().map(Cell::symbol).collect() };
    assert_eq!(symbols(&coloured), symbols(&plain));
    for state in ForwardState::ALL {
        assert!(symbols(&plain).contains(state.as_str()), "{state:?}");
    }
}

#[test]
fn control_characters_of_a_message_do_not_reach_the_terminal() {
    let mut model = model();
    model.say("warning: \u{1b}[2Jboo\u{7}");
    let mut buffer = Buffer::empty(Rect::new(0, 0, 80, 24));
    draw(&model, PLAIN, after(0), &mut buffer);
    assert!(buffer.content.iter().all(|cell| !cell.symbol().contains(char::is_control)));
}

#[test]
fn keys_choose_and_ask() {
    let mut model = model();
    let key = |code| KeyEvent::new(code, KeyModifiers::NONE);
    let mut pressed = |code| press(&mut model, key(code));
    assert_eq!(pressed(KeyCode::Up), Done::Seen);
    assert_eq!(pressed(KeyCode::Char('s')), Done::Ask(Command::Stop(1)));
    assert_eq!(pressed(KeyCode::PageDown), Done::Seen);
    assert_eq!(pressed(KeyCode::Char('s')), Done::Ask(Command::Start(11)));
    assert_eq!(pressed(KeyCode::Char('c')), Done::Seen, "a stopped one has no address");
    assert_eq!(pressed(KeyCode::End), Done::Seen);
    assert_eq!(pressed(KeyCode::Down), Done::Seen);
    assert_eq!(pressed(KeyCode::Char('r')), Done::Ask(Command::Restart(30)));
    assert_eq!(pressed(KeyCode::Char('c')), Done::Copy("127.0.0.1:8030".into()));
    assert_eq!(pressed(KeyCode::Char('x')), Done::Nothing);
    assert_eq!(pressed(KeyCode::Char('?')), Done::Seen);
    assert_eq!(pressed(KeyCode::Down), Done::Seen, "ends the help and does nothing else");
    assert_eq!(pressed(KeyCode::Char('q')), Done::Quit);
    let interrupt = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
    assert_eq!(press(&mut model, interrupt), Done::Quit);
    assert_eq!(model.place(), Some(29));
    // What was selected goes: the last one is selected, not the first.
    let mut fewer = thirty(20);
    fewer.forwards.truncate(10);
    model.update(fewer, Instant::now() + Duration::from_secs(60));
    assert_eq!(model.place(), Some(9));
}

#[test]
fn the_help_fits_where_there_is_room_and_tells_every_key() {
    let mut model = model();
    model.shows_help = true;
    let shown = shown(&model, PLAIN, 60, 12);
    for key in ["s ", "r ", "c ", "q, Ctrl-C", "up, down"] {
        assert!(shown.contains(&format!("|{key}")), "{key} in:\n{shown}");
    }
}
