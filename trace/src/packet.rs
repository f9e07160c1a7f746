//! Packets that might have carried the bytes of a connection: IP and TCP or UDP headers with what a reader of captures
//! looks at. Nothing of it was ever on a wire.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// The most payload of one packet of TCP, in bytes.
pub(crate) const SEGMENT: usize = 32 << 10;

const TCP: u8 = 6;
const UDP: u8 = 17;
/// Windows count in units of 16 KiB: what is under way never fills one.
const WINDOW_SCALE: u8 = 14;
const HOPS: u8 = 64;

/// FIN, SYN, RST, PSH, ACK: what a segment of TCP is for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Flags(u8);

impl Flags {
    /// The end of a direction.
    pub const FIN: Self = Self(0x11);
    /// The beginning of a connection.
    pub const SYN: Self = Self(0x02);
    /// The answer to it.
    pub const SYN_ACK: Self = Self(0x12);
    /// The end of a connection that was broken off.
    pub const RST: Self = Self(0x14);
    /// Nothing but an acknowledgement.
    pub const ACK: Self = Self(0x10);
    /// Data.
    pub const DATA: Self = Self(0x18);

    fn is_syn(self) -> bool {
        self.0 & 0x02 != 0
    }
}

/// The place of a segment in its connection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Segment {
    /// What it is for.
    pub flags: Flags,
    /// The number of its first byte.
    pub seq: u32,
    /// The number of the byte that is expected from the other side.
    pub ack: u32,
}

/// Two ends as one packet can name them: where only one is IPv4, it is written as an IPv6 address.
pub(crate) fn of_one_family(one: SocketAddr, other: SocketAddr) -> (SocketAddr, SocketAddr) {
    let mapped = |address: SocketAddr| match address.ip() {
        IpAddr::V4(ip) => SocketAddr::new(ip.to_ipv6_mapped().into(), address.port()),
        IpAddr::V6(_) => address,
    };
    if one.is_ipv4() == other.is_ipv4() { (one, other) } else { (mapped(one), mapped(other)) }
}

/// A segment of TCP with at most [`SEGMENT`] bytes.
pub(crate) fn tcp(from: SocketAddr, to: SocketAddr, segment: Segment, payload: &[u8]) -> Vec<u8> {
    let options: &[u8] = if segment.flags.is_syn() {
        // The largest segment, and the unit of windows.
        &[2, 4, 0x7f, 0xff, 3, 3, WINDOW_SCALE, 1]
    } else {
        &[]
    };
    let words = (20 + options.len()) / 4;
    let mut out = Vec::with_capacity(60 + payload.len());
    out.extend_from_slice(&from.port().to_be_bytes());
    out.extend_from_slice(&to.port().to_be_bytes());
    out.extend_from_slice(&segment.seq.to_be_bytes());
    out.extend_from_slice(&segment.ack.to_be_bytes());
    out.extend_from_slice(&[(words as u8) << 4, segment.flags.0, 0xff, 0xff, 0, 0, 0, 0]);
    out.extend_from_slice(options);
    out.extend_from_slice(payload);
    let sum = checksum(from, to, TCP, &out);
    out[16..18].copy_from_slice(&sum.to_be_bytes());
    ip(from, to, TCP, &out)
}

/// A frame of Ethernet, between two made up stations: some readers take no packets without one from several interfaces.
pub(crate) fn ethernet(is_from_client: bool, is_ipv4: bool, packet: &[u8]) -> Vec<u8> {
    let station = |is_client: bool| [2, 0, 0, 0, 0, if is_client { 1 } else { 2 }];
    let kind: [u8; 2] = if is_ipv4 { [8, 0] } else { [0x86, 0xdd] };
    [&station(!is_from_client)[..], &station(is_from_client), &kind, packet].concat()
}

/// A datagram of UDP.
pub(crate) fn udp(from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Vec<u8> {
    // What a datagram holds fits into one; more is cut.
    let length = u16::try_from(8 + payload.len()).unwrap_or(u16::MAX);
    let mut out = Vec::with_capacity(usize::from(length));
    out.extend_from_slice(&from.port().to_be_bytes());
    out.extend_from_slice(&to.port().to_be_bytes());
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(&[0, 0]);
    out.extend_from_slice(&payload[..usize::from(length) - 8]);
    let sum = match checksum(from, to, UDP, &out) {
        // Zero means that there is none.
        0 => u16::MAX,
        sum => sum,
    };
    out[6..8].copy_from_slice(&sum.to_be_bytes());
    ip(from, to, UDP, &out)
}

fn ip(from: SocketAddr, to: SocketAddr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(40 + payload.len());
    match (from.ip(), to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let length = u16::try_from(20 + payload.len()).unwrap_or(u16::MAX);
            out.extend_from_slice(&[0x45, 0]);
            out.extend_from_slice(&length.to_be_bytes());
            // Not to be split.
            out.extend_from_slice(&[0, 0, 0x40, 0, HOPS, protocol, 0, 0]);
            out.extend_from_slice(&from.octets());
            out.extend_from_slice(&to.octets());
            let sum = !folded(sum(&out));
            out[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        (from, to) => {
            let length = u16::try_from(payload.len()).unwrap_or(u16::MAX);
            out.extend_from_slice(&[0x60, 0, 0, 0]);
            out.extend_from_slice(&length.to_be_bytes());
            out.extend_from_slice(&[protocol, HOPS]);
            out.extend_from_slice(&v6(from).octets());
            out.extend_from_slice(&v6(to).octets());
        }
    }
    out.extend_from_slice(payload);
    out
}

fn v6(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    }
}

/// The checksum of a payload of IP, with what is between whom.
fn checksum(from: SocketAddr, to: SocketAddr, protocol: u8, payload: &[u8]) -> u16 {
    let addresses = match (from.ip(), to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => sum(&from.octets()) + sum(&to.octets()),
        (from, to) => sum(&v6(from).octets()) + sum(&v6(to).octets()),
    };
    !folded(addresses + u64::from(protocol) + payload.len() as u64 + sum(payload))
}

fn sum(bytes: &[u8]) -> u64 {
    let mut pairs = bytes.chunks_exact(2);
    let whole: u64 = pairs.by_ref().map(|pair| u64::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let odd = pairs.remainder().first().map_or(0, |last| u64::from(*last) << 8);
    whole + odd
}

fn folded(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}
