//! How a session gets one more lane: a port-forward to the agent's pod through the API server.

use std::time::Duration;

use kube::Client;
use relay_transport::{Connection, DialError as TransportError, Mode, PortForward, ReadHalf, WriteHalf};
use relay_tunnel::{DialError, Dialer, LaneIo};
use tokio::{sync::watch, time::Instant};

use crate::{
    agent::{launch::LaunchError, spec::AGENT_PORT},
    cli::args::TransportArg,
    cluster::rbac::{role_for, shared_role_for},
};

/// A dial that is given up after this long, or later, says that nothing answers.
const UNANSWERED: Duration = Duration::from_secs(2);

/// Dials lanes to one agent.
pub struct LaneDialer {
    client: Client,
    namespace: String,
    pod: String,
    mode: Mode,
    failures: watch::Sender<Option<TransportError>>,
}

impl LaneDialer {
    /// A dialer, and where it tells its last failure: before a session's first welcome some of them are final.
    pub fn new(
        client: Client,
        namespace: &str,
        pod: &str,
        transport: TransportArg,
    ) -> (Self, watch::Receiver<Option<TransportError>>) {
        let (failures, told) = watch::channel(None);
        let mode = match transport {
            TransportArg::Auto => Mode::Auto,
            TransportArg::Websocket => Mode::WebSocket,
            TransportArg::WebsocketV4 => Mode::WebSocketV4,
            TransportArg::Spdy => Mode::Spdy,
        };
        (Self { client, namespace: namespace.into(), pod: pod.into(), mode, failures }, told)
    }
}

impl Dialer for LaneDialer {
    type Io = Lane;

    async fn dial(&self) -> Result<Lane, DialError> {
        let mut unanswered = Unanswered { since: Instant::now(), failures: Some(self.failures.clone()) };
        let dialled =
            PortForward::dial(&self.client, &self.namespace, &self.pod, AGENT_PORT, self.mode).await;
        unanswered.failures = None;
        match dialled {
            Ok((connection, negotiated)) => {
                tracing::info!(?negotiated, pod = self.pod, "lane dialled");
                self.failures.send_replace(None);
                Ok(Lane(connection))
            }
            Err(error) => {
                tracing::info!(%error, pod = self.pod, "lane not dialled");
                let dial_error = DialError {
                    message: error.to_string(),
                    fatal: matches!(
                        error,
                        TransportError::Forbidden { .. }
                            | TransportError::Unauthorized { .. }
                            | TransportError::PodNotFound { .. }
                    ),
                    gone: matches!(error, TransportError::PodNotFound { .. }),
                };
                self.failures.send_replace(Some(error));
                Err(dial_error)
            }
        }
    }
}

/// A dial under way: the session may give it up sooner than it would end by itself, which is a failure like others.
struct Unanswered {
    since: Instant,
    failures: Option<watch::Sender<Option<TransportError>>>,
}

impl Drop for Unanswered {
    fn drop(&mut self) {
        let waited = self.since.elapsed();
        if let Some(failures) = self.failures.take().filter(|_| waited >= UNANSWERED) {
            failures.send_replace(Some(TransportError::TimedOut(waited)));
        }
    }
}

/// One upgraded connection.
pub struct Lane(Connection);

impl LaneIo for Lane {
    type Read = ReadHalf;
    type Write = WriteHalf;

    fn into_halves(self) -> (Self::Read, Self::Write) {
        self.0.into_split()
    }
}

/// Whether a failed dial may mean that the agent's node is away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeAway {
    /// It says nothing about the node.
    No,
    /// Nothing answered: the API server may wait for the node, or be away itself.
    Perhaps,
    /// The API server says that it does not reach the node.
    Yes,
}

/// What a failed dial says about the agent's node.
pub fn node_away(error: &TransportError) -> NodeAway {
    match error {
        TransportError::UpgradeRefused { status, body }
            if status.is_server_error() && body.contains("error dialing backend") =>
        {
            NodeAway::Yes
        }
        TransportError::TimedOut(_) => NodeAway::Perhaps,
        _ => NodeAway::No,
    }
}

/// The end of a run whose first lane is refused, if `error` is such a refusal. An answer that speaks of trouble on the
/// server's side, or of too many requests, is none. With a shared agent another Role would do.
pub fn final_refusal(error: &TransportError, is_shared: bool) -> Option<LaunchError> {
    match error {
        _ if error.is_retryable() => None,
        TransportError::Forbidden { verbs, namespace, .. } => {
            let verb = verbs.iter().next().map(|verb| verb.to_string()).unwrap_or_default();
            Some(LaunchError::PortForward {
                message: error.to_string(),
                hint: format!(
                    "ask for this Role, bound to you:\n{}",
                    if is_shared {
                        shared_role_for(namespace, "pods/portforward", &verb)
                    } else {
                        role_for(Some(namespace), "", "pods/portforward", &verb)
                    }
                    .trim_end()
                ),
            })
        }
        TransportError::Unauthorized { .. } => Some(LaunchError::PortForward {
            message: error.to_string(),
            hint: "log in again; kubectl auth whoami shows whom the cluster takes you for".into(),
        }),
        TransportError::UpgradeRefused { .. } | TransportError::ProtocolError(_) => {
            Some(LaunchError::PortForward {
                message: error.to_string(),
                hint: "something between here and the API server may not pass upgraded connections; \
                       try --transport spdy or --transport websocket"
                    .into(),
            })
        }
        _ => None,
    }
}
