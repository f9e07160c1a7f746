//! One run from its settings to its end: look targets up, bind ports, start an agent, forward, clean up.

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt, future, stream::FuturesUnordered};
use tokio::{sync::watch, time::timeout};
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
    cluster::{
        access::Access,
        config::ClusterConfig,
        resolve::{Forward, ResolveError, Resolver},
    },
    error::Error,
    forward::{
        Path, Relay,
        listen::{Bound, bind},
        tcp, udp,
    },
    network,
    output::{ForwardLine, Output},
    signals::Signals,
};

/// The agent is told goodbye within this time.
const GOODBYE: Duration = Duration::from_millis(500);
/// Local connections are reset within this time.
const LAST_RESETS: Duration = Duration::from_millis(300);
/// The Job is removed within this time, or left to end by itself.
const REMOVAL: Duration = Duration::from_secs(5);

/// Runs until a signal (`Ok`) or an error.
///
/// # Errors
/// See [`Error`].
pub async fn run(settings: Settings, output: Arc<Output>) -> Result<(), Error> {
    let mut signals = Signals::new().map_err(|error| Error::System("cannot catch signals", error))?;
    raise_file_limit();
    let cleanup = watch::Sender::new(None);
    let ended = tokio::select! {
        () = signals.next() => None,
        error = work(settings, Arc::clone(&output), &cleanup) => Some(error),
    };
    let held: Option<Held> = cleanup.borrow().clone();
    let cleaned = match held {
        Some(held) => tokio::select! {
            cleaned = held.clean_up(&output) => cleaned,
            // A second signal: nothing is waited for.
            () = signals.next() => Ok(()),
        },
        None => Ok(()),
    };
    match ended {
        Some(error) => {
            if let Err(left) = cleaned {
                output.warning(&left.to_string(), None);
            }
            Err(error)
        }
        None => cleaned,
    }
}

/// What has to be undone at the end of a run.
#[derive(Clone)]
struct Held {
    jobs: Jobs,
    supervised: Supervised,
    tasks: TaskTracker,
}

impl Held {
    async fn clean_up(self, output: &Output) -> Result<(), Error> {
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

async fn work(settings: Settings, output: Arc<Output>, cleanup: &watch::Sender<Option<Held>>) -> Error {
    match forward_all(settings, output, cleanup).await {
        Ok(never) => match never {},
        Err(error) => error,
    }
}

async fn forward_all(
    settings: Settings,
    output: Arc<Output>,
    cleanup: &watch::Sender<Option<Held>>,
) -> Result<std::convert::Infallible, Error> {
    let config = ClusterConfig::load(&settings.cluster).await?;
    let access = Access::open(&settings.cluster, config.clone()).await?;
    let resolver = Resolver {
        access: access.clone(),
        namespace: config.namespace.clone(),
        request_timeout: settings.cluster.request_timeout,
        pod_timeout: settings.pod_running_timeout,
    };
    let resolved = future::try_join_all(settings.targets.iter().map(|spec| resolver.resolve(spec))).await?;
    let forwards: Vec<Forward> = resolved.into_iter().flatten().collect();
    // Every port is bound before anything is created in the cluster.
    let mut listeners = Vec::new();
    for forward in &forwards {
        listeners.push(bind(&settings.addresses, forward.local, forward.protocol)?);
    }
    for note in forwards.iter().filter_map(|forward| forward.note.as_deref()) {
        output.note(note);
    }

    let mut pods: Vec<_> = forwards.iter().filter_map(|forward| forward.pods.clone()).collect();
    pods.dedup();
    let targets = (config.namespace.clone(), pods);
    let namespace = settings.agent.namespace.clone().unwrap_or(config.namespace);
    let jobs = Jobs::new(&access, &namespace, settings.cluster.request_timeout);
    let owner = Owner::of_this_process(&config.user);
    let launcher = Launcher {
        access,
        namespace,
        settings: settings.agent.clone(),
        owner: owner.clone(),
        jobs: jobs.clone(),
        timeout: settings.pod_running_timeout,
        output: Arc::clone(&output),
        embedded: embedded(),
        targets,
        borrowed: Arc::default(),
    };
    let (supervisor, supervised) = Supervisor::new(launcher, settings.session.clone(), network::changes());
    let tasks = TaskTracker::new();
    let Supervised { current, was_ready, .. } = supervised.clone();
    cleanup.send_replace(Some(Held { jobs: jobs.clone(), supervised, tasks: tasks.clone() }));

    let relay = Relay { current, connect_wait: settings.connect_wait, output: Arc::clone(&output), tasks };
    let serving = serve(&forwards, listeners, &relay);
    let announcing = announce(&forwards, &serving, was_ready, settings.pod_running_timeout, &output);
    let removing = async {
        match jobs.remove_old(&owner, jiff::Timestamp::now()).await {
            Ok(0) => {}
            Ok(removed) => tracing::info!(removed, "old Jobs removed"),
            Err(error) => output
                .warning(&format!("{error}; Jobs that earlier runs left behind stay"), Some(&error.hint())),
        }
    };
    tokio::select! {
        error = supervisor.run() => Err(error.into()),
        error = async { tokio::join!(announcing, removing).0 } => Err(error),
    }
}

/// The bound addresses of one forward, and the tasks that serve them; dropping ends them.
struct Serving {
    lines: Vec<ForwardLine>,
    _listeners: Vec<tokio_util::task::AbortOnDropHandle<()>>,
}

fn serve(forwards: &[Forward], listeners: Vec<Vec<Bound>>, relay: &Relay) -> Vec<Serving> {
    let serve_one = |(forward, sockets): (&Forward, Vec<Bound>)| {
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
            let (path, relay) = (Path::from(forward), relay.clone());
            let task = match socket {
                Bound::Tcp(listener) => tokio::spawn(tcp::serve(listener, path, relay)),
                Bound::Udp(socket) => tokio::spawn(udp::serve(socket, path, relay)),
            };
            tokio_util::task::AbortOnDropHandle::new(task)
        };
        Serving { lines, _listeners: sockets.into_iter().map(listen).collect() }
    };
    forwards.iter().zip(listeners).map(serve_one).collect()
}

/// Prints each forward's lines when traffic can flow, then tells of targets that go away for ever.
async fn announce(
    forwards: &[Forward],
    serving: &[Serving],
    mut was_ready: watch::Receiver<bool>,
    pod_timeout: Duration,
    output: &Output,
) -> Error {
    if was_ready.wait_for(|ready| *ready).await.is_err() {
        // The supervisor has ended, and its error ends the run.
        return future::pending().await;
    }
    let mut watched: FuturesUnordered<_> = forwards
        .iter()
        .zip(serving)
        .map(async |(forward, serving)| {
            let ready = timeout(pod_timeout, forward.route.destination());
            match ready.await {
                Ok(Ok(_)) => {}
                Ok(Err(reason)) => return Err(ResolveError::Gone(reason)),
                Err(_) => {
                    let target = forward.target.clone();
                    return Err(ResolveError::NothingReady { target, waited: pod_timeout });
                }
            }
            for line in &serving.lines {
                output.forwarding(line);
            }
            Ok((forward, forward.route.gone().await))
        })
        .collect();
    while let Some(end) = watched.next().await {
        match end {
            Ok((forward, reason)) => output.warning(
                &format!("{}: {reason}; new connections are reset", forward.target),
                Some("a pod target follows nothing: forward to its Service or its workload (deploy/NAME) to follow it"),
            ),
            Err(error) => return error.into(),
        }
    }
    future::pending().await
}

/// A thousand connections need more files than the usual soft limit allows.
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        tracing::debug!(%error, "limit of open files not raised");
    }
}
