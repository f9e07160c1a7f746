//! What goes wrong without an agent, in sentences.

use relay_transport::DialError;

use crate::{
    agent::launch::LaunchError,
    cluster::{api::ApiError, rbac::role_to_port_forward},
};

/// Why something can't be forwarded without an agent.
#[derive(Debug, Clone, thiserror::Error)]
pub enum DirectError {
    /// `--agent-source none`, and a target that is no pod's TCP port.
    #[error("{target} needs an agent: without one there is {}", if *udp { "no UDP" } else { "TCP to pods, workloads and Services only" })]
    NeedsAgent {
        /// The target as typed.
        target: String,
        /// It is the protocol.
        udp: bool,
    },
    /// A Service that selects no pods.
    #[error("{target} selects no pods, so only an agent could reach it")]
    NoPods {
        /// The target as typed.
        target: String,
    },
    /// No agent can be had, and a forward can't do without.
    #[error("{launch}; without an agent there is TCP to pods only, and {target} is not that")]
    NoLastResort {
        /// The forward's target as typed.
        target: String,
        /// Why there is no agent.
        launch: Box<LaunchError>,
    },
    /// The pods can't be looked up.
    #[error("{0}")]
    Api(Box<ApiError>),
    /// There is nothing, and never will be.
    #[error("{0}")]
    Gone(String),
    /// No pod was ready in time.
    #[error("no pod was ready to take the connection in time")]
    NothingReady,
    /// The port-forward doesn't come about.
    #[error("{0}")]
    Dial(DialError),
    /// The run is over.
    #[error("the relay is ending")]
    Ending,
}

impl DirectError {
    /// What to do about it.
    pub fn hint(&self) -> String {
        match self {
            Self::NeedsAgent { .. } | Self::NoPods { .. } => {
                "leave --agent-source none away; kubectl relay starts an agent then".into()
            }
            Self::NoLastResort { launch, .. } => launch.hint(),
            Self::Api(error) => error.hint(),
            Self::Gone(_) => "name a pod that runs, or a workload such as deploy/NAME to follow its pods".into(),
            Self::NothingReady => {
                "see what the pods wait for: kubectl get pods; --pod-running-timeout gives them longer".into()
            }
            Self::Dial(DialError::Forbidden { verbs, namespace, .. }) => {
                let verbs: Vec<_> = verbs.iter().map(|verb| verb.to_string()).collect();
                format!(
                    "ask for this Role, bound to you:\n{}",
                    role_to_port_forward(namespace, &verbs).trim_end()
                )
            }
            Self::Dial(DialError::Unauthorized { .. }) => {
                "log in again; kubectl auth whoami shows whom the cluster takes you for".into()
            }
            Self::Dial(DialError::UpgradeRefused { .. } | DialError::ProtocolError(_)) => {
                "something between here and the API server may not pass upgraded connections; try --transport spdy or \
                 --transport websocket"
                    .into()
            }
            Self::Dial(_) | Self::Ending => "the local connection was reset; it can be tried again".into(),
        }
    }

    /// 2 for what was typed wrongly.
    pub fn exit_code(&self) -> u8 {
        if matches!(self, Self::NeedsAgent { .. }) { 2 } else { 1 }
    }
}
