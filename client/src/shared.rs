//! `kubectl relay agent`: an agent that a team shares, from its installation to its end.

pub mod apply;
pub mod args;
mod error;
pub mod metrics;
pub mod objects;
mod remove;
mod rollout;
pub mod status;

use std::{sync::Arc, time::Duration};

use self::{
    apply::{Applier, DryRun},
    args::{DryRunArg, InstallArgs},
    objects::{Object, Settings},
};
pub use self::{args::AgentVerb, error::SharedError};
use crate::{
    agent::found::NAMESPACE,
    cli::args::ClusterArgs,
    cluster::{access::Access, config::ClusterConfig},
    error::Error,
    output::Output,
};

/// The cluster, for a verb.
pub(crate) struct Cluster {
    access: Access,
    /// Where the shared agent is, or is to be.
    namespace: String,
    /// `--request-timeout`.
    limit: Duration,
    output: Arc<Output>,
}

impl Cluster {
    async fn open(args: &ClusterArgs, output: &Arc<Output>) -> Result<Self, Error> {
        let config = ClusterConfig::load(args).await?;
        Ok(Self {
            access: Access::open(args, config).await?,
            namespace: namespace(args).to_owned(),
            limit: args.request_timeout,
            output: Arc::clone(output),
        })
    }
}

/// The kubeconfig's namespace is for work; what a team shares has one of its own.
fn namespace(args: &ClusterArgs) -> &str {
    args.namespace.as_deref().unwrap_or(NAMESPACE)
}

impl AgentVerb {
    /// Does it; gives the exit code.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn run(self, cluster: &ClusterArgs, output: &Arc<Output>) -> Result<u8, Error> {
        match self {
            Self::Manifest(args) => {
                let wanted = args.read()?;
                let settings = Settings::new(&wanted)?;
                let all = objects::all(namespace(cluster), &settings)?;
                output.answer(yaml(&all)?.trim_end());
            }
            Self::Install(args) => {
                let wanted = args.wanted.clone().read()?;
                install(cluster, &args, Settings::new(&wanted)?, output).await?;
            }
            Self::Upgrade(args) => {
                let wanted = args.wanted.clone().read()?;
                let open = Cluster::open(cluster, output).await?;
                let recorded = apply::recorded(&open).await?;
                let image_before = recorded.pod.image.clone();
                let wanted = recorded.overlaid_with(&wanted)?;
                if wanted.pod.image.is_some() && wanted.pod.image == image_before {
                    let image = wanted.pod.image.as_deref().unwrap_or_default();
                    open.output.note(&format!("the image stays {image}: --server.image names another"));
                }
                install(cluster, &args, Settings::new(&wanted)?, output).await?;
            }
            Self::Uninstall(args) => remove::uninstall(&Cluster::open(cluster, output).await?, &args).await?,
            Self::Status(args) => status::tell(&Cluster::open(cluster, output).await?, &args).await?,
        }
        Ok(0)
    }
}

async fn install(
    cluster: &ClusterArgs,
    args: &InstallArgs,
    settings: Settings,
    output: &Arc<Output>,
) -> Result<(), Error> {
    let all = objects::all(namespace(cluster), &settings)?;
    let dry_run = match args.dry_run {
        Some(DryRunArg::Client) => {
            for object in &all {
                output.answer(&format!("{object} (client dry run)"));
            }
            return Ok(());
        }
        Some(DryRunArg::Server) => DryRun::Server,
        None => DryRun::No,
    };
    let cluster = Cluster::open(cluster, output).await?;
    let applier = Applier { cluster: &cluster, dry_run, force: args.force_conflicts };
    if let Some(generation) = applier.all(&all).await? {
        rollout::finished(&cluster, generation, args.timeout).await?;
        let namespace = &cluster.namespace;
        output.answer(&format!("the shared agent in namespace {namespace} is ready"));
    }
    Ok(())
}

/// The objects as one stream of YAML documents.
fn yaml(objects: &[Object]) -> Result<String, SharedError> {
    let documents: Result<Vec<_>, _> =
        objects.iter().map(|object| serde_yaml::to_string(&object.value)).collect();
    Ok(documents.map_err(|error| SharedError::Yaml(error.to_string()))?.join("---\n"))
}
