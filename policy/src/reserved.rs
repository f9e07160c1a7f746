//! Places that no agent should reach by accident: itself, its link, and what a cloud tells about the machine.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// A part of the address space that is denied unless an allow rule lies within it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reserved {
    /// The addresses.
    pub net: IpNet,
    /// What is there.
    pub what: &'static str,
}

const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8, what: &'static str) -> Reserved {
    Reserved { net: IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix)), what }
}

const fn v6(address: [u16; 8], prefix: u8, what: &'static str) -> Reserved {
    let [a, b, c, d, e, f, g, h] = address;
    Reserved { net: IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, d, e, f, g, h), prefix)), what }
}

const LOOPBACK: &str = "the agent's own loopback";
const UNSPECIFIED: &str = "the unspecified address, which is the agent's own loopback";
const LINK_LOCAL: &str = "link-local";
const METADATA: &str = "cloud metadata";

/// All of them.
pub const ALL: [Reserved; 14] = [
    v4(127, 0, 0, 0, 8, LOOPBACK),
    v6([0, 0, 0, 0, 0, 0, 0, 1], 128, LOOPBACK),
    v4(0, 0, 0, 0, 8, UNSPECIFIED),
    v6([0; 8], 128, UNSPECIFIED),
    // With the metadata service of most clouds.
    v4(169, 254, 0, 0, 16, LINK_LOCAL),
    v6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10, LINK_LOCAL),
    v4(224, 0, 0, 0, 24, LINK_LOCAL),
    v6([0xff02, 0, 0, 0, 0, 0, 0, 0], 16, LINK_LOCAL),
    // Amazon's over IPv6, with its services for pods and time; then Google's.
    v6([0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0], 32, METADATA),
    v6([0xfd20, 0x00ce, 0, 0, 0, 0, 0, 0x0254], 128, METADATA),
    // Alibaba's, Azure's and Oracle's.
    v4(100, 100, 100, 200, 32, METADATA),
    v4(168, 63, 129, 16, 32, METADATA),
    v4(192, 0, 0, 192, 32, METADATA),
    v4(255, 255, 255, 255, 32, LINK_LOCAL),
];

/// Where a translator between the families takes an IPv6 address (RFC 6052, section 2.1).
const NAT64: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0), 96);

/// The address that an address stands for: IPv4 inside IPv6 is IPv4 for the kernel.
pub fn plain(ip: IpAddr) -> IpAddr {
    ip.to_canonical()
}

/// The IPv4 address that a translator on the way would make of it.
pub(crate) fn translated(ip: IpAddr) -> Option<IpAddr> {
    let IpAddr::V6(v6) = ip else { return None };
    let [.., a, b, c, d] = v6.octets();
    NAT64.contains(&v6).then(|| Ipv4Addr::new(a, b, c, d).into())
}
