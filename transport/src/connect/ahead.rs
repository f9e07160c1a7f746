//! A connection that is made before anybody asks for it: over a far path TCP and TLS take two round trips, and what
//! is to be asked of the server before the upgrade takes as long.

use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::Uri;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;
use tower::{BoxError, Service, ServiceExt as _};

/// An unused connection is good for so long. An API server waits 32 s for a request's head, and what is between it and
/// here may be less patient, or have gone to sleep.
const GOOD_FOR: Duration = Duration::from_secs(10);

/// Connects to the API server before there is an upgrade to send. Cheap to clone.
#[derive(Clone)]
pub struct Ahead(Arc<dyn Fn() + Send + Sync>);

impl Ahead {
    /// Begins to connect: the next upgrade of this client takes that connection, if it comes within ten seconds. Does
    /// nothing while there is such a connection already. To be called within a runtime.
    pub fn connect(&self) {
        (self.0)();
    }
}

/// A connector that gives away what [`Ahead`] has made.
pub(super) struct Prepared<C: Service<Uri>> {
    connector: C,
    slot: Slot<C::Response>,
}

impl<C: Service<Uri> + Clone> Clone for Prepared<C> {
    fn clone(&self) -> Self {
        Self { connector: self.connector.clone(), slot: Arc::clone(&self.slot) }
    }
}

type Slot<T> = Arc<Mutex<Option<Made<T>>>>;

/// A connection that stands, or will.
struct Made<T> {
    since: Instant,
    connecting: AbortOnDropHandle<Result<T, BoxError>>,
}

impl<T> Made<T> {
    /// Whether it may be used. One that has failed may be young too.
    fn is_young(&self) -> bool {
        self.since.elapsed() < GOOD_FOR
    }
}

impl<C> Prepared<C>
where
    C: Service<Uri, Error = BoxError> + Clone + Send + Sync + 'static,
    C::Response: Send + 'static,
    C::Future: Send + 'static,
{
    /// Connects with `connector`, and to `server` when told to do so ahead.
    pub(super) fn new(connector: C, server: Uri) -> (Self, Ahead) {
        let slot = Slot::default();
        let this = Self { connector: connector.clone(), slot: Arc::clone(&slot) };
        let ahead = move || {
            let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
            if slot.as_ref().is_none_or(|made| !made.is_young()) {
                let connecting = tokio::spawn(connector.clone().oneshot(server.clone()));
                *slot = Some(Made { since: Instant::now(), connecting: AbortOnDropHandle::new(connecting) });
            }
        };
        (this, Ahead(Arc::new(ahead)))
    }
}

impl<C> Service<Uri> for Prepared<C>
where
    C: Service<Uri, Error = BoxError> + Clone + Send + 'static,
    C::Response: Send + 'static,
    C::Future: Send + 'static,
{
    type Response = C::Response;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<C::Response, BoxError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.connector.poll_ready(cx)
    }

    fn call(&mut self, server: Uri) -> Self::Future {
        let made = self.slot.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(made) = made.filter(Made::is_young) else { return Box::pin(self.connector.call(server)) };
        let has_ended = made.connecting.is_finished();
        let connector = self.connector.clone();
        Box::pin(async move {
            match made.connecting.await {
                Ok(Ok(connection)) => Ok(connection),
                // To try again would give the same.
                Ok(Err(error)) if !has_ended => Err(error),
                _ => connector.oneshot(server).await,
            }
        })
    }
}
