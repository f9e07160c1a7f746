//! A `kube::Client` whose connections suit long-lived streams.
//!
//! kube's own client leaves Nagle's algorithm on, compares `NO_PROXY` with the proxy instead of the server,
//! and retries a refused upgrade for minutes. Everything that concerns credentials (tokens, token files,
//! exec plugins, client certificates, impersonation) is kube's.

mod ahead;
mod config;
mod exec;
mod io;
mod proxy;

use std::time::Duration;

use hyper::body::Incoming;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::proxy::{SocksV5, Tunnel};
use hyper_util::client::legacy::{Client as HttpClient, Error as HttpError};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use k8s_openapi::jiff::Timestamp;
use kube::client::middleware::AuthLayer;
use kube::client::retry::RetryPolicy;
use kube::client::{Body, ClientBuilder, ConfigExt as _};
use tower::retry::{Policy, RetryLayer};
use tower::util::BoxCloneSyncService;
use tower::{BoxError, Service, ServiceBuilder};

pub use ahead::Ahead;
use ahead::Prepared;
pub use config::config;
pub(crate) use io::direct;
use io::{Deadline, Transport};
pub use proxy::{Proxy, ProxyError};

/// How long TCP, proxy and TLS may take together until a connection stands.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// A silent connection is probed after this long, and then every [`KEEPALIVE_INTERVAL`].
const KEEPALIVE: Duration = Duration::from_secs(15);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_RETRIES: u32 = 3;

/// An unused connection is closed after this long: shorter than what load balancers allow.
const POOL_IDLE: Duration = Duration::from_secs(30);

/// Why no client could be built.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Credentials, certificates or addresses of the kubeconfig are unusable.
    #[error("the kubeconfig cannot be used: {}", crate::error::chain(.0))]
    Config(#[source] kube::Error),
    /// The kubeconfig's cluster has an unusable entry.
    #[error("the kubeconfig cannot be used: {0}")]
    Cluster(String),
    /// The credential plugin failed.
    #[error("the credential plugin {command} failed: {cause}")]
    Plugin {
        /// What was run.
        command: String,
        /// What went wrong.
        cause: String,
    },
}

/// What proves who is asking, for as many clients as wanted: a token that is renewed is renewed for all of them.
pub struct Credentials {
    /// Without what kube would run to get a certificate.
    config: kube::Config,
    auth: Option<AuthLayer>,
    valid_until: Option<Timestamp>,
}

impl Credentials {
    /// Runs the kubeconfig's credential plugin, if there is one, and blocks meanwhile. A plugin that gives a
    /// client certificate is not asked again: obtain anew before [`Credentials::valid_until`].
    ///
    /// # Errors
    /// The configuration or the credential plugin is at fault.
    pub fn obtain(config: kube::Config) -> Result<Self, ConnectError> {
        // An error means that somebody has chosen a provider already, which will do.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let auth = config.auth_layer().map_err(ConnectError::Config)?;
        let (config, valid_until) = match auth {
            // What the plugin gave is in the layer; kube would run it again for the certificate that it lacks.
            Some(_) => (exec::without_plugin(config), None),
            None => exec::with_certificate(config)?,
        };
        Ok(Self { config, auth, valid_until })
    }

    /// When a client certificate that a plugin gave ends to be good.
    #[must_use]
    pub fn valid_until(&self) -> Option<Timestamp> {
        self.valid_until
    }

    /// Builds a client, with connections of its own, and what makes one of them ahead. It goes through `proxy`,
    /// whatever the configuration's `proxy_url` says (kube has mixed the kubeconfig's setting with the environment's
    /// there): see [`Proxy::choose`].
    ///
    /// Requests are retried as kube does, except upgrades, which also never use an idle connection of the
    /// pool: it may be dead without anybody knowing.
    ///
    /// # Errors
    /// The configuration is at fault; nothing is connected yet.
    pub fn client(&self, proxy: Option<&Proxy>) -> Result<(kube::Client, Ahead), ConnectError> {
        let config = &self.config;
        let https = config
            .rustls_https_connector_with_connector(connector(config, proxy)?)
            .map_err(ConnectError::Config)?;
        let https = Deadline::new(https, CONNECT_TIMEOUT);
        let mut pool = HttpClient::builder(TokioExecutor::new());
        pool.pool_timer(TokioTimer::new()).pool_idle_timeout(POOL_IDLE).pool_max_idle_per_host(4);
        let mut fresh = HttpClient::builder(TokioExecutor::new());
        fresh.pool_max_idle_per_host(0);
        let (prepared, ahead) = Prepared::new(https.clone(), config.cluster_url.clone());
        let http = Http { pooled: pool.build(https), fresh: fresh.build(prepared) };
        let retry = config.default_retry.then(|| RetryLayer::new(Retry(RetryPolicy::server_retry())));
        let service = ServiceBuilder::new()
            .layer(config.base_uri_layer())
            .option_layer(retry)
            .option_layer(self.auth.as_ref())
            .layer(config.extra_headers_layer().map_err(ConnectError::Config)?)
            .map_err(BoxError::from)
            .service(http);
        let builder = ClientBuilder::new(service, config.default_namespace.clone());
        Ok((builder.with_valid_until(self.valid_until).build(), ahead))
    }
}

/// A client of one's own: [`Credentials::obtain`] and [`Credentials::client`] in one.
///
/// # Errors
/// See there.
pub fn client(config: kube::Config, proxy: Option<&Proxy>) -> Result<kube::Client, ConnectError> {
    Ok(Credentials::obtain(config)?.client(proxy)?.0)
}

/// Connects to the API server's address, through the proxy if there is one; TLS comes on top.
fn connector(
    config: &kube::Config,
    proxy: Option<&Proxy>,
) -> Result<BoxCloneSyncService<http::Uri, Transport, BoxError>, ConnectError> {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_keepalive(Some(KEEPALIVE));
    tcp.set_keepalive_interval(Some(KEEPALIVE_INTERVAL));
    tcp.set_keepalive_retries(Some(KEEPALIVE_RETRIES));
    tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
    let Some(proxy) = proxy else { return Ok(Transport::from(tcp)) };
    let address = proxy.address.clone();
    Ok(match proxy.kind {
        proxy::Kind::Socks5 => {
            let socks = SocksV5::new(address, tcp);
            Transport::from(match &proxy.user {
                Some((name, password)) => socks.with_auth(name.clone(), password.clone()),
                None => socks,
            })
        }
        proxy::Kind::Http => Transport::from(authorized(Tunnel::new(address, tcp), proxy)),
        proxy::Kind::Https => {
            // The cluster's certificates and server name say nothing about the proxy: the system's do.
            let mut own = kube::Config::new(proxy.address.clone());
            own.accept_invalid_certs = config.accept_invalid_certs;
            let tls = own.rustls_https_connector_with_connector(tcp).map_err(ConnectError::Config)?;
            Transport::from(authorized(Tunnel::new(address, tls), proxy))
        }
    })
}

fn authorized<C>(tunnel: Tunnel<C>, proxy: &Proxy) -> Tunnel<C> {
    match proxy.authorization() {
        Some(header) => tunnel.with_auth(header),
        None => tunnel,
    }
}

type Https = Deadline<hyper_rustls::HttpsConnector<BoxCloneSyncService<http::Uri, Transport, BoxError>>>;

/// Sends upgrades over new connections and everything else over pooled ones.
#[derive(Clone)]
struct Http {
    pooled: HttpClient<Https, Body>,
    fresh: HttpClient<Prepared<Https>, Body>,
}

impl Service<http::Request<Body>> for Http {
    type Response = http::Response<Incoming>;
    type Error = HttpError;
    type Future = hyper_util::client::legacy::ResponseFuture;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Self::Error>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        if is_upgrade(&request) { self.fresh.request(request) } else { self.pooled.request(request) }
    }
}

fn is_upgrade(request: &http::Request<Body>) -> bool {
    request.headers().contains_key(http::header::UPGRADE)
}

/// kube's retries, but not for upgrades: whoever dials must hear at once what is wrong.
#[derive(Clone)]
struct Retry(RetryPolicy);

impl<R> Policy<http::Request<Body>, http::Response<R>, BoxError> for Retry {
    type Future = <RetryPolicy as Policy<http::Request<Body>, http::Response<R>, BoxError>>::Future;

    fn retry(
        &mut self,
        request: &mut http::Request<Body>,
        result: &mut Result<http::Response<R>, BoxError>,
    ) -> Option<Self::Future> {
        self.0.retry(request, result)
    }

    fn clone_request(&mut self, request: &http::Request<Body>) -> Option<http::Request<Body>> {
        if is_upgrade(request) {
            return None;
        }
        Policy::<_, http::Response<R>, BoxError>::clone_request(&mut self.0, request)
    }
}
