//! From a target to a connection: by the rules, under the names that the search list gives, from the cluster or from
//! here.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use relay_protocol::{Status, header::Address};
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, UdpSocket, lookup_host},
    time::timeout,
};

use crate::{
    Dial, Refused, Target,
    carry::carry,
    dial::{Datagrams, End, Moved, Outbound},
    rules::{Origin, Rules, is_loopback},
    socket::Socket,
};

/// How long a connection from here may take to be there.
const CONNECT: Duration = Duration::from_secs(10);

/// Everything that is needed to reach targets.
pub(crate) struct Reach<D> {
    pub(crate) rules: Rules,
    pub(crate) dial: D,
}

/// A connection from the cluster, or from here.
pub(crate) enum Stream<S> {
    Cluster(S),
    Here(Socket),
}

/// A flow from the cluster, or from here.
pub(crate) enum Flow<F> {
    Cluster(F),
    Here { socket: UdpSocket, buffer: Vec<u8> },
}

impl<D: Dial> Reach<D> {
    /// The first of the target's names that exists, connected.
    pub(crate) async fn tcp(&self, target: &Target) -> Result<(Stream<D::Stream>, Origin), Refused> {
        let mut last = denied(target);
        for (candidate, origin) in self.rules.ways(target) {
            let dialled = match origin {
                Origin::Cluster => self.dial.tcp(&candidate).await.map(Stream::Cluster),
                Origin::Here => connect(&candidate).await.map(|stream| Stream::Here(Socket::new(stream))),
            };
            match dialled {
                Ok(stream) => return Ok((stream, origin)),
                // The client knows the name that it gave, whatever else was tried.
                Err(refused) if refused.status == Status::NoSuchHost => {
                    if candidate == *target || last.status == Status::Denied {
                        last = refused;
                    }
                }
                Err(refused) => return Err(refused),
            }
        }
        Err(last)
    }

    /// What the target may be under other names, in their order; an error where all are denied.
    pub(crate) fn ways(&self, target: &Target) -> Result<Vec<(Target, Origin)>, Refused> {
        let ways = self.rules.ways(target);
        if ways.is_empty() { Err(denied(target)) } else { Ok(ways) }
    }

    /// A flow to exactly this.
    pub(crate) async fn udp(&self, target: &Target, origin: Origin) -> Result<Flow<D::Flow>, Refused> {
        match origin {
            Origin::Cluster => self.dial.udp(target).await.map(Flow::Cluster),
            Origin::Here => {
                let socket = associate(target).await?;
                Ok(Flow::Here { socket, buffer: vec![0; usize::from(u16::MAX)] })
            }
        }
    }
}

fn denied(target: &Target) -> Refused {
    let why = match is_loopback(target) {
        true => format!("{target} is nothing in the cluster; --direct is for what is on this machine"),
        false => format!("the rules of this proxy forbid {target}"),
    };
    Refused { status: Status::Denied, why }
}

async fn resolve(target: &Target) -> Result<Vec<SocketAddr>, Refused> {
    let name = match &target.address {
        Address::Ip(ip) => return Ok(vec![SocketAddr::new(*ip, target.port)]),
        Address::Host(name) => name.as_str(),
    };
    let unknown =
        |_| Refused { status: Status::NoSuchHost, why: format!("this machine knows no host \"{name}\"") };
    let found = timeout(CONNECT, lookup_host((name, target.port))).await.map_err(|_| Refused {
        status: Status::ResolveTimedOut,
        why: format!("no answer to this machine about the name \"{name}\""),
    })?;
    Ok(found.map_err(unknown)?.collect())
}

async fn connect(target: &Target) -> Result<TcpStream, Refused> {
    let mut last =
        Refused { status: Status::NoSuchHost, why: format!("this machine knows no address of {target}") };
    for address in resolve(target).await? {
        match timeout(CONNECT, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => last = failed(target, &error),
            Err(_) => {
                let why = format!("no answer from {target} to this machine");
                last = Refused { status: Status::ConnectTimedOut, why };
            }
        }
    }
    Err(last)
}

async fn associate(target: &Target) -> Result<UdpSocket, Refused> {
    let Some(address) = resolve(target).await?.into_iter().next() else {
        return Err(Refused {
            status: Status::NoSuchHost,
            why: format!("this machine knows no address of {target}"),
        });
    };
    let any = if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let connected = async {
        let socket = UdpSocket::bind(SocketAddr::new(any, 0)).await?;
        socket.connect(address).await?;
        Ok(socket)
    };
    connected.await.map_err(|error| failed(target, &error))
}

fn failed(target: &Target, error: &io::Error) -> Refused {
    Refused { status: status(error), why: format!("this machine cannot reach {target}: {error}") }
}

fn status(error: &io::Error) -> Status {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => Status::Refused,
        io::ErrorKind::TimedOut => Status::ConnectTimedOut,
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => Status::Unreachable,
        io::ErrorKind::ConnectionReset => Status::ResetByPeer,
        io::ErrorKind::PermissionDenied => Status::Denied,
        _ => Status::Unknown,
    }
}

impl<S: Outbound> Stream<S> {
    /// See [`Outbound::carry`].
    pub(crate) async fn carry(self, socket: TcpStream, early: Bytes, moved: &Moved) -> End {
        match self {
            Self::Cluster(stream) => stream.carry(socket, early, moved).await,
            Self::Here(mut stream) => carry(socket, &mut stream, early, moved).await,
        }
    }
}

impl<S: Outbound> AsyncRead for Stream<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Cluster(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Here(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl<S: Outbound> AsyncWrite for Stream<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Cluster(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Here(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Cluster(stream) => Pin::new(stream).poll_flush(cx),
            Self::Here(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Cluster(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Here(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

impl<F: Datagrams> Datagrams for Flow<F> {
    fn send(&self, datagram: Bytes) -> Result<(), Status> {
        match self {
            Self::Cluster(flow) => flow.send(datagram),
            // What the runtime knows of the socket may be older than it.
            Self::Here { socket, .. } => match SockRef::from(socket).send(&datagram) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
                sent => sent.map(|_| ()).map_err(|error| status(&error)),
            },
        }
    }

    async fn recv(&mut self) -> Result<Bytes, Status> {
        match self {
            Self::Cluster(flow) => flow.recv().await,
            Self::Here { socket, buffer } => {
                let len = socket.recv(buffer).await.map_err(|error| status(&error))?;
                Ok(Bytes::copy_from_slice(&buffer[..len]))
            }
        }
    }
}
