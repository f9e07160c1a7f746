//! Binding the local sockets: all of them before anything is created in the cluster, so that a busy port costs nothing.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use relay_protocol::header::Protocol;
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::{TcpListener, UdpSocket};

use crate::{cli::settings::ListenAddress, port::LocalPort};

/// Connections that wait to be accepted.
const BACKLOG: i32 = 1024;
/// How often a free port is looked for that is free on every address.
const FREE_PORT_TRIES: usize = 16;

/// A bound socket.
#[derive(Debug)]
pub enum Bound {
    /// Listening.
    Tcp(TcpListener),
    /// Bound.
    Udp(UdpSocket),
}

/// A port that cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} ({protocol}): {}", plain(source))]
pub struct ListenError {
    /// Where.
    pub address: SocketAddr,
    /// As what.
    pub protocol: Protocol,
    /// Why not.
    pub source: io::Error,
}

fn plain(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => "the port is in use".into(),
        io::ErrorKind::PermissionDenied => "this needs more rights".into(),
        io::ErrorKind::AddrNotAvailable => "this machine has no such address".into(),
        _ => error.to_string(),
    }
}

impl ListenError {
    /// What to do about it.
    pub fn hint(&self) -> String {
        let port = self.address.port();
        match self.source.kind() {
            io::ErrorKind::AddrInUse => {
                "choose another local port (LOCAL:REMOTE), or a free one (:REMOTE)".into()
            }
            io::ErrorKind::PermissionDenied if port < 1024 => {
                format!("ports below 1024 are for root: use {}:{port}", u32::from(port) + 8000)
            }
            _ => "give an address of this machine with --address".into(),
        }
    }
}

impl Bound {
    /// Where it is bound.
    ///
    /// # Errors
    /// What the system says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Tcp(listener) => listener.local_addr(),
            Self::Udp(socket) => socket.local_addr(),
        }
    }
}

/// Binds one forward's local port on every address. Must be called within a runtime.
///
/// # Errors
/// The first address that cannot be had.
pub fn bind(
    addresses: &[ListenAddress],
    local: LocalPort,
    protocol: Protocol,
) -> Result<Vec<Bound>, ListenError> {
    let wanted = expand(addresses);
    let LocalPort::Number(number) = local else {
        let mut tries = 1;
        loop {
            match bind_all(&wanted, 0, protocol) {
                // A port that is free on one address may be taken on another.
                Err(error) if error.source.kind() == io::ErrorKind::AddrInUse && tries < FREE_PORT_TRIES => {
                    tries += 1;
                }
                outcome => return outcome,
            }
        }
    };
    bind_all(&wanted, number.get(), protocol)
}

/// An address, and whether it may be absent from this machine.
fn expand(addresses: &[ListenAddress]) -> Vec<(IpAddr, bool)> {
    let mut wanted: Vec<(IpAddr, bool)> = Vec::new();
    let mut add = |ip: IpAddr, optional: bool| match wanted.iter_mut().find(|(known, _)| *known == ip) {
        Some((_, known_optional)) => *known_optional &= optional,
        None => wanted.push((ip, optional)),
    };
    for address in addresses {
        match address {
            ListenAddress::Localhost => {
                add(Ipv4Addr::LOCALHOST.into(), true);
                add(Ipv6Addr::LOCALHOST.into(), true);
            }
            ListenAddress::Ip(ip) => add(*ip, false),
        }
    }
    wanted
}

/// Binds exactly these addresses anew. Must be called within a runtime.
///
/// # Errors
/// The first that cannot be had.
pub fn bind_again(addresses: &[SocketAddr], protocol: Protocol) -> Result<Vec<Bound>, ListenError> {
    let bind = |address: &SocketAddr| {
        bind_one(*address, protocol).map_err(|source| ListenError { address: *address, protocol, source })
    };
    addresses.iter().map(bind).collect()
}

fn bind_all(wanted: &[(IpAddr, bool)], mut port: u16, protocol: Protocol) -> Result<Vec<Bound>, ListenError> {
    let mut bound = Vec::new();
    let mut absent = None;
    for (ip, optional) in wanted {
        let address = SocketAddr::new(*ip, port);
        let failed = |source| ListenError { address, protocol, source };
        match bind_one(address, protocol) {
            Ok(socket) => {
                // A free port is the same one on all addresses.
                port = socket.local_addr().map_err(failed)?.port();
                bound.push(socket);
            }
            Err(source) if *optional && is_absent(&source) => absent = Some(failed(source)),
            Err(source) => return Err(failed(source)),
        }
    }
    match absent {
        Some(error) if bound.is_empty() => Err(error),
        _ => Ok(bound),
    }
}

/// The machine has no such address, or no such family at all.
fn is_absent(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrNotAvailable
        || error.kind() == io::ErrorKind::Unsupported
        || error.raw_os_error() == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error())
}

fn bind_one(address: SocketAddr, protocol: Protocol) -> io::Result<Bound> {
    let kind = match protocol {
        Protocol::Tcp => Type::STREAM,
        Protocol::Udp => Type::DGRAM,
    };
    let socket = Socket::new(Domain::for_address(address), kind, None)?;
    if address.is_ipv6() {
        // So that `::` and `0.0.0.0` are two addresses, as for kubectl.
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    match protocol {
        Protocol::Tcp => {
            socket.set_reuse_address(true)?;
            socket.bind(&SockAddr::from(address))?;
            socket.listen(BACKLOG)?;
            TcpListener::from_std(socket.into()).map(Bound::Tcp)
        }
        Protocol::Udp => {
            socket.bind(&SockAddr::from(address))?;
            UdpSocket::from_std(socket.into()).map(Bound::Udp)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU16;

    use super::*;

    fn addresses(bound: &[Bound]) -> Vec<SocketAddr> {
        bound.iter().map(|socket| socket.local_addr().unwrap()).collect()
    }

    #[tokio::test]
    async fn localhost_is_both_families_on_one_free_port() {
        let bound = bind(&[ListenAddress::Localhost], LocalPort::Free, Protocol::Tcp).unwrap();
        let addresses = addresses(&bound);
        assert!(addresses[0].ip().is_loopback() && addresses[0].port() != 0);
        assert!(addresses.iter().all(|address| address.port() == addresses[0].port()));
    }

    #[tokio::test]
    async fn a_busy_port_is_an_error_even_for_localhost() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let number = NonZeroU16::new(address.port()).unwrap();
        let error = bind(&[ListenAddress::Localhost], LocalPort::Number(number), Protocol::Tcp).unwrap_err();
        assert_eq!(error.to_string(), format!("cannot listen on {address} (tcp): the port is in use"));
        assert_eq!(error.hint(), "choose another local port (LOCAL:REMOTE), or a free one (:REMOTE)");
    }

    #[tokio::test]
    async fn tcp_and_udp_share_a_port_number() {
        let tcp = bind(&[ListenAddress::Localhost], LocalPort::Free, Protocol::Tcp).unwrap();
        let port = LocalPort::Number(NonZeroU16::new(addresses(&tcp)[0].port()).unwrap());
        assert!(bind(&[ListenAddress::Localhost], port, Protocol::Udp).is_ok());
    }

    #[tokio::test]
    async fn an_address_of_another_machine_is_named() {
        let elsewhere = ListenAddress::Ip("192.0.2.1".parse().unwrap());
        let error = bind(&[elsewhere], LocalPort::Free, Protocol::Tcp).unwrap_err();
        assert_eq!(error.to_string(), "cannot listen on 192.0.2.1:0 (tcp): this machine has no such address");
    }

    #[test]
    fn an_address_that_is_also_in_localhost_is_bound_once_and_must_exist() {
        let wanted = expand(&[ListenAddress::Localhost, ListenAddress::Ip(Ipv6Addr::LOCALHOST.into())]);
        assert_eq!(wanted, [(Ipv4Addr::LOCALHOST.into(), true), (Ipv6Addr::LOCALHOST.into(), false)]);
    }
}
