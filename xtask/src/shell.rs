//! Running other programs and saying what goes on.

use std::io::{IsTerminal, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// Says what is being done, on stderr: stdout belongs to results.
pub(crate) fn say(text: impl AsRef<str>) {
    eprintln!("{}", text.as_ref());
}

/// Does one step and says how long it took if that is worth saying.
pub(crate) fn step<T>(title: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let start = Instant::now();
    // On a terminal the line is written over when the step is done.
    let rewrite = if std::io::stderr().is_terminal() {
        eprint!("  {title} …");
        let _ = std::io::stderr().flush();
        "\r\x1b[K"
    } else {
        eprintln!("  {title} …");
        ""
    };
    match work() {
        Ok(value) => {
            eprintln!("{rewrite}  ✓ {title} ({:.1} s)", start.elapsed().as_secs_f32());
            Ok(value)
        }
        Err(error) => {
            eprintln!("{rewrite}  ✗ {title}");
            Err(error.context(format!("{title} failed")))
        }
    }
}

/// Runs a program with its output shown.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| not_started(command))?;
    if !status.success() {
        bail!("`{}` ended with {status}", line(command));
    }
    Ok(())
}

/// Runs a program and gives its standard output; its errors are part of ours when it fails.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| not_started(command))?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        bail!("`{}` ended with {}: {}", line(command), output.status, text.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Whether a program ran and ended well; its output is thrown away.
pub(crate) fn succeeds(command: &mut Command) -> bool {
    let quiet = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    quiet.status().is_ok_and(|status| status.success())
}

/// Asks again and again until there is an answer; the last refusal is the error when time is up.
pub(crate) fn until<T>(limit: Duration, mut ask: impl FnMut() -> Result<T>) -> Result<T> {
    let start = Instant::now();
    loop {
        match ask() {
            Ok(value) => return Ok(value),
            Err(error) if start.elapsed() > limit => {
                return Err(error.context(format!("not within {} s", limit.as_secs())));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(100)),
        }
    }
}

/// A command as somebody would type it.
pub(crate) fn line(command: &Command) -> String {
    let mut text = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        text.push(' ');
        text.push_str(&argument.to_string_lossy());
    }
    text
}

fn not_started(command: &Command) -> String {
    format!("cannot run `{}`; is it installed and in PATH?", command.get_program().to_string_lossy())
}
