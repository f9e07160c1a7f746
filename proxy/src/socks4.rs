//! SOCKS4 and SOCKS4a: one request, one reply of eight bytes.

use std::net::{IpAddr, Ipv4Addr};

use relay_protocol::header::{Address, HostName};

use crate::{
    Target,
    step::{Missing, Reader, Step},
};

/// The first byte of a request.
pub const VERSION: u8 = 4;
/// The longest user id that is read.
const MAX_USER: usize = 255;

/// The reply's second byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Reply {
    /// The target was reached.
    Granted = 90,
    /// It was not, or may not be.
    Rejected = 91,
    /// The user is not who is allowed; this proxy's password can't be told in SOCKS4.
    WrongUser = 93,
}

/// Bytes that are no request to connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadRequest {
    /// The first byte is not 4.
    #[error("SOCKS version {0} instead of 4")]
    Version(u8),
    /// BIND, or a command that nobody knows.
    #[error("SOCKS4 command {0} is not known here")]
    Command(u8),
    /// More than 255 bytes without an end.
    #[error("the user id or the name is too long")]
    TooLong,
    /// The name is none.
    #[error("the host name is none")]
    Name,
}

/// Reads a request to connect.
///
/// # Errors
/// [`BadRequest`], as soon as it is clear.
pub fn request(bytes: &[u8]) -> Result<Step<Target>, BadRequest> {
    let mut reader = Reader::new(bytes);
    match read(&mut reader) {
        Ok(target) => target.map(|target| Step::Complete(target, reader.taken())),
        Err(Missing(len)) => Ok(Step::Need(len)),
    }
}

fn read(reader: &mut Reader<'_>) -> Result<Result<Target, BadRequest>, Missing> {
    let version = reader.byte()?;
    if version != VERSION {
        return Ok(Err(BadRequest::Version(version)));
    }
    let command = reader.byte()?;
    if command != 1 {
        return Ok(Err(BadRequest::Command(command)));
    }
    let port = reader.port()?;
    let ip = reader.array::<4>()?;
    if reader.until_zero(MAX_USER)?.is_none() {
        return Ok(Err(BadRequest::TooLong));
    }
    // 0.0.0.x says that a name follows.
    if ip[..3] != [0, 0, 0] || ip[3] == 0 {
        return Ok(Ok(Target { address: Address::Ip(IpAddr::V4(Ipv4Addr::from(ip))), port }));
    }
    let Some(name) = reader.until_zero(HostName::MAX)? else { return Ok(Err(BadRequest::TooLong)) };
    let address = std::str::from_utf8(name).ok().and_then(|name| name.parse().ok());
    Ok(address.map(|address| Target { address, port }).ok_or(BadRequest::Name))
}

/// A reply as it is written. Its port and address mean nothing for a connection.
pub const fn reply(reply: Reply) -> [u8; 8] {
    [0, reply as u8, 0, 0, 0, 0, 0, 0]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn complete(bytes: &[u8]) -> (String, usize) {
        match request(bytes) {
            Ok(Step::Complete(target, len)) => (target.to_string(), len),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_address_and_a_name_are_read_and_what_follows_is_left() {
        let four = [4, 1, 0x1f, 0x90, 10, 0, 0, 7, b'm', b'e', 0, b'G', b'E', b'T'];
        assert_eq!(complete(&four), ("10.0.0.7:8080".into(), 11));
        let mut four_a = vec![4, 1, 0, 80, 0, 0, 0, 1, 0];
        four_a.extend_from_slice(b"web.default\0early");
        assert_eq!(complete(&four_a), ("web.default:80".into(), 21));
    }

    #[test]
    fn what_is_no_request_is_named() {
        let long = [&[4, 1, 0, 80, 1, 2, 3, 4][..], &[b'x'; 256]].concat();
        let long_name = [&[4, 1, 0, 80, 0, 0, 0, 1, 0][..], &[b'x'; 300]].concat();
        let cases: [(&[u8], BadRequest); 6] = [
            (&[5], BadRequest::Version(5)),
            (&[4, 2], BadRequest::Command(2)),
            (&long, BadRequest::TooLong),
            (&long_name, BadRequest::TooLong),
            (&[4, 1, 0, 80, 0, 0, 0, 1, 0, b' ', 0], BadRequest::Name),
            (&[4, 1, 0, 80, 0, 0, 0, 1, 0, 0xff, 0], BadRequest::Name),
        ];
        for (bytes, error) in cases {
            assert_eq!(request(bytes), Err(error));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_request_a_part_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            let mut bytes = bytes;
            if let Some(first) = bytes.first_mut() { *first = VERSION }
            match request(&bytes) {
                Ok(Step::Complete(_, len)) => prop_assert!(len <= bytes.len()),
                Ok(Step::Need(len)) => prop_assert!(len > 0),
                Err(_) => {}
            }
        }

        #[test]
        fn what_is_needed_never_reaches_beyond_the_request(name in "[a-z]{1,20}(\\.[a-z]{1,20}){0,3}", port: u16, cut: usize) {
            let mut whole = vec![4, 1];
            whole.extend_from_slice(&port.to_be_bytes());
            whole.extend_from_slice(&[0, 0, 0, 9, b'u', 0]);
            whole.extend_from_slice(name.as_bytes());
            whole.push(0);
            let cut = cut % whole.len();
            let Ok(Step::Need(len)) = request(&whole[..cut]) else { panic!("{cut}") };
            prop_assert!(cut + len <= whole.len());
            prop_assert_eq!(complete(&whole), (format!("{name}:{port}"), whole.len()));
        }
    }
}
