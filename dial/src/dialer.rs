//! Resolves, asks the policy, connects, and gives up in time.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use relay_policy::{Denial, Names, Policy};
use relay_protocol::{Address, Status};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};
use tokio::time::timeout;

use crate::buffers::{KernelBuffers, Share};
use crate::error::DialError;
use crate::race::race;
use crate::resolve::{Found, Resolver};

/// How long a dial may take, and how much the sockets may hold.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Resolving a name may take this long.
    pub resolve: Duration,
    /// Connecting to a target may take this long, all its addresses together.
    pub connect: Duration,
    /// The next address is tried after this long without an answer from those before it.
    pub stagger: Duration,
    /// Bytes of kernel buffers that all target sockets share.
    pub kernel_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            resolve: Duration::from_secs(10),
            connect: Duration::from_secs(10),
            stagger: Duration::from_millis(250),
            kernel_bytes: 32 << 20,
        }
    }
}

/// Reaches targets.
pub struct Dialer {
    resolver: Resolver,
    policy: Policy,
    limits: Limits,
    kernel: KernelBuffers,
}

impl Dialer {
    /// Resolves with `resolver` and dials what `policy` lets through, within the times of `limits`.
    pub fn new(resolver: Resolver, policy: Policy, limits: Limits) -> Self {
        let kernel = KernelBuffers::new(limits.kernel_bytes);
        Self { resolver, policy, limits, kernel }
    }

    /// Bytes of kernel buffers that target sockets were given, and that there are.
    pub fn kernel_bytes(&self) -> (usize, usize) {
        self.kernel.used()
    }

    /// Connects to the target. The share is to be kept as long as the socket.
    ///
    /// # Errors
    /// A [`DialError`] after the time limits at the latest.
    pub async fn tcp(&self, address: &Address, port: u16) -> Result<(TcpStream, Share), DialError> {
        let addresses = self.addresses(address, port).await?;
        let attempts = race(addresses, self.limits.stagger, |address| self.connect(address));
        match timeout(self.limits.connect, attempts).await {
            Ok(result) => Ok(result?),
            Err(_) => Err(DialError::new(Status::ConnectTimedOut, "no answer")),
        }
    }

    /// A socket connected to the first of the target's addresses that there is a route to, and its share to keep.
    ///
    /// # Errors
    /// A [`DialError`] where the name does not resolve or no address can be reached.
    pub async fn udp(&self, address: &Address, port: u16) -> Result<(UdpSocket, Share), DialError> {
        let mut failure = None;
        for address in self.addresses(address, port).await? {
            let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let connected = async {
                let socket = UdpSocket::bind(any).await?;
                let share = self.kernel.udp(&socket);
                socket.connect(address).await.map(|()| (socket, share))
            };
            match connected.await {
                Ok(connected) => return Ok(connected),
                Err(error) => failure = Some(error),
            }
        }
        Err(failure.unwrap_or_else(|| io::ErrorKind::NetworkUnreachable.into()).into())
    }

    /// The addresses to dial. What comes out is dialled as it is: a name that is asked for again has another answer.
    async fn addresses(&self, address: &Address, port: u16) -> Result<Vec<SocketAddr>, DialError> {
        let found = match address {
            Address::Ip(ip) => Found { addresses: vec![*ip], names: Names::default() },
            // A resolver with ndots 5 would ask its servers about an address.
            Address::Host(name) => match name.as_str().parse() {
                Ok(ip) => Found { addresses: vec![ip], names: Names::default() },
                Err(_) => {
                    self.policy.judge_name(name.as_str(), port)?;
                    match timeout(self.limits.resolve, self.resolver.resolve(name)).await {
                        Ok(result) => result?,
                        Err(_) => {
                            return Err(DialError::new(
                                Status::ResolveTimedOut,
                                "no answer from the name servers",
                            ));
                        }
                    }
                }
            },
        };
        let (mut open, mut denied) = (Vec::new(), None);
        for ip in found.addresses {
            let address = SocketAddr::new(ip, port);
            match self.judge(&found.names, address) {
                Ok(()) => open.push(address),
                Err(denial) => denied = Some(denial),
            }
        }
        match denied {
            Some(denial) if open.is_empty() => Err(denial.into()),
            _ => Ok(open),
        }
    }

    fn judge(&self, names: &Names, address: SocketAddr) -> Result<(), Denial> {
        if self.policy.own_ports.contains(&address.port()) && is_own(address.ip()) {
            return Err(Denial::Own);
        }
        self.policy.judge(names, address)
    }

    async fn connect(&self, address: SocketAddr) -> io::Result<(TcpStream, Share)> {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.set_nodelay(true)?;
        socket.set_keepalive(true)?;
        let share = self.kernel.tcp(&socket);
        socket.connect(address).await.map(|stream| (stream, share))
    }
}

/// Whether what is sent there comes back here: then the kernel would send it from that very address.
fn is_own(ip: IpAddr) -> bool {
    let ip = ip.to_canonical();
    let any = match ip {
        IpAddr::V4(_) => IpAddr::from(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let source = || {
        let socket = std::net::UdpSocket::bind((any, 0))?;
        // Connecting such a socket sends nothing; the port has no meaning.
        socket.connect((ip, 9))?;
        socket.local_addr()
    };
    ip.is_loopback() || ip.is_unspecified() || source().is_ok_and(|source: SocketAddr| source.ip() == ip)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_own_where_packets_to_it_come_from_it() {
        for own in ["127.0.0.1", "127.9.9.9", "::1", "0.0.0.0", "::ffff:127.0.0.1"] {
            assert!(is_own(own.parse().unwrap()), "{own}");
        }
        for other in ["192.0.2.1", "2001:db8::1"] {
            assert!(!is_own(other.parse().unwrap()), "{other}");
        }
        // Whatever addresses this machine has towards others, they are its own.
        let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
        if socket.connect("192.0.2.1:9").is_ok() {
            assert!(is_own(socket.local_addr().unwrap().ip()));
        }
    }
}
