//! The forwards of a run at work: their listeners, and what is said of them.

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt, future, stream::FuturesUnordered};
use tokio::time::timeout;

use super::{context::Context, way::Way};
use crate::{
    cluster::resolve::{Forward, ResolveError},
    command::environment::Forwarded,
    direct::DirectError,
    error::Error,
    forward::{Path, listen::Bound, tcp, udp},
    ledger::ForwardAccount,
    output::ForwardLine,
    ports_file::PortsFileError,
    proxy::Proxying,
};

/// A forward, what it goes through, and where it is told of.
pub(super) struct Planned<'a> {
    pub(super) forward: Forward,
    pub(super) way: &'a Way,
    pub(super) account: Arc<ForwardAccount>,
}

/// The bound addresses of one forward, and the tasks that serve them; dropping ends them.
pub(super) struct Serving {
    lines: Vec<ForwardLine>,
    _listeners: Vec<tokio_util::task::AbortOnDropHandle<()>>,
}

pub(super) fn serve(planned: &[Planned<'_>], listeners: Vec<Vec<Bound>>) -> Vec<Serving> {
    let serve_one = |(Planned { forward, way, account }, sockets): (&Planned<'_>, Vec<Bound>)| {
        let line = |socket: &Bound| {
            Some(ForwardLine {
                local: socket.local_addr().ok()?,
                remote: forward.remote,
                protocol: forward.protocol,
                target: forward.target.clone(),
            })
        };
        let lines: Vec<ForwardLine> = sockets.iter().filter_map(line).collect();
        account.starting(lines.iter().map(|line| line.local).collect());
        let listen = |socket: Bound| {
            let (path, relay) = (Path::new(forward, Arc::clone(account)), way.relay.clone());
            let task = match socket {
                Bound::Tcp(listener) => tokio::spawn(tcp::serve(listener, path, relay)),
                Bound::Udp(socket) => tokio::spawn(udp::serve(socket, path, relay)),
            };
            tokio_util::task::AbortOnDropHandle::new(task)
        };
        Serving { lines, _listeners: sockets.into_iter().map(listen).collect() }
    };
    planned.iter().zip(listeners).map(serve_one).collect()
}

/// What a command is told of the forwards.
pub(super) fn forwarded(planned: &[Planned<'_>], serving: &[Serving]) -> Vec<Forwarded> {
    let each = |(Planned { forward, .. }, serving): (&Planned<'_>, &Serving)| {
        let local = serving.lines.first()?.local;
        let (target, port) = (forward.target.clone(), forward.port.to_string());
        Some(Forwarded { target, port, remote: forward.remote, protocol: forward.protocol, local })
    };
    planned.iter().zip(serving).filter_map(each).collect()
}

/// Waits until a connection could go somewhere.
async fn destination(forward: &Forward, way: &Way, limit: Duration) -> Result<(), Error> {
    let nothing_ready = || {
        let target = forward.target.clone();
        Error::from(ResolveError::NothingReady { target, waited: limit })
    };
    let direct = &way.relay.direct;
    if let Some(pods) = forward.direct.as_ref().filter(|_| direct.is_only_way()) {
        return match direct.ready(pods, limit).await {
            Err(DirectError::NothingReady) => Err(nothing_ready()),
            ready => Ok(ready?),
        };
    }
    match timeout(limit, forward.route.destination()).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(reason)) => Err(ResolveError::Gone(reason).into()),
        Err(_) => Err(nothing_ready()),
    }
}

/// Prints the lines of one context's forwards when traffic can flow, tells of each that it can, then tells of targets
/// that go away for ever.
pub(super) async fn announce(
    context: &Context,
    way: &Way,
    forwards: Vec<(&Planned<'_>, &Serving)>,
    proxying: Option<&Proxying>,
    pod_timeout: Duration,
    one_is_ready: impl Fn() -> Result<(), PortsFileError>,
) -> Error {
    way.ready().await;
    let output = &context.output;
    if let Some(proxying) = proxying {
        proxying.announce(output);
        if let Err(error) = one_is_ready() {
            return error.into();
        }
    }
    let mut watched: FuturesUnordered<_> = forwards
        .into_iter()
        .map(async |(Planned { forward, account, .. }, serving)| {
            output.waiting(&format!("waiting for {} to be ready", forward.target));
            let has_pods = destination(forward, way, pod_timeout).await;
            has_pods.map_err(|error| context.named(error).at(forward.place.as_ref()))?;
            account.ready();
            for line in &serving.lines {
                output.forwarding(line);
            }
            one_is_ready()?;
            let reason = forward.route.gone().await;
            account.failed(&reason);
            Ok((forward, reason))
        })
        .collect();
    while let Some(end) = watched.next().await {
        match end {
            Ok((forward, reason)) => output.warning(
                &format!("{}: {reason}; new connections are reset", forward.target),
                Some("a pod target follows nothing: forward to its Service or its workload (deploy/NAME) to follow it"),
            ),
            Err(error) => return error,
        }
    }
    future::pending().await
}
