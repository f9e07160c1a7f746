//! One forward from its lookup to its failure.

use std::{
    future::pending,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use futures_util::future::join_all;
use tokio_util::sync::CancellationToken;

use super::{engine::Shared, told::Told, wish::Wish};
use crate::{
    cli::args::AgentSource,
    cluster::resolve::{Forward, Resolver},
    direct,
    error::Error,
    forward::{
        Path,
        listen::{Bound, ListenError, bind, bind_again},
        serve,
    },
    ledger::ForwardAccount,
    port::LocalPort,
    run::{serving::destination, serving::lines},
};

/// How a forward gets on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// It is looked up, or waits for its agent or its target.
    Starting,
    /// Traffic can flow, from these addresses.
    Ready(Vec<SocketAddr>),
    /// It waits to be tried again.
    Failed(Told),
    /// Until somebody starts it.
    Stopped,
}

/// A forward's task.
pub(super) struct Forwarding {
    pub(super) wish: Arc<Wish>,
    pub(super) account: Arc<ForwardAccount>,
    pub(super) progress: tokio::sync::watch::Sender<Progress>,
    pub(super) shared: Arc<Shared>,
    /// Where it listened the last time: a free port stays its own, as long as nobody else takes it.
    pub(super) listened: Arc<Mutex<Vec<SocketAddr>>>,
}

impl Forwarding {
    /// Carries until something is in the way. When it is dropped, its ports are free and its connections reset.
    pub(super) async fn once(&self) -> Told {
        match self.carried().await {
            Ok(never) => match never {},
            Err(told) => told,
        }
    }

    async fn carried(&self) -> Result<std::convert::Infallible, Told> {
        let Wish { wanted, means, .. } = &*self.wish;
        let place = wanted.spec.place.as_ref();
        let at_place = |error: Error| Told::from(error.at(place));
        self.account.starting(Vec::new());
        self.progress.send_if_modified(|progress| {
            let is_news = !matches!(progress, Progress::Starting | Progress::Failed(_));
            if is_news {
                *progress = Progress::Starting;
            }
            is_news
        });
        let opened = self.shared.contexts.open(&self.wish).await?;
        let resolver = Resolver {
            access: opened.access.clone(),
            namespace: wanted.namespace.clone().unwrap_or_else(|| opened.config.namespace.clone()),
            request_timeout: means.settings.cluster.request_timeout,
            pod_timeout: means.settings.pod_running_timeout,
        };
        let mut resolved =
            resolver.resolve(&wanted.spec).await.map_err(|error| at_place(Error::from(error)))?;
        let Some(forward) = resolved.pop() else {
            return Err(Told::new("nothing is forwarded", "name a port"));
        };
        if let Some(error) = direct::needs_agent(means.settings.agent.source, &forward) {
            return Err(error.into());
        }
        if let Some(note) = &forward.note {
            self.shared.output.note(note);
        }
        let bound = self.bound(&forward).map_err(|error| at_place(Error::from(error)))?;
        self.forwarded(bound, Arc::new(forward), &opened).await
    }

    fn bound(&self, forward: &Forward) -> Result<Vec<Bound>, ListenError> {
        let before = self.listened.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if matches!(forward.local, LocalPort::Free)
            && !before.is_empty()
            && let Ok(bound) = bind_again(&before, forward.protocol)
        {
            return Ok(bound);
        }
        bind(&self.wish.wanted.addresses, forward.local, forward.protocol)
    }

    async fn forwarded(
        &self,
        bound: Vec<Bound>,
        forward: Arc<Forward>,
        opened: &super::contexts::Opened,
    ) -> Result<std::convert::Infallible, Told> {
        let share = self.shared.ways.share(&self.wish, opened, &forward);
        let way = &share.running.way;
        self.account.goes_to(forward.remote, forward.protocol);
        self.account.goes_through(&way.account);
        let lines = lines(&forward, &bound);
        let listened: Vec<SocketAddr> = lines.iter().map(|line| line.local).collect();
        self.listened.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&listened);
        self.account.starting(listened.clone());

        let ended = CancellationToken::new();
        let path = Path { ended: ended.clone(), ..Path::new(&forward, Arc::clone(&self.account)) };
        let _ended = ended.drop_guard();
        let listening =
            join_all(bound.into_iter().map(|socket| serve(socket, path.clone(), way.relay.clone())));
        let working = async {
            way.ready().await;
            if way.relay.direct.is_only_way()
                && let Some(error) = direct::needs_agent(AgentSource::None, &forward)
            {
                return error;
            }
            if let Err(error) = destination(&forward, way, self.wish.means.settings.pod_running_timeout).await
            {
                return error.at(forward.place.as_ref());
            }
            self.account.ready();
            for line in &lines {
                self.shared.output.forwarding(line);
            }
            self.progress.send_replace(Progress::Ready(listened));
            let reason = forward.route.gone().await;
            Error::from(crate::cluster::resolve::ResolveError::Gone(reason)).at(forward.place.as_ref())
        };
        tokio::select! {
            error = working => Err(error.into()),
            told = share.running.failed() => Err(told),
            () = async { listening.await; pending().await } => Err(Told::new("the listener has ended", "")),
        }
    }
}
