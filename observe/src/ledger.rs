//! One entry for each stream and flow, from its header to its end.

use std::fmt;
use std::io::Write;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::{Instant, SystemTime};

use relay_protocol::Status;

use crate::audit::{self, About, End};
use crate::metrics::Metrics;

/// Counts all streams and flows, and writes of them where that is wanted.
pub struct Ledger {
    /// What has been counted.
    pub metrics: Metrics,
    audit: Option<Mutex<Box<dyn Write + Send>>>,
}

impl fmt::Debug for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ledger").field("metrics", &self.metrics).finish_non_exhaustive()
    }
}

impl Ledger {
    /// Writes audit lines to `audit`, if there is one. A writer that waits holds the agent up, so that no line is lost.
    pub fn new(audit: Option<Box<dyn Write + Send>>) -> Self {
        Self { metrics: Metrics::default(), audit: audit.map(Mutex::new) }
    }

    /// Begins an entry.
    pub fn open(&self, about: About) -> Entry<'_> {
        self.metrics.opened(about.protocol);
        self.write(&about, None);
        Entry {
            ledger: self,
            about,
            start: Instant::now(),
            resolved: None,
            status: Status::Aborted,
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
        }
    }

    fn write(&self, about: &About, end: Option<&End>) {
        if let Some(audit) = &self.audit {
            let line = audit::line(SystemTime::now(), about, end);
            let mut audit = audit.lock().unwrap_or_else(PoisonError::into_inner);
            // Where nobody can read it, the streams still go on.
            let _ = audit.write_all(line.as_bytes()).and_then(|()| audit.flush());
        }
    }
}

/// A stream or flow that has begun. It ends when this is dropped, as aborted unless it was told otherwise.
#[derive(Debug)]
pub struct Entry<'a> {
    ledger: &'a Ledger,
    about: About,
    start: Instant,
    resolved: Option<SocketAddr>,
    status: Status,
    sent: AtomicU64,
    received: AtomicU64,
}

impl Entry<'_> {
    /// What the header says.
    pub const fn about(&self) -> &About {
        &self.about
    }

    /// A limit refused it.
    pub fn refused(&mut self) {
        self.status = Status::TooManyStreams;
        self.ledger.metrics.stream_refused();
    }

    /// The target answered from this address.
    pub fn reached(&mut self, address: Option<SocketAddr>) {
        self.resolved = address;
        self.ledger.metrics.dialled(Status::Ok);
    }

    /// No target was reached.
    pub fn not_reached(&mut self, status: Status) {
        self.status = status;
        self.ledger.metrics.dialled(status);
    }

    /// So many bytes have gone to the target and come from it, since the beginning.
    pub fn moved(&self, sent: u64, received: u64) {
        let before = (self.sent.swap(sent, Relaxed), self.received.swap(received, Relaxed));
        self.ledger.metrics.moved(sent.saturating_sub(before.0), received.saturating_sub(before.1));
    }

    /// So many more have.
    pub fn add(&self, sent: usize, received: usize) {
        let (sent, received) = (sent as u64, received as u64);
        self.sent.fetch_add(sent, Relaxed);
        self.received.fetch_add(received, Relaxed);
        self.ledger.metrics.moved(sent, received);
    }

    /// How it ended.
    pub fn ended(&mut self, status: Status) {
        self.status = status;
    }
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        let end = End {
            resolved: self.resolved,
            status: self.status,
            sent: self.sent.load(Relaxed),
            received: self.received.load(Relaxed),
            duration: self.start.elapsed(),
        };
        self.ledger.write(&self.about, Some(&end));
        self.ledger.metrics.closed(self.about.protocol);
    }
}
