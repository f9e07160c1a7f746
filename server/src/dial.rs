//! From a header to a connected socket: resolve, race the addresses, say in a status code why it failed.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use relay_protocol::{Address, Status};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};
use tokio::time::{sleep, timeout};

use crate::budget::{KernelBuffers, Share};
use crate::resolve::Resolver;
use crate::settings::Limits;

/// Why a target was not reached.
#[derive(Debug)]
pub struct DialError {
    /// What the client is told.
    pub status: Status,
    /// What the log says.
    pub reason: String,
}

impl DialError {
    /// Pairs the two.
    pub fn new(status: Status, reason: impl Into<String>) -> Self {
        Self { status, reason: reason.into() }
    }
}

impl From<io::Error> for DialError {
    fn from(error: io::Error) -> Self {
        Self::new(status_of(&error), error.to_string())
    }
}

/// "Address family not supported by protocol" on Linux, wherever the agent is built for: the library has no word of
/// its own for it.
const EAFNOSUPPORT: i32 = 97;

/// The status for a socket's error.
pub fn status_of(error: &io::Error) -> Status {
    use io::ErrorKind as Kind;
    match error.kind() {
        Kind::ConnectionRefused => Status::Refused,
        // An address that the pod has no family or no route for is as far away as one behind a missing route.
        Kind::HostUnreachable | Kind::NetworkUnreachable | Kind::NetworkDown | Kind::AddrNotAvailable => {
            Status::Unreachable
        }
        Kind::TimedOut => Status::ConnectTimedOut,
        Kind::ConnectionReset | Kind::ConnectionAborted | Kind::BrokenPipe => Status::ResetByPeer,
        // What a network policy in the kernel answers.
        Kind::PermissionDenied => Status::Denied,
        _ if error.raw_os_error() == Some(EAFNOSUPPORT) => Status::Unreachable,
        _ => Status::Unknown,
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

/// Connects to the first address that answers: each gets a head start of `stagger` over the next, and one that fails
/// lets the next begin at once (RFC 8305, section 5).
async fn race<T, F>(
    addresses: Vec<SocketAddr>,
    stagger: Duration,
    connect: impl Fn(SocketAddr) -> F,
) -> io::Result<T>
where
    F: Future<Output = io::Result<T>>,
{
    let mut waiting = addresses.into_iter();
    let mut attempts = FuturesUnordered::new();
    let mut failure: Option<io::Error> = None;
    loop {
        attempts.extend(waiting.next().map(&connect));
        tokio::select! {
            Some(result) = attempts.next() => match result {
                Ok(connected) => return Ok(connected),
                // "No route" for one family says less than what an address with a route answered.
                Err(error) if failure.as_ref().is_none_or(|old| status_of(old) == Status::Unreachable) => {
                    failure = Some(error);
                }
                Err(_) => {}
            },
            () = sleep(stagger), if waiting.len() > 0 => {}
            else => return Err(failure.unwrap_or_else(|| io::ErrorKind::NetworkUnreachable.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::time::Instant;

    use super::*;

    fn addresses(count: u16) -> Vec<SocketAddr> {
        (1..=count).map(|port| SocketAddr::from(([127, 0, 0, 1], port))).collect()
    }

    const STAGGER: Duration = Duration::from_millis(250);

    #[tokio::test(start_paused = true)]
    async fn an_address_that_never_answers_costs_one_head_start() {
        let start = Instant::now();
        let got = race(addresses(3), STAGGER, |address| async move {
            match address.port() {
                2 => Ok(2),
                _ => pending().await,
            }
        });
        assert_eq!(got.await.unwrap(), 2);
        assert_eq!(start.elapsed(), STAGGER);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_lets_the_next_begin_at_once() {
        let start = Instant::now();
        let got = race(addresses(3), STAGGER, |address| async move {
            match address.port() {
                3 => Ok(3),
                _ => Err(io::ErrorKind::ConnectionRefused.into()),
            }
        });
        assert_eq!(got.await.unwrap(), 3);
        assert_eq!(start.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_first_address_may_still_win() {
        let got = race(addresses(2), STAGGER, |address| async move {
            sleep(STAGGER * if address.port() == 1 { 2 } else { 9 }).await;
            Ok(address.port())
        });
        assert_eq!(got.await.unwrap(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn the_failure_that_says_most_is_reported() {
        for ports in [[1, 2], [2, 1]] {
            let addresses = ports.map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
            let got: io::Result<()> = race(addresses.to_vec(), STAGGER, |address| async move {
                Err(if address.port() == 1 {
                    io::ErrorKind::NetworkUnreachable
                } else {
                    io::ErrorKind::ConnectionRefused
                }
                .into())
            })
            .await;
            assert_eq!(status_of(&got.unwrap_err()), Status::Refused);
        }
    }
}
