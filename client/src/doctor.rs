//! `kubectl relay doctor`: whether a run would work here, and what is in its way, checked piece by piece and at last with
//! a real agent.

mod agent;
mod dns;
mod flows;
mod quantity;
mod report;
mod rights;
mod role;
mod room;
mod server;

use std::{sync::Arc, time::Duration};

use clap::{Args as ArgGroup, ValueEnum};

pub use report::{Line, Report, Verdict};
use rights::Way;
use room::Room;

use crate::{
    agent::{
        embedded::EMBEDDED,
        identity::Owner,
        spec::{self, Program},
    },
    cli::{
        args::{AgentArgs, ClusterArgs, SessionArgs},
        settings::Settings,
    },
    cluster::{access::Access, config::ClusterConfig},
    error::Error,
    output::Output,
    signals::Signals,
    version::Format,
};

/// An API server that takes longer is as good as none, unless `--request-timeout` says otherwise.
const PATIENCE: Duration = Duration::from_secs(10);
/// The name of a Job that is tried and never made.
const TRIED: &str = "relay-agent-doctor";

/// What `kubectl relay doctor` takes.
#[derive(Debug, Clone, ArgGroup)]
pub struct DoctorArgs {
    /// How to print what is found.
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value_t = Format::Text)]
    pub output: Format,
    /// Print the Role that --agent-source needs, bound to you, and check nothing.
    #[arg(long)]
    pub print_role: bool,
    /// Start no agent: look only.
    #[arg(long)]
    pub no_agent: bool,
    /// The session with the test agent.
    #[command(flatten)]
    pub session: SessionArgs,
    /// The test agent.
    #[command(flatten)]
    pub agent: AgentArgs,
}

/// Checks, prints and cleans up; gives 0 if nothing has failed, otherwise 1, or 128 and a signal's number.
///
/// # Errors
/// A command line that makes no sense, or, with `--print-role`, a kubeconfig that cannot be used.
pub async fn run(args: DoctorArgs, cluster: ClusterArgs, output: &Arc<Output>) -> Result<u8, Error> {
    let settings = Settings::without_targets(&args.agent, &args.session, cluster, 0)?;
    if args.print_role {
        return print_role(&settings, output).await;
    }
    let mut signals = Signals::new().map_err(|error| Error::System("cannot catch signals", error))?;
    let report = Arc::new(Report::new(args.output, Arc::clone(output)));
    let left = agent::Kept::default();
    let signal = tokio::select! {
        () = examine(&settings, args.no_agent, &report, &left) => None,
        signal = signals.next() => Some(signal),
    };
    if let Some(left) = agent::take(&left) {
        tokio::select! {
            () = left.clean_up(&report) => {}
            // A second one: nothing is waited for.
            _ = signals.next() => {}
        }
    }
    report.finish();
    Ok(match signal {
        Some(signal) => signal.exit_code(),
        None => u8::from(!report.is_well()),
    })
}

async fn examine(settings: &Settings, no_agent: bool, report: &Arc<Report>, left: &agent::Kept) {
    let Some((config, access)) = server::open(&settings.cluster, report).await else { return };
    let can_start = without_agent(&config, &access, settings, report).await;
    if no_agent {
        return;
    }
    if can_start {
        agent::examine(&config, &access, settings, report, left).await;
    } else if report.is_well() {
        report.tell(Line::note("agent", "none is started: there is no right to"));
    }
}

/// Everything that starts nothing; whether an agent can be started then.
pub async fn without_agent(
    config: &ClusterConfig,
    access: &Access,
    settings: &Settings,
    report: &Report,
) -> bool {
    let (client, limit) = (access.client(), limit(settings));
    if !server::examine(access, limit, report).await {
        return false;
    }
    let source = source(settings);
    let ways = Way::all(settings.agent.namespace.as_deref(), &config.namespace);
    let (rights, open) = rights::examine(&client, &ways, &source, &config.namespace, limit, report).await;
    let own = |word: &str| (source == word || source == "auto") && open.contains(&word);
    if !own("image") && !own("embedded") {
        // Whoever uses an agent that is there needs no room for one.
        return own("shared");
    }
    let namespace = settings.agent.namespace.as_deref().unwrap_or(&config.namespace);
    let owner = Owner::of_this_process(&config.user);
    let job = match spec::job(TRIED, namespace, &settings.agent, &owner, None, Program::Image) {
        Ok(job) => job,
        Err(error) => {
            report.tell(Line::failed("agent", error.to_string(), error.hint()));
            return false;
        }
    };
    let room = Room {
        client,
        namespace,
        job: &job,
        may_try_pods: rights.may_try_pods(namespace),
        embedded_only: source == "embedded",
        limit,
    };
    room.examine(report).await
}

async fn print_role(settings: &Settings, output: &Output) -> Result<u8, Error> {
    let config = ClusterConfig::load(&settings.cluster).await?;
    // An API server that is away knows nobody; the kubeconfig's name for the user is then the best there is.
    let user = match Access::open(&settings.cluster, config.clone()).await {
        Ok(access) => server::who_am_i(&access.client(), limit(settings)).await.ok().flatten(),
        Err(_) => None,
    };
    let ways = Way::all(settings.agent.namespace.as_deref(), &config.namespace);
    let user = user.unwrap_or_else(|| config.user.clone());
    output.answer(&role::manifest(&ways, &source(settings), !EMBEDDED.is_empty(), &config.namespace, &user));
    Ok(0)
}

/// `--agent-source` as it is typed.
fn source(settings: &Settings) -> String {
    let value = settings.agent.source.to_possible_value();
    value.map(|value| value.get_name().to_owned()).unwrap_or_default()
}

/// How long a request may take.
fn limit(settings: &Settings) -> Duration {
    let limit = settings.cluster.request_timeout;
    if limit.is_zero() { PATIENCE } else { limit }
}
