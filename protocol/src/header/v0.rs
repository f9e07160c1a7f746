//! The header of clients of krelay's port-forward generation (v0.x): a request id of 5 bytes, and a third protocol
//! for a stream that only keeps the agent alive.
//!
//! | offset | width | field |
//! | --- | --- | --- |
//! | 0 | 1 | version, 0 |
//! | 1 | 2 | length of the whole header, big-endian |
//! | 3 | 5 | request id |
//! | 8 | 1 | protocol: 0 TCP, 1 UDP, 2 keep-alive |
//! | 9 | 2 | destination port, big-endian |
//! | 11 | 1 | address type: 0 IP, 1 host name |
//! | 12 | to the end | address |

use super::{Address, HeaderError, HostName};
use crate::cursor::Cursor;

const FIXED: usize = 12;

/// What such a stream is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A TCP connection.
    Tcp(Target),
    /// Datagrams, each preceded by its length in two bytes.
    Udp(Target),
    /// Nothing but a sign of life: the header is all that comes. Its port and address mean nothing.
    KeepAlive,
}

/// Whom the agent dials for a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Destination port.
    pub port: u16,
    /// Destination.
    pub address: Address,
}

/// The header of such a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Names the request in logs.
    pub request_id: [u8; 5],
    /// What the stream is for, and where it goes.
    pub purpose: Purpose,
}

impl Header {
    /// Reads a header from the front of `bytes`: the header and its length, or `None` where bytes are missing.
    ///
    /// # Errors
    /// A [`HeaderError`] as soon as no more bytes could make it a header.
    pub fn decode(bytes: &[u8]) -> Result<Option<(Self, usize)>, HeaderError> {
        let mut cursor = Cursor(bytes);
        let Some(version) = cursor.u8() else { return Ok(None) };
        if version != 0 {
            return Err(HeaderError::UnknownVersion(version));
        }
        let Some(len) = cursor.u16().map(usize::from) else { return Ok(None) };
        if !(FIXED..=FIXED + HostName::MAX).contains(&len) {
            return Err(HeaderError::BadLength(len));
        }
        let Some(whole) = bytes.get(..len) else { return Ok(None) };
        let mut cursor = Cursor(&whole[3..]);
        let (Some(request_id), Some(protocol), Some(port), Some(kind)) =
            (cursor.array(), cursor.u8(), cursor.u16(), cursor.u8())
        else {
            return Ok(None);
        };
        let target = || Address::parse(kind, cursor.0).map(|address| Target { port, address });
        let purpose = match protocol {
            0 => Purpose::Tcp(target()?),
            1 => Purpose::Udp(target()?),
            2 => Purpose::KeepAlive,
            other => return Err(HeaderError::UnknownProtocol(other)),
        };
        Ok(Some((Self { request_id, purpose }, len)))
    }
}
