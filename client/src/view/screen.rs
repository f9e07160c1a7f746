//! The view on a terminal: waits for what is new and for keys, and draws once a second at most, but for keys.

use std::{io, thread};

use ratatui::crossterm::event::{self, Event};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};

use super::{
    Commands, Source, ViewError,
    draw::{Look, draw},
    keys::{Done, press},
    model::Model,
    terminal::Screen,
    text::TICK,
};

/// Keys that wait to be looked at; the terminal keeps the rest.
const KEYS: usize = 16;

/// Shows until it is enough.
pub(super) async fn show(
    mut source: impl Source,
    commands: Commands,
    mut messages: mpsc::Receiver<String>,
) -> Result<(), ViewError> {
    let mut screen = Screen::take()?;
    let mut events = events();
    let (look, mut model) = (Look::of_this_process(), Model::default());
    let (mut drawn, mut is_due) = (None::<Instant>, true);
    loop {
        let at = drawn.map_or_else(Instant::now, |drawn| drawn + TICK);
        tokio::select! {
            // A key is answered at once, whatever else there is.
            biased;
            event = events.recv() => match event {
                None => return Ok(()),
                Some(Err(error)) => return Err(error.into()),
                Some(Ok(Event::Key(key))) => match press(&mut model, key) {
                    Done::Nothing => continue,
                    Done::Seen => {}
                    // Who is asked tells by the forward's state what came of it.
                    Done::Ask(command) => drop(commands.try_send(command)),
                    Done::Copy(text) => screen.copy(&text)?,
                    Done::Quit => return Ok(()),
                },
                Some(Ok(Event::Resize(..))) => {}
                Some(Ok(_)) => continue,
            },
            () = sleep_until(at), if is_due => {}
            Some(message) = messages.recv() => {
                model.say(&message);
                is_due = true;
                continue;
            }
            snapshot = source.next() => match snapshot? {
                Some(snapshot) => {
                    model.update(snapshot, Instant::now());
                    is_due = true;
                    continue;
                }
                None => return Ok(()),
            },
        }
        screen.draw(|buffer| draw(&model, look, jiff::Timestamp::now(), buffer))?;
        (drawn, is_due) = (Some(Instant::now()), false);
    }
}

/// Keys and sizes, from a thread that ends with the process: reading a terminal can only wait.
fn events() -> mpsc::Receiver<io::Result<Event>> {
    let (sender, events) = mpsc::channel(KEYS);
    thread::spawn(move || {
        loop {
            let event = event::read();
            let is_over = event.is_err();
            if sender.blocking_send(event).is_err() || is_over {
                return;
            }
        }
    });
    events
}
