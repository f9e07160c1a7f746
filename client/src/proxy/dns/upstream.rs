//! The way to the cluster's name server: the agent resolves and dials it, so no right on its namespace is needed.

use std::io;

use bytes::Bytes;
use relay_dns::{Datagrams, Upstream};
use relay_protocol::Status;
use relay_proxy::{Datagrams as _, Dial, Refused, Target};

use super::super::dial::{TunnelDial, Tunnelled, TunnelledFlow};
use crate::{cluster::ready::Destination, dial_failure::is_about_dialling, forward::Relay};

/// Opens ways through the tunnel.
pub(super) struct ThroughTunnel {
    dial: TunnelDial,
    server: Target,
}

impl ThroughTunnel {
    pub(super) fn new(relay: Relay, server: Target) -> Self {
        Self { dial: TunnelDial(relay), server }
    }

    fn failed(&self, refused: &Refused) -> io::Error {
        tell(&self.dial.0, &self.server, refused.status);
        io::Error::other(refused.why.clone())
    }
}

/// Why a name server is not reached is told as of any other target, but while nothing is reached anyway.
fn tell(relay: &Relay, server: &Target, status: Status) {
    if is_about_dialling(status) && relay.current.borrow().is_ready() {
        let destination = Destination { address: server.address.clone(), port: server.port };
        relay.output.dial_failed("--dns", &destination, status);
    }
}

impl Upstream for ThroughTunnel {
    type Datagrams = Flow;
    type Stream = Tunnelled;

    async fn datagrams(&self) -> io::Result<Flow> {
        let flow = self.dial.udp(&self.server).await.map_err(|refused| self.failed(&refused))?;
        Ok(Flow { flow, relay: self.dial.0.clone(), server: self.server.clone() })
    }

    async fn stream(&self) -> io::Result<Tunnelled> {
        self.dial.tcp(&self.server).await.map_err(|refused| self.failed(&refused))
    }
}

/// A flow to the name server.
pub(super) struct Flow {
    flow: TunnelledFlow,
    relay: Relay,
    server: Target,
}

impl Datagrams for Flow {
    fn send(&mut self, message: Bytes) -> io::Result<()> {
        self.flow.send(message).map_err(|status| io::Error::other(status.to_string()))
    }

    async fn recv(&mut self) -> io::Result<Bytes> {
        self.flow.recv().await.map_err(|status| {
            tell(&self.relay, &self.server, status);
            io::Error::other(status.to_string())
        })
    }
}
