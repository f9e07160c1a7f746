//! SOCKS5 (RFC 1928) with user and password (RFC 1929): parsers without sockets.

pub mod datagram;

use std::net::{IpAddr, SocketAddr};

use relay_protocol::{Status, header::Address};

use crate::{
    Target,
    step::{Missing, Reader, Step},
};

/// The first byte of greeting and request.
pub const VERSION: u8 = 5;
/// The first byte of a login.
pub const LOGIN_VERSION: u8 = 1;
/// The method without login.
pub const NO_LOGIN: u8 = 0;
/// The method of RFC 1929.
pub const LOGIN: u8 = 2;
/// No method is accepted.
pub const NO_METHOD: u8 = 0xff;

/// What the client would accept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Methods {
    /// [`NO_LOGIN`].
    pub no_login: bool,
    /// [`LOGIN`].
    pub login: bool,
}

/// A name and a password.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// At most 255 bytes.
    pub name: Vec<u8>,
    /// At most 255 bytes.
    pub password: Vec<u8>,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Login").finish_non_exhaustive()
    }
}

/// What the client asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// A TCP connection.
    Connect(Target),
    /// A UDP association. The target is where the client will send from; zeros say that it does not know yet.
    Associate(Target),
}

/// The reply's second byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Reply {
    /// The target was reached.
    Succeeded = 0,
    /// Something failed that has no code of its own.
    Failed = 1,
    /// The rules forbid it.
    NotAllowed = 2,
    /// There is no route.
    NetworkUnreachable = 3,
    /// The host is not there, or its name is not known.
    HostUnreachable = 4,
    /// Nothing listens there.
    Refused = 5,
    /// No answer in time. The code is named for IP's time to live; there is no better one.
    TimedOut = 6,
    /// BIND, or a command that nobody knows.
    UnknownCommand = 7,
    /// The address is of a kind that nobody knows.
    UnknownAddress = 8,
}

impl From<Status> for Reply {
    fn from(status: Status) -> Self {
        match status {
            Status::Ok => Self::Succeeded,
            Status::Refused => Self::Refused,
            Status::NoSuchHost => Self::HostUnreachable,
            Status::Unreachable => Self::NetworkUnreachable,
            Status::ConnectTimedOut | Status::ResolveTimedOut => Self::TimedOut,
            Status::Denied => Self::NotAllowed,
            _ => Self::Failed,
        }
    }
}

/// Bytes that are no message of SOCKS5.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadRequest {
    /// The version byte is another.
    #[error("SOCKS version {0} instead of 5")]
    Version(u8),
    /// A login of another version.
    #[error("login version {0} instead of 1")]
    LoginVersion(u8),
    /// BIND, or a command that nobody knows.
    #[error("SOCKS5 command {0} is not known here")]
    Command(u8),
    /// The address is of a kind that nobody knows.
    #[error("SOCKS5 address type {0} is not known")]
    AddressType(u8),
    /// The name is none.
    #[error("the host name is none")]
    Name,
    /// A byte that has to be zero is not.
    #[error("a reserved byte is not zero")]
    Reserved,
    /// One of several pieces of a datagram.
    #[error("datagrams in fragments are not taken")]
    Fragment,
    /// A datagram that ends within its header.
    #[error("the datagram ends within its header")]
    Short,
}

impl BadRequest {
    /// What to answer to a request.
    pub const fn reply(self) -> Reply {
        match self {
            Self::Command(_) => Reply::UnknownCommand,
            Self::AddressType(_) => Reply::UnknownAddress,
            // What can't be a name is the name of nothing.
            Self::Name => Reply::HostUnreachable,
            _ => Reply::Failed,
        }
    }
}

type Read<T> = Result<Result<T, BadRequest>, Missing>;

fn step<T>(bytes: &[u8], read: impl FnOnce(&mut Reader<'_>) -> Read<T>) -> Result<Step<T>, BadRequest> {
    let mut reader = Reader::new(bytes);
    match read(&mut reader) {
        Ok(value) => value.map(|value| Step::Complete(value, reader.taken())),
        Err(Missing(len)) => Ok(Step::Need(len)),
    }
}

fn version(reader: &mut Reader<'_>) -> Read<()> {
    let version = reader.byte()?;
    Ok(if version == VERSION { Ok(()) } else { Err(BadRequest::Version(version)) })
}

/// Reads the greeting.
///
/// # Errors
/// [`BadRequest::Version`].
pub fn greeting(bytes: &[u8]) -> Result<Step<Methods>, BadRequest> {
    step(bytes, |reader| {
        if let Err(error) = version(reader)? {
            return Ok(Err(error));
        }
        let count = reader.byte()?;
        let methods = reader.take(usize::from(count))?;
        Ok(Ok(Methods { no_login: methods.contains(&NO_LOGIN), login: methods.contains(&LOGIN) }))
    })
}

/// Reads a login.
///
/// # Errors
/// [`BadRequest::LoginVersion`].
pub fn login(bytes: &[u8]) -> Result<Step<Login>, BadRequest> {
    step(bytes, |reader| {
        let version = reader.byte()?;
        if version != LOGIN_VERSION {
            return Ok(Err(BadRequest::LoginVersion(version)));
        }
        let mut text = || {
            let len = reader.byte()?;
            reader.take(usize::from(len)).map(<[u8]>::to_vec)
        };
        Ok(Ok(Login { name: text()?, password: text()? }))
    })
}

/// Reads a request.
///
/// # Errors
/// [`BadRequest`], as soon as it is clear, but not before a whole address of a known kind was read: a client that is
/// cut off in the middle of what it writes would not read the reply.
pub fn request(bytes: &[u8]) -> Result<Step<Request>, BadRequest> {
    step(bytes, |reader| {
        if let Err(error) = version(reader)? {
            return Ok(Err(error));
        }
        let (command, _reserved) = (reader.byte()?, reader.byte()?);
        Ok(address(reader)?.and_then(|target| match command {
            1 => target.map(Request::Connect),
            3 => target.map(Request::Associate),
            other => Err(BadRequest::Command(other)),
        }))
    })
}

/// Address and port. The outer error is about the kind of the address: nobody knows where it ends.
fn address(reader: &mut Reader<'_>) -> Read<Result<Target, BadRequest>> {
    let address = match reader.byte()? {
        1 => Ok(Address::Ip(IpAddr::from(reader.array::<4>()?))),
        4 => Ok(Address::Ip(IpAddr::from(reader.array::<16>()?))),
        3 => {
            let len = reader.byte()?;
            let name = reader.take(usize::from(len))?;
            let text = std::str::from_utf8(name).ok();
            text.and_then(|text| text.parse().ok()).ok_or(BadRequest::Name)
        }
        other => return Ok(Err(BadRequest::AddressType(other))),
    };
    let port = reader.port()?;
    Ok(Ok(address.map(|address| Target { address, port })))
}

/// Writes an address as SOCKS5 has it.
fn put_target(target: &Target, out: &mut Vec<u8>) {
    match &target.address {
        Address::Ip(IpAddr::V4(ip)) => {
            out.push(1);
            out.extend_from_slice(&ip.octets());
        }
        Address::Ip(IpAddr::V6(ip)) => {
            out.push(4);
            out.extend_from_slice(&ip.octets());
        }
        Address::Host(name) => {
            out.push(3);
            // A name is of 253 bytes at most.
            out.push(u8::try_from(name.as_str().len()).unwrap_or(u8::MAX));
            out.extend_from_slice(name.as_str().as_bytes());
        }
    }
    out.extend_from_slice(&target.port.to_be_bytes());
}

/// A reply as it is written, with the address that the proxy listens on for it.
pub fn reply(reply: Reply, bound: SocketAddr) -> Vec<u8> {
    let mut out = vec![VERSION, reply as u8, 0];
    put_target(&bound.into(), &mut out);
    out
}

#[cfg(test)]
mod tests;
