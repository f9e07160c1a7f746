//! The terminal while the view has it, and as it was before.

use std::{
    io::{self, Write},
    panic,
    sync::atomic::{AtomicBool, Ordering},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ratatui::{
    Terminal,
    backend::CrosstermBackend,
    buffer::Buffer,
    crossterm::{
        cursor, execute,
        terminal::{EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode},
    },
};

/// Whether there is something to give back: also a panic may have to, and only once.
static IS_OURS: AtomicBool = AtomicBool::new(false);

/// The whole of the terminal; given back when dropped, and before a panic is told.
pub(super) struct Screen {
    terminal: Terminal<CrosstermBackend<io::Stdout>>,
    last: Option<Buffer>,
}

impl Screen {
    /// Takes the terminal.
    pub(super) fn take() -> io::Result<Self> {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            give_back();
            before(info);
        }));
        enable_raw_mode()?;
        IS_OURS.store(true, Ordering::SeqCst);
        let screen = (|| {
            execute!(io::stdout(), EnterAlternateScreen, cursor::Hide)?;
            Terminal::new(CrosstermBackend::new(io::stdout()))
        })();
        match screen {
            Ok(terminal) => Ok(Self { terminal, last: None }),
            Err(error) => {
                give_back();
                Err(error)
            }
        }
    }

    /// Draws what differs from what is there; writes nothing where nothing does.
    pub(super) fn draw(&mut self, draw: impl FnOnce(&mut Buffer)) -> io::Result<()> {
        let size = self.terminal.size()?;
        let mut next = Buffer::empty(ratatui::layout::Rect::from(((0, 0).into(), size)));
        draw(&mut next);
        if self.last.as_ref() == Some(&next) {
            return Ok(());
        }
        self.terminal.draw(|frame| {
            let buffer = frame.buffer_mut();
            // It may have changed its size since.
            if buffer.area == next.area {
                buffer.clone_from(&next);
            }
        })?;
        self.last = Some(next);
        Ok(())
    }

    /// Asks the terminal to put a text into the clipboard of whoever sits before it, however far away that is (OSC 52).
    pub(super) fn copy(&mut self, text: &str) -> io::Result<()> {
        let mut stdout = io::stdout();
        write!(stdout, "\x1b]52;c;{}\x07", STANDARD.encode(text))?;
        stdout.flush()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        give_back();
    }
}

fn give_back() {
    if IS_OURS.swap(false, Ordering::SeqCst) {
        // A terminal that is gone needs nothing.
        let _ = execute!(io::stdout(), cursor::Show, LeaveAlternateScreen);
        let _ = disable_raw_mode();
    }
}
