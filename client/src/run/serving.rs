//! The forwards of a run at work: their listeners, and what is said of them.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::{StreamExt, future, stream::FuturesUnordered};
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use super::{context::Context, way::Way};
use crate::{
    cluster::resolve::{Forward, ResolveError},
    command::environment::Forwarded,
    direct::DirectError,
    error::Error,
    forward::{
        self, Path,
        listen::{Bound, ListenError, bind_again},
    },
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
    /// None while it is stopped.
    listeners: Mutex<Vec<AbortOnDropHandle<()>>>,
}

impl Serving {
    /// Listens no more. What is open goes on to its end.
    pub(super) async fn stop(&self, planned: &Planned<'_>) {
        let listeners = std::mem::take(&mut *lock(&self.listeners));
        for listener in &listeners {
            listener.abort();
        }
        for listener in listeners {
            // Its socket is closed once it has ended.
            let _ = listener.await;
        }
        planned.account.stopped();
    }

    /// Listens again, where it did before.
    pub(super) fn start(&self, planned: &Planned<'_>) -> Result<(), ListenError> {
        let mut listeners = lock(&self.listeners);
        if listeners.is_empty() {
            let sockets = bind_again(&self.addresses(), planned.forward.protocol)?;
            *listeners = listen(planned, sockets);
        }
        planned.account.starting(self.addresses());
        planned.account.ready();
        Ok(())
    }

    fn addresses(&self) -> Vec<SocketAddr> {
        self.lines.iter().map(|line| line.local).collect()
    }
}

fn lock<T>(of: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // Handles are taken out and put in whole.
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

fn listen(
    Planned { forward, way, account }: &Planned<'_>,
    sockets: Vec<Bound>,
) -> Vec<AbortOnDropHandle<()>> {
    let listen = |socket: Bound| {
        let (path, relay) = (Path::new(forward, Arc::clone(account)), way.relay.clone());
        AbortOnDropHandle::new(tokio::spawn(forward::serve(socket, path, relay)))
    };
    sockets.into_iter().map(listen).collect()
}

pub(super) fn serve(planned: &[Planned<'_>], listeners: Vec<Vec<Bound>>) -> Vec<Serving> {
    let serve_one = |(planned, sockets): (&Planned<'_>, Vec<Bound>)| {
        let Planned { forward, account, .. } = planned;
        let lines = lines(forward, &sockets);
        account.starting(lines.iter().map(|line| line.local).collect());
        Serving { lines, listeners: Mutex::new(listen(planned, sockets)) }
    };
    planned.iter().zip(listeners).map(serve_one).collect()
}

/// Where a forward listens.
pub(crate) fn lines(forward: &Forward, sockets: &[Bound]) -> Vec<ForwardLine> {
    let line = |socket: &Bound| {
        Some(ForwardLine {
            local: socket.local_addr().ok()?,
            remote: forward.remote,
            protocol: forward.protocol,
            target: forward.target.clone(),
        })
    };
    sockets.iter().filter_map(line).collect()
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
pub(crate) async fn destination(forward: &Forward, way: &Way, limit: Duration) -> Result<(), Error> {
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
