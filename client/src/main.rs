//! `kubectl relay`: reads the command line, runs, ends with the right exit code.

use std::{io::Write, process::ExitCode, sync::Arc};

use anyhow::Context;
use kubectl_relay::{
    cli::{args::Args, misuse, settings::Settings},
    completion,
    error::Error,
    output::{Output, Style},
    run::run,
    view::Kind,
};
use tracing_subscriber::EnvFilter;

/// System allocators give buffers back and take them anew at every turn, which costs more than what they are filled
/// with.
#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

fn main() -> ExitCode {
    if std::env::args_os().next().is_some_and(|program| completion::is_helper(&program)) {
        return complete();
    }
    let args = match Args::read(std::env::args_os()) {
        Ok(args) => args,
        Err(error) => {
            if error.use_stderr() {
                let (sentence, hint) = misuse::told(&error);
                Output::new(false, 0).error(&sentence, Some(&hint));
            } else {
                // `--help`; a closed pipe is no reason to panic.
                let _ = error.print();
            }
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let output = Arc::new(args.terminal());
    // Logs would run across a view.
    if args.view() != Some(Kind::Screen) {
        log_to_stderr(args.verbosity);
    }
    match start(args, Arc::clone(&output)) {
        Ok(Ok(code)) => ExitCode::from(code),
        Ok(Err(error)) => {
            output.error(&error.to_string(), Some(&error.hint()));
            ExitCode::from(error.exit_code())
        }
        Err(error) => {
            output.error(&format!("{error:#}"), None);
            ExitCode::FAILURE
        }
    }
}

fn start(mut args: Args, output: Arc<Output>) -> anyhow::Result<Result<u8, Error>> {
    if let Some(verb) = args.verb.take() {
        return block_on(verb.run(args.cluster, &output));
    }
    let settings = match Settings::from_args(args) {
        Ok(settings) => settings,
        Err(error) => return Ok(Err(error.into())),
    };
    block_on(run(settings, output))
}

/// Tells kubectl how a word may go on. Whatever is wrong, a prompt is no place to say it.
fn complete() -> ExitCode {
    #[cfg(unix)]
    if let Ok(nowhere) = std::fs::File::options().write(true).open("/dev/null") {
        // A credential plugin writes there too.
        let _ = rustix::stdio::dup2_stderr(nowhere);
    }
    let words: Vec<String> =
        std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned()).collect();
    let Ok(answer) = block_on(completion::answer(&words, completion::Cluster::open)) else {
        return ExitCode::FAILURE;
    };
    let _ = std::io::stdout().write_all(answer.as_bytes());
    ExitCode::SUCCESS
}

fn block_on<T>(work: impl Future<Output = T>) -> anyhow::Result<T> {
    // One thread moves bytes faster than several that wake each other for every piece.
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
    let outcome = runtime.block_on(work);
    runtime.shutdown_background(); // a system resolver that blocks must not hold the end up
    Ok(outcome)
}

fn log_to_stderr(verbosity: u8) {
    let own = match verbosity {
        0 | 1 => "error",
        2 | 3 => "info",
        4 | 5 => "debug",
        _ => "trace",
    };
    let others = match verbosity {
        0..=5 => "error",
        6 | 7 => "debug",
        _ => "trace",
    };
    let filter =
        format!("{others},kubectl_relay={own},relay_transport={own},relay_tunnel={own},relay_protocol={own}");
    // Without logs there is still the program.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(filter))
        .with_ansi(Style::of_stderr().has_colours())
        .with_writer(|| Quiet)
        .try_init();
}

/// stderr that may be closed.
struct Quiet;

impl Write for Quiet {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        Ok(std::io::stderr().write(bytes).unwrap_or(bytes.len()))
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
