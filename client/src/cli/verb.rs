//! What the plugin does besides forwarding: each verb has flags of its own, and kubectl's.

use std::sync::Arc;

use clap::Subcommand;

use super::{args::ClusterArgs, settings::Settings};
use crate::{
    completion::{self, CompletionArgs},
    doctor::{self, DoctorArgs},
    error::Error,
    output::Output,
    proxy::ProxyArgs,
    run::run,
    shared::AgentVerb,
    trace::{TraceArgs, Tracing},
    version::{self, VersionArgs},
};
#[cfg(unix)]
use crate::{
    up::{
        self,
        args::{AddArgs, BackgroundArgs, DownArgs, LogsArgs, LsArgs, RmArgs, UpArgs},
        background, client,
    },
    view::TopArgs,
};

/// The first word of a command line that forwards nothing. A pod of such a name is reached as `pod/NAME`.
#[derive(Debug, Clone, Subcommand)]
pub enum Verb {
    /// Install, roll, watch or remove an agent that a team shares.
    #[command(subcommand)]
    Agent(Box<AgentVerb>),
    /// Listen as a proxy (SOCKS5, SOCKS4a, HTTP) through which everything is reached that the cluster can reach.
    Proxy(Box<ProxyArgs>),
    /// Forward, and tell each HTTP exchange that passes; with --pcap write a capture.
    Trace(Box<TraceArgs>),
    /// Tell this plugin's version, and for which processors it brings an agent.
    Version(VersionArgs),
    /// Print a script that teaches a shell to complete, and tell how `kubectl relay` itself is completed.
    Completion(CompletionArgs),
    /// Forward what a file says, in the background.
    #[cfg(unix)]
    Up(UpArgs),
    /// End forwards of the background, or all of them.
    #[cfg(unix)]
    Down(DownArgs),
    /// List the forwards of the background.
    #[cfg(unix)]
    Ls(LsArgs),
    /// Watch the forwards of the background: states, connections, bytes, delays.
    #[cfg(unix)]
    Top(TopArgs),
    /// Show what the background process has to tell.
    #[cfg(unix)]
    Logs(LogsArgs),
    /// Forward one more target in the background.
    #[cfg(unix)]
    Add(AddArgs),
    /// End forwards of the background, one by one.
    #[cfg(unix)]
    Rm(RmArgs),
    /// The background process itself.
    #[command(name = client::BACKGROUND, hide = true)]
    #[cfg(unix)]
    Background(BackgroundArgs),
    /// Check whether forwarding would work here, with a test agent, and say what is in the way.
    Doctor(Box<DoctorArgs>),
}

impl Verb {
    /// Whether it was given a command to run.
    pub fn has_command(&self) -> bool {
        match self {
            Self::Proxy(args) => !args.command.is_empty(),
            Self::Trace(args) => !args.command.is_empty(),
            _ => false,
        }
    }

    /// Does it; gives the exit code.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn run(self, cluster: ClusterArgs, output: &Arc<Output>) -> Result<u8, Error> {
        match self {
            Self::Agent(verb) => return verb.run(&cluster, output).await,
            Self::Proxy(args) => {
                let settings = args.settings(cluster, output.verbosity())?;
                return run(settings, Arc::clone(output)).await;
            }
            Self::Trace(args) => {
                let (settings, wanted) = args.settings(cluster, output.verbosity())?;
                let tracing = Tracing::start(wanted, output)?;
                let settings = Settings { trace: Some(tracing.clone()), ..settings };
                let ended = run(settings, Arc::clone(output)).await;
                tracing.finish(output).await;
                return ended;
            }
            Self::Version(args) => version::tell(&args, output),
            Self::Completion(args) => completion::print(&args, output),
            #[cfg(unix)]
            Self::Up(args) => return client::up(args, cluster, output).await,
            #[cfg(unix)]
            Self::Down(args) => return client::down(args, output).await,
            #[cfg(unix)]
            Self::Ls(args) => return client::ls(args, output).await,
            #[cfg(unix)]
            Self::Logs(args) => return client::logs(args, output).await,
            #[cfg(unix)]
            Self::Add(args) => return client::add(args, cluster, output).await,
            #[cfg(unix)]
            Self::Rm(args) => return client::rm(args, output).await,
            #[cfg(unix)]
            Self::Top(args) => return args.run(&up::socket_path(), output).await,
            #[cfg(unix)]
            Self::Background(BackgroundArgs {}) => return background::run(output.verbosity()).await,
            Self::Doctor(args) => return doctor::run(*args, cluster, output).await,
        }
        Ok(0)
    }
}
