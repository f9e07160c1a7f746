//! The client of the API server whose copies stay usable for ever: every request, a dial or a watch, goes out with the
//! credentials and to the address that the kubeconfig gives now. What still hangs on an older client is ended.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use http::{Request, Response, StatusCode, header::UPGRADE};
use jiff::Timestamp;
use kube::{Client, client::Body};
use relay_transport::connect::Ahead;
use tokio::sync::{Mutex, watch};
use tokio_util::sync::CancellationToken;
use tower::{BoxError, service_fn};

use super::{
    config::ClusterConfig,
    connect::{ConnectError, Material, Source},
    until::{Superseded, Until},
};
use crate::cli::args::ClusterArgs;

/// Credentials are renewed so long before they expire.
const RENEW_BEFORE: Duration = Duration::from_secs(60);
/// Refused credentials are renewed so often at most: each time may start a plugin.
const RENEW_PAUSE: Duration = Duration::from_secs(1);

/// Access to the API server. Cheap to clone.
#[derive(Clone)]
pub struct Access {
    client: Client,
    renewals: watch::Receiver<u64>,
    renewing: Option<Arc<Renewing>>,
}

/// A client that never changes, as tests have it.
impl From<Client> for Access {
    fn from(client: Client) -> Self {
        Self { client, renewals: watch::channel(0).1, renewing: None }
    }
}

impl Access {
    /// Gets first credentials. Nothing is connected yet.
    ///
    /// # Errors
    /// When no client can be made.
    pub async fn open(args: &ClusterArgs, config: ClusterConfig) -> Result<Self, ConnectError> {
        let namespace = config.kube.default_namespace.clone();
        let material = Material::obtain(&config).await?;
        let generation = Generation::new(0, &material)?;
        let (numbers, renewals) = watch::channel(0);
        let state =
            State { source: Source::new(args, config), material, generation, asked_again: None, numbers };
        let renewing = Arc::new(Renewing(Mutex::new(state)));
        let sender = Arc::clone(&renewing);
        let service = service_fn(move |request| Arc::clone(&sender).send(request));
        Ok(Self { client: Client::new(service, namespace), renewals, renewing: Some(renewing) })
    }

    /// For requests.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// An agent is about to be dialled: makes the connection for it, beside whatever is asked before. To be called within
    /// a runtime.
    pub fn connect_ahead(&self) {
        if let Some(renewing) = self.renewing.clone() {
            tokio::spawn(async move { renewing.0.lock().await.generation.ahead.connect() });
        }
    }

    /// Changes when a new client has taken over: whoever waits before trying again need not wait any longer.
    pub fn renewals(&self) -> watch::Receiver<u64> {
        self.renewals.clone()
    }

    /// The path was lost: connections may be dead without anybody knowing. Ends what hangs on them, so that watches
    /// go on over new ones. Credentials stay. To be called within a runtime.
    pub fn reconnect(&self) {
        if let Some(renewing) = self.renewing.clone() {
            tokio::spawn(async move {
                let mut state = renewing.0.lock().await;
                if let Err(error) = state.supersede() {
                    tracing::warn!(%error, "connections not renewed");
                }
            });
        }
    }
}

/// One client, until the next one takes over.
#[derive(Clone)]
struct Generation {
    number: u64,
    client: Client,
    ahead: Ahead,
    ended: CancellationToken,
}

impl Generation {
    fn new(number: u64, material: &Material) -> Result<Self, ConnectError> {
        let (client, ahead) = material.client()?;
        Ok(Self { number, client, ahead, ended: CancellationToken::new() })
    }

    async fn send(&self, request: Request<Body>) -> Result<Response<Until>, BoxError> {
        // A lane has a connection of its own, and its session finds out whether that one works.
        if request.headers().contains_key(UPGRADE) {
            return Ok(self.client.send(request).await?.map(Until::forever));
        }
        tokio::select! {
            response = self.client.send(request) => Ok(response?.map(|body| Until::ended(body, &self.ended))),
            () = self.ended.cancelled() => Err(Superseded.into()),
        }
    }
}

/// Held while credentials are renewed: everybody else waits for the one plugin that runs.
struct Renewing(Mutex<State>);

struct State {
    source: Source,
    material: Material,
    generation: Generation,
    /// When credentials were asked for because the API server had refused what there was.
    asked_again: Option<Instant>,
    numbers: watch::Sender<u64>,
}

impl Renewing {
    async fn send(self: Arc<Self>, request: Request<Body>) -> Result<Response<Until>, BoxError> {
        let again = copy(&request);
        let generation = self.current().await?;
        let refused = generation.number;
        let response = generation.send(request).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return Ok(response);
        }
        match again.zip(self.renewed(Some(refused)).await?) {
            Some((request, generation)) => generation.send(request).await,
            None => Ok(response),
        }
    }

    async fn current(self: &Arc<Self>) -> Result<Generation, BoxError> {
        let usable = {
            let state = self.0.lock().await;
            (!state.source.changed() && !state.expires()).then(|| state.generation.clone())
        };
        if let Some(generation) = usable {
            return Ok(generation);
        }
        let renewed = self.renewed(None).await?;
        Ok(match renewed {
            Some(generation) => generation,
            None => self.0.lock().await.generation.clone(),
        })
    }

    /// Runs to its end even when the caller gives up: a plugin that waits for a person must not be started again by
    /// every attempt to dial.
    async fn renewed(self: &Arc<Self>, refused: Option<u64>) -> Result<Option<Generation>, BoxError> {
        let this = Arc::clone(self);
        let renewing = tokio::spawn(async move {
            let mut state = this.0.lock().await;
            match refused {
                Some(number) => state.after_refusal(number).await,
                None => Ok(state.refresh().await),
            }
        });
        match renewing.await {
            Ok(Ok(renewed)) => Ok(renewed),
            // As itself, so that a dial can tell missing credentials from a server that is away.
            Ok(Err(ConnectError::Transport(error))) => Err(error.into()),
            Ok(Err(error)) => Err(error.into()),
            Err(_) => Err(ConnectError::Thread.into()),
        }
    }
}

impl State {
    fn expires(&self) -> bool {
        let at = self.material.credentials.valid_until();
        at.is_some_and(|at| at <= Timestamp::now() + RENEW_BEFORE)
    }

    /// After a change of the files, or before the credentials expire. What fails leaves what is at hand, which may be
    /// good for a while.
    async fn refresh(&mut self) -> Option<Generation> {
        // Somebody else may have done it while this call waited for its turn.
        let differs = self.source.changed() && self.reload().await;
        if !differs && !self.expires() {
            return None;
        }
        match self.obtain().await {
            Ok(generation) => Some(generation),
            Err(error) => {
                tracing::warn!(%error, "cannot renew the credentials");
                None
            }
        }
    }

    /// The client that takes over from one that was refused, if there is anything else to try.
    async fn after_refusal(&mut self, refused: u64) -> Result<Option<Generation>, ConnectError> {
        if self.generation.number != refused {
            return Ok(Some(self.generation.clone()));
        }
        let differs = self.reload().await;
        let may_ask = self.asked_again.is_none_or(|at| at.elapsed() >= RENEW_PAUSE);
        let worth_asking = differs || (self.source.has_plugin() && may_ask);
        if !worth_asking {
            return Ok(None);
        }
        self.asked_again = Some(Instant::now());
        self.obtain().await.map(Some)
    }

    async fn reload(&mut self) -> bool {
        match self.source.reload().await {
            Ok(differs) => differs,
            Err(error) => {
                tracing::warn!(%error, "the kubeconfig has changed and cannot be used as it is");
                false
            }
        }
    }

    async fn obtain(&mut self) -> Result<Generation, ConnectError> {
        self.material = Material::obtain(&self.source.config).await?;
        self.supersede()?;
        tracing::info!(server = %self.source.config.kube.cluster_url, "a new client takes over");
        Ok(self.generation.clone())
    }

    /// A new client takes over, with connections of its own.
    fn supersede(&mut self) -> Result<(), ConnectError> {
        let number = self.generation.number + 1;
        let old = std::mem::replace(&mut self.generation, Generation::new(number, &self.material)?);
        old.ended.cancel();
        self.numbers.send_replace(number);
        Ok(())
    }
}

/// The same request once more; `None` for a body that is not held whole.
fn copy(request: &Request<Body>) -> Option<Request<Body>> {
    let mut copy = Request::new(request.body().try_clone()?);
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.headers_mut() = request.headers().clone();
    *copy.extensions_mut() = request.extensions().clone();
    Some(copy)
}
