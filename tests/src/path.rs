//! A path to the API server that a test can break: a relaying proxy in front of it, and kubeconfigs that lead there.
//! It breaks one test's path and nobody else's; what only the kernel can do, `xtask cluster path` does.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path as File, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::{Notify, watch};

/// What happens to connections on the path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// Bytes pass.
    Open,
    /// Nothing passes, nothing is said.
    Cut,
    /// New connections are reset.
    Refusing,
}

struct Shared {
    server: SocketAddr,
    mode: watch::Sender<Mode>,
    /// Every change resets all connections.
    resets: watch::Sender<u64>,
    /// A connection without a byte for this long is reset, as load balancers do.
    idle_limit: Option<Duration>,
    idle_ends: AtomicU64,
    accepted: Mutex<Vec<Instant>>,
    open: Mutex<Vec<Arc<Carried>>>,
}

/// One connection, as the path sees it.
struct Carried {
    bytes: AtomicU64,
    last: Mutex<Instant>,
    reset: Notify,
}

/// A breakable path; gone with all its connections when dropped.
pub struct Path {
    shared: Arc<Shared>,
    address: SocketAddr,
    files: tempfile::TempDir,
    /// Dropped last, and with it every task.
    _runtime: Runtime,
}

impl Path {
    /// A path to the API server of the test cluster.
    pub fn new() -> Self {
        Self::with_idle_limit(None)
    }

    /// A path that resets connections on which nothing passed for a while.
    pub fn that_kills_what_is_idle(limit: Duration) -> Self {
        Self::with_idle_limit(Some(limit))
    }

    fn with_idle_limit(idle_limit: Option<Duration>) -> Self {
        let config = view(&crate::admin_kubeconfig());
        let url = config["clusters"][0]["cluster"]["server"].as_str().expect("a server");
        let server = url.strip_prefix("https://").and_then(|rest| rest.parse().ok()).expect("an address");
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).unwrap();
        let shared = Arc::new(Shared {
            server,
            mode: watch::channel(Mode::Open).0,
            resets: watch::channel(0).0,
            idle_limit,
            idle_ends: AtomicU64::new(0),
            accepted: Mutex::default(),
            open: Mutex::default(),
        });
        let address = listener.local_addr().unwrap();
        runtime.spawn(accept(listener, shared.clone()));
        Self { shared, address, files: tempfile::tempdir().unwrap(), _runtime: runtime }
    }

    /// The administrator's kubeconfig, by this path.
    pub fn kubeconfig(&self) -> PathBuf {
        self.kubeconfig_like(&crate::admin_kubeconfig())
    }

    /// A kubeconfig like another, by this path.
    pub fn kubeconfig_like(&self, original: &File) -> PathBuf {
        let mut config = view(original);
        // The API server's certificate names this address too.
        config["clusters"][0]["cluster"]["server"] = format!("https://{}", self.address).into();
        let path = self.files.path().join(original.file_name().expect("a file"));
        std::fs::write(&path, config.to_string()).unwrap();
        path
    }

    /// A kubeconfig by this path for another user, with what it says of them, and a namespace.
    pub fn kubeconfig_of(&self, user: Value, namespace: &str) -> PathBuf {
        let path = self.kubeconfig();
        let mut config = view(&path);
        config["users"][0]["user"] = user;
        config["contexts"][0]["context"]["namespace"] = namespace.into();
        std::fs::write(&path, config.to_string()).unwrap();
        path
    }

    /// From now on nothing passes, and nobody is told.
    pub fn cut(&self) {
        self.shared.mode.send_replace(Mode::Cut);
    }

    /// From now on new connections are reset, as those that are open.
    pub fn refuse(&self) {
        self.shared.mode.send_replace(Mode::Refusing);
        self.reset();
    }

    /// Everything passes again, with what waited.
    pub fn heal(&self) {
        self.shared.mode.send_replace(Mode::Open);
    }

    /// Resets every connection that is open.
    pub fn reset(&self) {
        self.shared.resets.send_modify(|count| *count += 1);
    }

    /// Resets the connection that has carried the most of those that are open: a lane with bulk.
    pub fn reset_busiest(&self) {
        let open = self.shared.open.lock().unwrap_or_else(PoisonError::into_inner);
        let busiest = open.iter().max_by_key(|carried| carried.bytes.load(Ordering::Relaxed));
        busiest.expect("a connection is open").reset.notify_one();
    }

    /// How many connections were reset because they were idle.
    pub fn idle_ends(&self) -> u64 {
        self.shared.idle_ends.load(Ordering::Relaxed)
    }

    /// When the first connection since some time was accepted.
    pub fn accepted_after(&self, since: Instant) -> Option<Instant> {
        let accepted = self.shared.accepted.lock().unwrap_or_else(PoisonError::into_inner);
        accepted.iter().copied().find(|at| *at >= since)
    }
}

impl Default for Path {
    fn default() -> Self {
        Self::new()
    }
}

fn view(kubeconfig: &File) -> Value {
    let mut command = Command::new("kubectl");
    command.args(["config", "view", "--raw", "-o", "json", "--kubeconfig"]).arg(kubeconfig);
    let output = command.output().expect("kubectl runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        // Out of descriptors for a moment: the next one may get through.
        let Ok((client, _)) = listener.accept().await else { continue };
        shared.accepted.lock().unwrap_or_else(PoisonError::into_inner).push(Instant::now());
        tokio::spawn(connection(client, shared.clone()));
    }
}

async fn connection(client: TcpStream, shared: Arc<Shared>) {
    let mut resets = shared.resets.subscribe();
    if *shared.mode.borrow() == Mode::Refusing {
        let _ = client.set_zero_linger();
        return;
    }
    let carried = async {
        passable(&shared).await;
        let server = TcpStream::connect(shared.server).await?;
        for socket in [&client, &server] {
            socket.set_nodelay(true)?;
        }
        Ok::<_, std::io::Error>(server)
    };
    let server = tokio::select! {
        server = carried => server,
        _ = resets.changed() => Err(std::io::ErrorKind::ConnectionReset.into()),
    };
    let Ok(server) = server else {
        // As the client would see it if it had asked the server itself.
        let _ = client.set_zero_linger();
        return;
    };
    let (mut client, mut server) = (client, server);
    let ended_well = {
        let (client_read, client_write) = client.split();
        let (server_read, server_write) = server.split();
        let carried = Arc::new(Carried {
            bytes: AtomicU64::new(0),
            last: Mutex::new(Instant::now()),
            reset: Notify::new(),
        });
        shared.open.lock().unwrap_or_else(PoisonError::into_inner).push(carried.clone());
        let ended_well = tokio::select! {
            (there, back) = async { tokio::join!(
                pump(client_read, server_write, &shared, &carried),
                pump(server_read, client_write, &shared, &carried),
            ) } => there.is_ok() && back.is_ok(),
            _ = resets.changed() => false,
            () = carried.reset.notified() => false,
            () = idle(&shared, &carried.last) => false,
        };
        let mut open = shared.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|other| !Arc::ptr_eq(other, &carried));
        ended_well
    };
    if !ended_well {
        let _ = client.set_zero_linger();
        let _ = server.set_zero_linger();
    }
}

/// One direction to its end; an error of either ends both, as in one TCP connection.
async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    shared: &Shared,
    carried: &Carried,
) -> std::io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let read = from.read(&mut buffer).await?;
        passable(shared).await;
        if read == 0 {
            return to.shutdown().await;
        }
        *carried.last.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        carried.bytes.fetch_add(read as u64, Ordering::Relaxed);
        to.write_all(&buffer[..read]).await?;
    }
}

/// Waits while the path is cut.
async fn passable(shared: &Shared) {
    // The sender is in `shared`, so this cannot fail.
    let _ = shared.mode.subscribe().wait_for(|mode| *mode != Mode::Cut).await;
}

/// Waits until nothing has passed for too long.
async fn idle(shared: &Shared, last: &Mutex<Instant>) {
    let Some(limit) = shared.idle_limit else { return std::future::pending().await };
    loop {
        let quiet_since = *last.lock().unwrap_or_else(PoisonError::into_inner);
        if quiet_since.elapsed() >= limit {
            shared.idle_ends.fetch_add(1, Ordering::Relaxed);
            return;
        }
        tokio::time::sleep_until((quiet_since + limit).into()).await;
    }
}

/// Where pods reach this machine, and with it the listeners of a test.
pub fn this_machine() -> IpAddr {
    crate::kubectl::needed("RELAY_HOST_IP").to_str().and_then(|ip| ip.parse().ok()).expect("an address")
}
