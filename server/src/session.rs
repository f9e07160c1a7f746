//! Streams and flows of sessions: dialled and carried like direct ones, with the session's own ends and resets.

use std::sync::Arc;

use bytes::Bytes;
use relay_dial::FlowPeer;
use relay_protocol::Status;
use relay_tunnel::{Incoming, TunnelFlow, TunnelStream, abort, splice_tuned};
use tokio::sync::mpsc;
use tracing::debug;

use crate::agent::Shared;

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
    let dialled = tokio::select! {
        dialled = shared.dialer.tcp(&header.address, header.port) => dialled,
        // The client did not wait for its target.
        reset = stream.closed() => return debug!(%id, %reset, "stream ended before its target was reached"),
    };
    match dialled {
        Ok((target, mut share)) => {
            if let Err(reset) = stream.accept().await {
                abort(target);
                return debug!(%id, %reset, "stream ended before it was answered");
            }
            let report = splice_tuned(target, stream, |socket| share.adjust(socket.into())).await;
            debug!(%id, ?report, "stream ended");
        }
        Err(error) => {
            debug!(%id, %error, "target not reached");
            stream.reset(error.status);
        }
    }
}

async fn udp(flow: TunnelFlow, shared: &Shared) {
    let header = flow.header().clone();
    let id = header.request_id;
    debug!(%id, %header, "flow");
    let mut peer = Peer(flow);
    let status = match shared.dialer.udp(&header.address, header.port).await {
        Ok((socket, _share)) => shared.flows.run(&mut peer, &socket).await,
        Err(error) => {
            debug!(%id, %error, "target not reached");
            error.status
        }
    };
    debug!(%id, %status, "flow ended");
    peer.0.close(status);
}

/// A session's flow as the target's side sees it.
struct Peer(TunnelFlow);

impl FlowPeer for Peer {
    async fn recv(&mut self) -> Result<Bytes, Status> {
        self.0.recv().await.map_err(|closed| closed.status)
    }

    fn send(&mut self, datagram: &[u8]) -> Result<(), Status> {
        self.0.send(Bytes::copy_from_slice(datagram)).map_err(|closed| closed.status)
    }
}
