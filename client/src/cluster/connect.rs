//! Credentials and clients from the kubeconfig as it is now: made at the start, and again when something changed.

use std::{path::PathBuf, time::SystemTime};

use kube::Client;
use relay_transport::connect::{self, Ahead, Credentials, Proxy, ProxyError};

use super::config::{ClusterConfig, ConfigError};
use crate::cli::args::ClusterArgs;

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

/// What a client is made of.
pub(super) struct Material {
    pub(super) credentials: Credentials,
    proxy: Option<Proxy>,
}

impl Material {
    /// Runs the credential plugin, if there is one, beside the runtime's threads: it may wait for a person to log in.
    pub(super) async fn obtain(config: &ClusterConfig) -> Result<Self, ConnectError> {
        let environment = |name: &str| std::env::var(name).ok();
        let proxy = Proxy::choose(config.proxy_url.as_deref(), &config.kube.cluster_url, environment)?;
        let kube = config.kube.clone();
        let runtime = tokio::runtime::Handle::current();
        let obtained = tokio::task::spawn_blocking(move || {
            let _context = runtime.enter();
            Credentials::obtain(kube)
        });
        let credentials = obtained.await.map_err(|_| ConnectError::Thread)??;
        Ok(Self { credentials, proxy })
    }

    /// A client with connections of its own, and what makes one of them ahead.
    pub(super) fn client(&self) -> Result<(Client, Ahead), ConnectError> {
        Ok(self.credentials.client(self.proxy.as_ref())?)
    }
}

/// A kubeconfig that is read again when its files have changed.
pub(super) struct Source {
    args: ClusterArgs,
    pub(super) config: ClusterConfig,
    seen: Vec<Option<Stamp>>,
}

/// What tells two states of a file apart without reading it.
#[derive(PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    len: u64,
    /// A file that is moved into place may keep the time and the length of the one before.
    #[cfg(unix)]
    inode: u64,
}

impl Source {
    pub(super) fn new(args: &ClusterArgs, config: ClusterConfig) -> Self {
        // The run stays with its context, whatever becomes the current one.
        let args = ClusterArgs { context: config.context.clone(), ..args.clone() };
        let seen = stamps(&config.files);
        Self { args, config, seen }
    }

    /// Whether a file is not as it was when it was read. A few system calls.
    pub(super) fn changed(&self) -> bool {
        stamps(&self.config.files) != self.seen
    }

    /// Reads again. Says whether that makes a difference to a client.
    ///
    /// # Errors
    /// The kubeconfig cannot be used, for instance because it is being written; what was read before stays.
    pub(super) async fn reload(&mut self) -> Result<bool, ConfigError> {
        // Before the content, so that a change in between is seen the next time.
        let seen = stamps(&self.config.files);
        let config = ClusterConfig::load(&self.args).await?;
        let differs = config.fingerprint != self.config.fingerprint;
        self.seen = if config.files == self.config.files { seen } else { stamps(&config.files) };
        self.config = config;
        Ok(differs)
    }

    /// Whether asking again may give other credentials though no file has changed.
    pub(super) fn has_plugin(&self) -> bool {
        let user = &self.config.kube.auth_info;
        user.exec.is_some() || user.auth_provider.is_some()
    }
}

fn stamps(files: &[PathBuf]) -> Vec<Option<Stamp>> {
    let stamp = |file: &PathBuf| {
        let metadata = std::fs::metadata(file).ok()?;
        Some(Stamp {
            modified: metadata.modified().ok(),
            len: metadata.len(),
            #[cfg(unix)]
            inode: std::os::unix::fs::MetadataExt::ino(&metadata),
        })
    };
    files.iter().map(stamp).collect()
}
