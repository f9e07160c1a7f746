//! The ledger at one moment, as it is written for other processes. Fields may be added; what is there keeps its meaning as
//! long as `version` does.

use std::net::SocketAddr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The version of [`Snapshot`].
pub const VERSION: u32 = 1;

/// Everything.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Snapshot {
    /// [`VERSION`].
    pub version: u32,
    /// The process that forwards.
    pub pid: u32,
    /// When it began.
    pub started: Timestamp,
    /// The oldest first.
    pub forwards: Vec<ForwardSnapshot>,
    /// The oldest first.
    pub agents: Vec<AgentSnapshot>,
    /// The proxy, if there is one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub proxy: Option<ProxySnapshot>,
}

/// A proxy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProxySnapshot {
    /// Where it listens.
    pub local: Vec<SocketAddr>,
    /// Connections and UDP flows that clients asked for; failed are those that there was none for.
    pub connections: Connections,
    /// Of all of them.
    pub bytes: Bytes,
}

/// A forward.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ForwardSnapshot {
    /// Its number; none is given twice in the life of a process.
    pub id: u64,
    /// What its owner calls it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub name: Option<String>,
    /// Which of the owner's groups it is in.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub group: Option<String>,
    /// The kubeconfig's context.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub context: Option<String>,
    /// The target's namespace.
    pub namespace: String,
    /// The target as typed.
    pub target: String,
    /// Where it listens; nowhere while it is stopped.
    pub local: Vec<SocketAddr>,
    /// The target's port, as the Forwarding line has it.
    pub remote_port: u16,
    /// `tcp` or `udp`.
    pub protocol: String,
    /// How it does.
    pub state: ForwardState,
    /// Since when.
    pub since: Timestamp,
    /// Why it is not ready, where that is known.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reason: Option<String>,
    /// Its connections, or UDP flows.
    pub connections: Connections,
    /// What they carried.
    pub bytes: Bytes,
    /// A round trip between the plugin and the agent, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub latency_millis: Option<f64>,
    /// The last thing that went wrong.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub last_error: Option<Failure>,
    /// The number of the agent that it goes through.
    pub agent: u64,
}

/// Local connections, or UDP flows, since the forward was added.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connections {
    /// Open now, those that wait among them.
    pub open: u64,
    /// All that there were.
    pub total: u64,
    /// Those of them that ended otherwise than well, and not by the local program.
    pub failed: u64,
}

/// Bytes since the forward was added; of UDP those of the datagrams' contents.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bytes {
    /// Of local programs, to the target.
    pub sent: u64,
    /// Of the target, to local programs.
    pub received: u64,
}

/// Something that went wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// When.
    pub time: Timestamp,
    /// What, without a full stop.
    pub message: String,
}

/// How a forward does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ForwardState {
    /// It has not been able to carry anything yet; new connections wait.
    Starting,
    /// Traffic flows.
    Ready,
    /// New connections wait for the agent, or for the way to it.
    Reconnecting,
    /// Its owner stopped it: it does not listen.
    Stopped,
    /// It will not carry anything any more.
    Failed,
}

impl ForwardState {
    /// All there are.
    pub const ALL: [Self; 5] = [Self::Starting, Self::Ready, Self::Reconnecting, Self::Stopped, Self::Failed];

    /// The word for it, as it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Reconnecting => "reconnecting",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
        }
    }
}

/// An agent, and the session with it; or the place of one, where a run goes without.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AgentSnapshot {
    /// Its number; none is given twice in the life of a process. An agent that takes the place of a lost one has the
    /// same.
    pub id: u64,
    /// The kubeconfig's context.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub context: Option<String>,
    /// Where it runs.
    pub namespace: String,
    /// Its pod, once there is one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub pod: Option<String>,
    /// Where it comes from, once that is known.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub source: Option<AgentOrigin>,
    /// How the session does.
    pub state: AgentState,
    /// Since when.
    pub since: Timestamp,
    /// Why it is not ready, where that is known.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reason: Option<String>,
    /// Connections to the API server that carry data.
    pub lanes: usize,
    /// A round trip, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub latency_millis: Option<f64>,
}

/// Where an agent comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum AgentOrigin {
    /// An image that the nodes can pull.
    Image,
    /// Out of the plugin.
    Embedded,
    /// It is a team's, and was there before.
    Shared,
    /// There is none: each connection goes through a port-forward of its own.
    None,
}

/// How the session with an agent does; docs/events.md tells what each means for connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum AgentState {
    /// No agent yet, or not reached yet.
    Connecting,
    /// Traffic flows.
    Ready,
    /// No connection to the agent works.
    Reconnecting,
    /// It was asked to end; another is being started.
    Draining,
    /// Its node is not reached; another is being started.
    Unreachable,
    /// It is gone; another is being started.
    AgentLost,
}

impl AgentState {
    /// All there are.
    pub const ALL: [Self; 6] = [
        Self::Connecting,
        Self::Ready,
        Self::Reconnecting,
        Self::Draining,
        Self::Unreachable,
        Self::AgentLost,
    ];

    /// The word for it, as it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::Ready => "ready",
            Self::Reconnecting => "reconnecting",
            Self::Draining => "draining",
            Self::Unreachable => "unreachable",
            Self::AgentLost => "agentLost",
        }
    }
}
