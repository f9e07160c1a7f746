//! What goes through the proxy at the moment, for whoever wants to show it, and the end of each connection for whoever
//! wants to tell of it.

use std::{
    collections::BTreeMap,
    fmt,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use relay_protocol::Status;

use crate::{Moved, Origin, Refused, Target, dial::End};

/// What the client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Spoken {
    /// CONNECT of SOCKS5.
    Socks5,
    /// A flow of a SOCKS5 association.
    Socks5Udp,
    /// SOCKS4 or SOCKS4a.
    Socks4,
    /// HTTP CONNECT.
    HttpConnect,
    /// Plain HTTP: a connection to the target, with any number of requests.
    Http,
}

impl fmt::Display for Spoken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Socks5 => "socks5",
            Self::Socks5Udp => "socks5-udp",
            Self::Socks4 => "socks4",
            Self::HttpConnect => "connect",
            Self::Http => "http",
        })
    }
}

/// A connection or flow to a target.
#[derive(Debug)]
pub struct Connection {
    /// Never used twice in a process.
    pub id: u64,
    /// What the client speaks.
    pub spoken: Spoken,
    /// The client.
    pub peer: SocketAddr,
    /// As the client named it.
    pub target: Target,
    /// When the client asked for it.
    pub start: SystemTime,
    /// The same, for durations.
    pub since: Instant,
    /// Bytes so far.
    pub moved: Moved,
}

/// How a connection went.
#[derive(Debug)]
pub struct Ended<'a> {
    /// The connection.
    pub connection: &'a Connection,
    /// From where it was dialled; `None` where it was not.
    pub origin: Option<Origin>,
    /// How long it took, the dial included.
    pub took: Duration,
    /// [`Status::Ok`] for an end in order.
    pub status: Status,
    /// The client's side ended it.
    pub by_client: bool,
    /// Why there was no connection, if there was none.
    pub refused: Option<&'a Refused>,
}

/// Is told what happens.
pub trait Observer: Send + Sync + 'static {
    /// A connection, a flow or an attempt has ended.
    fn ended(&self, ended: &Ended<'_>);

    /// Something that is not about one target, in a sentence without its full stop.
    fn trouble(&self, sentence: &str);
}

/// Numbers since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Connections and flows that clients asked for.
    pub asked: u64,
    /// Of these, those that there was no connection for.
    pub refused: u64,
    /// Bytes from clients, open connections included.
    pub sent: u64,
    /// Bytes to clients, open connections included.
    pub received: u64,
}

/// All connections and flows. Clients that have not said yet where to are not among them.
pub struct Connections {
    open: Mutex<BTreeMap<u64, Arc<Connection>>>,
    next: AtomicU64,
    refused: AtomicU64,
    /// Of connections that have ended.
    moved: Moved,
    observer: Arc<dyn Observer>,
}

impl fmt::Debug for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connections").finish_non_exhaustive()
    }
}

impl Connections {
    pub(crate) fn new(observer: Arc<dyn Observer>) -> Arc<Self> {
        Arc::new(Self {
            open: Mutex::default(),
            next: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            moved: Moved::default(),
            observer,
        })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Connection>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The open ones, the oldest first.
    pub fn open(&self) -> Vec<Arc<Connection>> {
        self.lock().values().cloned().collect()
    }

    /// Numbers since the start.
    pub fn totals(&self) -> Totals {
        let open = self.lock();
        let (mut sent, mut received) = self.moved.get();
        for connection in open.values() {
            let (more_sent, more_received) = connection.moved.get();
            sent += more_sent;
            received += more_received;
        }
        let asked = self.next.load(Ordering::Relaxed);
        Totals { asked, refused: self.refused.load(Ordering::Relaxed), sent, received }
    }

    pub(crate) fn begin(self: &Arc<Self>, spoken: Spoken, peer: SocketAddr, target: &Target) -> Tracked {
        let connection = Arc::new(Connection {
            id: self.next.fetch_add(1, Ordering::Relaxed),
            spoken,
            peer,
            target: target.clone(),
            start: SystemTime::now(),
            since: Instant::now(),
            moved: Moved::default(),
        });
        self.lock().insert(connection.id, Arc::clone(&connection));
        let fate =
            Mutex::new(Fate { origin: None, status: Status::Aborted, by_client: false, refused: None });
        Tracked { all: Arc::clone(self), connection, fate }
    }
}

struct Fate {
    origin: Option<Origin>,
    status: Status,
    by_client: bool,
    refused: Option<Refused>,
}

/// A connection from its first mention to its end, which is where this is dropped.
pub(crate) struct Tracked {
    all: Arc<Connections>,
    connection: Arc<Connection>,
    fate: Mutex<Fate>,
}

impl Tracked {
    fn fate(&self) -> MutexGuard<'_, Fate> {
        self.fate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn moved(&self) -> &Moved {
        &self.connection.moved
    }

    /// It is there.
    pub(crate) fn opened(&self, origin: Origin) {
        self.fate().origin = Some(origin);
    }

    /// There was none.
    pub(crate) fn refused(&self, refused: &Refused) {
        let mut fate = self.fate();
        fate.status = refused.status;
        fate.refused = Some(refused.clone());
        self.all.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// It came to this end.
    pub(crate) fn ended(&self, end: End) {
        let mut fate = self.fate();
        // Whoever saw it break knows better than who sees it closed.
        if end == End::Finished && fate.status != Status::Aborted {
            return;
        }
        (fate.status, fate.by_client) = match end {
            End::Finished => (Status::Ok, false),
            End::ResetByClient => (Status::ResetByPeer, true),
            End::Reset(status) => (status, false),
        };
    }
}

impl Drop for Tracked {
    fn drop(&mut self) {
        let (sent, received) = self.connection.moved.get();
        {
            let mut open = self.all.lock();
            open.remove(&self.connection.id);
            // Within the lock, so that totals never count them twice or not at all.
            self.all.moved.sent.fetch_add(sent, Ordering::Relaxed);
            self.all.moved.received.fetch_add(received, Ordering::Relaxed);
        }
        let fate = self.fate();
        self.all.observer.ended(&Ended {
            connection: &self.connection,
            origin: fate.origin,
            took: self.connection.since.elapsed(),
            status: fate.status,
            by_client: fate.by_client,
            refused: fate.refused.as_ref(),
        });
    }
}
