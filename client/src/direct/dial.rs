//! From a forward's pods to an open connection: chosen, taken from the reserve or dialled, and tried again for as long
//! as a new connection may wait.

use std::{
    sync::{Arc, PoisonError},
    time::Duration,
};

use relay_transport::{Connection, ConnectionError, DialError, Mode, Negotiated, PortForward};
use tokio::time::{Instant, error::Elapsed, sleep, timeout, timeout_at};

use super::{
    Direct, DirectError,
    pods::{PodPort, Pods},
    within,
};
use crate::output::RelayState;

/// A connection in reserve that does not take a stream within this time is dead.
const ANSWER: Duration = Duration::from_secs(2);
/// The time for a dial that works, whatever `--connect-wait` says.
const DIAL: Duration = Duration::from_secs(10);
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(300);

/// How long to try, and what has come of it.
struct Trying {
    /// Waiting ends here.
    deadline: Instant,
    /// A dial may go on until then.
    limit: Instant,
    failed: Option<DialError>,
}

impl Trying {
    async fn pod(&mut self, pods: &Pods) -> Result<PodPort, DirectError> {
        timeout_at(self.deadline, pods.next()).await.unwrap_or_else(|_| Err(self.late()))
    }

    /// What a dial gave, if it gave anything in time.
    fn outcome<T>(&mut self, dialled: Result<T, Elapsed>) -> Result<T, DirectError> {
        dialled.map_err(|_| match self.failed.take() {
            Some(error) => DirectError::Dial(error),
            None => DirectError::Dial(DialError::TimedOut(DIAL)),
        })
    }

    fn late(&mut self) -> DirectError {
        self.failed.take().map_or(DirectError::NothingReady, DirectError::Dial)
    }
}

impl Direct {
    /// A connection to a ready pod.
    pub(super) async fn open(
        &self,
        pods: &Pods,
        wait: Duration,
    ) -> Result<(Connection, PodPort), DirectError> {
        let deadline = within(wait);
        let mut trying = Trying { deadline, limit: deadline.max(within(DIAL)), failed: None };
        loop {
            let pod = trying.pod(pods).await?;
            let connection = trying.outcome(timeout_at(trying.limit, self.connect(&pod)).await)?;
            match connection {
                Ok(connection) => return Ok((connection, pod)),
                Err(error) => self.pause(&mut trying, pods, error).await?,
            }
        }
    }

    /// Waits until connections can be had: one is dialled in each namespace, and is the first in reserve. Cancellation
    /// safe.
    ///
    /// # Errors
    /// Why none can be had.
    pub async fn ready(&self, pods: &Pods, wait: Duration) -> Result<(), DirectError> {
        let next = timeout_at(within(wait), pods.next()).await;
        let pod = next.map_err(|_| DirectError::NothingReady)??;
        // The older WebSocket can't wait to be needed; the first connection will tell.
        if self.0.asked_mode != Mode::WebSocketV4 {
            let admitted = {
                let mut admitted = self.0.admitted.lock().unwrap_or_else(PoisonError::into_inner);
                Arc::clone(admitted.entry(pod.namespace.clone()).or_default())
            };
            admitted.get_or_try_init(|| self.admitted(pods, wait)).await?;
            self.refill(&pod);
        }
        self.0.flows.call_once(|| self.0.output.state(&RelayState::Ready { down: None }));
        Ok(())
    }

    async fn admitted(&self, pods: &Pods, wait: Duration) -> Result<(), DirectError> {
        let deadline = within(wait);
        let mut trying = Trying { deadline, limit: deadline.max(within(DIAL)), failed: None };
        loop {
            let pod = trying.pod(pods).await?;
            match trying.outcome(timeout_at(trying.limit, self.dial_idle(&pod)).await)? {
                Ok(connection) => {
                    self.0.reserve.fill(&pod.uid, async { Ok(connection) });
                    return Ok(());
                }
                Err(error) => self.pause(&mut trying, pods, error).await?,
            }
        }
    }

    /// Waits for a little while after a dial that failed, if there is still time.
    async fn pause(&self, trying: &mut Trying, pods: &Pods, error: DialError) -> Result<(), DirectError> {
        tracing::info!(%error, "port-forward not dialled");
        match &error {
            // What follows the pods is behind.
            DialError::PodNotFound { .. } => pods.doubt(),
            error if error.is_retryable() => {}
            _ => return Err(DirectError::Dial(error)),
        }
        trying.limit = trying.deadline;
        if Instant::now() + PAUSE >= trying.deadline {
            return Err(DirectError::Dial(error));
        }
        trying.failed = Some(error);
        tokio::select! {
            () = sleep(PAUSE) => Ok(()),
            () = self.0.ended.cancelled() => Err(DirectError::Ending),
        }
    }

    /// A connection to a port of a pod, and one more to follow it.
    pub(super) async fn connect(&self, pod: &PodPort) -> Result<Connection, DialError> {
        let connection = match self.reserved(pod).await {
            Some(connection) => connection,
            None => {
                let dial = |mode| {
                    let (client, pod) = (self.0.access.client(), pod.clone());
                    async move { PortForward::dial(&client, &pod.namespace, &pod.pod, pod.port, mode).await }
                };
                self.dial(dial).await?
            }
        };
        self.refill(pod);
        Ok(connection)
    }

    fn refill(&self, pod: &PodPort) {
        if self.0.asked_mode != Mode::WebSocketV4 {
            let (this, again) = (self.clone(), pod.clone());
            self.0.reserve.fill(&pod.uid, async move { this.dial_idle(&again).await });
        }
    }

    /// The connection in reserve, with a stream that its node has taken: then it was not dead all the while, and what
    /// the local program says is not lost in it.
    async fn reserved(&self, pod: &PodPort) -> Option<Connection> {
        let mut connection = self.0.reserve.take(&pod.uid).await?;
        let opening = async {
            connection.open(pod.port).await?;
            connection.accepted().await
        };
        match timeout(ANSWER, opening).await {
            Ok(Ok(())) => Some(connection),
            // The node's answer is no better on another connection: the reader will see it.
            Ok(Err(error)) if is_the_nodes(&error) => Some(connection),
            _ => {
                tracing::debug!(pod = pod.pod, "the connection in reserve was dead");
                None
            }
        }
    }

    async fn dial_idle(&self, pod: &PodPort) -> Result<Connection, DialError> {
        let dial = |mode| {
            let (client, pod) = (self.0.access.client(), pod.clone());
            async move { PortForward::dial_idle(&client, &pod.namespace, &pod.pod, mode).await }
        };
        self.dial(dial).await
    }

    /// Dials in the way that has worked before, and in all ways where that fails.
    async fn dial<F>(&self, dial: impl Fn(Mode) -> F) -> Result<Connection, DialError>
    where
        F: Future<Output = Result<(Connection, Negotiated), DialError>>,
    {
        let (asked, mode) = (self.0.asked_mode, self.mode());
        let mut dialled = dial(mode).await;
        if mode != asked && dialled.as_ref().is_err_and(|error| !error.is_retryable()) {
            dialled = dial(asked).await;
        }
        let (connection, negotiated) = dialled?;
        tracing::info!(?negotiated, "port-forward dialled");
        // Whoever has no right to WebSocket is not refused before each dial.
        self.set_mode(if negotiated == Negotiated::Spdy { Mode::Spdy } else { asked });
        Ok(connection)
    }
}

fn is_the_nodes(error: &std::io::Error) -> bool {
    let cause = error.get_ref().and_then(|inner| inner.downcast_ref::<ConnectionError>());
    matches!(cause, Some(ConnectionError::Remote(_) | ConnectionError::Reset { .. }))
}
