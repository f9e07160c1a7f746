//! What each key means.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::{Command, model::Model};

/// Further than any list.
const END: isize = isize::MAX / 2;
/// What a page is.
const PAGE: isize = 10;

/// What comes of a key.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Done {
    /// Nothing that is seen.
    Nothing,
    /// Something is seen.
    Seen,
    /// Whoever keeps the forwards is to do something.
    Ask(Command),
    /// The address is to be in the clipboard.
    Copy(String),
    /// It is enough.
    Quit,
}

/// What a key does.
pub(super) fn press(model: &mut Model, key: KeyEvent) -> Done {
    if key.kind == KeyEventKind::Release {
        return Done::Nothing;
    }
    if key.modifiers.contains(KeyModifiers::CONTROL) {
        return if key.code == KeyCode::Char('c') { Done::Quit } else { Done::Nothing };
    }
    if std::mem::take(&mut model.shows_help) {
        // Whatever it is, it ends the help first.
        return if key.code == KeyCode::Char('q') { Done::Quit } else { Done::Seen };
    }
    let go = |model: &mut Model, by| {
        model.go(by);
        Done::Seen
    };
    match key.code {
        KeyCode::Up | KeyCode::Char('k') => go(model, -1),
        KeyCode::Down | KeyCode::Char('j') => go(model, 1),
        KeyCode::PageUp => go(model, -PAGE),
        KeyCode::PageDown => go(model, PAGE),
        KeyCode::Home => go(model, -END),
        KeyCode::End => go(model, END),
        KeyCode::Char('s') => model.stop_or_start().map_or(Done::Nothing, Done::Ask),
        KeyCode::Char('r') => model.restart().map_or(Done::Nothing, Done::Ask),
        KeyCode::Char('c') => copy(model),
        KeyCode::Char('?' | 'h') => {
            model.shows_help = true;
            Done::Seen
        }
        KeyCode::Char('q') => Done::Quit,
        _ => Done::Nothing,
    }
}

fn copy(model: &mut Model) -> Done {
    let Some(forward) = model.selected() else { return Done::Nothing };
    match forward.local.first() {
        Some(address) => {
            let address = address.to_string();
            model.say(&format!("{address} is copied, where the terminal takes it"));
            Done::Copy(address)
        }
        None => {
            let message = format!("{} listens nowhere", forward.target);
            model.say(&message);
            Done::Seen
        }
    }
}
