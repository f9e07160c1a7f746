//! The first message of TLS, of which the server's name and the protocols inside are told: they are not encrypted.

use crate::{seen::Hello, text};

/// The longest message that is waited for, in bytes.
const LONGEST: usize = 16 << 10;
/// Protocols that are told.
const PROTOCOLS: usize = 8;

/// What the client has said so far.
#[derive(Debug, Default)]
pub(crate) struct Greeting {
    /// Bytes of records.
    records: Vec<u8>,
}

impl Greeting {
    /// Takes what the client says; gives what is known as soon as all of it is there, or nothing more can be known.
    pub(crate) fn read(&mut self, bytes: &[u8]) -> Option<Hello> {
        self.records.extend_from_slice(&bytes[..bytes.len().min(LONGEST + 512 - self.records.len())]);
        match message(&self.records) {
            Message::Whole(hello) => Some(parse(&hello).unwrap_or_default()),
            Message::None => Some(Hello::default()),
            Message::Part if self.records.len() >= LONGEST => Some(Hello::default()),
            Message::Part => None,
        }
    }
}

enum Message {
    Whole(Vec<u8>),
    Part,
    None,
}

/// The body of the ClientHello, out of its records.
fn message(mut records: &[u8]) -> Message {
    let mut handshake = Vec::new();
    loop {
        if let [kind, length @ ..] = handshake.as_slice() {
            if *kind != 1 {
                return Message::None;
            }
            if let [a, b, c, body @ ..] = length {
                let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
                if let Some(body) = body.get(..length) {
                    return Message::Whole(body.to_vec());
                }
            }
        }
        let [kind, major, _, high, low, rest @ ..] = records else { return Message::Part };
        if (*kind, *major) != (22, 3) {
            return Message::None;
        }
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let part = &rest[..length.min(rest.len())];
        handshake.extend_from_slice(part);
        if length == 0 {
            return Message::None;
        }
        records = &rest[part.len()..];
    }
}

/// A vector behind its length of `width` bytes.
fn vector<'a>(bytes: &mut &'a [u8], width: usize) -> Option<&'a [u8]> {
    let length = bytes.split_off(..width)?.iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
    bytes.split_off(..length)
}

fn parse(mut hello: &[u8]) -> Option<Hello> {
    // Version and random.
    hello.split_off(..34)?;
    for width in [1, 2, 1] {
        // Session, cipher suites, compression.
        vector(&mut hello, width)?;
    }
    let mut told = Hello::default();
    let mut extensions = vector(&mut hello, 2)?;
    while let Some(kind) = extensions.split_off(..2) {
        let mut extension = vector(&mut extensions, 2)?;
        match kind {
            [0, 0] => {
                let mut names = vector(&mut extension, 2)?;
                if names.split_off_first() == Some(&0) {
                    told.server_name = Some(text::shown(vector(&mut names, 2)?, false));
                }
            }
            [0, 16] => {
                let mut names = vector(&mut extension, 2)?;
                while let Some(name) = vector(&mut names, 1)
                    && told.protocols.len() < PROTOCOLS
                {
                    told.protocols.push(text::shown(name, false));
                }
            }
            _ => {}
        }
    }
    Some(told)
}
