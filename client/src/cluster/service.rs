//! Where a Service is now: its cluster address, asked for again when there is reason to doubt it. A Service that is
//! deleted and created anew gets another one. A watch would tell at once, but needs rights that `get` does not imply.

use std::{net::IpAddr, sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::Service;
use kube::Api;
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep, sleep_until},
};
use tokio_util::task::AbortOnDropHandle;

use super::api::{ApiError, Call, made};

/// With connections being made, the address is asked for this often without any doubt.
const OLD: Duration = Duration::from_secs(5);
/// And so often at most.
const PAUSE: Duration = Duration::from_secs(1);

/// One Service's address, kept by a task for as long as this lives.
#[derive(Debug)]
pub struct ServiceAddress {
    address: watch::Receiver<Option<IpAddr>>,
    doubts: Arc<Doubts>,
    _task: AbortOnDropHandle<()>,
}

#[derive(Debug, Default)]
struct Doubts {
    /// Something went wrong that another address would explain.
    doubt: Notify,
    /// Somebody wants to connect.
    connecting: Notify,
}

impl ServiceAddress {
    /// Follows from a known address on. To be called within a runtime.
    pub fn follow(api: Api<Service>, name: &str, call: Call, limit: Duration, known: IpAddr) -> Self {
        let (sender, address) = watch::channel(Some(known));
        let doubts = Arc::<Doubts>::default();
        let asked = Asked { api, name: name.into(), call, limit };
        let task = tokio::spawn(asked.keep(sender, Arc::clone(&doubts)));
        Self { address, doubts, _task: AbortOnDropHandle::new(task) }
    }

    /// The address for one connection; `None` while there is no such Service.
    pub fn now(&self) -> Option<IpAddr> {
        self.doubts.connecting.notify_one();
        *self.address.borrow()
    }

    /// A receiver of one's own that notices every change after this call.
    pub fn subscribe(&self) -> watch::Receiver<Option<IpAddr>> {
        let mut address = self.address.clone();
        address.mark_unchanged();
        address
    }

    /// A connection to the address failed.
    pub fn doubt(&self) {
        self.doubts.doubt.notify_one();
    }
}

/// How to ask.
struct Asked {
    api: Api<Service>,
    name: String,
    call: Call,
    limit: Duration,
}

impl Asked {
    async fn keep(self, address: watch::Sender<Option<IpAddr>>, doubts: Arc<Doubts>) {
        let mut asked = Instant::now();
        loop {
            let missing = address.borrow().is_none();
            let old = async {
                sleep_until(asked + OLD).await;
                doubts.connecting.notified().await;
            };
            tokio::select! {
                () = doubts.doubt.notified() => {}
                () = old => {}
                // Whoever waits for it wants to know when it is back.
                () = sleep(PAUSE), if missing => {}
            }
            sleep_until(asked + PAUSE).await;
            asked = Instant::now();
            let found = match made(self.call.clone(), self.limit, self.api.get(&self.name)).await {
                Ok(service) => cluster_ip(&service),
                Err(ApiError::NotFound { .. }) => None,
                // What is known is better than nothing.
                Err(error) => {
                    tracing::debug!(%error, "the Service's address is not known to be right");
                    continue;
                }
            };
            address.send_if_modified(|known| {
                let differs = *known != found;
                if differs {
                    tracing::info!(name = self.name, ?found, "the Service's address has changed");
                }
                *known = found;
                differs
            });
        }
    }
}

/// A Service's address inside the cluster, if it has one.
pub fn cluster_ip(service: &Service) -> Option<IpAddr> {
    service.spec.as_ref()?.cluster_ip.as_deref()?.parse().ok()
}
