//! One run from its settings to its end: look targets up, bind ports, start an agent, forward, clean up.

mod context;

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use context::{Context, Contexts};
use futures_util::{StreamExt, future, stream::FuturesUnordered};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tokio_util::task::TaskTracker;

use crate::{
    agent::{
        embedded::embedded,
        identity::Owner,
        jobs::Jobs,
        launch::Launcher,
        supervisor::{Current, Supervised, Supervisor},
    },
    cli::settings::Settings,
    cluster::resolve::{Forward, ResolveError, TargetPods},
    command::{
        CommandLine, Program, Variables,
        environment::{Forwarded, variables},
    },
    error::Error,
    file_limit::FileLimit,
    forward::{
        Path, Relay,
        listen::{Bound, bind},
        tcp, udp,
    },
    network,
    output::{ForwardLine, Output},
    signals::{Signals, exit_code},
};

/// The agent is told goodbye within this time.
const GOODBYE: Duration = Duration::from_millis(500);
/// Local connections are reset within this time.
const LAST_RESETS: Duration = Duration::from_millis(300);
/// The Ctrl-C that ends a command is for this process too, and may be noticed after the command's end: what comes so
/// soon is no second one.
const SAME_KEY: Duration = Duration::from_millis(300);
/// The Job is removed within this time, or left to end by itself.
const REMOVAL: Duration = Duration::from_secs(5);

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
    let working = work(settings, Arc::clone(&output), &cleanup, &ready);
    let ended = match &command {
        Some(command) => beside(command, &limit, working, ready.subscribe(), &mut signals).await,
        None => tokio::select! {
            _ = signals.next() => Ended::InOrder(0),
            error = working => Ended::Failed(error),
        },
    };
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
        signal = signals.next() => return Ended::InOrder(exit_code(signal.as_raw())),
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

/// What has to be undone at the end of a run.
#[derive(Clone)]
struct Held {
    jobs: Jobs,
    supervised: Supervised,
    tasks: TaskTracker,
    output: Arc<Output>,
}

impl Held {
    async fn clean_up(self) -> Result<(), Error> {
        let current = self.supervised.current.borrow().clone();
        let goodbye = async {
            let session = async {
                if let Current::Session { session, .. } = current {
                    session.close(GOODBYE).await;
                }
            };
            let all = async { tokio::join!(session, self.supervised.leaving.close(GOODBYE)) };
            let _ = timeout(GOODBYE * 2, all).await;
            self.tasks.close();
            let _ = timeout(LAST_RESETS, self.tasks.wait()).await;
        };
        let output = &self.output;
        let ((), removed) = tokio::join!(goodbye, timeout(REMOVAL, self.jobs.remove_all()));
        match removed {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) if error.is_transient() => {
                let message = format!("the agent's Job is left behind: {error}");
                output.warning(
                    &message,
                    Some("the agent ends by itself when it is idle, and its Job is removed then"),
                );
                Ok(())
            }
            Ok(Err(error)) => Err(Error::LeftBehind(error)),
            Err(_) => {
                output.warning(
                    "the agent's Job is left behind: the API server does not answer",
                    Some("the agent ends by itself when it is idle, and its Job is removed then"),
                );
                Ok(())
            }
        }
    }
}

async fn work(
    settings: Settings,
    output: Arc<Output>,
    cleanup: &watch::Sender<Vec<Held>>,
    ready: &watch::Sender<Option<Variables>>,
) -> Error {
    match forward_all(settings, output, cleanup, ready).await {
        Ok(never) => match never {},
        Err(error) => error,
    }
}

async fn forward_all(
    settings: Settings,
    output: Arc<Output>,
    cleanup: &watch::Sender<Vec<Held>>,
    ready: &watch::Sender<Option<Variables>>,
) -> Result<std::convert::Infallible, Error> {
    let contexts = Contexts::open(&settings, &output).await?;
    let wanted = || settings.targets.iter().zip(&contexts.of_target);
    let resolved = wanted().map(async |(wanted, context)| {
        let context = &contexts.all[*context];
        let resolver = context.resolver(wanted.namespace.as_deref(), &settings);
        let resolved = resolver.resolve(&wanted.spec).await;
        resolved.map_err(|error| context.named(error.into()).at(wanted.spec.place.as_ref()))
    });
    let resolved = future::try_join_all(resolved).await?;
    // Every port is bound before anything is created in a cluster.
    let (mut forwards, mut listeners) = (Vec::<(Forward, usize)>::new(), Vec::new());
    let mut pods = vec![Vec::new(); contexts.all.len()];
    for ((wanted, context), resolved) in wanted().zip(resolved) {
        let namespace = wanted.namespace.as_ref().unwrap_or(&contexts.all[*context].config.namespace);
        for forward in resolved {
            let bound = bind(&wanted.addresses, forward.local, forward.protocol);
            listeners.push(bound.map_err(|error| Error::from(error).at(forward.place.as_ref()))?);
            if let Some(of_this) = forward.pods.clone().map(|pods| (namespace.clone(), pods))
                && !pods[*context].contains(&of_this)
            {
                pods[*context].push(of_this);
            }
            forwards.push((forward, *context));
        }
    }
    for (forward, context) in &forwards {
        if let Some(note) = &forward.note {
            contexts.all[*context].output.note(note);
        }
    }

    let (tasks, network) = (TaskTracker::new(), network::changes());
    let starting = contexts.all.iter().zip(pods);
    let starting = starting.map(|(context, pods)| start(context, &settings, &tasks, &network, pods));
    let (supervisors, ways): (Vec<_>, Vec<_>) = starting.unzip();
    cleanup.send_replace(ways.iter().map(|way| way.held.clone()).collect());

    let planned: Vec<Planned> =
        forwards.into_iter().map(|(forward, context)| Planned { forward, way: &ways[context] }).collect();
    let serving = serve(&planned, listeners);
    let not_ready = AtomicUsize::new(planned.len());
    let one_is_ready = || {
        if not_ready.fetch_sub(1, Ordering::Relaxed) == 1 {
            ready.send_replace(Some(variables(&forwarded(&planned, &serving))));
        }
    };
    let announced = contexts.all.iter().zip(&ways).map(async |(context, way)| {
        let through_it = |(planned, _): &(&Planned<'_>, &Serving)| std::ptr::eq(planned.way, way);
        let forwards = planned.iter().zip(&serving).filter(through_it);
        let forwards = forwards.map(|(planned, serving)| (&planned.forward, serving)).collect();
        announce(context, way, forwards, settings.pod_running_timeout, &one_is_ready).await
    });
    let mut announcing: FuturesUnordered<_> = announced.collect();
    let removing = future::join_all(contexts.all.iter().zip(&ways).map(async |(context, way)| {
        match way.held.jobs.remove_old(&way.owner, jiff::Timestamp::now()).await {
            Ok(0) => {}
            Ok(removed) => tracing::info!(removed, "old Jobs removed"),
            Err(error) => context
                .output
                .warning(&format!("{error}; Jobs that earlier runs left behind stay"), Some(&error.hint())),
        }
    }));
    let mut supervising: FuturesUnordered<_> = contexts
        .all
        .iter()
        .zip(supervisors)
        .map(async |(context, supervisor)| context.named(supervisor.run().await.into()))
        .collect();
    tokio::select! {
        Some(error) = supervising.next() => Err(error),
        (Some(error), _) = async { tokio::join!(announcing.next(), removing) } => Err(error),
    }
}

/// What the forwards of one context go through.
struct Way {
    relay: Relay,
    was_ready: watch::Receiver<bool>,
    held: Held,
    owner: Owner,
}

/// What keeps a context's agent and session, and what goes through them.
fn start(
    context: &Context,
    settings: &Settings,
    tasks: &TaskTracker,
    network: &watch::Receiver<u64>,
    targets: Vec<(String, TargetPods)>,
) -> (Supervisor, Way) {
    let namespace = settings.agent.namespace.clone().unwrap_or_else(|| context.config.namespace.clone());
    let jobs = Jobs::new(&context.access, &namespace, settings.cluster.request_timeout);
    let owner = Owner::of_this_process(&context.config.user);
    let launcher = Launcher {
        access: context.access.clone(),
        namespace,
        settings: settings.agent.clone(),
        owner: owner.clone(),
        jobs: jobs.clone(),
        timeout: settings.pod_running_timeout,
        output: Arc::clone(&context.output),
        embedded: embedded(),
        targets,
        borrowed: Arc::default(),
    };
    let (supervisor, supervised) = Supervisor::new(launcher, settings.session.clone(), network.clone());
    let Supervised { current, was_ready, .. } = supervised.clone();
    let relay = Relay {
        current,
        connect_wait: settings.connect_wait,
        output: Arc::clone(&context.output),
        tasks: tasks.clone(),
    };
    let held = Held { jobs, supervised, tasks: tasks.clone(), output: Arc::clone(&context.output) };
    (supervisor, Way { relay, was_ready, held, owner })
}

/// A forward, and what it goes through.
struct Planned<'a> {
    forward: Forward,
    way: &'a Way,
}

/// The bound addresses of one forward, and the tasks that serve them; dropping ends them.
struct Serving {
    lines: Vec<ForwardLine>,
    _listeners: Vec<tokio_util::task::AbortOnDropHandle<()>>,
}

fn serve(planned: &[Planned<'_>], listeners: Vec<Vec<Bound>>) -> Vec<Serving> {
    let serve_one = |(planned, sockets): (&Planned<'_>, Vec<Bound>)| {
        let forward = &planned.forward;
        let line = |socket: &Bound| {
            Some(ForwardLine {
                local: socket.local_addr().ok()?,
                remote: forward.remote,
                protocol: forward.protocol,
                target: forward.target.clone(),
            })
        };
        let lines = sockets.iter().filter_map(line).collect();
        let listen = |socket: Bound| {
            let (path, relay) = (Path::from(forward), planned.way.relay.clone());
            let task = match socket {
                Bound::Tcp(listener) => tokio::spawn(tcp::serve(listener, path, relay)),
                Bound::Udp(socket) => tokio::spawn(udp::serve(socket, path, relay)),
            };
            tokio_util::task::AbortOnDropHandle::new(task)
        };
        Serving { lines, _listeners: sockets.into_iter().map(listen).collect() }
    };
    planned.iter().zip(listeners).map(serve_one).collect()
}

/// What a command is told of the forwards.
fn forwarded(planned: &[Planned<'_>], serving: &[Serving]) -> Vec<Forwarded> {
    let each = |(Planned { forward, .. }, serving): (&Planned<'_>, &Serving)| {
        let local = serving.lines.first()?.local;
        let (target, port) = (forward.target.clone(), forward.port.to_string());
        Some(Forwarded { target, port, protocol: forward.protocol, local })
    };
    planned.iter().zip(serving).filter_map(each).collect()
}

/// Prints the lines of one context's forwards when traffic can flow, tells of each that it can, then tells of targets
/// that go away for ever.
async fn announce(
    context: &Context,
    way: &Way,
    forwards: Vec<(&Forward, &Serving)>,
    pod_timeout: Duration,
    one_is_ready: impl Fn(),
) -> Error {
    if way.was_ready.clone().wait_for(|ready| *ready).await.is_err() {
        // The supervisor has ended, and its error ends the run.
        return future::pending().await;
    }
    let output = &context.output;
    let failed =
        |forward: &Forward, error: ResolveError| context.named(error.into()).at(forward.place.as_ref());
    let mut watched: FuturesUnordered<_> = forwards
        .into_iter()
        .map(async |(forward, serving)| {
            let ready = timeout(pod_timeout, forward.route.destination());
            match ready.await {
                Ok(Ok(_)) => {}
                Ok(Err(reason)) => return Err(failed(forward, ResolveError::Gone(reason))),
                Err(_) => {
                    let target = forward.target.clone();
                    let error = ResolveError::NothingReady { target, waited: pod_timeout };
                    return Err(failed(forward, error));
                }
            }
            for line in &serving.lines {
                output.forwarding(line);
            }
            one_is_ready();
            Ok((forward, forward.route.gone().await))
        })
        .collect();
    while let Some(end) = watched.next().await {
        match end {
            Ok((forward, reason)) => output.warning(
                &format!("{}: {reason}; new connections are reset", forward.target),
                Some("a pod target follows nothing: forward to its Service or its workload (deploy/NAME) to follow it"),
            ),
            Err(error) => return error,
        }
    }
    future::pending().await
}
