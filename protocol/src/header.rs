//! The header ahead of each TCP stream and each UDP flow: where it goes.
//!
//! | offset | width | field |
//! | --- | --- | --- |
//! | 0 | 1 | version, 1 |
//! | 1 | 2 | length of the whole header, big-endian |
//! | 3 | 16 | request id, a UUID |
//! | 19 | 1 | protocol: 0 TCP, 1 UDP |
//! | 20 | 2 | destination port, big-endian |
//! | 22 | 1 | address type: 0 IP, 1 host name |
//! | 23 | to the end | address: 4 or 16 bytes, or the name's 1 to 253 |

pub mod v0;

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use uuid::Uuid;

use crate::Status;
use crate::cursor::Cursor;

/// The version byte of the header that this crate writes.
pub const VERSION: u8 = 1;
/// Bytes before the address.
const FIXED: usize = 23;
/// The longest header: all but the address, and the longest host name.
pub const MAX_HEADER: usize = FIXED + HostName::MAX;

/// What the target speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// A byte stream.
    Tcp,
    /// Datagrams of 0 to [`crate::MAX_DATAGRAM`] bytes.
    Udp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// A checked host name: 1 to 253 bytes of letters, digits, `-`, `_` and `.`, without empty labels.
///
/// A single dot at the end (a name that is already complete) is allowed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostName(String);

impl HostName {
    /// The longest name, in bytes (RFC 1035 less the encoding's own two).
    pub const MAX: usize = 253;

    /// Checks `name`.
    ///
    /// # Errors
    /// [`HeaderError::BadHostName`] for a name that no resolver could be asked for.
    pub fn new(name: &str) -> Result<Self, HeaderError> {
        let labels = name.strip_suffix('.').unwrap_or(name);
        let label_ok = |label: &str| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
        };
        if name.len() > Self::MAX || !labels.split('.').all(label_ok) {
            return Err(HeaderError::BadHostName);
        }
        Ok(Self(name.to_owned()))
    }

    /// The name as it was given.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whom the agent dials.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// An address; nothing is resolved.
    Ip(IpAddr),
    /// A name, resolved by the agent with its pod's search list.
    Host(HostName),
}

impl FromStr for Address {
    type Err = HeaderError;

    fn from_str(text: &str) -> Result<Self, HeaderError> {
        match text.parse() {
            Ok(ip) => Ok(Self::Ip(ip)),
            Err(_) => HostName::new(text).map(Self::Host),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(ip) => ip.fmt(f),
            Self::Host(name) => name.fmt(f),
        }
    }
}

impl Address {
    fn parse(kind: u8, bytes: &[u8]) -> Result<Self, HeaderError> {
        match kind {
            0 => match (<[u8; 4]>::try_from(bytes), <[u8; 16]>::try_from(bytes)) {
                (Ok(v4), _) => Ok(Self::Ip(IpAddr::from(v4))),
                (_, Ok(v6)) => Ok(Self::Ip(IpAddr::from(v6))),
                _ => Err(HeaderError::BadLength(bytes.len())),
            },
            1 => HostName::new(std::str::from_utf8(bytes).map_err(|_| HeaderError::BadHostName)?)
                .map(Self::Host),
            other => Err(HeaderError::UnknownAddressType(other)),
        }
    }

    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Self::Ip(IpAddr::V4(ip)) => {
                out.push(0);
                out.extend_from_slice(&ip.octets());
            }
            Self::Ip(IpAddr::V6(ip)) => {
                out.push(0);
                out.extend_from_slice(&ip.octets());
            }
            Self::Host(name) => {
                out.push(1);
                out.extend_from_slice(name.0.as_bytes());
            }
        }
    }
}

/// Where a stream or flow goes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Header {
    /// Names the request in the logs of both ends.
    pub request_id: Uuid,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Destination port.
    pub port: u16,
    /// Destination.
    pub address: Address,
}

impl fmt::Display for Header {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.address {
            Address::Ip(IpAddr::V6(ip)) => write!(f, "[{ip}]:{}/{}", self.port, self.protocol),
            address => write!(f, "{address}:{}/{}", self.port, self.protocol),
        }
    }
}

/// Why bytes are not a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// The first byte is a version that is not spoken here.
    #[error("unknown header version {0}")]
    UnknownVersion(u8),
    /// The length field does not fit what the header must hold.
    #[error("header or address length {0} is out of range")]
    BadLength(usize),
    /// Neither TCP nor UDP.
    #[error("unknown protocol {0}")]
    UnknownProtocol(u8),
    /// Neither IP nor host name.
    #[error("unknown address type {0}")]
    UnknownAddressType(u8),
    /// Not a name of 1 to 253 bytes of letters, digits, `-`, `_` and `.`.
    #[error("not a host name")]
    BadHostName,
}

impl HeaderError {
    /// The status that tells the peer.
    pub const fn status(self) -> Status {
        match self {
            Self::UnknownVersion(_) => Status::UnknownVersion,
            Self::UnknownProtocol(_) => Status::UnknownProtocol,
            Self::BadHostName => Status::NoSuchHost,
            Self::BadLength(_) | Self::UnknownAddressType(_) => Status::Unknown,
        }
    }
}

impl Header {
    /// Reads a header from the front of `bytes`: the header and its length, or `None` where bytes are missing.
    ///
    /// # Errors
    /// A [`HeaderError`] as soon as no more bytes could make it a header.
    pub fn decode(bytes: &[u8]) -> Result<Option<(Self, usize)>, HeaderError> {
        let mut cursor = Cursor(bytes);
        let Some(version) = cursor.u8() else { return Ok(None) };
        if version != VERSION {
            return Err(HeaderError::UnknownVersion(version));
        }
        let Some(len) = cursor.u16().map(usize::from) else { return Ok(None) };
        if !(FIXED + 1..=MAX_HEADER).contains(&len) {
            return Err(HeaderError::BadLength(len));
        }
        let Some(whole) = bytes.get(..len) else { return Ok(None) };
        Self::parse(Cursor(&whole[3..])).map(|header| header.map(|header| (header, len)))
    }

    fn parse(mut cursor: Cursor<'_>) -> Result<Option<Self>, HeaderError> {
        let (Some(id), Some(protocol), Some(port), Some(kind)) =
            (cursor.array(), cursor.u8(), cursor.u16(), cursor.u8())
        else {
            return Ok(None);
        };
        let protocol = match protocol {
            0 => Protocol::Tcp,
            1 => Protocol::Udp,
            other => return Err(HeaderError::UnknownProtocol(other)),
        };
        let address = Address::parse(kind, cursor.rest())?;
        Ok(Some(Self { request_id: Uuid::from_bytes(id), protocol, port, address }))
    }

    /// How many bytes [`Header::encode`] appends.
    pub fn encoded_len(&self) -> usize {
        FIXED
            + match &self.address {
                Address::Ip(IpAddr::V4(_)) => 4,
                Address::Ip(IpAddr::V6(_)) => 16,
                Address::Host(name) => name.0.len(),
            }
    }

    /// Appends the header.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(VERSION);
        out.extend_from_slice(&(self.encoded_len() as u16).to_be_bytes());
        out.extend_from_slice(self.request_id.as_bytes());
        out.push(match self.protocol {
            Protocol::Tcp => 0,
            Protocol::Udp => 1,
        });
        out.extend_from_slice(&self.port.to_be_bytes());
        self.address.put(out);
    }
}

#[cfg(test)]
mod tests;
