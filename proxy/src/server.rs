//! The listener: tells the protocols apart, keeps the limits, ends with its owner.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{Instant, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    Connections, Credentials, Dial, Observer, Pages, Rules, reach::Reach, socket::prepare, socks, socks4,
    socks5, web,
};

/// With no file descriptor left, accepting again at once would only burn time.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What clients may use.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Clients at once; more are reset.
    pub connections: usize,
    /// UDP flows at once, of all clients.
    pub flows: usize,
    /// How long a client may take to say where to, or for the head of a request.
    pub header_time: Duration,
    /// How long a client may keep an HTTP connection after an answer without asking for anything.
    pub idle_time: Duration,
    /// Bytes that the head of an HTTP request may have, at least 8,192.
    pub header_size: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 4096,
            flows: 1024,
            header_time: Duration::from_secs(10),
            idle_time: Duration::from_secs(90),
            header_size: 64 * 1024,
        }
    }
}

/// How a proxy behaves.
pub struct Settings {
    /// What may be reached, and from where.
    pub rules: Rules,
    /// Who may use it; `None`: everybody who can connect.
    pub credentials: Option<Credentials>,
    /// What clients may use.
    pub limits: Limits,
    /// Its own pages.
    pub pages: Arc<dyn Pages>,
    /// Is told what happens.
    pub observer: Arc<dyn Observer>,
    /// All tasks with a client, to let them end before the process does.
    pub tasks: TaskTracker,
}

/// What every client's task needs.
pub(crate) struct Shared<D> {
    pub(crate) settings: Settings,
    pub(crate) reach: Arc<Reach<D>>,
    pub(crate) connections: Arc<Connections>,
    pub(crate) flows: Arc<Semaphore>,
    places: Arc<Semaphore>,
    ending: CancellationToken,
}

/// A client that was accepted.
pub(crate) struct Client {
    pub(crate) socket: TcpStream,
    pub(crate) peer: SocketAddr,
    pub(crate) local: SocketAddr,
    /// Until when it has to have said where to.
    pub(crate) deadline: Instant,
}

/// A proxy, which any number of listeners may serve. Dropping the last clone resets its clients.
pub struct Proxy<D> {
    shared: Arc<Shared<D>>,
    _ending: Arc<tokio_util::sync::DropGuard>,
}

impl<D> Clone for Proxy<D> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared), _ending: Arc::clone(&self._ending) }
    }
}

impl<D: Dial> Proxy<D> {
    /// One that goes out through `dial`.
    pub fn new(dial: D, mut settings: Settings) -> Self {
        let ending = CancellationToken::new();
        let limits = &settings.limits;
        let (flows, places) = (semaphore(limits.flows), semaphore(limits.connections));
        let rules = std::mem::take(&mut settings.rules);
        let connections = Connections::new(Arc::clone(&settings.observer));
        let reach = Arc::new(Reach { rules, dial });
        let guard = Arc::new(ending.clone().drop_guard());
        Self {
            shared: Arc::new(Shared { settings, reach, connections, flows, places, ending }),
            _ending: guard,
        }
    }

    /// What goes through it.
    pub fn connections(&self) -> &Arc<Connections> {
        &self.shared.connections
    }

    /// Accepts for ever. Cancel-safe: dropping the future ends the listener and nothing else.
    pub async fn serve(self, listener: TcpListener) {
        loop {
            match listener.accept().await {
                Ok((socket, peer)) => self.accepted(socket, peer),
                Err(error) if is_about_one_connection(&error) => {}
                Err(error) => {
                    self.shared.settings.observer.trouble(&format!("cannot accept a connection: {error}"));
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn accepted(&self, socket: TcpStream, peer: SocketAddr) {
        prepare(&socket);
        let shared = Arc::clone(&self.shared);
        let Ok(place) = Arc::clone(&shared.places).try_acquire_owned() else {
            let limit = shared.settings.limits.connections;
            shared.settings.observer.trouble(&format!("a client is reset: there are {limit} already"));
            return;
        };
        self.shared.settings.tasks.spawn(async move {
            let _place = place;
            let ended = shared.ending.run_until_cancelled(serve(socket, peer, &shared)).await;
            tracing::debug!(%peer, ?ended, "client ended");
        });
    }
}

fn semaphore(limit: usize) -> Arc<Semaphore> {
    Arc::new(Semaphore::new(limit.min(Semaphore::MAX_PERMITS)))
}

fn is_about_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    )
}

async fn serve<D: Dial>(socket: TcpStream, peer: SocketAddr, shared: &Arc<Shared<D>>) -> io::Result<()> {
    let local = socket.local_addr()?;
    let deadline = Instant::now() + shared.settings.limits.header_time;
    let mut first = [0];
    // A client that never says anything is let go without a word.
    let Ok(peeked) = timeout_at(deadline, socket.peek(&mut first)).await else {
        crate::socket::finish(&socket);
        return Ok(());
    };
    if peeked? == 0 {
        crate::socket::finish(&socket);
        return Ok(());
    }
    let client = Client { socket, peer, local, deadline };
    match first[0] {
        socks5::VERSION => socks::serve5(client, shared).await,
        socks4::VERSION => socks::serve4(client, shared).await,
        _ => web::serve(client, Arc::clone(shared)).await,
    }
}
