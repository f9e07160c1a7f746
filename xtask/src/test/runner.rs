//! Runs programs so that a signal ends them and not us: what was set up is always taken down.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process_group};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::shell::line;

/// How many tests ran.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Count {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
}

/// Runs one program at a time, each in a process group of its own.
pub(crate) struct Runner {
    interrupted: Arc<AtomicBool>,
    /// The running program's group; 0 when none runs.
    group: Arc<AtomicI32>,
    /// Held for writing while a program starts, so that a signal finds either none or its group.
    starting: Arc<RwLock<()>>,
}

impl Runner {
    /// From here on SIGINT, SIGTERM and SIGHUP go to the running program; a second one kills it.
    pub(crate) fn new() -> Result<Self> {
        let runner = Self { interrupted: Arc::default(), group: Arc::default(), starting: Arc::default() };
        let (interrupted, group, starting) =
            (runner.interrupted.clone(), runner.group.clone(), runner.starting.clone());
        let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).context("take signals")?;
        std::thread::spawn(move || {
            for _ in signals.forever() {
                let again = interrupted.swap(true, Ordering::SeqCst);
                let _started = starting.read().unwrap_or_else(PoisonError::into_inner);
                let signal = if again { Signal::KILL } else { Signal::TERM };
                if let Some(group) = Pid::from_raw(group.load(Ordering::SeqCst)) {
                    let _ = kill_process_group(group, signal);
                }
            }
        });
        Ok(runner)
    }

    /// Whether somebody wants this run to end.
    pub(crate) fn interrupted(&self) -> bool {
        self.interrupted.load(Ordering::SeqCst)
    }

    /// Runs a program to its end.
    pub(crate) fn run(&self, command: &mut Command) -> Result<()> {
        self.watch(command, None)
    }

    /// Runs `cargo test`, shows what it says, and adds up the results that it reports.
    pub(crate) fn count(&self, command: &mut Command, count: &mut Count) -> Result<()> {
        let before = *count;
        self.watch(command.stdout(Stdio::piped()), Some(count))?;
        if *count == before {
            bail!("`{}` ran no test", line(command));
        }
        Ok(())
    }

    fn watch(&self, command: &mut Command, count: Option<&mut Count>) -> Result<()> {
        let shown = line(command);
        let mut child = {
            let _starting = self.starting.write().unwrap_or_else(PoisonError::into_inner);
            if self.interrupted() {
                bail!("interrupted before `{shown}`");
            }
            let child = command.stdin(Stdio::null()).process_group(0).spawn();
            let child = child.with_context(|| format!("cannot run `{shown}`; is it installed?"))?;
            self.group.store(i32::try_from(child.id())?, Ordering::SeqCst);
            child
        };
        let read = match (child.stdout.take(), count) {
            (Some(stdout), Some(count)) => show_and_count(stdout, count),
            _ => Ok(()),
        };
        let status = child.wait();
        self.group.store(0, Ordering::SeqCst);
        read?;
        let status = status?;
        if !status.success() {
            bail!("`{shown}` ended with {status}");
        }
        Ok(())
    }
}

fn show_and_count(stdout: impl Read, count: &mut Count) -> Result<()> {
    for text in BufReader::new(stdout).split(b'\n') {
        let text = text?;
        let text = String::from_utf8_lossy(&text);
        if let Some(result) = parse(&text) {
            count.passed += result.passed;
            count.failed += result.failed;
        }
        writeln!(std::io::stdout(), "{text}")?;
    }
    Ok(())
}

/// The line with which a Rust test program ends.
fn parse(line: &str) -> Option<Count> {
    let (_, rest) = line.trim_start().strip_prefix("test result: ")?.split_once(". ")?;
    let number = |word: &str| {
        let part = rest.split(';').find(|part| part.trim().ends_with(word))?;
        part.split_whitespace().next()?.parse().ok()
    };
    Some(Count { passed: number("passed")?, failed: number("failed")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_read_from_what_cargo_says() {
        let line =
            "test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 3 filtered out; finished in 0.02s";
        assert_eq!(parse(line), Some(Count { passed: 12, failed: 0 }));
        let line = "test result: FAILED. 7 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out";
        assert_eq!(parse(line), Some(Count { passed: 7, failed: 2 }));
        assert_eq!(parse("running 12 tests"), None);
        assert_eq!(parse("test result: odd"), None);
    }

    #[test]
    fn a_failing_program_is_an_error() {
        let runner = Runner::new().unwrap();
        assert!(runner.run(&mut Command::new("true")).is_ok());
        assert!(runner.run(&mut Command::new("false")).is_err());
        assert!(runner.run(&mut Command::new("/no/such/program")).is_err());
    }
}
