//! `kubectl relay trace`: a run that tells what passes its forwards, and may write it to a capture. Traffic goes on as it
//! would without: what is told and written waits in bounded queues, and what does not fit is counted instead.

mod args;
mod capture;
mod error;
mod queue;
mod tap;
mod telling;

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use relay_protocol::header::{Address, Protocol};
use tokio::net::TcpStream;

pub(crate) use self::tap::{ConnectionTap, FlowTap};
pub use self::{args::TraceArgs, error::TraceError};
use self::{
    capture::{Capture, Interface},
    tap::About,
    telling::Telling,
};
use crate::{
    cluster::ready::Destination,
    forward::{Path, Relay},
    output::Output,
};

/// How long the end of a run waits for whoever reads what was traced.
const LAST: Duration = Duration::from_secs(2);

/// What is traced, and how.
#[derive(Debug, Clone)]
pub struct TraceSettings {
    /// Show query strings and the like.
    pub show_query: bool,
    /// Write a capture there; `-` is stdout.
    pub pcap: Option<std::path::PathBuf>,
}

/// The tracing of a run. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Tracing(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    show_query: bool,
    telling: Telling,
    capture: Option<Capture>,
    /// Connections so far: what tells their packets apart.
    connections: AtomicU32,
}

impl Tracing {
    /// Begins, and opens the capture.
    ///
    /// # Errors
    /// Where there can be no capture.
    pub fn start(settings: TraceSettings, output: &Arc<Output>) -> Result<Self, TraceError> {
        let capture =
            settings.pcap.as_deref().map(|path| Capture::open(path, Arc::clone(output))).transpose()?;
        Ok(Self(Arc::new(Inner {
            show_query: settings.show_query,
            telling: Telling::start(),
            capture,
            connections: AtomicU32::new(0),
        })))
    }

    /// Waits until all is told and written, but not for ever, and says what is missing.
    pub async fn finish(&self, output: &Output) {
        self.0.telling.finish(output, LAST).await;
        if let Some(capture) = &self.0.capture {
            capture.finish(output, LAST).await;
        }
    }

    /// For a connection that begins, with what of it has been sent before.
    fn connection(&self, about: About, server: SocketAddr, early: &[u8]) -> ConnectionTap {
        let number = self.0.connections.fetch_add(1, Ordering::Relaxed);
        let interface = self.interface(&about);
        ConnectionTap::new(self.clone(), about, interface, server, number, early)
    }

    fn interface(&self, about: &About) -> Option<Arc<Interface>> {
        self.0.capture.as_ref().map(|capture| capture.interface(about))
    }
}

impl Relay {
    /// Sees a connection that goes to `destination`, if anybody wants to; `early` was taken from the socket before.
    pub(crate) fn tap(
        &self,
        path: &Path,
        socket: &TcpStream,
        destination: &Destination,
        early: &Bytes,
    ) -> Option<ConnectionTap> {
        let tracing = self.trace.as_ref()?;
        let (client, local) = (socket.peer_addr().ok()?, socket.local_addr().ok()?);
        let about = About::new(path, client, Arc::clone(&self.output));
        Some(tracing.connection(about, server(destination, local), early))
    }

    /// Sees a connection that goes to a pod's own port-forward, if anybody wants to.
    pub(crate) fn tap_of_pod(
        &self,
        path: &Path,
        socket: &TcpStream,
        pod: SocketAddr,
    ) -> Option<ConnectionTap> {
        let (tracing, client) = (self.trace.as_ref()?, socket.peer_addr().ok()?);
        let about = About::new(path, client, Arc::clone(&self.output));
        Some(tracing.connection(about, pod, &[]))
    }

    /// Sees a flow of datagrams, if anybody wants to.
    pub(crate) fn flow_tap(
        &self,
        path: &Path,
        client: SocketAddr,
        local: SocketAddr,
        destination: &Destination,
    ) -> Option<FlowTap> {
        let tracing = self.trace.as_ref()?;
        let about = About::new(path, client, Arc::clone(&self.output));
        let interface = tracing.interface(&about);
        Some(FlowTap::new(tracing.clone(), about, interface, server(destination, local)))
    }
}

/// What packets name as the other end: the address that the agent dials, or where only it knows that, the one that the
/// local program has, with the target's port.
fn server(destination: &Destination, local: SocketAddr) -> SocketAddr {
    match destination.address {
        Address::Ip(ip) => SocketAddr::new(ip, destination.port),
        Address::Host(_) => SocketAddr::new(local.ip(), destination.port),
    }
}

/// What a forward is called.
fn title(target: &str, remote: u16, protocol: Protocol) -> String {
    format!("{target} {remote}/{protocol}")
}
