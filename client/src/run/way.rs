//! A context's way into its cluster: what starts agents, and what local connections need of it.

use std::{borrow::Borrow, sync::Arc};

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
    cli::{
        args::AgentSource,
        settings::{AgentSettings, Settings},
    },
    cluster::resolve::{Forward, TargetPods},
    direct::Direct,
    error::Error,
    forward::Relay,
    ledger::{AgentAccount, Ledger},
    output::Output,
};

/// What the forwards of one context go through.
pub(crate) struct Way {
    pub(crate) relay: Relay,
    pub(crate) was_ready: watch::Receiver<bool>,
    pub(crate) held: Held,
    pub(crate) account: Arc<AgentAccount>,
    owner: Owner,
}

impl Way {
    /// Waits until traffic can flow, through an agent or without one. Cancellation safe.
    pub(crate) async fn ready(&self) {
        let mut was_ready = self.was_ready.clone();
        if was_ready.wait_for(|ready| *ready).await.is_ok() {
            return;
        }
        // There is no agent; where there is no other way either, an error ends the run.
        if !self.relay.direct.taken_over().await {
            std::future::pending::<()>().await;
        }
    }

    /// Keeps the agent and the session, or goes on without, until there is no way at all.
    pub(crate) async fn keep<F: Borrow<Forward>>(
        &self,
        supervisor: Option<Supervisor>,
        settings: &AgentSettings,
        forwards: impl FnOnce() -> Vec<F>,
    ) -> Error {
        let _guard = self.relay.direct.guard();
        let direct = &self.relay.direct;
        let ends = match supervisor {
            Some(supervisor) => {
                let error = supervisor.run().await;
                let forwards = forwards();
                let forwards: Vec<&Forward> = forwards.iter().map(Borrow::borrow).collect();
                direct.take_over(settings, error, &forwards)
            }
            None => {
                direct.begin();
                None
            }
        };
        match ends {
            Some(error) => error,
            None => std::future::pending().await,
        }
    }

    /// Removes what earlier runs left behind, where that is a run's that has agents.
    pub(crate) async fn remove_old(&self, output: &Output, source: AgentSource) {
        if source == AgentSource::None {
            return;
        }
        // Who goes without an agent of his own need not have any right on Jobs.
        self.ready().await;
        if self.relay.direct.is_only_way() || !self.held.jobs.has_made_any().await {
            return;
        }
        match self.held.jobs.remove_old(&self.owner, jiff::Timestamp::now()).await {
            Ok(0) => {}
            Ok(removed) => tracing::info!(removed, "old Jobs removed"),
            Err(error) => {
                let message = format!("{error}; Jobs that earlier runs left behind stay");
                output.warning(&message, Some(&error.hint()));
            }
        }
    }
}

/// What keeps a context's agent and session, if there are to be any, and what goes through them.
pub(crate) fn start(
    context: &Context,
    settings: &Settings,
    tasks: &TaskTracker,
    network: &watch::Receiver<u64>,
    ledger: &Ledger,
    targets: Vec<(String, TargetPods)>,
) -> (Option<Supervisor>, Way) {
    let namespace = settings.agent.namespace.clone().unwrap_or_else(|| context.config.namespace.clone());
    let account = ledger.add_agent(context.config.context.as_deref(), &namespace);
    let output = Arc::new(context.output.about_agent(Arc::clone(&account)));
    let jobs = Jobs::new(&context.access, &namespace, settings.cluster.request_timeout);
    let owner = Owner::of_this_process(&context.config.user);
    let launcher = Launcher {
        access: context.access.clone(),
        namespace,
        settings: settings.agent.clone(),
        owner: owner.clone(),
        jobs: jobs.clone(),
        timeout: settings.pod_running_timeout,
        output: Arc::clone(&output),
        embedded: embedded(),
        targets,
        borrowed: Arc::default(),
        shared: context.shared.clone(),
    };
    let direct = Direct::new(context.access.clone(), settings.session.transport, Arc::clone(&output));
    let (supervisor, supervised) = Supervisor::new(launcher, settings.session.clone(), network.clone());
    let supervisor = Some(supervisor).filter(|_| settings.agent.source != AgentSource::None);
    let Supervised { current, was_ready, .. } = supervised.clone();
    account.follow(current.clone());
    let relay = Relay {
        current,
        connect_wait: settings.connect_wait,
        direct,
        output: Arc::clone(&output),
        tasks: tasks.clone(),
        trace: settings.trace.clone(),
    };
    let held = Held { jobs, supervised, tasks: tasks.clone(), output };
    (supervisor, Way { relay, was_ready, held, account, owner })
}
