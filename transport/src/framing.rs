//! The three ways of carrying one forwarded connection, as one codec per direction, without I/O.
//!
//! | negotiated | on the wire |
//! | --- | --- |
//! | [`Negotiated::WebSocket`] | SPDY frames inside binary WebSocket messages; message boundaries mean nothing |
//! | [`Negotiated::WebSocketV4`] | binary WebSocket messages, each led by a channel byte |
//! | [`Negotiated::Spdy`] | SPDY frames |

use std::{fmt, io};

use crate::{spdy, v4, websocket};
use websocket::{Control, Masker, Opcode, Step};

/// The most forwarded bytes in one message or frame.
pub const MAX_PAYLOAD: usize = 64 * 1024;

/// The most that framing adds to a message.
pub const MAX_OVERHEAD: usize = websocket::MAX_HEADER + spdy::DATA_HEADER;

/// An error text longer than this is cut.
const MAX_ERROR_TEXT: usize = 4096;

/// How a connection's bytes are carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Negotiated {
    /// SPDY tunnelled through a WebSocket: Kubernetes 1.31 and newer.
    WebSocket,
    /// The older WebSocket protocol with channel bytes.
    WebSocketV4,
    /// SPDY over an upgraded HTTP connection.
    Spdy,
}

impl fmt::Display for Negotiated {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::WebSocket => "websocket",
            Self::WebSocketV4 => "websocket-v4",
            Self::Spdy => "spdy",
        })
    }
}

/// Why a connection ended other than by the far side's orderly end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConnectionError {
    /// The node reported this: mostly that nothing listens on the port.
    #[error("{0}")]
    Remote(String),
    /// The node tore the stream down without saying why.
    #[error("the port-forward stream was reset (SPDY status {status})")]
    Reset {
        /// SPDY's status code.
        status: u32,
    },
    /// The API server closed the WebSocket.
    #[error("the API server closed the WebSocket (code {code}{}{reason})", if reason.is_empty() { "" } else { ": " })]
    Closed {
        /// RFC 6455's status code.
        code: u16,
        /// The server's words.
        reason: String,
    },
    /// The connection to the API server ended in the middle.
    #[error("the connection to the API server was lost")]
    Lost,
    /// Malformed WebSocket frames.
    #[error("the API server broke the WebSocket protocol: {0}")]
    WebSocket(#[from] websocket::Error),
    /// Malformed SPDY frames.
    #[error("the node broke the SPDY protocol: {0}")]
    Spdy(#[from] spdy::Error),
    /// Messages that do not belong to the forward.
    #[error("the node broke the channel protocol: {0}")]
    V4(#[from] v4::Error),
}

impl From<ConnectionError> for io::Error {
    fn from(error: ConnectionError) -> Self {
        let kind = match &error {
            ConnectionError::Remote(_) => io::ErrorKind::ConnectionAborted,
            ConnectionError::Reset { .. } => io::ErrorKind::ConnectionReset,
            ConnectionError::Closed { .. } | ConnectionError::Lost => io::ErrorKind::UnexpectedEof,
            ConnectionError::WebSocket(_) | ConnectionError::Spdy(_) | ConnectionError::V4(_) => {
                io::ErrorKind::InvalidData
            }
        };
        Self::new(kind, error)
    }
}

/// Something the reader's side must send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply {
    /// A WebSocket pong.
    Pong(Control),
    /// A SPDY ping, sent back.
    SpdyPing(u32),
    /// A WebSocket close in answer to the peer's.
    Close(Control),
}

/// What the next input bytes mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event<'a> {
    /// The input is used up.
    NeedMore,
    /// Forwarded bytes, never empty.
    Data(&'a [u8]),
    /// The far side has taken the data stream. Channel bytes have nothing like it.
    Accepted,
    /// The far side's direction is over, in good order.
    Finished,
    /// Send this.
    Reply(Reply),
    /// The peer closes the WebSocket.
    Closed(Control),
}

#[derive(Debug)]
enum Kind {
    Tunnel { websocket: websocket::Decoder, spdy: spdy::Decoder },
    V4 { websocket: websocket::Decoder, v4: v4::Decoder },
    Spdy(spdy::Decoder),
}

/// The receiving direction.
#[derive(Debug)]
pub struct Inbound {
    kind: Kind,
    ends: Ends,
}

/// What is known about the ends of a SPDY forward, and the error text of any.
///
/// A node that cannot connect ends the data stream first and complains on the error stream afterwards, so
/// an orderly end is one of both streams.
#[derive(Debug, Default)]
struct Ends {
    data: bool,
    error: bool,
    error_text: Vec<u8>,
}

impl Inbound {
    /// For a forward to `port`.
    #[must_use]
    pub fn new(negotiated: Negotiated, port: u16) -> Self {
        let websocket = websocket::Decoder::default();
        let kind = match negotiated {
            Negotiated::WebSocket => Kind::Tunnel { websocket, spdy: spdy::Decoder::default() },
            Negotiated::WebSocketV4 => Kind::V4 { websocket, v4: v4::Decoder::new(port) },
            Negotiated::Spdy => Kind::Spdy(spdy::Decoder::default()),
        };
        Self { kind, ends: Ends::default() }
    }

    /// Takes bytes from the front of `input`, at most `limit` (not 0) of them as forwarded bytes. Returns
    /// how many were taken. Call it again, with an empty input if need be, until it says
    /// [`Event::NeedMore`]: an end may be waiting behind the last byte.
    ///
    /// # Errors
    /// The connection is over: the node said why, or the peer's bytes make no sense.
    pub fn decode<'a>(
        &mut self,
        input: &'a [u8],
        limit: usize,
    ) -> Result<(usize, Event<'a>), ConnectionError> {
        let mut taken = 0;
        loop {
            let rest = &input[taken..];
            match &mut self.kind {
                Kind::Spdy(spdy) => {
                    let (used, event) = spdy.decode(rest, limit)?;
                    taken += used;
                    if let Some(event) = stream_event(event, &mut self.ends)? {
                        return Ok((taken, event));
                    }
                }
                Kind::Tunnel { websocket, spdy } => {
                    // An end that the last chunk left behind comes before anything new.
                    let (_, pending) = spdy.decode(&[], limit)?;
                    if pending != spdy::Event::NeedMore {
                        match stream_event(pending, &mut self.ends)? {
                            Some(event) => return Ok((taken, event)),
                            None => continue,
                        }
                    }
                    let (used, step) = websocket.next(rest)?;
                    taken += used;
                    match step {
                        Step::Payload(length) => {
                            let (used, event) = spdy.decode(&input[taken..taken + length], limit)?;
                            websocket.advance(used);
                            taken += used;
                            match stream_event(event, &mut self.ends)? {
                                Some(Event::NeedMore) | None => {}
                                Some(event) => return Ok((taken, event)),
                            }
                        }
                        Step::MessageStart | Step::MessageEnd => {}
                        step => {
                            if let Some(event) = control_event(step) {
                                return Ok((taken, event));
                            }
                        }
                    }
                }
                Kind::V4 { websocket, v4 } => {
                    let (used, step) = websocket.next(rest)?;
                    taken += used;
                    match step {
                        Step::Payload(length) => {
                            let (used, chunk) = v4.decode(&input[taken..taken + length], limit)?;
                            websocket.advance(used);
                            taken += used;
                            match chunk {
                                v4::Chunk::None => {}
                                v4::Chunk::Data(bytes) => return Ok((taken, Event::Data(bytes))),
                                v4::Chunk::ErrorText(bytes) => self.ends.keep(bytes),
                            }
                        }
                        Step::MessageStart => v4.begin_message(),
                        Step::MessageEnd => self.ends.complaint()?,
                        step => {
                            if let Some(event) = control_event(step) {
                                return Ok((taken, event));
                            }
                        }
                    }
                }
            }
        }
    }
}

fn control_event(step: Step) -> Option<Event<'static>> {
    match step {
        Step::NeedMore => Some(Event::NeedMore),
        Step::Ping(payload) => Some(Event::Reply(Reply::Pong(payload))),
        Step::Close(payload) => Some(Event::Closed(payload)),
        _ => None,
    }
}

/// What a SPDY event means for the connection; `None` for nothing.
fn stream_event<'a>(event: spdy::Event<'a>, ends: &mut Ends) -> Result<Option<Event<'a>>, ConnectionError> {
    Ok(match event {
        spdy::Event::NeedMore => Some(Event::NeedMore),
        spdy::Event::Data(bytes) => Some(Event::Data(bytes)),
        spdy::Event::Finished(stream) => {
            match stream {
                spdy::DATA_STREAM => ends.data = true,
                _ => ends.error = true,
            }
            (ends.data && ends.error).then_some(Event::Finished)
        }
        spdy::Event::ErrorText { bytes, last } => {
            ends.keep(bytes);
            if last {
                ends.complaint()?;
            }
            None
        }
        spdy::Event::Reset { status, .. } => {
            ends.complaint()?;
            return Err(ConnectionError::Reset { status });
        }
        spdy::Event::Ping(id) => Some(Event::Reply(Reply::SpdyPing(id))),
        spdy::Event::Accepted(spdy::DATA_STREAM) => Some(Event::Accepted),
        // After GOAWAY the streams that exist go on.
        spdy::Event::Accepted(_) | spdy::Event::GoAway(_) => None,
    })
}

impl Ends {
    fn keep(&mut self, bytes: &[u8]) {
        let room = MAX_ERROR_TEXT.saturating_sub(self.error_text.len());
        self.error_text.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    /// The error text, if there is any, as an error.
    fn complaint(&mut self) -> Result<(), ConnectionError> {
        if self.error_text.is_empty() {
            return Ok(());
        }
        let text = std::mem::take(&mut self.error_text);
        Err(ConnectionError::Remote(String::from_utf8_lossy(&text).trim().to_owned()))
    }
}

/// The sending direction: turns payloads into messages in a buffer of the caller's.
#[derive(Debug)]
pub struct Outbound {
    negotiated: Negotiated,
    keys: MaskKeys,
}

impl Outbound {
    /// A connection that has sent nothing.
    #[must_use]
    pub fn new(negotiated: Negotiated) -> Self {
        Self { negotiated, keys: MaskKeys::default() }
    }

    /// Writes `length` bytes of `pieces`, in order, as one message to the front of `target`, which has
    /// room for them and [`MAX_OVERHEAD`]. Returns the bytes written.
    ///
    /// # Errors
    /// The system gives no random bytes for the mask.
    pub fn data<'a>(
        &mut self,
        pieces: impl Iterator<Item = &'a [u8]>,
        length: usize,
        target: &mut [u8],
    ) -> io::Result<usize> {
        match self.negotiated {
            Negotiated::WebSocketV4 => self.message(Opcode::Binary, &[v4::DATA], pieces, length, target),
            _ => self.message(Opcode::Binary, &spdy::data_header(length, false), pieces, length, target),
        }
    }

    /// What a connection begins with.
    ///
    /// # Errors
    /// As [`Self::data`].
    pub fn open(&mut self, port: u16, target: &mut [u8]) -> io::Result<usize> {
        match self.negotiated {
            // The request's `ports` said it all.
            Negotiated::WebSocketV4 => Ok(0),
            _ => self.whole(Opcode::Binary, &spdy::open_streams(port), target),
        }
    }

    /// The end of our direction; of both with [`Negotiated::WebSocketV4`], which cannot say less.
    ///
    /// # Errors
    /// As [`Self::data`].
    pub fn finish(&mut self, target: &mut [u8]) -> io::Result<usize> {
        match self.negotiated {
            Negotiated::WebSocketV4 => self.whole(Opcode::Close, &1000_u16.to_be_bytes(), target),
            _ => self.whole(Opcode::Binary, &spdy::data_header(0, true), target),
        }
    }

    /// An answer that the reader asked for.
    ///
    /// # Errors
    /// As [`Self::data`].
    pub fn reply(&mut self, reply: &Reply, target: &mut [u8]) -> io::Result<usize> {
        match reply {
            Reply::Pong(payload) => self.whole(Opcode::Pong, payload.payload(), target),
            Reply::Close(payload) => self.whole(Opcode::Close, payload.payload(), target),
            Reply::SpdyPing(id) => self.whole(Opcode::Binary, &spdy::ping(*id), target),
        }
    }

    fn whole(&mut self, opcode: Opcode, payload: &[u8], target: &mut [u8]) -> io::Result<usize> {
        self.message(opcode, payload, std::iter::empty(), 0, target)
    }

    fn message<'a>(
        &mut self,
        opcode: Opcode,
        lead: &[u8],
        pieces: impl Iterator<Item = &'a [u8]>,
        length: usize,
        target: &mut [u8],
    ) -> io::Result<usize> {
        let mut written = 0;
        let key = match self.negotiated {
            Negotiated::Spdy => [0; 4],
            _ => {
                let key = self.keys.next()?;
                let (header, used) = websocket::frame_header(opcode, lead.len() + length, key);
                target[..used].copy_from_slice(&header[..used]);
                written = used;
                key
            }
        };
        let mut masker = Masker::new(key);
        masker.copy(lead, &mut target[written..]);
        written += lead.len();
        let mut left = length;
        for piece in pieces {
            let piece = &piece[..piece.len().min(left)];
            masker.copy(piece, &mut target[written..]);
            written += piece.len();
            left -= piece.len();
        }
        Ok(written)
    }
}

/// Mask keys, fetched from the system some dozens at a time: each frame needs one that nobody can foresee.
#[derive(Debug)]
struct MaskKeys {
    bytes: [u8; 256],
    used: usize,
}

impl Default for MaskKeys {
    fn default() -> Self {
        Self { bytes: [0; 256], used: 256 }
    }
}

impl MaskKeys {
    fn next(&mut self) -> io::Result<[u8; 4]> {
        if self.used == self.bytes.len() {
            getrandom::fill(&mut self.bytes)
                .map_err(|error| io::Error::other(format!("no random bytes from the system: {error}")))?;
            self.used = 0;
        }
        let mut key = [0; 4];
        key.copy_from_slice(&self.bytes[self.used..self.used + 4]);
        self.used += 4;
        Ok(key)
    }
}
