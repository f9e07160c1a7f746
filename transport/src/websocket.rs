//! The client's half of WebSocket framing (RFC 6455), without I/O.
//!
//! Only what a Kubernetes port-forward uses: binary messages and control frames. Payload bytes are never
//! copied or gathered here: the decoder says how many of the next input bytes belong to a message, so a
//! frame's announced length costs no memory whatever it claims.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Appended to the key before hashing (RFC 6455, section 1.3).
const ACCEPT_GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// The longest header a client sends: 2 bytes, 8 of extended length, 4 of mask.
pub const MAX_HEADER: usize = 14;

/// The most a control frame carries.
pub const MAX_CONTROL: usize = 125;

/// Frame types of RFC 6455, section 5.2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Opcode {
    /// More of a fragmented message.
    Continuation = 0,
    /// A binary message.
    Binary = 2,
    /// The peer ends the connection.
    Close = 8,
    /// Wants a pong with the same payload.
    Ping = 9,
    /// Answer to a ping.
    Pong = 10,
}

/// What makes a peer's bytes unacceptable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Reserved header bits without a negotiated extension.
    #[error("reserved bits are set in a WebSocket frame")]
    ReservedBits,
    /// An opcode that is reserved, or text, which port-forwarding never uses.
    #[error("unexpected WebSocket opcode {0}")]
    Opcode(u8),
    /// A server must not mask.
    #[error("the server masked a WebSocket frame")]
    Masked,
    /// Control frames are at most 125 bytes and never fragmented.
    #[error("a WebSocket control frame is fragmented or longer than 125 bytes")]
    Control,
    /// A continuation without a message, or a message inside another.
    #[error("WebSocket fragments are out of order")]
    Fragment,
    /// The 64-bit length has its highest bit set.
    #[error("a WebSocket frame claims {0} bytes")]
    Length(u64),
}

/// The payload of a control frame, kept inline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Control {
    bytes: [u8; MAX_CONTROL],
    len: u8,
}

impl Control {
    /// `payload`, cut to what a control frame can hold.
    #[must_use]
    pub fn new(payload: &[u8]) -> Self {
        let len = payload.len().min(MAX_CONTROL);
        let mut bytes = [0; MAX_CONTROL];
        bytes[..len].copy_from_slice(&payload[..len]);
        Self { bytes, len: len as u8 }
    }

    /// The payload.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    /// As the payload of a close frame: status code (1005 if there is none) and reason.
    #[must_use]
    pub fn close_reason(&self) -> (u16, String) {
        match self.payload() {
            [high, low, reason @ ..] => {
                (u16::from_be_bytes([*high, *low]), String::from_utf8_lossy(reason).into_owned())
            }
            _ => (1005, String::new()),
        }
    }
}

/// What the next input bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The input is used up inside a frame's header or between frames.
    NeedMore,
    /// A binary message begins.
    MessageStart,
    /// This many of the next bytes (at least one) belong to the message: take any number of them and say
    /// so with [`Decoder::advance`].
    Payload(usize),
    /// The message is complete.
    MessageEnd,
    /// Answer with a pong.
    Ping(Control),
    /// Answer to a ping of ours.
    Pong,
    /// The peer closes; no frame follows.
    Close(Control),
}

#[derive(Debug, Clone, Copy)]
enum State {
    /// Collecting a frame's header.
    Header,
    /// Inside the payload of a data frame.
    Payload { remaining: u64, last: bool },
    /// Collecting a control frame's payload.
    Control { opcode: Opcode, wanted: u8 },
}

/// Reads a server's frames.
#[derive(Debug, Clone)]
pub struct Decoder {
    state: State,
    /// A header or a control payload that arrives in pieces.
    scratch: [u8; MAX_CONTROL],
    filled: usize,
    in_message: bool,
}

impl Default for Decoder {
    fn default() -> Self {
        Self { state: State::Header, scratch: [0; MAX_CONTROL], filled: 0, in_message: false }
    }
}

impl Decoder {
    /// Takes framing bytes from the front of `input` and says what follows them. Returns how many bytes
    /// were taken; never any payload of a data message.
    ///
    /// # Errors
    /// The input is not what an RFC 6455 server sends here. The decoder is useless after that.
    pub fn next(&mut self, input: &[u8]) -> Result<(usize, Step), Error> {
        let mut taken = 0;
        loop {
            let rest = &input[taken..];
            match self.state {
                State::Payload { remaining: 0, last } => {
                    self.state = State::Header;
                    if last {
                        self.in_message = false;
                        return Ok((taken, Step::MessageEnd));
                    }
                }
                _ if rest.is_empty() => return Ok((taken, Step::NeedMore)),
                State::Payload { remaining, .. } => {
                    let available =
                        usize::try_from(remaining).map_or(rest.len(), |left| left.min(rest.len()));
                    return Ok((taken, Step::Payload(available)));
                }
                State::Header => {
                    let (used, step) = self.header(rest)?;
                    taken += used;
                    if let Some(step) = step {
                        return Ok((taken, step));
                    }
                }
                State::Control { opcode, wanted } => {
                    taken += self.collect(rest, usize::from(wanted));
                    if self.filled == usize::from(wanted) {
                        return Ok((taken, self.control(opcode)));
                    }
                }
            }
        }
    }

    /// Tells that `taken` bytes of the payload announced by [`Step::Payload`] have been used.
    pub fn advance(&mut self, taken: usize) {
        if let State::Payload { remaining, .. } = &mut self.state {
            *remaining = remaining.saturating_sub(taken as u64);
        }
    }

    /// Copies into the scratch until it holds `wanted` bytes; returns how many were copied.
    fn collect(&mut self, input: &[u8], wanted: usize) -> usize {
        let taken = wanted.saturating_sub(self.filled).min(input.len());
        self.scratch[self.filled..self.filled + taken].copy_from_slice(&input[..taken]);
        self.filled += taken;
        taken
    }

    fn header(&mut self, input: &[u8]) -> Result<(usize, Option<Step>), Error> {
        let mut taken = self.collect(input, 2);
        if self.filled < 2 {
            return Ok((taken, None));
        }
        let [first, second, ..] = self.scratch;
        if first & 0x70 != 0 {
            return Err(Error::ReservedBits);
        }
        if second & 0x80 != 0 {
            return Err(Error::Masked);
        }
        let extended = match second & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        taken += self.collect(&input[taken..], 2 + extended);
        if self.filled < 2 + extended {
            return Ok((taken, None));
        }
        let length = match extended {
            0 => u64::from(second & 0x7f),
            extended => self.scratch[2..2 + extended].iter().fold(0, |n, byte| n << 8 | u64::from(*byte)),
        };
        self.filled = 0;
        Ok((taken, self.begin_frame(first & 0x80 != 0, first & 0x0f, length)?))
    }

    fn begin_frame(&mut self, last: bool, opcode: u8, length: u64) -> Result<Option<Step>, Error> {
        if length > i64::MAX as u64 {
            return Err(Error::Length(length));
        }
        let opcode = match opcode {
            0 => Opcode::Continuation,
            2 => Opcode::Binary,
            8 => Opcode::Close,
            9 => Opcode::Ping,
            10 => Opcode::Pong,
            other => return Err(Error::Opcode(other)),
        };
        match opcode {
            Opcode::Continuation | Opcode::Binary => {
                if (opcode == Opcode::Continuation) != self.in_message {
                    return Err(Error::Fragment);
                }
                self.state = State::Payload { remaining: length, last };
                self.in_message = true;
                Ok((opcode == Opcode::Binary).then_some(Step::MessageStart))
            }
            _ if !last || length > MAX_CONTROL as u64 => Err(Error::Control),
            _ if length == 0 => Ok(Some(self.control(opcode))),
            _ => {
                self.state = State::Control { opcode, wanted: length as u8 };
                Ok(None)
            }
        }
    }

    /// Ends a control frame whose payload is in the scratch.
    fn control(&mut self, opcode: Opcode) -> Step {
        let payload = Control::new(&self.scratch[..self.filled]);
        self.filled = 0;
        // Control frames may stand between the fragments of a message, never inside a frame: so the next
        // thing is a header in any case.
        self.state = State::Header;
        match opcode {
            Opcode::Ping => Step::Ping(payload),
            Opcode::Close => Step::Close(payload),
            _ => Step::Pong,
        }
    }
}

/// A client's frame header: written bytes and their number.
///
/// `length` is the payload's; the mask key is part of the header.
#[must_use]
pub fn frame_header(opcode: Opcode, length: usize, key: [u8; 4]) -> ([u8; MAX_HEADER], usize) {
    let mut header = [0; MAX_HEADER];
    header[0] = 0x80 | opcode as u8;
    let key_at = if let Ok(short @ 0..=125) = u8::try_from(length) {
        header[1] = 0x80 | short;
        2
    } else if let Ok(medium) = u16::try_from(length) {
        header[1] = 0x80 | 126;
        header[2..4].copy_from_slice(&medium.to_be_bytes());
        4
    } else {
        header[1] = 0x80 | 127;
        header[2..10].copy_from_slice(&(length as u64).to_be_bytes());
        10
    };
    header[key_at..key_at + 4].copy_from_slice(&key);
    (header, key_at + 4)
}

/// Masks a frame's payload, given in any number of pieces, while copying it.
#[derive(Debug, Clone, Copy)]
pub struct Masker {
    key: [u8; 4],
}

impl Masker {
    /// Starts at a payload's first byte. The key of zeros changes nothing: a plain copy.
    #[must_use]
    pub fn new(key: [u8; 4]) -> Self {
        Self { key }
    }

    /// Copies `source`, masked, to the front of `target`, which must not be shorter.
    pub fn copy(&mut self, source: &[u8], target: &mut [u8]) {
        let target = &mut target[..source.len()];
        let [a, b, c, d] = self.key;
        let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
        let (source_words, source_rest) = source.as_chunks::<8>();
        let (target_words, target_rest) = target.as_chunks_mut::<8>();
        for (from, to) in source_words.iter().zip(target_words) {
            *to = (u64::from_ne_bytes(*from) ^ wide).to_ne_bytes();
        }
        for ((from, to), key) in source_rest.iter().zip(target_rest).zip(self.key.iter().cycle()) {
            *to = from ^ key;
        }
        // The next piece goes on where this one stopped within the key.
        self.key.rotate_left(source.len() % 4);
    }
}

/// A `Sec-WebSocket-Key` made of 16 random bytes.
#[must_use]
pub fn request_key(random: [u8; 16]) -> String {
    STANDARD.encode(random)
}

/// The `Sec-WebSocket-Accept` that proves a server understood `key`.
#[must_use]
pub fn accept_for(key: &str) -> String {
    // SHA-1 is what the protocol prescribes; it protects nothing here, it only tells a WebSocket server
    // from something that echoes headers.
    let input = format!("{key}{ACCEPT_GUID}");
    STANDARD.encode(ring::digest::digest(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY, input.as_bytes()))
}
