//! A context's way into its cluster: what starts agents, and what local connections need of it.

use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use super::{context::Context, held::Held};
use crate::{
    agent::{
        embedded::embedded,
        identity::Owner,
        jobs::Jobs,
        launch::Launcher,
        supervisor::{Supervised, Supervisor},
    },
    cli::settings::Settings,
    cluster::resolve::TargetPods,
    forward::Relay,
};

/// What the forwards of one context go through.
pub(super) struct Way {
    pub(super) relay: Relay,
    pub(super) was_ready: watch::Receiver<bool>,
    pub(super) held: Held,
    pub(super) owner: Owner,
}

/// What keeps a context's agent and session, and what goes through them.
pub(super) fn start(
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
