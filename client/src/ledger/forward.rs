//! The account of a forward, and the tally of each of its connections.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use jiff::Timestamp;
use relay_protocol::{Status, header::Protocol};
use tokio::sync::watch;

use super::{
    AgentAccount, AgentState, Bytes, Connections, Failure, ForwardSnapshot, ForwardState, changed, lock, now,
};
use crate::{cluster::resolve::Forward, output::EndedBy};

/// What does not change about a forward.
#[derive(Debug, Clone)]
pub struct About {
    /// What its owner calls it.
    pub name: Option<String>,
    /// Which of the owner's groups it is in.
    pub group: Option<String>,
    /// The kubeconfig's context.
    pub context: Option<String>,
    /// The target's namespace.
    pub namespace: String,
    /// The target as typed.
    pub target: String,
    /// The target's port, as the Forwarding line has it.
    pub remote_port: u16,
    /// What is forwarded.
    pub protocol: Protocol,
}

impl About {
    /// A forward that was looked up, by itself and without a name.
    pub fn of(forward: &Forward, context: Option<String>, namespace: String) -> Self {
        Self {
            name: None,
            group: None,
            context,
            namespace,
            target: forward.target.clone(),
            remote_port: forward.remote,
            protocol: forward.protocol,
        }
    }
}

/// What is known of a forward.
pub struct ForwardAccount {
    id: u64,
    about: About,
    /// Where it really goes, once it was looked up by whoever added it before.
    found: Mutex<Option<(u16, Protocol)>>,
    agent: Mutex<Arc<AgentAccount>>,
    open: AtomicU64,
    total: AtomicU64,
    failed: AtomicU64,
    sent: AtomicU64,
    received: AtomicU64,
    course: Mutex<Course>,
    changes: watch::Sender<u64>,
}

/// Where it has got to by itself, whatever its agent does.
#[derive(Debug, Clone)]
struct Course {
    phase: Phase,
    since: Timestamp,
    local: Vec<SocketAddr>,
    last_error: Option<Failure>,
}

#[derive(Debug, Clone)]
enum Phase {
    Starting,
    Ready,
    Stopped,
    Failed(String),
}

impl ForwardAccount {
    pub(super) fn new(id: u64, about: About, agent: Arc<AgentAccount>, changes: watch::Sender<u64>) -> Self {
        let course = Course { phase: Phase::Starting, since: now(), local: Vec::new(), last_error: None };
        Self {
            id,
            about,
            found: Mutex::default(),
            agent: Mutex::new(agent),
            open: AtomicU64::new(0),
            total: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
            course: Mutex::new(course),
            changes,
        }
    }

    /// Its number.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// What does not change about it.
    pub fn about(&self) -> &About {
        &self.about
    }

    /// Its target was looked up, after it was added.
    pub fn goes_to(&self, remote_port: u16, protocol: Protocol) {
        *lock(&self.found) = Some((remote_port, protocol));
        changed(&self.changes);
    }

    /// It goes through this agent from now on.
    pub fn goes_through(&self, agent: &Arc<AgentAccount>) {
        *lock(&self.agent) = Arc::clone(agent);
        changed(&self.changes);
    }

    /// It listens there, and waits for traffic to flow. Also after it was stopped, or had failed.
    pub fn starting(&self, local: Vec<SocketAddr>) {
        self.change(|course| {
            course.local = local;
            Some(Phase::Starting)
        });
    }

    /// Traffic can flow, as far as it depends on the target.
    pub fn ready(&self) {
        self.change(|_| Some(Phase::Ready));
    }

    /// It does not listen any more, and may be started again.
    pub fn stopped(&self) {
        self.change(|course| {
            course.local.clear();
            Some(Phase::Stopped)
        });
    }

    /// It will not carry anything any more, unless it is started again. `why` is without a full stop.
    pub fn failed(&self, why: &str) {
        self.change(|course| {
            course.last_error = Some(Failure { time: now(), message: why.to_owned() });
            Some(Phase::Failed(why.to_owned()))
        });
    }

    /// Something went wrong, and it goes on. `what` is without a full stop.
    pub fn trouble(&self, what: &str) {
        self.change(|course| {
            course.last_error = Some(Failure { time: now(), message: what.to_owned() });
            None
        });
    }

    fn change(&self, change: impl FnOnce(&mut Course) -> Option<Phase>) {
        {
            let mut course = lock(&self.course);
            if let Some(phase) = change(&mut course) {
                (course.phase, course.since) = (phase, now());
            }
        }
        changed(&self.changes);
    }

    /// A connection, or a flow, has begun. It is open until the tally is dropped.
    pub fn begin(self: &Arc<Self>) -> Tally {
        self.open.fetch_add(1, Relaxed);
        self.total.fetch_add(1, Relaxed);
        Tally { account: Arc::clone(self), sent: AtomicU64::new(0), received: AtomicU64::new(0) }
    }

    /// As it is now.
    pub fn snapshot(&self) -> ForwardSnapshot {
        let course = lock(&self.course).clone();
        let (state, since, reason) = self.state(&course);
        let agent = Arc::clone(&lock(&self.agent));
        let About { name, group, context, namespace, target, remote_port, protocol } = self.about.clone();
        let (remote_port, protocol) = lock(&self.found).unwrap_or((remote_port, protocol));
        ForwardSnapshot {
            id: self.id,
            name,
            group,
            context,
            namespace,
            target,
            local: course.local,
            remote_port,
            protocol: protocol.to_string(),
            state,
            since,
            reason,
            connections: Connections {
                open: self.open.load(Relaxed),
                total: self.total.load(Relaxed),
                failed: self.failed.load(Relaxed),
            },
            bytes: Bytes { sent: self.sent.load(Relaxed), received: self.received.load(Relaxed) },
            latency_millis: agent.latency_millis(),
            last_error: course.last_error,
            agent: agent.id(),
        }
    }

    /// What its own course and its agent's come to together.
    fn state(&self, course: &Course) -> (ForwardState, Timestamp, Option<String>) {
        let agent = lock(&self.agent).standing();
        match &course.phase {
            Phase::Stopped => (ForwardState::Stopped, course.since, None),
            Phase::Failed(why) => (ForwardState::Failed, course.since, Some(why.clone())),
            Phase::Starting => (ForwardState::Starting, course.since, agent.reason),
            Phase::Ready => {
                let state = match agent.state {
                    AgentState::Ready => ForwardState::Ready,
                    AgentState::Connecting => ForwardState::Starting,
                    AgentState::Reconnecting
                    | AgentState::Draining
                    | AgentState::Unreachable
                    | AgentState::AgentLost => ForwardState::Reconnecting,
                };
                (state, course.since.max(agent.since), agent.reason)
            }
        }
    }
}

/// What one connection or flow has carried so far; it is open as long as this lives.
pub struct Tally {
    account: Arc<ForwardAccount>,
    sent: AtomicU64,
    received: AtomicU64,
}

impl Tally {
    /// How much it has carried in all. Each direction has one writer.
    pub fn moved(&self, sent: u64, received: u64) {
        advance(&self.sent, &self.account.sent, sent);
        advance(&self.received, &self.account.received, received);
    }

    /// So many more bytes of the local program.
    pub fn sent(&self, more: u64) {
        advance(&self.sent, &self.account.sent, self.sent.load(Relaxed) + more);
    }

    /// So many more bytes for the local program.
    pub fn received(&self, more: u64) {
        advance(&self.received, &self.account.received, self.received.load(Relaxed) + more);
    }

    /// Bytes of the local program so far, and bytes for it.
    pub fn so_far(&self) -> (u64, u64) {
        (self.sent.load(Relaxed), self.received.load(Relaxed))
    }

    /// It has come to its end. One that the local program reset has not failed.
    pub fn ended(self, status: Status, by: EndedBy) {
        if status != Status::Ok && by == EndedBy::Remote {
            self.account.failed.fetch_add(1, Relaxed);
            self.account.trouble(&status.to_string());
        }
    }
}

fn advance(own: &AtomicU64, all: &AtomicU64, to: u64) {
    let more = to.saturating_sub(own.load(Relaxed));
    if more > 0 {
        own.store(to, Relaxed);
        all.fetch_add(more, Relaxed);
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        self.account.open.fetch_sub(1, Relaxed);
    }
}
