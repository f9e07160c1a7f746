//! What the proxy is doing, for whoever opens its port in a browser: `/` for people, `/status.json` for programs, and
//! the PAC file, which browsers fetch by themselves.
//!
//! No other site may read or show these: the proxy answers only to its own addresses, so no name of somebody else's leads
//! here, and browsers are told to keep them from other origins.

mod html;
mod snapshot;

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use http::{Response, StatusCode, header};
use relay_protocol::Status as EndStatus;
use relay_proxy::{Connections, Ended, Observer, PageRequest, Pages, Totals};
use relay_tunnel::State;
use tokio::sync::watch;

use self::snapshot::{Failure, Snapshot};
use super::pac::Pac;
use crate::agent::supervisor::Current;

/// Failures that are remembered.
const FAILURES: usize = 20;
/// Rates are those of this time.
const RATE_OVER: Duration = Duration::from_secs(10);
/// What is nearer together gives no rate.
const RATE_FROM: Duration = Duration::from_millis(500);

/// What does not change while the proxy runs.
#[derive(Debug, Clone, Default)]
pub struct About {
    /// Names and values to show, such as the context.
    pub facts: Vec<(String, String)>,
    /// What to type into a shell.
    pub lines: Vec<String>,
}

/// Watches the proxy and gives its pages.
pub struct Status {
    about: About,
    pac: Pac,
    current: watch::Receiver<Current>,
    /// Is told everything too.
    next: Arc<dyn Observer>,
    /// Known once the proxy is made, which needs this before.
    connections: OnceLock<Arc<Connections>>,
    failures: Mutex<VecDeque<Failure>>,
    samples: Mutex<VecDeque<Sample>>,
}

/// What had been moved at a moment.
#[derive(Clone, Copy)]
struct Sample {
    at: Instant,
    sent: u64,
    received: u64,
}

impl Status {
    /// Watches a proxy whose session is `current`, and passes on to `next` what it is told.
    pub fn new(
        about: About,
        pac: Pac,
        current: watch::Receiver<Current>,
        next: Arc<dyn Observer>,
    ) -> Arc<Self> {
        Arc::new(Self {
            about,
            pac,
            current,
            next,
            connections: OnceLock::new(),
            failures: Mutex::default(),
            samples: Mutex::default(),
        })
    }

    /// What is to be watched.
    pub fn watch(&self, connections: &Arc<Connections>) {
        // Set once; a second proxy would have a status of its own.
        let _ = self.connections.set(Arc::clone(connections));
    }

    fn snapshot(&self) -> Snapshot {
        let connections = self.connections.get();
        let totals = connections.map(|connections| connections.totals()).unwrap_or_default();
        let open = connections.map(|connections| connections.open()).unwrap_or_default();
        let failures = lock(&self.failures).iter().rev().cloned().collect();
        let (state, reason) = told(&self.current.borrow());
        Snapshot::new(state, reason, totals, self.rate(totals, Instant::now()), &open, failures)
    }

    /// Bytes from and to clients in a second, lately; nothing when there is no earlier look to compare with.
    fn rate(&self, totals: Totals, now: Instant) -> Option<(f64, f64)> {
        let mut samples = lock(&self.samples);
        // The first is kept until the next one is old enough itself.
        while samples.get(1).is_some_and(|second| now.duration_since(second.at) >= RATE_OVER) {
            samples.pop_front();
        }
        let since = samples.front().copied().filter(|since| now.duration_since(since.at) >= RATE_FROM);
        if samples.back().is_none_or(|last| now.duration_since(last.at) >= RATE_FROM) {
            samples.push_back(Sample { at: now, sent: totals.sent, received: totals.received });
        }
        let since = since?;
        let seconds = now.duration_since(since.at).as_secs_f64();
        let rate = |now: u64, then: u64| now.saturating_sub(then) as f64 / seconds;
        Some((rate(totals.sent, since.sent), rate(totals.received, since.received)))
    }

    fn remember(&self, what: String) {
        let mut failures = lock(&self.failures);
        // The same again and again would hide the others.
        if let Some(last) = failures.back_mut().filter(|last| last.what == what) {
            last.times += 1;
            last.at = SystemTime::now();
            return;
        }
        if failures.len() >= FAILURES {
            failures.pop_front();
        }
        failures.push_back(Failure { at: SystemTime::now(), what, times: 1 });
    }
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing done under these locks can leave a list half changed.
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The session's state in a word, and why it is so.
fn told(current: &Current) -> (&'static str, Option<String>) {
    let Current::Session { session, ready } = current else { return ("connecting", None) };
    match &*session.state().borrow() {
        State::Ready if *ready => ("ready", None),
        State::Ready => ("reconnecting", None),
        State::Connecting { reason } => ("connecting", reason.clone()),
        State::Reconnecting { reason, .. } => ("reconnecting", Some(reason.clone())),
        State::Draining { .. } => ("draining", None),
        State::Lost { reason, .. } => ("agentLost", Some(reason.clone())),
    }
}

impl Observer for Status {
    fn ended(&self, ended: &Ended<'_>) {
        let target = &ended.connection.target;
        if let Some(refused) = ended.refused {
            self.remember(refused.why.clone());
        } else if !matches!(ended.status, EndStatus::Ok | EndStatus::Aborted) && !ended.by_client {
            self.remember(format!("{target}: {}", ended.status));
        }
        self.next.ended(ended);
    }

    fn trouble(&self, sentence: &str) {
        self.remember(sentence.to_owned());
        self.next.trouble(sentence);
    }
}

impl Pages for Status {
    fn page(&self, request: &PageRequest<'_>) -> Option<Response<Bytes>> {
        let is_confidential = match request.path {
            "/" | "/status.json" => true,
            "/proxy.pac" => false,
            _ => return None,
        };
        if is_confidential && !request.is_authorized {
            let mut page = page(StatusCode::UNAUTHORIZED, "text/plain; charset=utf-8", "log in\n".into());
            let how =
                header::HeaderValue::from_static("Basic realm=\"kubectl relay proxy\", charset=\"UTF-8\"");
            page.headers_mut().insert(header::WWW_AUTHENTICATE, how);
            return Some(page);
        }
        let (kind, text) = match request.path {
            "/" => ("text/html; charset=utf-8", html::page(&self.about, &self.snapshot())),
            "/status.json" => ("application/json", self.snapshot().json()),
            _ => ("application/x-ns-proxy-autoconfig", self.pac.script(request.host)),
        };
        Some(page(StatusCode::OK, kind, text))
    }
}

/// A page that only whoever asked for it sees. A PAC file is a script: without `nosniff` any site could run it.
fn page(status: StatusCode, kind: &'static str, text: String) -> Response<Bytes> {
    const HEADERS: [(&str, &str); 6] = [
        ("cache-control", "no-store"),
        ("x-content-type-options", "nosniff"),
        ("cross-origin-resource-policy", "same-origin"),
        (
            "content-security-policy",
            "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        ),
        ("x-frame-options", "DENY"),
        ("referrer-policy", "no-referrer"),
    ];
    let mut page = Response::new(Bytes::from(text));
    *page.status_mut() = status;
    let headers = page.headers_mut();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    for (name, value) in HEADERS {
        headers.insert(name, header::HeaderValue::from_static(value));
    }
    page
}

#[cfg(test)]
mod tests;
