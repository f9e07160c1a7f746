//! `relay-server`: the agent's command.

use std::process::ExitCode;

use anyhow::Context;
use futures_util::future::select_all;
use relay_dial::Resolver;
use relay_observe::Ledger;
use relay_server::agent::{Agent, Exit, Listeners};
use relay_server::settings::{Limits, Settings};
use relay_server::{listen, log};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{error, info, warn};

/// The C library's allocator gives buffers back to the system and takes them anew at every turn, which costs more than
/// what they are filled with.
#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

/// What asks the agent to end: the stop signal is the image's, and the agent may run under somebody else's.
const STOP: [SignalKind; 6] = [
    SignalKind::terminate(),
    SignalKind::interrupt(),
    SignalKind::quit(),
    SignalKind::hangup(),
    SignalKind::user_defined1(),
    SignalKind::window_change(),
];

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
    // One thread: the agent copies bytes, and a second one would cost memory in every pod. A shared agent gives each
    // session one, and this one takes what is new.
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
    let signals = STOP.iter().map(|kind| signal(*kind)).collect::<Result<Vec<_>, _>>()?;
    let clients = listen::bind(settings.port)
        .await
        .with_context(|| format!("cannot listen on port {} of the loopback address", settings.port))?;
    for listener in &clients {
        info!(version = env!("CARGO_PKG_VERSION"), "listening on {}", listener.local_addr()?);
    }
    let metrics = listen::bind_metrics(settings).await.context("cannot listen for the metrics")?;
    for listener in &metrics {
        info!("metrics at http://{}/metrics", listener.local_addr()?);
    }
    let ledger = Ledger::new(settings.audit.then(|| Box::new(std::io::stdout()) as _));
    let listeners = Listeners { clients, metrics };
    let limits = Limits::of_this_container();
    let agent = Agent::new(listeners, settings, limits, Resolver::from_system(), ledger)?;
    match agent.run(first(signals)).await {
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

/// Returns when one of them has come.
async fn first(mut signals: Vec<Signal>) {
    select_all(signals.iter_mut().map(|signal| Box::pin(signal.recv()))).await;
}
