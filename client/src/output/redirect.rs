//! While a view has the terminal, what is said goes into the view.

use std::{
    io::{self, Write},
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::mpsc;

use super::{
    Output,
    sink::{Said, Sink},
};

/// Gives the terminal back when dropped.
pub(crate) struct Redirected {
    sink: Arc<Mutex<Sink>>,
    before: Option<Said>,
}

impl Output {
    /// Sends every message there, by lines, and no result anywhere: the view shows what they are about. What there is no
    /// room for is dropped.
    pub(crate) fn redirect(&self, to: mpsc::Sender<String>) -> Redirected {
        let messages = Messages { to, line: Vec::new() };
        let before = self.sink().exchange(Said::to(Box::new(io::sink()), Box::new(messages)));
        Redirected { sink: Arc::clone(&self.sink), before: Some(before) }
    }
}

impl Drop for Redirected {
    fn drop(&mut self) {
        if let Some(before) = self.before.take() {
            self.sink.lock().unwrap_or_else(PoisonError::into_inner).exchange(before);
        }
    }
}

struct Messages {
    to: mpsc::Sender<String>,
    line: Vec<u8>,
}

impl Write for Messages {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for byte in bytes {
            if *byte == b'\n' {
                let line = std::mem::take(&mut self.line);
                let _ = self.to.try_send(String::from_utf8_lossy(&line).into_owned());
            } else {
                self.line.push(*byte);
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::captured;

    #[test]
    fn what_is_said_goes_to_the_view_and_afterwards_to_the_terminal() {
        let (output, out, err) = captured(false);
        let (sender, mut messages) = tokio::sync::mpsc::channel(2);
        let redirected = output.redirect(sender);
        output.about_context("one").warning("w", Some("h"));
        output.answer("a result");
        output.note("there is no room for it");
        assert_eq!(messages.try_recv().unwrap(), "warning: context one: w");
        assert_eq!(messages.try_recv().unwrap(), "hint: h");
        assert!(messages.try_recv().is_err());
        assert_eq!((out.text(), err.text()), (String::new(), String::new()));
        drop(redirected);
        output.answer("result");
        output.note("n");
        assert_eq!((out.text(), err.text()), ("result\n".into(), "note: n\n".into()));
    }
}
