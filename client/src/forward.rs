//! From local sockets to the session: where to, over what, and what to do while there is nothing yet.

mod connection;
mod early;
pub mod listen;
pub mod tcp;
pub mod udp;

use std::{sync::Arc, time::Duration};

use relay_protocol::{
    Status,
    header::{Header, Protocol},
};
use relay_tunnel::Session;
use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::listen::Bound;

use crate::{
    agent::supervisor::Current,
    cluster::{
        ready::{Destination, Route},
        resolve::Forward,
    },
    direct::{Direct, pods::Pods},
    ledger::ForwardAccount,
    output::Output,
    trace::Tracing,
};

pub(crate) use connection::Ended;

/// With a session that is ready, opening waits only for the agent's limit of streams.
const LIMIT_WAIT: Duration = Duration::from_secs(10);

/// What to do about a local connection that was not carried.
pub(crate) const AGAIN: &str = "the local connection was reset; it can be tried again";

/// What every local connection needs.
#[derive(Clone)]
pub struct Relay {
    /// The session, as the supervisor has it.
    pub current: watch::Receiver<Current>,
    /// `--connect-wait`.
    pub connect_wait: Duration,
    /// The way to pods without an agent.
    pub direct: Direct,
    /// Where failures are told.
    pub output: Arc<Output>,
    /// All tasks with a local connection, to let them end before the process does.
    pub tasks: TaskTracker,
    /// What sees the traffic, if anything does.
    pub trace: Option<Tracing>,
}

/// One forward, as its listeners see it.
#[derive(Clone)]
pub struct Path {
    /// The target as typed.
    pub target: Arc<str>,
    /// Where connections go.
    pub route: Arc<Route>,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The target's port, as its Forwarding line has it.
    pub remote: u16,
    /// The pods behind it, where they can be reached without an agent.
    pub direct: Option<Arc<Pods>>,
    /// Where its connections are counted.
    pub account: Arc<ForwardAccount>,
    /// Cancelled when the forward is gone while its way goes on: its connections are reset.
    pub ended: CancellationToken,
}

/// Takes connections of one socket for ever.
pub async fn serve(socket: Bound, path: Path, relay: Relay) {
    match socket {
        Bound::Tcp(listener) => tcp::serve(listener, path, relay).await,
        Bound::Udp(socket) => udp::serve(socket, path, relay).await,
    }
}

impl Path {
    /// That of a forward which was looked up.
    pub fn new(forward: &Forward, account: Arc<ForwardAccount>) -> Self {
        Self {
            target: forward.target.as_str().into(),
            route: Arc::clone(&forward.route),
            protocol: forward.protocol,
            remote: forward.remote,
            direct: forward.direct.clone(),
            account,
            ended: CancellationToken::new(),
        }
    }
}

/// Why a local connection is not carried.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotForwarded {
    /// There is no way to the agent, or no ready endpoint, within `--connect-wait`.
    #[error("{0} within the time that a new connection waits")]
    Waited(&'static str),
    /// There is a way to the agent, and it allows no further stream, or this process has no memory for one.
    #[error(
        "the agent takes no more connections at the same time: its memory or its limit of streams is used up"
    )]
    Full,
    /// The target is gone for ever.
    #[error("{0}")]
    Gone(String),
    /// The run is over.
    #[error("the relay is ending")]
    Ending,
    /// The session refuses.
    #[error("{0}")]
    Refused(Status),
}

impl NotForwarded {
    /// For scripts.
    pub(crate) fn status(&self) -> Status {
        match self {
            Self::Refused(status) => *status,
            Self::Ending => Status::Aborted,
            Self::Full => Status::TooManyStreams,
            Self::Waited(_) | Self::Gone(_) => Status::ConnectTimedOut,
        }
    }

    /// What to do.
    pub(crate) fn hint(&self) -> &'static str {
        match self {
            Self::Full => {
                "end some of them, or give the agent more memory, as in --server.limits memory=256Mi"
            }
            _ => AGAIN,
        }
    }
}

impl Relay {
    /// Opens a way to the path's target with `open` (a stream or a flow).
    async fn open<T, F>(
        &self,
        path: &Path,
        open: impl Fn(Session, Header) -> F,
    ) -> Result<(T, Destination), NotForwarded>
    where
        F: Future<Output = Result<T, Status>>,
    {
        let deadline = self.deadline();
        let route = timeout_at(Instant::now() + self.connect_wait, path.route.destination());
        let destination = route
            .await
            .map_err(|_| NotForwarded::Waited("nothing was ready to take the connection"))?
            .map_err(NotForwarded::Gone)?;
        let opened = self.open_to(path.protocol, &destination, deadline, open).await?;
        Ok((opened, destination))
    }

    /// Until when something that is opened now waits for a session.
    pub(crate) fn deadline(&self) -> Instant {
        let ready = self.current.borrow().is_ready();
        Instant::now() + if ready { self.connect_wait.max(LIMIT_WAIT) } else { self.connect_wait }
    }

    /// Opens a way to exactly there with `open`.
    pub(crate) async fn open_to<T, F>(
        &self,
        protocol: Protocol,
        destination: &Destination,
        deadline: Instant,
        open: impl Fn(Session, Header) -> F,
    ) -> Result<T, NotForwarded>
    where
        F: Future<Output = Result<T, Status>>,
    {
        let mut current = self.current.clone();
        let header = Header {
            request_id: uuid::Uuid::new_v4(),
            protocol,
            port: destination.port,
            address: destination.address.clone(),
        };
        let opened = timeout_at(deadline, async {
            loop {
                let session = session(&mut current).await?;
                match open(session, header.clone()).await {
                    Ok(opened) => return Ok(opened),
                    // No byte went out: another session may take it.
                    Err(Status::AgentLost | Status::ShuttingDown) => {
                        current.changed().await.map_err(|_| NotForwarded::Ending)?;
                    }
                    Err(status) => return Err(NotForwarded::Refused(status)),
                }
            }
        });
        opened.await.unwrap_or_else(|_| {
            // With a session through which traffic flows, opening waits for nothing else.
            let ready = self.current.borrow().is_ready();
            Err(if ready { NotForwarded::Full } else { NotForwarded::Waited("the agent was not reached") })
        })
    }
}

/// Waits for a session with which traffic flows: what is down takes nothing new, so that nobody waits longer for it
/// than they were told.
async fn session(current: &mut watch::Receiver<Current>) -> Result<Session, NotForwarded> {
    let ready = current.wait_for(Current::is_ready).await.map_err(|_| NotForwarded::Ending)?;
    match &*ready {
        Current::Session { session, .. } => Ok(session.clone()),
        Current::Starting => Err(NotForwarded::Ending),
    }
}
