//! The channel protocol `v4.channel.k8s.io`, without I/O: what a WebSocket message means to a kubelet
//! that does not tunnel SPDY.
//!
//! A message's first byte is its channel; for the first forwarded port, 0 carries data and 1 the error
//! text. Each channel begins with the port, 2 bytes little-endian. There is no half-close: closing the
//! WebSocket ends both directions.

/// The channel of the forwarded bytes.
pub const DATA: u8 = 0;
/// The channel of the error text.
pub const ERROR: u8 = 1;

/// What makes a peer's messages unacceptable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A channel that belongs to no port we asked for.
    #[error("a message for channel {0}, which was never opened")]
    Channel(u8),
    /// A channel that begins with another port than the one asked for.
    #[error("a channel for port {got} instead of {expected}")]
    Port {
        /// The port asked for.
        expected: u16,
        /// The port announced.
        got: u16,
    },
}

/// Bytes of a message, after channel byte and port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chunk<'a> {
    /// Nothing for the reader: only framing was taken.
    None,
    /// Forwarded bytes.
    Data(&'a [u8]),
    /// Part of an error text.
    ErrorText(&'a [u8]),
}

/// The port bytes of one channel as they arrive.
#[derive(Debug, Clone, Copy, Default)]
struct Opening {
    bytes: [u8; 2],
    filled: usize,
}

/// Reads a server's messages.
#[derive(Debug, Clone)]
pub struct Decoder {
    port: u16,
    channel: Option<u8>,
    openings: [Opening; 2],
}

impl Decoder {
    /// For a forward of one port.
    #[must_use]
    pub fn new(port: u16) -> Self {
        Self { port, channel: None, openings: [Opening::default(); 2] }
    }

    /// The next byte is the first of a message.
    pub fn begin_message(&mut self) {
        self.channel = None;
    }

    /// Takes message bytes from the front of `input`, at most `limit` of them as forwarded bytes. Returns
    /// how many were taken.
    ///
    /// # Errors
    /// The message does not belong to this forward.
    pub fn decode<'a>(&mut self, input: &'a [u8], limit: usize) -> Result<(usize, Chunk<'a>), Error> {
        let Some(channel) = self.channel else {
            let Some(channel) = input.first() else { return Ok((0, Chunk::None)) };
            if usize::from(*channel) >= self.openings.len() {
                return Err(Error::Channel(*channel));
            }
            self.channel = Some(*channel);
            return Ok((1, Chunk::None));
        };
        let opening = &mut self.openings[usize::from(channel)];
        if opening.filled < 2 {
            let taken = input.len().min(2 - opening.filled);
            opening.bytes[opening.filled..opening.filled + taken].copy_from_slice(&input[..taken]);
            opening.filled += taken;
            let got = u16::from_le_bytes(opening.bytes);
            if opening.filled == 2 && got != self.port {
                return Err(Error::Port { expected: self.port, got });
            }
            return Ok((taken, Chunk::None));
        }
        if channel == ERROR {
            return Ok((input.len(), Chunk::ErrorText(input)));
        }
        let data = &input[..input.len().min(limit)];
        Ok((data.len(), Chunk::Data(data)))
    }
}
