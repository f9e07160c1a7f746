//! Streams and flows of sessions: dialled and carried like direct ones, with the session's own ends and resets.

use std::sync::Arc;

use bytes::Bytes;
use relay_dial::FlowPeer;
use relay_observe::About;
use relay_protocol::hello::SessionId;
use relay_protocol::{Header, Status};
use relay_tunnel::{Incoming, SpliceEnd, TunnelFlow, TunnelStream, abort, splice_tuned};
use tokio::sync::mpsc;
use tracing::debug;

use crate::agent::Shared;

/// Serves what clients open, until no session can come any more.
pub async fn serve(mut incoming: mpsc::Receiver<Incoming>, shared: Arc<Shared>) {
    while let Some(opened) = incoming.recv().await {
        let (turns, shared) = (opened.turns(), shared.clone());
        turns.spawn(shared.tasks.clone().track_future(async move {
            match opened {
                Incoming::Stream(stream) => tcp(stream, &shared).await,
                Incoming::Flow(flow) => udp(flow, &shared).await,
            }
        }));
    }
}

fn about(session: SessionId, stream: Option<u64>, header: &Header) -> About {
    About {
        session: Some(session.0),
        stream,
        request: header.request_id.to_string(),
        protocol: header.protocol,
        address: header.address.clone(),
        port: header.port,
    }
}

async fn tcp(stream: TunnelStream, shared: &Shared) {
    let header = stream.header().clone();
    let id = header.request_id;
    debug!(%id, %header, "stream");
    let mut entry = shared.ledger.open(about(stream.session(), stream.number(), &header));
    let Some(_place) = shared.places.take(Some(stream.session())) else {
        entry.refused();
        debug!(%id, "too many streams: refused");
        return stream.reset(Status::TooManyStreams);
    };
    let dialled = tokio::select! {
        dialled = shared.dialer.tcp(&header.address, header.port) => dialled,
        // The client did not wait for its target.
        reset = stream.closed() => return debug!(%id, %reset, "stream ended before its target was reached"),
    };
    match dialled {
        Ok((target, mut share)) => {
            entry.reached(target.peer_addr().ok());
            if let Err(reset) = stream.accept().await {
                abort(target);
                return debug!(%id, %reset, "stream ended before it was answered");
            }
            let report = splice_tuned(target, stream, |socket, from_target, to_target| {
                share.adjust(socket.into(), from_target, to_target);
                entry.moved(to_target, from_target);
            })
            .await;
            entry.moved(report.received, report.sent);
            entry.ended(match &report.end {
                SpliceEnd::Finished => Status::Ok,
                SpliceEnd::ResetByTunnel(status) => *status,
                SpliceEnd::ResetBySocket(error) => relay_dial::status_of(error),
            });
            debug!(%id, ?report, "stream ended");
        }
        Err(error) => {
            shared.not_reached(&mut entry, &error);
            stream.reset(error.status);
        }
    }
}

async fn udp(flow: TunnelFlow, shared: &Shared) {
    let header = flow.header().clone();
    let id = header.request_id;
    debug!(%id, %header, "flow");
    let (session, number) = (flow.session(), flow.number());
    let mut entry = shared.ledger.open(about(session, number, &header));
    let mut peer = Peer(flow);
    let status = match shared.dialer.udp(&header.address, header.port).await {
        Ok((socket, _share)) => {
            entry.reached(socket.peer_addr().ok());
            shared.carry(&mut entry, Some(session), &mut peer, &socket).await
        }
        Err(error) => {
            shared.not_reached(&mut entry, &error);
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
