//! `relay-server`: the agent's command.

use std::process::ExitCode;

use anyhow::Context;
use relay_dial::Resolver;
use relay_server::agent::{Agent, Exit};
use relay_server::settings::{Limits, Settings};
use relay_server::{listen, log};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{error, info, warn};

/// The C library's allocator gives buffers back to the system and takes them anew at every turn, which costs more than
/// what they are filled with.
#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

fn main() -> ExitCode {
    let settings = match Settings::parse(std::env::args().skip(1)) {
        Ok(settings) => settings,
        Err(message) => {
            log::start(0);
            error!("{message}");
            return ExitCode::from(2);
        }
    };
    log::start(settings.verbosity);
    raise_file_limit();
    // One thread: the agent copies bytes, and a second one would cost memory in every pod.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let result = runtime.context("no runtime").and_then(|runtime| runtime.block_on(run(&settings)));
    match result {
        Ok(code) => code,
        Err(error) => {
            error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(settings: &Settings) -> anyhow::Result<ExitCode> {
    if settings.health {
        let healthy = listen::health(settings.port).await;
        return Ok(if healthy { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    for argument in &settings.unknown {
        warn!(argument, "unknown argument skipped");
    }
    let (terminate, interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let listeners = listen::bind(settings.port)
        .await
        .with_context(|| format!("cannot listen on port {} of the loopback address", settings.port))?;
    for listener in &listeners {
        info!(version = env!("CARGO_PKG_VERSION"), "listening on {}", listener.local_addr()?);
    }
    let agent = Agent::new(listeners, settings, Limits::default(), Resolver::from_system())?;
    match agent.run(first(terminate, interrupt)).await {
        Exit::Idle => info!("ending: nothing to do for {:?}", settings.idle.unwrap_or_default()),
        Exit::Stopped => info!("ending: told to"),
        Exit::Goodbye => info!("ending: the client said goodbye"),
    }
    Ok(ExitCode::SUCCESS)
}

/// Each stream and flow holds a file, and without any left no lane comes back: containers often start with few.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        warn!(%error, "limit of open files not raised");
    }
}

async fn first(mut one: Signal, mut other: Signal) {
    tokio::select! {
        _ = one.recv() => {}
        _ = other.recv() => {}
    }
}
