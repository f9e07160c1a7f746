//! The loopback listeners, and what a new connection turns out to be.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use bytes::{Buf, BytesMut};
use relay_protocol::Status;
use relay_protocol::hello::Hello;
use relay_tunnel::LaneError;
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{Duration, sleep, timeout};
use tracing::{debug, trace, warn};

use crate::agent::Shared;
use crate::direct::{self, Request};
use crate::settings::Settings;

/// How long to wait before accepting again after an error such as too many open files.
const BACK_OFF: Duration = Duration::from_millis(100);
/// How long a new connection waits for its turn to send a header: a burst of connections is through in a moment.
const PATIENCE: Duration = Duration::from_secs(1);
/// The first byte of a lane: `R`.
const LANE: u8 = 0x52;
/// What the kernel may hold of a lane in each direction, in bytes; it doubles what it is told. Of more than sixteen lanes,
/// new ones get smaller parts of what sixteen may have.
const LANE_BUFFER: usize = 512 << 10;
const LEAST_LANE_BUFFER: usize = 64 << 10;
const LANE_BUFFERS: usize = 16 * LANE_BUFFER;
/// How often another free port is tried until one is free in both families.
const TRIES: usize = 16;

/// Listens on 127.0.0.1 and on ::1, on the same port; a family that the pod does not have is left out.
///
/// # Errors
/// A port in use, or no loopback address at all.
pub async fn bind(port: u16) -> io::Result<Vec<TcpListener>> {
    let mut tries = if port == 0 { TRIES } else { 1 };
    loop {
        tries -= 1;
        match bind_both(port).await {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && tries > 0 => {}
            result => return result,
        }
    }
}

async fn bind_both(mut port: u16) -> io::Result<Vec<TcpListener>> {
    let (mut listeners, mut missing) = (Vec::new(), None);
    for ip in [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
        match TcpListener::bind(SocketAddr::new(ip, port)).await {
            Ok(listener) => {
                port = listener.local_addr()?.port();
                listeners.push(listener);
            }
            Err(error) if relay_dial::status_of(&error) == Status::Unreachable => missing = Some(error),
            Err(error) => return Err(error),
        }
    }
    match missing {
        Some(error) if listeners.is_empty() => Err(error),
        _ => Ok(listeners),
    }
}

/// Listens for whoever reads the metrics: on loopback one above the agent's port, or on a free one where the agent
/// itself took a free one, if it is shared; and where the settings say.
///
/// # Errors
/// As [`bind`].
pub async fn bind_metrics(settings: &Settings) -> io::Result<Vec<TcpListener>> {
    let mut listeners = Vec::new();
    if settings.shared {
        listeners = bind(if settings.port == 0 { 0 } else { settings.port + 1 }).await?;
    }
    if let Some(address) = settings.metrics_listen {
        listeners.push(TcpListener::bind(address).await?);
    }
    Ok(listeners)
}

/// True where an agent listens on `port`.
pub async fn health(port: u16) -> bool {
    for ip in [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
        let connect = TcpStream::connect(SocketAddr::new(ip, port));
        if let Ok(Ok(_)) = timeout(Duration::from_secs(1), connect).await {
            return true;
        }
    }
    false
}

/// Accepts for ever. `greeting` has a permit for each connection that may be without a header.
pub async fn accept(listener: TcpListener, shared: Arc<Shared>, greeting: Arc<Semaphore>) {
    loop {
        match listener.accept().await {
            Ok((client, _)) => match timeout(PATIENCE, greeting.clone().acquire_owned()).await {
                Ok(permit) => {
                    let shared = shared.clone();
                    shared.tasks.clone().spawn(async move {
                        let greeted = timeout(shared.limits.greeting, greet(&client, &shared)).await;
                        drop(permit);
                        match greeted {
                            Ok(Ok(greeting)) => serve(client, greeting, shared).await,
                            Ok(Err(error)) => trace!(%error, "connection gone before its header"),
                            Err(_) => debug!("no whole header in time: connection closed"),
                        }
                    });
                }
                Err(_) => debug!("too many connections without a header: another one closed"),
            },
            Err(error) => {
                warn!(%error, "connection not accepted");
                sleep(BACK_OFF).await;
            }
        }
    }
}

/// What a connection begins with.
enum Greeting {
    /// A probe that only connected.
    Nothing,
    /// A direct stream and the bytes behind its header.
    Direct(Request, BytesMut),
    /// A lane of a session, and what was read of it.
    Lane(BytesMut),
    /// Not a header: the code to answer with.
    Malformed(u8),
}

async fn greet(client: &TcpStream, shared: &Shared) -> io::Result<Greeting> {
    client.set_nodelay(true)?;
    let mut bytes = BytesMut::with_capacity(Request::MAX);
    loop {
        client.readable().await?;
        match client.try_read_buf(&mut bytes) {
            Ok(0) => return Ok(Greeting::Nothing),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            result => result?,
        };
        if bytes[0] == LANE {
            match Hello::decode(&bytes) {
                Ok(None) => continue,
                // Whatever else it is, the session's driver has the answer.
                _ if shared.draining.is_cancelled() => return Ok(Greeting::Nothing),
                _ => return Ok(Greeting::Lane(bytes)),
            }
        }
        let refuse =
            |status: Status| Greeting::Malformed(if bytes[0] == 0 { status.as_v0() } else { status.as_u8() });
        match Request::decode(&bytes) {
            Ok(Some(_)) if shared.draining.is_cancelled() => return Ok(refuse(Status::ShuttingDown)),
            Ok(Some((request, len))) => {
                bytes.advance(len);
                return Ok(Greeting::Direct(request, bytes));
            }
            Ok(None) => {}
            Err(error) => {
                debug!(%error, "not a header");
                return Ok(refuse(error.status()));
            }
        }
    }
}

async fn serve(client: TcpStream, greeting: Greeting, shared: Arc<Shared>) {
    match greeting {
        Greeting::Nothing => {}
        Greeting::Lane(read) => {
            // A refusal leaves the kernel's own sizes, which work as well.
            let lane = shared.lanes.clone();
            let size = (LANE_BUFFERS / Arc::strong_count(&lane)).clamp(LEAST_LANE_BUFFER, LANE_BUFFER);
            let _ = SockRef::from(&client).set_recv_buffer_size(size);
            let _ = SockRef::from(&client).set_send_buffer_size(size);
            if let Err(error) = shared.sessions.serve_lane(client, read).await {
                if matches!(error, LaneError::Refused(Status::TooManyStreams)) {
                    shared.ledger.metrics.session_refused();
                }
                debug!(%error, "lane ended");
            }
        }
        Greeting::Malformed(code) => direct::refuse(client, code).await,
        Greeting::Direct(request, early) => {
            let turns = shared.direct.clone();
            let stream = async move {
                let _busy = shared.enter();
                match shared.direct.adopt(client) {
                    Ok(client) => direct::serve(client, request, early, &shared).await,
                    Err(error) => debug!(%error, "connection not taken over"),
                }
            };
            turns.run(stream).await;
        }
    }
}
