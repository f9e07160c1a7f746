//! Resolves, connects, and gives up in time.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use relay_protocol::{Address, Status};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};
use tokio::time::timeout;

use crate::buffers::{KernelBuffers, Share};
use crate::error::DialError;
use crate::race::race;
use crate::resolve::Resolver;

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
    limits: Limits,
    kernel: KernelBuffers,
}

impl Dialer {
    /// Resolves with `resolver`, within the times of `limits`.
    pub fn new(resolver: Resolver, limits: Limits) -> Self {
        let kernel = KernelBuffers::new(limits.kernel_bytes);
        Self { resolver, limits, kernel }
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

    async fn addresses(&self, address: &Address, port: u16) -> Result<Vec<SocketAddr>, DialError> {
        let ips = match address {
            Address::Ip(ip) => vec![*ip],
            // A resolver with ndots 5 would ask its servers about an address.
            Address::Host(name) => match name.as_str().parse() {
                Ok(ip) => vec![ip],
                Err(_) => match timeout(self.limits.resolve, self.resolver.resolve(name)).await {
                    Ok(result) => result?,
                    Err(_) => {
                        return Err(DialError::new(
                            Status::ResolveTimedOut,
                            "no answer from the name servers",
                        ));
                    }
                },
            },
        };
        Ok(ips.into_iter().map(|ip| SocketAddr::new(ip, port)).collect())
    }

    async fn connect(&self, address: SocketAddr) -> io::Result<(TcpStream, Share)> {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.set_nodelay(true)?;
        socket.set_keepalive(true)?;
        let share = self.kernel.tcp(&socket);
        socket.connect(address).await.map(|stream| (stream, share))
    }
}
