//! What passes, told line by line from a thread of its own: a terminal that is stopped stops no traffic.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use jiff::Timestamp;
use tokio::sync::oneshot;

use super::{
    queue::{Outlet, Queue, queue},
    tap::About,
};
use crate::output::{Output, Passed, What};

/// Lines that wait.
const LINES: usize = 4096;
/// Bytes of their text, about.
const BYTES: usize = 4 << 20;

/// Something to tell.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) about: About,
    pub(super) at: Timestamp,
    pub(super) what: What,
}

#[derive(Debug)]
pub(super) struct Telling {
    queue: Queue<Told>,
    untold: AtomicU64,
    /// Told when the thread has ended.
    ended: Mutex<Option<oneshot::Receiver<()>>>,
}

impl Telling {
    pub(super) fn start() -> Self {
        let (queue, outlet) = queue(LINES, BYTES);
        let (end, ended) = oneshot::channel();
        thread::spawn(move || {
            tell(outlet);
            // Nobody may wait any more.
            let _ = end.send(());
        });
        Self { queue, untold: AtomicU64::new(0), ended: Mutex::new(Some(ended)) }
    }

    /// Will be told, if there is room.
    pub(super) fn tell(&self, told: impl FnOnce() -> Told, size: usize) {
        if !self.queue.push(size, told) {
            self.untold.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) async fn finish(&self, output: &Output, limit: Duration) {
        let is_late = !self.queue.ends_within(limit, &self.ended).await;
        let untold = self.untold.load(Ordering::Relaxed);
        // Whoever does not read will not read that either.
        if untold > 0 && !is_late {
            let message =
                format!("{untold} lines of the trace are missing: they came faster than they were read");
            output.warning(&message, Some("write them to a file, or a capture with --pcap"));
        }
    }
}

fn tell(mut outlet: Outlet<Told>) {
    while let Some(Told { about, at, what }) = outlet.next(|| ()) {
        let About { target, remote, protocol, client, output } = &about;
        let passed = Passed { target, remote: *remote, protocol: *protocol, peer: *client, at, what };
        output.passed(&passed);
    }
}

impl About {
    /// For whom, and what it is about.
    pub(super) fn new(path: &crate::forward::Path, client: SocketAddr, output: Arc<Output>) -> Self {
        Self {
            target: Arc::clone(&path.target),
            remote: path.remote,
            protocol: path.protocol,
            client,
            output,
        }
    }
}
