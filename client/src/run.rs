//! One run from its settings to its end: look targets up, bind ports, start an agent, forward, clean up.

mod complete;
pub(crate) mod context;
mod control;
pub(crate) mod held;
pub(crate) mod serving;
pub(crate) mod way;

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::{StreamExt, future, stream::FuturesUnordered};
use tokio::{
    sync::{mpsc, watch},
    time::sleep,
};
use tokio_util::task::TaskTracker;

use self::{
    held::Held,
    serving::{Planned, Serving, announce, forwarded, serve},
    way::start,
};
use crate::{
    cli::settings::Settings,
    cluster::resolve::Forward,
    command::{CommandLine, Program, Variables, environment::variables},
    direct,
    error::Error,
    file_limit::FileLimit,
    forward::listen::bind,
    ledger::{About, Ledger},
    metrics, network,
    output::Output,
    ports_file::{PortsFile, PortsFileError},
    proxy::{Listening, ProxyError, Proxying},
    signals::Signals,
    view::{self, Commands, InProcess, Kind, ViewError},
};

/// The Ctrl-C that ends a command is for this process too, and may be noticed after the command's end: what comes so
/// soon is no second one.
const SAME_KEY: Duration = Duration::from_millis(300);

/// Runs until a signal, the end of the command if there is one, or an error; gives the exit code.
///
/// # Errors
/// See [`Error`].
pub async fn run(settings: Settings, output: Arc<Output>) -> Result<u8, Error> {
    let mut signals = Signals::new().map_err(|error| Error::System("cannot catch signals", error))?;
    let command = settings.command.clone();
    if let Some(command) = &command {
        // A mistyped one costs no agent.
        command.find()?;
    }
    let limit = FileLimit::raise();
    let cleanup = watch::Sender::new(Vec::new());
    let ready = watch::Sender::new(None);
    let ledger = Ledger::new();
    let metrics = settings.metrics.map(|address| metrics::serve(address, ledger.clone())).transpose()?;
    if let Some(metrics) = &metrics {
        output.metrics(metrics.local);
    }
    let (commands, asked) = view::commands();
    let kind = settings.view;
    let working = work(settings, Arc::clone(&output), &ledger, asked, &cleanup, &ready);
    let watching = watch_over(kind, &ledger, commands, &output);
    let ended = match &command {
        Some(command) => beside(command, &limit, working, ready.subscribe(), &mut signals).await,
        None => tokio::select! {
            _ = signals.next() => Ended::InOrder(0),
            error = working => Ended::Failed(error),
            watched = watching => match watched {
                Ok(()) => Ended::InOrder(0),
                Err(error) => Ended::Failed(error.into()),
            },
        },
    };
    output.waiting_is_over();
    let held: Vec<Held> = cleanup.borrow().clone();
    let cleaning = async {
        let all = future::join_all(held.into_iter().map(Held::clean_up)).await;
        all.into_iter().collect::<Result<(), Error>>()
    };
    if let Ended::Lost(error, mut program) = ended {
        output.error(&error.to_string(), Some(&error.hint()));
        program.terminate();
        let (cleaned, _) = tokio::join!(cleaning, program.ended(&mut signals));
        warn_of_leftovers(cleaned, &output);
        return Ok(error.exit_code());
    }
    let second_signal = async {
        if command.is_some() {
            sleep(SAME_KEY).await;
            signals.forget();
        }
        signals.next().await
    };
    let cleaned = tokio::select! {
        cleaned = cleaning => cleaned,
        // Nothing is waited for.
        _ = second_signal => Ok(()),
    };
    match ended {
        Ended::InOrder(code) if command.is_none() => cleaned.map(|()| code),
        Ended::InOrder(code) => {
            warn_of_leftovers(cleaned, &output);
            Ok(code)
        }
        Ended::Failed(error) | Ended::Lost(error, _) => {
            warn_of_leftovers(cleaned, &output);
            Err(error)
        }
    }
}

/// Shows the forwards, where that is wanted, until whoever watches has seen enough.
async fn watch_over(
    kind: Option<Kind>,
    ledger: &Ledger,
    commands: Commands,
    output: &Output,
) -> Result<(), ViewError> {
    match kind {
        Some(kind) => view::show(kind, InProcess::new(ledger.clone()), commands, output).await,
        None => std::future::pending().await,
    }
}

fn warn_of_leftovers(cleaned: Result<(), Error>, output: &Output) {
    if let Err(left) = cleaned {
        output.warning(&left.to_string(), None);
    }
}

/// How a run comes to its end, with everything still to be cleaned up.
enum Ended {
    /// By a signal or by its command: the exit code.
    InOrder(u8),
    /// By an error.
    Failed(Error),
    /// By an error, with a command that still runs.
    Lost(Error, Box<Program>),
}

/// Starts the command when every forward is ready, and stays until it ends.
async fn beside(
    command: &CommandLine,
    limit: &FileLimit,
    working: impl Future<Output = Error>,
    mut ready: watch::Receiver<Option<Variables>>,
    signals: &mut Signals,
) -> Ended {
    let mut working = pin!(working);
    let variables = tokio::select! {
        signal = signals.next() => return Ended::InOrder(signal.exit_code()),
        error = &mut working => return Ended::Failed(error),
        Ok(variables) = ready.wait_for(Option::is_some) => variables.clone().unwrap_or_default(),
    };
    let mut program = match command.start(&variables, limit) {
        Ok(program) => program,
        Err(error) => return Ended::Failed(error.into()),
    };
    tokio::select! {
        ended = program.ended(signals) => match ended {
            Ok(code) => Ended::InOrder(code),
            Err(error) => Ended::Failed(Error::System("cannot wait for the command", error)),
        },
        error = &mut working => Ended::Lost(error, Box::new(program)),
    }
}

async fn work(
    settings: Settings,
    output: Arc<Output>,
    ledger: &Ledger,
    asked: mpsc::Receiver<view::Command>,
    cleanup: &watch::Sender<Vec<Held>>,
    ready: &watch::Sender<Option<Variables>>,
) -> Error {
    match forward_all(settings, output, ledger, asked, cleanup, ready).await {
        Ok(never) => match never {},
        Err(error) => error,
    }
}

async fn forward_all(
    settings: Settings,
    output: Arc<Output>,
    ledger: &Ledger,
    asked: mpsc::Receiver<view::Command>,
    cleanup: &watch::Sender<Vec<Held>>,
    ready: &watch::Sender<Option<Variables>>,
) -> Result<std::convert::Infallible, Error> {
    if let Some(error) = direct::typed_in_vain(&settings) {
        return Err(error);
    }
    let ports_file = settings.ports_file.as_deref().map(PortsFile::prepare).transpose()?;
    let (targets, contexts) = complete::open(&settings, &output).await?;
    let wanted = || targets.iter().zip(&contexts.of_target);
    let resolved = wanted().map(async |(wanted, context)| {
        let context = &contexts.all[*context];
        let resolver = context.resolver(wanted.namespace.as_deref(), &settings);
        let resolved = resolver.resolve(&wanted.spec).await;
        resolved.map_err(|error| context.named(error.into()).at(wanted.spec.place.as_ref()))
    });
    let resolved = future::try_join_all(resolved).await?;
    // Every port is bound before anything is created in a cluster.
    let (mut forwards, mut listeners) = (Vec::<(Forward, String, usize)>::new(), Vec::new());
    let mut pods = vec![Vec::new(); contexts.all.len()];
    for ((wanted, context), resolved) in wanted().zip(resolved) {
        let namespace = wanted.namespace.as_ref().unwrap_or(&contexts.all[*context].config.namespace);
        for forward in resolved {
            if let Some(error) = direct::needs_agent(settings.agent.source, &forward) {
                return Err(error);
            }
            let bound = bind(&wanted.addresses, forward.local, forward.protocol);
            listeners.push(bound.map_err(|error| Error::from(error).at(forward.place.as_ref()))?);
            if let Some(of_this) = forward.pods.clone().map(|pods| (namespace.clone(), pods))
                && !pods[*context].contains(&of_this)
            {
                pods[*context].push(of_this);
            }
            forwards.push((forward, namespace.clone(), *context));
        }
    }
    let proxy = settings.proxy.as_ref().map(|proxy| Ok((proxy, Listening::bind(proxy)?)));
    let proxy = proxy.transpose().map_err(|error: ProxyError| Error::from(error))?;
    for (forward, _, context) in &forwards {
        if let Some(note) = &forward.note {
            contexts.all[*context].output.note(note);
        }
    }

    let (tasks, network) = (TaskTracker::new(), network::changes());
    let starting = contexts.all.iter().zip(pods);
    let starting = starting.map(|(context, pods)| start(context, &settings, &tasks, &network, ledger, pods));
    let (supervisors, ways): (Vec<_>, Vec<_>) = starting.unzip();
    cleanup.send_replace(ways.iter().map(|way| way.held.clone()).collect());

    let plan = |(forward, namespace, context): (Forward, String, usize)| {
        let (way, config) = (&ways[context], &contexts.all[context].config);
        let about = About::of(&forward, config.context.clone(), namespace);
        Planned { forward, way, account: ledger.add_forward(about, &way.account) }
    };
    let planned: Vec<Planned> = forwards.into_iter().map(plan).collect();
    let serving = serve(&planned, listeners);
    let proxying = proxy.zip(contexts.of_proxy).map(|((proxy, listening), context)| {
        let config = &contexts.all[context].config;
        let serving = Proxying::serve(proxy, listening, ways[context].relay.clone(), config, ledger);
        (serving, &ways[context])
    });
    let not_ready = AtomicUsize::new(planned.len() + usize::from(proxying.is_some()));
    let one_is_ready = || {
        if not_ready.fetch_sub(1, Ordering::Relaxed) == 1 {
            let forwards = forwarded(&planned, &serving);
            if let Some(file) = &ports_file {
                file.write(&forwards)?;
            }
            output.waiting_is_over();
            let mut all = variables(&forwards);
            all.extend(proxying.iter().flat_map(|(proxying, _)| proxying.variables().iter().cloned()));
            ready.send_replace(Some(all));
        }
        Ok::<(), PortsFileError>(())
    };
    let announced = contexts.all.iter().zip(&ways).map(async |(context, way)| {
        let through_it = |(planned, _): &(&Planned<'_>, &Serving)| std::ptr::eq(planned.way, way);
        let forwards = planned.iter().zip(&serving).filter(through_it);
        let proxying = proxying.as_ref().filter(|(_, its_way)| std::ptr::eq(*its_way, way));
        let proxying = proxying.map(|(proxying, _)| proxying);
        announce(context, way, forwards.collect(), proxying, settings.pod_running_timeout, &one_is_ready)
            .await
    });
    let mut announcing: FuturesUnordered<_> = announced.collect();
    let removing = contexts.all.iter().zip(&ways);
    let removing = future::join_all(
        removing.map(|(context, way)| way.remove_old(&context.output, settings.agent.source)),
    );
    let supervised = contexts.all.iter().zip(&ways).zip(supervisors);
    let mut supervising: FuturesUnordered<_> = supervised
        .map(async |((context, way), supervisor)| {
            let through_it = planned.iter().filter(|planned| std::ptr::eq(planned.way, way));
            let forwards: Vec<_> = through_it.map(|planned| &planned.forward).collect();
            context.named(way.keep(supervisor, &settings.agent, || forwards).await)
        })
        .collect();
    tokio::select! {
        Some(error) = supervising.next() => Err(error),
        (Some(error), _) = async { tokio::join!(announcing.next(), removing) } => Err(error),
        never = control::obey(asked, &planned, &serving, &output) => match never {},
    }
}
