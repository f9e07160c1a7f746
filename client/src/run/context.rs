//! The contexts of a run: each is a cluster as one user, with an agent and a session of its own.

use std::sync::Arc;

use futures_util::future::try_join_all;

use crate::{
    agent::found::Finder,
    cli::{args::ClusterArgs, settings::Settings, wanted::Wanted},
    cluster::{access::Access, config::ClusterConfig, resolve::Resolver},
    error::Error,
    output::Output,
};

/// One context.
pub(crate) struct Context {
    pub(crate) config: ClusterConfig,
    pub(crate) access: Access,
    /// Looks for a shared agent, while targets are looked up.
    pub(crate) shared: Finder,
    /// Tells which context it is about, if there are several.
    pub(crate) output: Arc<Output>,
    is_one_of_several: bool,
}

/// All of them, and which target belongs where.
pub(super) struct Contexts {
    pub(super) all: Vec<Context>,
    /// For each target, in their order, its place in `all`.
    pub(super) of_target: Vec<usize>,
    /// The place of the proxy's, if there is one.
    pub(super) of_proxy: Option<usize>,
}

impl Contexts {
    /// Reads the kubeconfig for each context that is named, and gets first credentials. Two names for the same context
    /// are one: no name, and the current one's.
    pub(super) async fn open(settings: &Settings, output: &Arc<Output>) -> Result<Self, Error> {
        let runs_own = &settings.cluster.context;
        let of_target = |wanted: &Wanted| {
            let name = wanted.context.clone().or_else(|| runs_own.clone());
            (name, wanted.spec.place.clone())
        };
        let of_proxy = settings.proxy.iter().map(|_| (runs_own.clone(), None));
        let mut loaded: Vec<(Option<String>, usize)> = Vec::new();
        let mut configs: Vec<(ClusterArgs, ClusterConfig)> = Vec::new();
        let mut places = Vec::new();
        // With nothing typed, a target of the run's own context is asked for.
        let asked = settings.targets.is_empty() && settings.proxy.is_none();
        let asked = asked.then(|| (runs_own.clone(), None));
        for (name, place) in settings.targets.iter().map(of_target).chain(asked).chain(of_proxy) {
            if let Some((_, index)) = loaded.iter().find(|(known, _)| *known == name) {
                places.push(*index);
                continue;
            }
            let args = ClusterArgs { context: name.clone(), ..settings.cluster.clone() };
            let config = ClusterConfig::load(&args).await;
            let config = config.map_err(|error| Error::from(error).at(place.as_ref()))?;
            let same = configs.iter().position(|(_, known)| known.context == config.context);
            let index = same.unwrap_or_else(|| {
                configs.push((args, config));
                configs.len() - 1
            });
            loaded.push((name, index));
            places.push(index);
        }
        let is_one_of_several = configs.len() > 1;
        let opened = configs.into_iter().map(async |(args, config)| {
            let output = match config.context.as_deref().filter(|_| is_one_of_several) {
                Some(name) => Arc::new(output.about_context(name)),
                None => Arc::clone(output),
            };
            let access = Access::open(&args, config.clone()).await;
            let named = |error| Error::from(error).of_context(config.context.as_deref(), is_one_of_several);
            let access = access.map_err(named)?;
            let limit = settings.cluster.request_timeout;
            let shared = Finder::start(&access, &settings.agent, &config.namespace, limit);
            Ok::<_, Error>(Context { config, access, shared, output, is_one_of_several })
        });
        let of_proxy = settings.proxy.as_ref().and_then(|_| places.pop());
        Ok(Self { all: try_join_all(opened).await?, of_target: places, of_proxy })
    }
}

impl Context {
    /// The only one of its run.
    pub(crate) fn alone(
        config: ClusterConfig,
        access: Access,
        settings: &Settings,
        output: Arc<Output>,
    ) -> Self {
        let limit = settings.cluster.request_timeout;
        let shared = Finder::start(&access, &settings.agent, &config.namespace, limit);
        Self { config, access, shared, output, is_one_of_several: false }
    }

    /// Looks targets up in a namespace; `None`: the context's own.
    pub(super) fn resolver(&self, namespace: Option<&str>, settings: &Settings) -> Resolver {
        Resolver {
            access: self.access.clone(),
            namespace: namespace.unwrap_or(&self.config.namespace).to_owned(),
            request_timeout: settings.cluster.request_timeout,
            pod_timeout: settings.pod_running_timeout,
        }
    }

    /// Tells in which context an error happened, if there are several.
    pub(super) fn named(&self, error: Error) -> Error {
        error.of_context(self.config.context.as_deref(), self.is_one_of_several)
    }
}
