//! A terminal with a program in its foreground, as somebody at a keyboard has it.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::num::NonZeroU16;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::fs::OFlags;
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::kubectl::admin_kubeconfig;
use crate::relay::Relay;

/// Ctrl-C, as the keyboard sends it.
pub const CTRL_C: &str = "\x03";
/// Ctrl-Z.
pub const CTRL_Z: &str = "\x1a";
/// `Ctrl-\`.
pub const CTRL_BACKSLASH: &str = "\x1c";

const ROWS: NonZeroU16 = NonZeroU16::new(24).unwrap();

/// A terminal; its program is killed when it is dropped.
pub struct Terminal {
    keyboard: File,
    columns: u16,
    child: Child,
    screen: Arc<Mutex<String>>,
    reader: Option<JoinHandle<()>>,
}

impl Terminal {
    /// Runs the plugin as the administrator in a terminal of its own, a dumb one: nothing moves the cursor.
    pub fn run(args: &[&str]) -> Self {
        Self::run_in(80, &[("TERM", "dumb")], args)
    }

    /// As [`Terminal::run`], in a terminal that knows colours, of so many columns, and with this in the environment.
    pub fn run_in(columns: u16, environment: &[(&str, &str)], args: &[&str]) -> Self {
        let keyboard = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&keyboard).unwrap();
        unlockpt(&keyboard).unwrap();
        let name = ptsname(&keyboard, Vec::new()).unwrap().into_string().unwrap();
        let flags = OFlags::NOCTTY.bits().cast_signed();
        let line = OpenOptions::new().read(true).write(true).custom_flags(flags).open(name).unwrap();
        tcsetwinsize(&line, Winsize { ws_col: columns, ws_row: ROWS.get(), ws_xpixel: 0, ws_ypixel: 0 })
            .unwrap();
        let child = Command::new("setsid")
            .arg("--ctty")
            .arg(Relay::program())
            .args(args)
            .env("KUBECONFIG", admin_kubeconfig())
            .env("TERM", "xterm")
            .env_remove("NO_COLOR")
            .envs(environment.iter().copied())
            .stdin(line.try_clone().unwrap())
            .stdout(line.try_clone().unwrap())
            .stderr(line)
            .spawn()
            .expect("setsid, of util-linux, runs");
        let keyboard = File::from(keyboard);
        let (screen, mut shown) = (Arc::<Mutex<String>>::default(), keyboard.try_clone().unwrap());
        let sink = screen.clone();
        let reader = Some(thread::spawn(move || {
            let mut buffer = [0; 4096];
            // An error is the end: nobody has the terminal open any more.
            while let Ok(len @ 1..) = shown.read(&mut buffer) {
                sink.lock().unwrap().push_str(&String::from_utf8_lossy(&buffer[..len]));
            }
        }));
        Self { keyboard, columns, child, screen, reader }
    }

    /// Types.
    pub fn keys(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).unwrap();
    }

    /// Sends its program a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().cast_signed()).expect("a process id");
        kill_process(pid, signal).expect("the program runs");
    }

    /// Everything shown so far.
    pub fn screen(&self) -> String {
        self.screen.lock().unwrap().clone()
    }

    /// What somebody sees who looks at it now. A view draws only what has changed, here and there, so that no text needs to
    /// be whole in [`Terminal::screen`].
    pub fn picture(&self) -> String {
        let columns = NonZeroU16::new(self.columns).expect("a terminal has columns");
        let mut terminal = vt100::Parser::new(ROWS, columns, 0);
        terminal.process(self.screen().as_bytes());
        terminal.screen().contents()
    }

    /// Waits until a text has been shown.
    pub fn wait_for(&self, text: &str, limit: Duration) {
        Self::wait_in(text, limit, || self.screen());
    }

    /// Waits until a text can be seen.
    pub fn wait_to_see(&self, text: &str, limit: Duration) {
        Self::wait_in(text, limit, || self.picture());
    }

    fn wait_in(text: &str, limit: Duration, shown: impl Fn() -> String) {
        let since = Instant::now();
        while !shown().contains(text) {
            assert!(since.elapsed() < limit, "{text:?} is not shown within {limit:?}:\n{}", shown());
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits for the program's end; gives its exit code and everything shown.
    pub fn end(mut self, limit: Duration) -> (i32, String) {
        let since = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(since.elapsed() < limit, "still running after {limit:?}:\n{}", self.screen());
            thread::sleep(Duration::from_millis(5));
        };
        self.reader.take().expect("joined once").join().expect("the reader of the terminal");
        let code = status.code().unwrap_or_else(|| panic!("ended by signal {:?}", status.signal()));
        (code, self.screen())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
