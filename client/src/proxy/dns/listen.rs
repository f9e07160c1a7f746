//! The sockets of the name server: UDP and TCP on the same ports, bound before anything is created in the cluster.

use std::{io, net::SocketAddr, num::NonZeroU16};

use relay_dns::{Forwarder, Search, Server};
use relay_protocol::header::Protocol;
use socket2::SockRef;
use tokio_util::task::AbortOnDropHandle;

use super::{super::settings::ListenOn, DnsSettings, upstream::ThroughTunnel};
use crate::{
    forward::{
        Relay,
        listen::{Bound, ListenError, bind},
    },
    port::LocalPort,
};

/// How often a free port is looked for that both protocols have free.
const FREE_PORT_TRIES: usize = 16;

/// Queries that come while this process is busy wait here: bytes. The system may give less.
const RECEIVE_BUFFER: usize = 1024 * 1024;

/// Bound sockets.
pub(in super::super) struct DnsListening(Vec<Bound>);

impl DnsListening {
    /// Binds every address that is wanted, for both protocols.
    pub(in super::super) fn bind(settings: &DnsSettings) -> Result<Self, ListenError> {
        let mut all = Vec::new();
        for on in &settings.listen {
            let sockets = bind_both(*on)?;
            for socket in &sockets {
                if let Bound::Udp(socket) = socket {
                    // With the system's own size it works too.
                    let _ = SockRef::from(socket).set_recv_buffer_size(RECEIVE_BUFFER);
                }
            }
            all.extend(sockets);
        }
        Ok(Self(all))
    }
}

fn bind_both(on: ListenOn) -> Result<Vec<Bound>, ListenError> {
    let mut tries = 1;
    loop {
        let mut sockets = bind(&[on.address], on.port, Protocol::Udp)?;
        let number =
            sockets.first().and_then(|socket| socket.local_addr().ok()).map(|address| address.port());
        let port = number.and_then(NonZeroU16::new).map_or(on.port, LocalPort::Number);
        match bind(&[on.address], port, Protocol::Tcp) {
            Ok(listeners) => {
                sockets.extend(listeners);
                return Ok(sockets);
            }
            // Free for the one and not for the other.
            Err(error)
                if on.port == LocalPort::Free
                    && error.source.kind() == io::ErrorKind::AddrInUse
                    && tries < FREE_PORT_TRIES =>
            {
                tries += 1;
            }
            Err(error) => return Err(error),
        }
    }
}

/// A name server at work; dropping it ends it.
pub(in super::super) struct DnsServing {
    /// Where it is asked.
    pub(in super::super) addresses: Vec<SocketAddr>,
    _sockets: Vec<AbortOnDropHandle<()>>,
}

impl DnsServing {
    /// Answers on what was bound through `relay`, and completes short names with `search`.
    pub(in super::super) fn serve(
        settings: &DnsSettings,
        listening: DnsListening,
        relay: Relay,
        search: Option<Search>,
    ) -> Self {
        let server = Server::new(Forwarder::new(ThroughTunnel::new(relay, settings.server.clone()), search));
        let addresses = listening.0.iter().filter_map(|socket| match socket {
            Bound::Udp(socket) => socket.local_addr().ok(),
            Bound::Tcp(_) => None,
        });
        let addresses = addresses.collect();
        let serve = |socket| {
            let server = server.clone();
            AbortOnDropHandle::new(match socket {
                Bound::Udp(socket) => tokio::spawn(server.serve_udp(socket)),
                Bound::Tcp(listener) => tokio::spawn(server.serve_tcp(listener)),
            })
        };
        Self { addresses, _sockets: listening.0.into_iter().map(serve).collect() }
    }
}
