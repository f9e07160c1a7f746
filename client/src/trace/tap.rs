//! What sees a connection or a flow: reads along, and hands copies to the capture.

use std::{
    fmt,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use relay_protocol::{Status, header::Protocol};
use relay_trace::{
    Observer, Seen,
    flow::{Ends, Numbers, Plan, Planned, Way},
};
use relay_tunnel::Tap;

use super::{
    Tracing,
    capture::{Interface, Packet},
    telling::Told,
};
use crate::{
    forward::Ended,
    output::{EndedBy, Output, What},
};

/// What a line takes in the queue beside its text, about.
const LINE: usize = 256;

/// What is traced.
#[derive(Clone)]
pub(super) struct About {
    pub(super) target: Arc<str>,
    pub(super) remote: u16,
    pub(super) protocol: Protocol,
    pub(super) client: SocketAddr,
    pub(super) output: Arc<Output>,
}

impl fmt::Debug for About {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("About")
            .field("target", &self.target)
            .field("client", &self.client)
            .finish_non_exhaustive()
    }
}

/// A clock that nobody sets, which knows what time it was at its beginning.
#[derive(Debug, Clone, Copy)]
struct Clock {
    start: Timestamp,
    began: Instant,
}

impl Clock {
    fn new() -> Self {
        Self { start: Timestamp::now(), began: Instant::now() }
    }

    fn after(&self, passed: Duration) -> Timestamp {
        self.start.checked_add(passed).unwrap_or(self.start)
    }
}

/// The packets of a connection or flow on their way into the capture.
#[derive(Debug)]
struct Captured {
    tracing: Tracing,
    interface: Arc<Interface>,
    ends: Ends,
    clock: Clock,
    /// Packets that did not fit since the last one that did.
    missing: u64,
    has_begun: bool,
}

impl Captured {
    fn take(&mut self, (way, plan, payload): Planned<'_>) {
        let Some(capture) = &self.tracing.0.capture else { return };
        let at = self.clock.after(self.clock.began.elapsed());
        let make = || Packet {
            interface: Arc::clone(&self.interface),
            at,
            ends: self.ends,
            way,
            plan,
            payload: payload.to_vec(),
            missing: self.missing,
            is_first: !self.has_begun,
        };
        if capture.take(payload.len(), make) {
            (self.missing, self.has_begun) = (0, true);
        } else {
            self.missing += 1;
            self.interface.lose(payload.len());
        }
    }
}

/// Sees a connection. What is still open when it is dropped is told then.
#[derive(Debug)]
pub(crate) struct ConnectionTap {
    tracing: Tracing,
    about: About,
    clock: Clock,
    observer: Observer,
    captured: Option<(Numbers, Captured)>,
}

impl ConnectionTap {
    pub(super) fn new(
        tracing: Tracing,
        about: About,
        interface: Option<Arc<Interface>>,
        server: SocketAddr,
        number: u32,
        early: &[u8],
    ) -> Self {
        let clock = Clock::new();
        let ends = Ends::new(about.client, server);
        let captured = interface.map(|interface| {
            let (missing, has_begun) = (0, false);
            let captured = Captured { tracing: tracing.clone(), interface, ends, clock, missing, has_begun };
            // Far apart, so that a reader tells one connection from the next with the same ports.
            (Numbers::new(number.wrapping_add(1).wrapping_mul(0x9e37_79b1)), captured)
        });
        let observer = Observer::new(tracing.0.show_query);
        let mut tap = Self { tracing, about, clock, observer, captured };
        if let Some((numbers, captured)) = &mut tap.captured {
            numbers.begin(|planned| captured.take(planned));
        }
        if !early.is_empty() {
            tap.sent(early);
        }
        tap
    }

    /// The connection has ended so.
    pub(crate) fn ended(mut self, ended: &Ended) {
        if let Some((numbers, captured)) = self.captured.as_mut().filter(|_| ended.status != Status::Ok) {
            let way = if ended.by == EndedBy::Local { Way::Sent } else { Way::Received };
            numbers.reset(way, |planned| captured.take(planned));
        }
    }

    fn saw(&mut self, see: impl FnOnce(&mut Observer, Duration)) {
        see(&mut self.observer, self.clock.began.elapsed());
        while let Some(seen) = self.observer.next_seen() {
            let (size, began) = match &seen {
                Seen::Exchange(exchange) => (LINE + exchange.target.len(), exchange.began),
                _ => (LINE, self.clock.began.elapsed()),
            };
            let at = self.clock.after(began);
            let told = || Told { about: self.about.clone(), at, what: What::Seen(seen) };
            self.tracing.0.telling.tell(told, size);
        }
    }

    fn data(&mut self, way: Way, bytes: &[u8]) {
        if let Some((numbers, captured)) = &mut self.captured {
            numbers.data(way, bytes, |planned| captured.take(planned));
        }
    }

    fn end(&mut self, way: Way) {
        if let Some((numbers, captured)) = &mut self.captured {
            numbers.end(way, |planned| captured.take(planned));
        }
    }
}

impl Tap for ConnectionTap {
    fn sent(&mut self, bytes: &[u8]) {
        self.data(Way::Sent, bytes);
        self.saw(|observer, at| observer.sent(bytes, at));
    }

    fn received(&mut self, bytes: &[u8]) {
        self.data(Way::Received, bytes);
        self.saw(|observer, at| observer.received(bytes, at));
    }

    fn sent_all(&mut self) {
        self.end(Way::Sent);
        self.saw(Observer::sent_all);
    }

    fn received_all(&mut self) {
        self.end(Way::Received);
        self.saw(Observer::received_all);
    }
}

impl Drop for ConnectionTap {
    fn drop(&mut self) {
        self.saw(Observer::ended);
    }
}

/// Sees a flow of datagrams.
#[derive(Debug)]
pub(crate) struct FlowTap(Option<Captured>);

impl FlowTap {
    pub(super) fn new(
        tracing: Tracing,
        about: About,
        interface: Option<Arc<Interface>>,
        server: SocketAddr,
    ) -> Self {
        let (clock, ends) = (Clock::new(), Ends::new(about.client, server));
        let told = || Told { about: about.clone(), at: clock.start, what: What::Datagrams };
        tracing.0.telling.tell(told, LINE);
        let (missing, has_begun) = (0, false);
        Self(interface.map(|interface| Captured { tracing, interface, ends, clock, missing, has_begun }))
    }

    /// From the local program.
    pub(crate) fn sent(&mut self, datagram: &[u8]) {
        self.datagram(Way::Sent, datagram);
    }

    /// For the local program.
    pub(crate) fn received(&mut self, datagram: &[u8]) {
        self.datagram(Way::Received, datagram);
    }

    fn datagram(&mut self, way: Way, datagram: &[u8]) {
        if let Some(captured) = &mut self.0 {
            captured.take((way, Plan::Udp, datagram));
        }
    }
}
