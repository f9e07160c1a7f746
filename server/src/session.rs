//! Streams and flows of sessions: dialled and carried like direct ones, with the session's own ends and resets.

use std::sync::Arc;

use bytes::Bytes;
use relay_protocol::Status;
use relay_tunnel::{Incoming, TunnelFlow, TunnelStream, splice};
use tokio::sync::mpsc;
use tracing::debug;

use crate::agent::Shared;
use crate::udp::FlowPeer;

/// Serves what clients open, until no session can come any more.
pub async fn serve(mut incoming: mpsc::Receiver<Incoming>, shared: Arc<Shared>) {
    while let Some(opened) = incoming.recv().await {
        let shared = shared.clone();
        shared.tasks.clone().spawn(async move {
            match opened {
                Incoming::Stream(stream) => tcp(stream, &shared).await,
                Incoming::Flow(flow) => udp(flow, &shared).await,
            }
        });
    }
}

async fn tcp(stream: TunnelStream, shared: &Shared) {
    let header = stream.header().clone();
    let id = header.request_id;
    debug!(%id, %header, "stream");
    match shared.dialer.tcp(&header.address, header.port).await {
        Ok((target, _share)) => {
            stream.accept();
            let report = splice(target, stream).await;
            debug!(%id, ?report, "stream ended");
        }
        Err(error) => {
            debug!(%id, reason = error.reason, "target not reached");
            stream.reset(error.status);
        }
    }
}

async fn udp(mut flow: TunnelFlow, shared: &Shared) {
    let header = flow.header().clone();
    let id = header.request_id;
    debug!(%id, %header, "flow");
    let status = match shared.dialer.udp(&header.address, header.port).await {
        Ok((socket, _share)) => shared.flows.run(&mut flow, &socket).await,
        Err(error) => {
            debug!(%id, reason = error.reason, "target not reached");
            error.status
        }
    };
    debug!(%id, %status, "flow ended");
    flow.close(status);
}

impl FlowPeer for TunnelFlow {
    async fn recv(&mut self) -> Result<Bytes, Status> {
        Self::recv(self).await.map_err(|closed| closed.status)
    }

    fn send(&mut self, datagram: &[u8]) -> Result<(), Status> {
        Self::send(self, Bytes::copy_from_slice(datagram)).map_err(|closed| closed.status)
    }
}
