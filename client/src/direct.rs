//! Connections without an agent: each through the own port-forward of a pod, over an upgraded connection of its own, so
//! that none can hold up or end another. Where no agent may be had this is the only way; beside an agent it is the way
//! to ports that answer on their pod's loopback only.

mod carry;
mod dial;
mod error;
mod local;
mod loopback;
pub mod pods;
mod reserve;
mod through;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, Once, PoisonError},
    time::Duration,
};

use relay_protocol::header::Protocol;
use relay_transport::Mode;
use tokio::sync::{OnceCell, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

pub use self::error::DirectError;
pub(crate) use self::through::{instead, through};
use self::{loopback::Loopback, pods::Pods, reserve::Reserve};
use crate::{
    agent::launch::LaunchError,
    cli::{
        args::{AgentSource, TransportArg},
        settings::{AgentSettings, Settings},
    },
    cluster::{access::Access, resolve::Forward},
    error::Error,
    output::{Output, RelayState},
    target::Target,
};

/// What is missing without an agent.
const WITHOUT: &str = "TCP to pods only, no UDP, no addresses and names, and a connection is lost with its connection to the \
     API server";

/// A context's connections to pods' own port-forwards. Cheap to clone.
#[derive(Clone)]
pub struct Direct(Arc<Inner>);

struct Inner {
    access: Access,
    asked_mode: Mode,
    /// What has worked, where that is not what is tried first.
    mode: Mutex<Mode>,
    output: Arc<Output>,
    /// Whether there is no other way.
    only_way: watch::Sender<bool>,
    reserve: Reserve,
    /// The namespaces where a port-forward has been let in.
    admitted: Mutex<HashMap<String, Arc<OnceCell<()>>>>,
    loopback: Loopback,
    /// Told when traffic can flow for the first time.
    flows: Once,
    ended: CancellationToken,
}

impl Direct {
    /// Nothing is connected yet.
    pub fn new(access: Access, transport: TransportArg, output: Arc<Output>) -> Self {
        let mode = mode(transport);
        Self(Arc::new(Inner {
            access,
            asked_mode: mode,
            mode: Mutex::new(mode),
            output,
            only_way: watch::Sender::new(false),
            reserve: Reserve::default(),
            admitted: Mutex::default(),
            loopback: Loopback::default(),
            flows: Once::new(),
            ended: CancellationToken::new(),
        }))
    }

    /// Every connection ends when the guard is dropped.
    pub fn guard(&self) -> DropGuard {
        self.0.ended.clone().drop_guard()
    }

    /// Whether there is no agent, and will be none.
    pub fn is_only_way(&self) -> bool {
        *self.0.only_way.borrow()
    }

    /// Whether a connection to these pods goes this way at once: all of them are known to answer on their loopback only, or
    /// there is no other.
    pub(crate) fn is_for(&self, pods: &Pods) -> bool {
        self.is_only_way() || self.0.loopback.is_all_of(&pods.ready())
    }

    /// Waits until there is no other way. Gives false where the run ends instead. Cancellation safe.
    pub async fn taken_over(&self) -> bool {
        let mut only_way = self.0.only_way.subscribe();
        tokio::select! {
            biased;
            taken = only_way.wait_for(|only| *only) => taken.is_ok(),
            () = self.0.ended.cancelled() => false,
        }
    }

    /// Begins a run without an agent, as it was asked for.
    pub fn begin(&self) {
        self.0.output.state(&RelayState::Connecting);
        self.0.output.note(&format!("without an agent: {WITHOUT}"));
        self.only_way();
    }

    /// Takes over where no agent can be had, if that is for want of rights or room and every forward can do without.
    ///
    /// Gives why the run ends after all.
    pub fn take_over(
        &self,
        wanted: &AgentSettings,
        error: LaunchError,
        forwards: &[&Forward],
    ) -> Option<Error> {
        // What a patch makes of the pod is whose patch it is.
        let is_own_fault = wanted.pod.patch.is_some() && !error.is_refusal();
        // A proxy's clients name what only an agent reaches.
        let is_proxy = forwards.is_empty();
        if wanted.source != AgentSource::Auto || !error.is_for_want_of_leave() || is_own_fault || is_proxy {
            return Some(error.into());
        }
        if let Some(needs) = forwards.iter().find(|forward| forward.direct.is_none()) {
            let launch = Box::new(error);
            let target = needs.target.clone();
            return Some(DirectError::NoLastResort { target, launch }.into());
        }
        let message = format!("{error}. Going on without an agent: {WITHOUT}");
        self.0.output.warning(&message, Some(&error.hint()));
        self.only_way();
        None
    }

    fn only_way(&self) {
        self.0.output.without_agent();
        self.0.only_way.send_replace(true);
    }

    fn mode(&self) -> Mode {
        *self.0.mode.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_mode(&self, mode: Mode) {
        *self.0.mode.lock().unwrap_or_else(PoisonError::into_inner) = mode;
    }
}

/// What is typed and can't be had without an agent, found before anybody is asked.
pub fn typed_in_vain(settings: &Settings) -> Option<Error> {
    if settings.agent.source != AgentSource::None {
        return None;
    }
    if settings.proxy.is_some() {
        let target = "a proxy".into();
        return Some(DirectError::NeedsAgent { target, udp: false }.into());
    }
    settings.targets.iter().find_map(|wanted| {
        let spec = &wanted.spec;
        let udp = spec.ports.iter().any(|port| port.protocol == Some(Protocol::Udp));
        let is_no_pod = matches!(spec.target, Target::Ip(_) | Target::Host(_) | Target::Node(_));
        let error = DirectError::NeedsAgent { target: spec.typed.clone(), udp: !is_no_pod };
        (is_no_pod || udp).then(|| Error::from(error).at(spec.place.as_ref()))
    })
}

/// Why a forward can't be had without an agent, if that is asked for; known before anything is bound.
pub fn needs_agent(source: AgentSource, forward: &Forward) -> Option<Error> {
    if source != AgentSource::None || forward.direct.is_some() {
        return None;
    }
    let target = forward.target.clone();
    let error = if forward.protocol == Protocol::Udp {
        DirectError::NeedsAgent { target, udp: true }
    } else {
        DirectError::NoPods { target }
    };
    Some(Error::from(error).at(forward.place.as_ref()))
}

fn mode(transport: TransportArg) -> Mode {
    match transport {
        TransportArg::Auto => Mode::Auto,
        TransportArg::Websocket => Mode::WebSocket,
        TransportArg::WebsocketV4 => Mode::WebSocketV4,
        TransportArg::Spdy => Mode::Spdy,
    }
}

/// As [`tokio::time::Instant::now`] and so much later, or never where that is too far away.
fn within(limit: Duration) -> tokio::time::Instant {
    let now = tokio::time::Instant::now();
    now.checked_add(limit).unwrap_or(now + Duration::from_secs(86_400 * 365))
}
