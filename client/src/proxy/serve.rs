//! The proxy of a run: its listeners, bound before anything is created in the cluster, and what is said of them.

use std::{net::SocketAddr, sync::Arc};

use relay_protocol::header::Protocol;
use relay_proxy::{NoPages, Proxy, Settings};
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

use super::{ProxyError, ProxySettings, dial::TunnelDial, tell::Teller};
use crate::{
    forward::{
        Relay,
        listen::{Bound, ListenError, bind},
    },
    output::Output,
};

/// Bound sockets.
pub(crate) struct Listening(Vec<(SocketAddr, TcpListener)>);

impl Listening {
    /// Binds every address that is wanted.
    pub(crate) fn bind(settings: &ProxySettings) -> Result<Self, ProxyError> {
        let mut all = Vec::new();
        for on in &settings.listen {
            for bound in bind(&[on.address], on.port, Protocol::Tcp)? {
                let Bound::Tcp(listener) = bound else { continue };
                let failed = |source| ListenError {
                    address: SocketAddr::from(([0, 0, 0, 0], 0)),
                    protocol: Protocol::Tcp,
                    source,
                };
                all.push((listener.local_addr().map_err(failed)?, listener));
            }
        }
        Ok(Self(all))
    }
}

/// A proxy at work; dropping it ends its listeners and resets its clients.
pub(crate) struct Proxying {
    addresses: Vec<SocketAddr>,
    _listeners: Vec<AbortOnDropHandle<()>>,
}

impl Proxying {
    /// Serves what was bound through `relay`. Short names are looked for in `namespace` unless others were named.
    pub(crate) fn serve(
        settings: &ProxySettings,
        listening: Listening,
        relay: Relay,
        namespace: &str,
    ) -> Self {
        let mut rules = settings.rules.clone();
        if rules.search.is_empty() {
            rules.search.push(namespace.to_owned());
        }
        let settings = Settings {
            rules,
            credentials: settings.credentials.clone(),
            limits: settings.limits.clone(),
            pages: Arc::new(NoPages),
            observer: Arc::new(Teller(Arc::clone(&relay.output))),
            tasks: relay.tasks.clone(),
        };
        let proxy = Proxy::new(TunnelDial(relay), settings);
        let (addresses, listeners): (Vec<_>, Vec<_>) = listening.0.into_iter().unzip();
        let serve = |listener| AbortOnDropHandle::new(tokio::spawn(proxy.clone().serve(listener)));
        Self { addresses, _listeners: listeners.into_iter().map(serve).collect() }
    }

    /// Tells where it listens, at the moment traffic can flow.
    pub(crate) fn announce(&self, output: &Output) {
        for address in &self.addresses {
            output.proxying(*address);
        }
    }
}
