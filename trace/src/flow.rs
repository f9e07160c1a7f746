//! A connection or a flow of datagrams as packets: which there would have been, in their order.

use std::net::SocketAddr;

use crate::packet::{Flags, SEGMENT, Segment, ethernet, of_one_family, tcp, udp};

/// So much of one direction is acknowledged at once, in bytes.
const ACKNOWLEDGED: u32 = 1 << 20;

/// Which way a packet goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From the client.
    Sent,
    /// To the client.
    Received,
}

/// What is known of a packet before it is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plan {
    /// Of TCP.
    Tcp(Segment),
    /// Of UDP.
    Udp,
}

/// Between whom packets go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ends {
    client: SocketAddr,
    server: SocketAddr,
}

impl Ends {
    /// A client and a server, of whatever family each is.
    pub fn new(client: SocketAddr, server: SocketAddr) -> Self {
        let (client, server) = of_one_family(client, server);
        Self { client, server }
    }

    /// The packet that a plan makes of a payload.
    pub fn packet(&self, way: Way, plan: Plan, payload: &[u8]) -> Vec<u8> {
        let (from, to) = match way {
            Way::Sent => (self.client, self.server),
            Way::Received => (self.server, self.client),
        };
        let packet = match plan {
            Plan::Tcp(segment) => tcp(from, to, segment, payload),
            Plan::Udp => udp(from, to, payload),
        };
        ethernet(way == Way::Sent, from.is_ipv4(), &packet)
    }
}

/// The numbers of a connection of TCP. Each packet is planned when its bytes pass, whether or not it is written in the
/// end, so that a reader sees what is missing.
#[derive(Debug)]
pub struct Numbers {
    next: [u32; 2],
    acknowledged: [u32; 2],
    has_ended: [bool; 2],
}

/// A planned packet.
pub type Planned<'a> = (Way, Plan, &'a [u8]);

impl Numbers {
    /// Of a connection that begins. Two of the same ends are told apart by different `first` numbers.
    pub fn new(first: u32) -> Self {
        Self { next: [first, !first], acknowledged: [first, !first], has_ended: [false; 2] }
    }

    /// The first three packets.
    pub fn begin(&mut self, mut plan: impl FnMut(Planned<'_>)) {
        let syn = Segment { flags: Flags::SYN, seq: self.next[0], ack: 0 };
        plan((Way::Sent, Plan::Tcp(syn), &[]));
        self.next[0] = self.next[0].wrapping_add(1);
        plan((Way::Received, self.segment(Way::Received, Flags::SYN_ACK), &[]));
        self.next[1] = self.next[1].wrapping_add(1);
        plan((Way::Sent, self.segment(Way::Sent, Flags::ACK), &[]));
        self.acknowledged = self.next;
    }

    /// Bytes that pass.
    pub fn data(&mut self, way: Way, bytes: &[u8], mut plan: impl FnMut(Planned<'_>)) {
        for piece in bytes.chunks(SEGMENT) {
            plan((way, self.segment(way, Flags::DATA), piece));
            let own = way as usize;
            self.next[own] = self.next[own].wrapping_add(piece.len() as u32);
            self.acknowledged[1 - own] = self.next[1 - own];
            if self.next[own].wrapping_sub(self.acknowledged[own]) >= ACKNOWLEDGED {
                plan(self.acknowledgement(way));
            }
        }
    }

    /// The end of a direction.
    pub fn end(&mut self, way: Way, mut plan: impl FnMut(Planned<'_>)) {
        let own = way as usize;
        if std::mem::replace(&mut self.has_ended[own], true) {
            return;
        }
        plan((way, self.segment(way, Flags::FIN), &[]));
        self.next[own] = self.next[own].wrapping_add(1);
        plan(self.acknowledgement(way));
    }

    /// The end of the whole, by a reset.
    pub fn reset(&mut self, way: Way, mut plan: impl FnMut(Planned<'_>)) {
        if self.has_ended != [true; 2] {
            plan((way, self.segment(way, Flags::RST), &[]));
            self.has_ended = [true; 2];
        }
    }

    /// Of all that went this way.
    fn acknowledgement(&mut self, way: Way) -> Planned<'static> {
        self.acknowledged[way as usize] = self.next[way as usize];
        let back = match way {
            Way::Sent => Way::Received,
            Way::Received => Way::Sent,
        };
        (back, self.segment(back, Flags::ACK), &[])
    }

    fn segment(&self, way: Way, flags: Flags) -> Plan {
        let own = way as usize;
        Plan::Tcp(Segment { flags, seq: self.next[own], ack: self.next[1 - own] })
    }
}
