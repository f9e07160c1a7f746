//! The client of the API server, made by `relay-transport`, and made again before its credentials expire.

use std::{sync::Arc, time::Duration};

use http::{Request, Response, StatusCode};
use jiff::Timestamp;
use kube::{Client, Config, client::Body};
use relay_transport::connect::{self, Proxy, ProxyError};
use tokio::sync::Mutex;
use tower::{BoxError, service_fn};

use super::config::ClusterConfig;

/// Credentials are renewed so long before they expire.
const RENEW_BEFORE: Duration = Duration::from_secs(60);

/// No client can be made of the configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Certificates, credentials or a credential plugin.
    #[error(transparent)]
    Transport(#[from] connect::ConnectError),
    /// The proxy's address.
    #[error(transparent)]
    Proxy(#[from] ProxyError),
    /// The system gives no thread for the plugin.
    #[error("cannot run the credential plugin")]
    Thread,
}

/// A client whose copies stay usable for ever: a client certificate from an exec plugin is asked for again before it
/// expires, and after the API server refused it.
///
/// # Errors
/// When no first client can be made.
pub async fn client(config: &ClusterConfig) -> Result<Client, ConnectError> {
    let proxy = Proxy::choose(config.proxy_url.as_deref(), &config.kube.cluster_url, |name| {
        std::env::var(name).ok()
    })?;
    let namespace = config.kube.default_namespace.clone();
    let renewing = config.kube.auth_info.exec.is_some();
    let source = Source { config: config.kube.clone(), proxy };
    let first = source.make().await?;
    if !renewing {
        return Ok(first);
    }
    let current =
        Arc::new(Renewing { source, current: Mutex::new(Generation { client: first, refused: false }) });
    let service = service_fn(move |request: Request<Body>| {
        let current = Arc::clone(&current);
        async move { current.send(request).await }
    });
    Ok(Client::new(service, namespace))
}

#[derive(Clone)]
struct Source {
    config: Config,
    proxy: Option<Proxy>,
}

impl Source {
    /// Beside the runtime's threads: a plugin may wait for a person to log in.
    async fn make(&self) -> Result<Client, ConnectError> {
        let this = self.clone();
        let runtime = tokio::runtime::Handle::current();
        let made = tokio::task::spawn_blocking(move || {
            let _context = runtime.enter();
            connect::client(this.config, this.proxy.as_ref())
        });
        Ok(made.await.map_err(|_| ConnectError::Thread)??)
    }
}

struct Generation {
    client: Client,
    refused: bool,
}

struct Renewing {
    source: Source,
    current: Mutex<Generation>,
}

impl Renewing {
    async fn send(&self, request: Request<Body>) -> Result<Response<Body>, BoxError> {
        let response = self.current().await?.send(request).await?;
        if response.status() == StatusCode::UNAUTHORIZED {
            self.current.lock().await.refused = true;
        }
        Ok(response)
    }

    async fn current(&self) -> Result<Client, BoxError> {
        let mut current = self.current.lock().await;
        let stale = current.client.valid_until().is_some_and(|at| at <= Timestamp::now() + RENEW_BEFORE);
        if stale || current.refused {
            match self.source.make().await {
                Ok(client) => *current = Generation { client, refused: false },
                // What is at hand may be good for some seconds more.
                Err(error) if !current.refused => tracing::warn!(%error, "cannot renew the credentials"),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(current.client.clone())
    }
}
