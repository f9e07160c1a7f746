//! How a session gets one more lane: a port-forward to the agent's pod through the API server.

use kube::Client;
use relay_transport::{Connection, DialError as TransportError, Mode, PortForward, ReadHalf, WriteHalf};
use relay_tunnel::{DialError, Dialer, LaneIo};
use tokio::sync::watch;

use crate::{
    agent::{launch::LaunchError, spec::AGENT_PORT},
    cli::args::TransportArg,
    cluster::rbac::role_for,
};

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

    async fn dial(&mut self) -> Result<Lane, DialError> {
        let dialled =
            PortForward::dial(&self.client, &self.namespace, &self.pod, AGENT_PORT, self.mode).await;
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

/// One upgraded connection.
pub struct Lane(Connection);

impl LaneIo for Lane {
    type Read = ReadHalf;
    type Write = WriteHalf;

    fn into_halves(self) -> (Self::Read, Self::Write) {
        self.0.into_split()
    }
}

/// The end of a run whose first lane is refused, if `error` is such a refusal.
pub fn final_refusal(error: &TransportError) -> Option<LaunchError> {
    match error {
        TransportError::Forbidden { verbs, namespace, .. } => {
            let verb = verbs.iter().next().map(|verb| verb.to_string()).unwrap_or_default();
            Some(LaunchError::PortForward {
                message: error.to_string(),
                hint: format!(
                    "ask for this Role, bound to you:\n{}",
                    role_for(Some(namespace), "", "pods/portforward", &verb).trim_end()
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
