//! The client's half of SPDY/3.1 as Kubernetes uses it for port-forwarding, without I/O.
//!
//! One connection carries two streams, joined by a request id: an error stream, on which the far side may
//! leave one text, and a data stream. There is no flow control in the peers' implementation, so none
//! here. Payload bytes are handed on as slices of the input, whatever length a frame claims.

/// The error stream; opened first.
pub const ERROR_STREAM: u32 = 1;
/// The data stream.
pub const DATA_STREAM: u32 = 3;

/// Bytes of a DATA frame's header.
pub const DATA_HEADER: usize = 8;

/// FIN in a frame's flags: the sender's direction of the stream ends.
const FLAG_FIN: u8 = 1;
const CONTROL_BIT: u8 = 0x80;
const VERSION: u16 = 3;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GOAWAY: u16 = 7;

/// What makes a peer's bytes unacceptable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A control frame of another SPDY version.
    #[error("a SPDY frame of version {0}")]
    Version(u16),
    /// A frame for a stream that was never opened.
    #[error("a SPDY frame for stream {0}, which was never opened")]
    Stream(u32),
    /// A control frame too short for its fields.
    #[error("a SPDY control frame of type {kind} with only {length} bytes")]
    Short {
        /// The frame's type.
        kind: u16,
        /// Its payload's length.
        length: u32,
    },
    /// The peer opens streams of its own; Kubernetes never does.
    #[error("the peer opened a SPDY stream")]
    PeerStream,
}

/// What a peer's frame says. Frames without meaning here are skipped in silence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event<'a> {
    /// The input is used up.
    NeedMore,
    /// Forwarded bytes, never empty.
    Data(&'a [u8]),
    /// Part of the error text; `last` when its frame is complete.
    ErrorText {
        /// The bytes.
        bytes: &'a [u8],
        /// Whether a DATA frame ends here.
        last: bool,
    },
    /// The peer has accepted a stream.
    Accepted(u32),
    /// The peer's direction of a stream is over.
    Finished(u32),
    /// The peer has torn a stream down.
    Reset {
        /// The stream.
        stream: u32,
        /// SPDY's status code: 3 is refused, 5 cancelled.
        status: u32,
    },
    /// Answer with the same id.
    Ping(u32),
    /// The peer opens no more streams; status 0 is an orderly end.
    GoAway(u32),
}

#[derive(Debug, Clone, Copy)]
enum State {
    Header,
    Data {
        stream: u32,
        remaining: u32,
        fin: bool,
    },
    /// Up to 8 bytes are kept, the rest is skipped.
    Control {
        kind: u16,
        flags: u8,
        length: u32,
        seen: u32,
    },
    /// A frame with FIN has been handed on; the end itself has not.
    Fin {
        stream: u32,
    },
}

/// Reads a server's frames.
#[derive(Debug, Clone)]
pub struct Decoder {
    state: State,
    scratch: [u8; 8],
    filled: usize,
}

impl Default for Decoder {
    fn default() -> Self {
        Self { state: State::Header, scratch: [0; 8], filled: 0 }
    }
}

impl Decoder {
    /// Takes bytes from the front of `input`, at most `limit` (which must not be 0) of them as forwarded
    /// bytes. Returns how many were taken. [`Event::NeedMore`] comes only with the whole input taken.
    ///
    /// # Errors
    /// The input is not what a port-forwarding peer sends. The decoder is useless after that.
    pub fn decode<'a>(&mut self, input: &'a [u8], limit: usize) -> Result<(usize, Event<'a>), Error> {
        let mut taken = 0;
        loop {
            let rest = &input[taken..];
            match self.state {
                State::Fin { stream } => {
                    self.state = State::Header;
                    return Ok((taken, Event::Finished(stream)));
                }
                _ if rest.is_empty() => return Ok((taken, Event::NeedMore)),
                State::Header => {
                    taken += self.collect(rest, 8);
                    if self.filled == 8 {
                        self.filled = 0;
                        self.begin_frame()?;
                    }
                }
                State::Data { stream, remaining, fin } => {
                    let length = rest.len().min(remaining as usize);
                    let length = if stream == DATA_STREAM { length.min(limit) } else { length };
                    let remaining = remaining - length as u32;
                    self.state = match remaining {
                        0 if fin => State::Fin { stream },
                        0 => State::Header,
                        remaining => State::Data { stream, remaining, fin },
                    };
                    let bytes = &rest[..length];
                    let event = match stream {
                        DATA_STREAM => Event::Data(bytes),
                        _ => Event::ErrorText { bytes, last: remaining == 0 },
                    };
                    return Ok((taken + length, event));
                }
                State::Control { kind, flags, length, seen } => {
                    let kept = self.collect(rest, length.min(8) as usize);
                    let skipped = (rest.len() - kept).min((length - seen) as usize - kept);
                    taken += kept + skipped;
                    let seen = seen + (kept + skipped) as u32;
                    if seen < length {
                        self.state = State::Control { kind, flags, length, seen };
                    } else if let Some(event) = self.end_control(kind, flags, length)? {
                        return Ok((taken, event));
                    }
                }
            }
        }
    }

    fn collect(&mut self, input: &[u8], wanted: usize) -> usize {
        let taken = wanted.saturating_sub(self.filled).min(input.len());
        self.scratch[self.filled..self.filled + taken].copy_from_slice(&input[..taken]);
        self.filled += taken;
        taken
    }

    fn begin_frame(&mut self) -> Result<(), Error> {
        let [a, b, c, d, flags, l1, l2, l3] = self.scratch;
        let length = u32::from_be_bytes([0, l1, l2, l3]);
        if a & CONTROL_BIT == 0 {
            let stream = u32::from_be_bytes([a, b, c, d]);
            if stream != DATA_STREAM && stream != ERROR_STREAM {
                return Err(Error::Stream(stream));
            }
            let fin = flags & FLAG_FIN != 0;
            self.state = match length {
                0 if fin => State::Fin { stream },
                0 => State::Header,
                remaining => State::Data { stream, remaining, fin },
            };
            return Ok(());
        }
        let version = u16::from_be_bytes([a & !CONTROL_BIT, b]);
        if version != VERSION {
            return Err(Error::Version(version));
        }
        let kind = u16::from_be_bytes([c, d]);
        let least = match kind {
            SYN_STREAM => return Err(Error::PeerStream),
            SYN_REPLY | PING => 4,
            RST_STREAM | GOAWAY => 8,
            // SETTINGS, HEADERS, WINDOW_UPDATE and whatever may come: nothing of them matters here.
            _ => 0,
        };
        if length < least {
            return Err(Error::Short { kind, length });
        }
        self.state = match length {
            0 => State::Header,
            length => State::Control { kind, flags, length, seen: 0 },
        };
        Ok(())
    }

    fn end_control(&mut self, kind: u16, flags: u8, length: u32) -> Result<Option<Event<'static>>, Error> {
        self.state = State::Header;
        self.filled = 0;
        let [a, b, c, d, e, f, g, h] = self.scratch;
        let (first, second) = (u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h]));
        let stream = first & 0x7fff_ffff;
        match kind {
            SYN_REPLY | RST_STREAM if stream != DATA_STREAM && stream != ERROR_STREAM => {
                Err(Error::Stream(stream))
            }
            SYN_REPLY => {
                if flags & FLAG_FIN != 0 {
                    self.state = State::Fin { stream };
                }
                Ok(Some(Event::Accepted(stream)))
            }
            RST_STREAM => Ok(Some(Event::Reset { stream, status: second })),
            // Odd ids are answers to pings of ours, and there are none.
            PING if length == 4 && first % 2 == 0 => Ok(Some(Event::Ping(first))),
            GOAWAY => Ok(Some(Event::GoAway(second))),
            _ => Ok(None),
        }
    }
}

/// The frames that open both streams of a forward to `port`.
///
/// Both go out at once: the peer handles a stream's frames in order, so nothing need wait for its answer.
/// The error stream's SYN_STREAM ends our direction of it.
#[must_use]
pub fn open_streams(port: u16) -> Vec<u8> {
    let port = port.to_string();
    let mut frames = Vec::with_capacity(320);
    for (stream, kind, flags) in [(ERROR_STREAM, "error", FLAG_FIN), (DATA_STREAM, "data", 0)] {
        // One forward per connection, so any request id will do as long as both streams have it.
        let headers = [("streamtype", kind), ("port", port.as_str()), ("requestid", "0")];
        syn_stream(stream, flags, &headers, &mut frames);
    }
    frames
}

fn syn_stream(stream: u32, flags: u8, headers: &[(&str, &str)], out: &mut Vec<u8>) {
    let block = header_block(headers, stream == ERROR_STREAM);
    // Stream, associated stream (none), priority and slot (0).
    let length = 10 + block.len() as u32;
    out.extend_from_slice(&control_header(SYN_STREAM, flags, length));
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(&[0; 6]);
    out.extend_from_slice(&block);
}

/// SPDY/3's name and value list, as the next part of the connection's one zlib stream.
///
/// A stored block compresses nothing and so needs neither SPDY's dictionary (the zlib header says that
/// there is none) nor a compressor. The empty stored block after it is zlib's sync flush: inflaters hand
/// out a block's bytes when they see it.
fn header_block(headers: &[(&str, &str)], first: bool) -> Vec<u8> {
    let mut list = Vec::with_capacity(128);
    list.extend_from_slice(&(headers.len() as u32).to_be_bytes());
    for text in headers.iter().flat_map(|(name, value)| [name, value]) {
        list.extend_from_slice(&(text.len() as u32).to_be_bytes());
        list.extend_from_slice(text.as_bytes());
    }
    let mut block = Vec::with_capacity(list.len() + 12);
    if first {
        // Deflate with a window of 32 KiB, no preset dictionary.
        block.extend_from_slice(&[0x78, 0x01]);
    }
    for stored in [list.as_slice(), &[]] {
        // Not the last block, type "stored"; length and its complement, little-endian.
        let length = stored.len() as u16;
        block.push(0);
        block.extend_from_slice(&length.to_le_bytes());
        block.extend_from_slice(&(!length).to_le_bytes());
        block.extend_from_slice(stored);
    }
    block
}

fn control_header(kind: u16, flags: u8, length: u32) -> [u8; 8] {
    let [k1, k2] = kind.to_be_bytes();
    let [_, l1, l2, l3] = length.to_be_bytes();
    let [v1, v2] = VERSION.to_be_bytes();
    [CONTROL_BIT | v1, v2, k1, k2, flags, l1, l2, l3]
}

/// The header of a DATA frame of `length` bytes (below 16 MiB) on the data stream.
#[must_use]
pub fn data_header(length: usize, fin: bool) -> [u8; DATA_HEADER] {
    let [s1, s2, s3, s4] = DATA_STREAM.to_be_bytes();
    let [_, l1, l2, l3] = (length as u32).to_be_bytes();
    [s1, s2, s3, s4, u8::from(fin), l1, l2, l3]
}

/// A PING frame.
#[must_use]
pub fn ping(id: u32) -> [u8; 12] {
    let mut frame = [0; 12];
    frame[..8].copy_from_slice(&control_header(PING, 0, 4));
    frame[8..].copy_from_slice(&id.to_be_bytes());
    frame
}
