//! The frames of a session: `type, length, body`, integers as varints.
//!
//! Unknown odd types are skipped, so that a later version can add what an older end may ignore; unknown even types are
//! malformed. Every frame but DATAGRAM, PING and PONG may arrive twice without harm.

use crate::cursor::Cursor;
use crate::varint;
use crate::{MAX_DATAGRAM, Status, header};

/// The longest body, in bytes: a datagram of the greatest size with its header, with room to spare.
pub const MAX_BODY: usize = 66_560;
/// The longest text of a GOODBYE, in bytes.
pub const MAX_TEXT: usize = 512;

/// Frame types.
pub mod kind {
    #![allow(missing_docs, reason = "the names are those of the frames")]
    pub const STREAM: u64 = 0x02;
    pub const STREAM_FIN: u64 = 0x04;
    pub const MAX_DATA: u64 = 0x06;
    pub const MAX_STREAMS: u64 = 0x08;
    pub const RESET: u64 = 0x0a;
    pub const DATAGRAM: u64 = 0x0c;
    pub const DATAGRAM_WITH_HEADER: u64 = 0x0e;
    pub const FLOW_CLOSE: u64 = 0x10;
    pub const LANE_ACK: u64 = 0x12;
    pub const PING: u64 = 0x14;
    pub const PONG: u64 = 0x16;
    pub const LANE_CLOSE: u64 = 0x18;
    pub const DRAIN: u64 = 0x1a;
    pub const GOODBYE: u64 = 0x1c;
}

/// A frame, borrowed from the bytes that it was read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// Bytes of one direction of a stream, and whether they are its last.
    Stream {
        /// The stream.
        id: u64,
        /// Offset of the first byte.
        offset: u64,
        /// Nothing follows these bytes.
        fin: bool,
        /// The bytes; none at all only with `fin`.
        data: &'a [u8],
    },
    /// The receiver takes bytes below this offset.
    MaxData {
        /// The stream.
        id: u64,
        /// First offset that may not be sent.
        limit: u64,
    },
    /// The peer may begin streams up to this number in all.
    MaxStreams {
        /// How many streams may have begun, ever.
        limit: u64,
    },
    /// Ends both directions of a stream.
    Reset {
        /// The stream.
        id: u64,
        /// Why.
        status: Status,
        /// How many bytes the sender of this frame put into its direction.
        final_offset: u64,
    },
    /// One datagram of a flow.
    Datagram {
        /// The flow.
        id: u64,
        /// Number of the datagram within its flow and direction, from 0.
        seq: u64,
        /// The header, unread, until the flow is acknowledged.
        header: Option<&'a [u8]>,
        /// The datagram.
        data: &'a [u8],
    },
    /// The flow is over.
    FlowClose {
        /// The flow.
        id: u64,
        /// Why.
        status: Status,
    },
    /// All frames of a lane that end at or before this position have been stored, applied or dropped as duplicates.
    LaneAck {
        /// The lane whose bytes are acknowledged.
        lane: u64,
        /// Bytes since the hello or welcome.
        position: u64,
    },
    /// Asks for a PONG with the same token.
    Ping {
        /// Chosen by the sender.
        token: u64,
    },
    /// Answers a PING.
    Pong {
        /// The token of the PING.
        token: u64,
    },
    /// No more frames but acknowledgements follow on this lane.
    LaneClose,
    /// No new streams: the sender will end the session.
    Drain {
        /// How long streams may go on, in milliseconds.
        grace: u64,
    },
    /// The session is over; all its state is freed.
    Goodbye {
        /// Why.
        status: Status,
        /// For people, at most [`MAX_TEXT`] bytes.
        text: &'a str,
    },
    /// An odd type that this version does not know: skipped.
    Unknown {
        /// The type.
        kind: u64,
    },
}

/// Why bytes can't be part of a session. Ends the session.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// A frame type that must be understood, and isn't.
    #[error("unknown frame type {0:#x}")]
    UnknownType(u64),
    /// A body longer than any frame's.
    #[error("frame of {0} bytes is longer than {MAX_BODY}")]
    TooLong(u64),
    /// The body ends before its fields do, or goes on behind them.
    #[error("body of frame type {0:#x} does not parse")]
    BadBody(u64),
    /// A frame that parses but contradicts the session's state.
    #[error("{0}")]
    Violation(&'static str),
}

impl<'a> Frame<'a> {
    /// Reads a frame from the front of `bytes`: the frame and its length, or `None` where bytes are missing.
    ///
    /// # Errors
    /// [`Malformed`] as soon as no more bytes could make it a frame.
    pub fn decode(bytes: &'a [u8]) -> Result<Option<(Self, usize)>, Malformed> {
        let mut cursor = Cursor(bytes);
        let (Some(kind), Some(len)) = (cursor.varint(), cursor.varint()) else { return Ok(None) };
        if len > MAX_BODY as u64 {
            return Err(Malformed::TooLong(len));
        }
        let Some(body) = cursor.bytes(len as usize) else {
            // An unknown type is refused before its body is waited for.
            return if kind % 2 == 0 && !(kind::STREAM..=kind::GOODBYE).contains(&kind) {
                Err(Malformed::UnknownType(kind))
            } else {
                Ok(None)
            };
        };
        let frame = Self::parse(kind, Cursor(body))?;
        Ok(Some((frame, bytes.len() - cursor.0.len())))
    }

    fn parse(kind: u64, mut body: Cursor<'a>) -> Result<Self, Malformed> {
        let bad = Malformed::BadBody(kind);
        let frame = match kind {
            kind::STREAM | kind::STREAM_FIN => {
                let fin = kind == kind::STREAM_FIN;
                match (body.varint(), body.varint(), body.rest()) {
                    (Some(_), Some(_), []) if !fin => None,
                    (Some(id), Some(offset), data) => Some(Self::Stream { id, offset, fin, data }),
                    _ => None,
                }
            }
            kind::MAX_DATA => body.varint().zip(body.varint()).map(|(id, limit)| Self::MaxData { id, limit }),
            kind::MAX_STREAMS => body.varint().map(|limit| Self::MaxStreams { limit }),
            kind::RESET => match (body.varint(), body.u8(), body.varint()) {
                (Some(id), Some(code), Some(final_offset)) => {
                    Some(Self::Reset { id, status: Status::from_u8(code), final_offset })
                }
                _ => None,
            },
            kind::DATAGRAM => match (body.varint(), body.varint(), body.rest()) {
                (Some(id), Some(seq), data) => Some(Self::Datagram { id, seq, header: None, data }),
                _ => None,
            },
            kind::DATAGRAM_WITH_HEADER => match (body.varint(), body.varint(), body.u16()) {
                (Some(id), Some(seq), Some(len)) if usize::from(len) <= header::MAX_HEADER => {
                    let header = body.bytes(usize::from(len));
                    header.map(|_| Self::Datagram { id, seq, header, data: body.rest() })
                }
                _ => None,
            },
            kind::FLOW_CLOSE => body
                .varint()
                .zip(body.u8())
                .map(|(id, code)| Self::FlowClose { id, status: Status::from_u8(code) }),
            kind::LANE_ACK => {
                body.varint().zip(body.varint()).map(|(lane, position)| Self::LaneAck { lane, position })
            }
            kind::PING => body.varint().map(|token| Self::Ping { token }),
            kind::PONG => body.varint().map(|token| Self::Pong { token }),
            kind::LANE_CLOSE => Some(Self::LaneClose),
            kind::DRAIN => body.varint().map(|grace| Self::Drain { grace }),
            kind::GOODBYE => body.u8().and_then(|code| {
                let text = body.rest();
                let text = std::str::from_utf8(text).ok().filter(|text| text.len() <= MAX_TEXT)?;
                Some(Self::Goodbye { status: Status::from_u8(code), text })
            }),
            odd if odd % 2 == 1 => {
                body.rest();
                Some(Self::Unknown { kind })
            }
            other => return Err(Malformed::UnknownType(other)),
        };
        match frame {
            Some(Self::Datagram { data, .. }) if data.len() > MAX_DATAGRAM => Err(bad),
            Some(frame) if body.0.is_empty() => Ok(frame),
            _ => Err(bad),
        }
    }

    /// Appends the frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match *self {
            Self::Stream { id, offset, fin, data } => {
                put_stream_head(out, id, offset, fin, data.len());
                out.extend_from_slice(data);
            }
            Self::MaxData { id, limit } => put_varints(out, kind::MAX_DATA, &[id, limit]),
            Self::MaxStreams { limit } => put_varints(out, kind::MAX_STREAMS, &[limit]),
            Self::Reset { id, status, final_offset } => {
                let len = varint::len(id) + 1 + varint::len(final_offset);
                put_head(out, kind::RESET, len);
                varint::put(out, id);
                out.push(status.as_u8());
                varint::put(out, final_offset);
            }
            Self::Datagram { id, seq, header, data } => {
                let fixed = varint::len(id) + varint::len(seq);
                match header {
                    None => put_head(out, kind::DATAGRAM, fixed + data.len()),
                    Some(header) => {
                        put_head(out, kind::DATAGRAM_WITH_HEADER, fixed + 2 + header.len() + data.len());
                    }
                }
                varint::put(out, id);
                varint::put(out, seq);
                if let Some(header) = header {
                    out.extend_from_slice(&(header.len() as u16).to_be_bytes());
                    out.extend_from_slice(header);
                }
                out.extend_from_slice(data);
            }
            Self::FlowClose { id, status } => {
                put_head(out, kind::FLOW_CLOSE, varint::len(id) + 1);
                varint::put(out, id);
                out.push(status.as_u8());
            }
            Self::LaneAck { lane, position } => put_varints(out, kind::LANE_ACK, &[lane, position]),
            Self::Ping { token } => put_varints(out, kind::PING, &[token]),
            Self::Pong { token } => put_varints(out, kind::PONG, &[token]),
            Self::LaneClose => put_head(out, kind::LANE_CLOSE, 0),
            Self::Drain { grace } => put_varints(out, kind::DRAIN, &[grace]),
            Self::Goodbye { status, text } => {
                let mut end = text.len().min(MAX_TEXT);
                while !text.is_char_boundary(end) {
                    end -= 1;
                }
                put_head(out, kind::GOODBYE, 1 + end);
                out.push(status.as_u8());
                out.extend_from_slice(&text.as_bytes()[..end]);
            }
            Self::Unknown { kind } => put_head(out, kind, 0),
        }
    }
}

/// Appends the head of a STREAM frame; its `len` bytes of data are to follow.
pub(crate) fn put_stream_head(out: &mut Vec<u8>, id: u64, offset: u64, fin: bool, len: usize) {
    let kind = if fin { kind::STREAM_FIN } else { kind::STREAM };
    put_head(out, kind, varint::len(id) + varint::len(offset) + len);
    varint::put(out, id);
    varint::put(out, offset);
}

fn put_head(out: &mut Vec<u8>, kind: u64, len: usize) {
    varint::put(out, kind);
    varint::put(out, len as u64);
}

fn put_varints(out: &mut Vec<u8>, kind: u64, values: &[u64]) {
    put_head(out, kind, values.iter().map(|&value| varint::len(value)).sum());
    for &value in values {
        varint::put(out, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frames() -> impl Strategy<Value = (Vec<u8>, Vec<u8>, String, u64, u64, u8, u8)> {
        let number = prop_oneof![0..300u64, 0..=varint::MAX];
        (
            proptest::collection::vec(any::<u8>(), 0..300),
            proptest::collection::vec(any::<u8>(), 0..200),
            ".{0,100}",
            number.clone(),
            number,
            1u8..16,
            0u8..14,
        )
    }

    fn build<'a>(parts: &'a (Vec<u8>, Vec<u8>, String, u64, u64, u8, u8)) -> Frame<'a> {
        let (data, header, text, a, b, code, pick) = parts;
        let (a, b, status) = (*a, *b, Status::from_u8(*code));
        match pick {
            0 => Frame::Stream { id: a, offset: b, fin: true, data },
            1 if !data.is_empty() => Frame::Stream { id: a, offset: b, fin: false, data },
            2 => Frame::MaxData { id: a, limit: b },
            3 => Frame::MaxStreams { limit: a },
            4 => Frame::Reset { id: a, status, final_offset: b },
            5 => Frame::Datagram { id: a, seq: b, header: None, data },
            6 => Frame::Datagram { id: a, seq: b, header: Some(header), data },
            7 => Frame::FlowClose { id: a, status },
            8 => Frame::LaneAck { lane: a, position: b },
            9 => Frame::Ping { token: a },
            10 => Frame::Pong { token: a },
            11 => Frame::Drain { grace: a },
            12 => Frame::Goodbye { status, text },
            _ => Frame::LaneClose,
        }
    }

    proptest! {
        #[test]
        fn round_trip_and_every_cut_needs_more(parts in frames()) {
            let frame = build(&parts);
            let mut out = Vec::new();
            frame.encode(&mut out);
            for cut in 0..out.len() {
                prop_assert_eq!(Frame::decode(&out[..cut]), Ok(None));
            }
            let len = out.len();
            out.push(0xff);
            prop_assert_eq!(Frame::decode(&out), Ok(Some((frame, len))));
        }

        #[test]
        fn any_bytes_give_an_answer(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(Some((_, len))) = Frame::decode(&bytes) {
                prop_assert!(len <= bytes.len());
            }
        }
    }

    #[test]
    fn unknown_odd_types_are_skipped_and_even_ones_refused() {
        assert_eq!(Frame::decode(&[0x21, 2, 7, 7]), Ok(Some((Frame::Unknown { kind: 0x21 }, 4))));
        assert_eq!(Frame::decode(&[0x1e, 0]), Err(Malformed::UnknownType(0x1e)));
        assert_eq!(Frame::decode(&[0x20, 2]), Err(Malformed::UnknownType(0x20)));
    }

    #[test]
    fn a_length_beyond_every_frame_is_refused_at_once() {
        assert_eq!(Frame::decode(&[0x02, 0x80, 0x01, 0x04, 0x01]), Err(Malformed::TooLong(66_561)));
    }

    #[test]
    fn bodies_that_do_not_fit_their_type_are_refused() {
        for bytes in
            [&[0x06, 1, 1][..], &[0x06, 3, 1, 1, 1], &[0x02, 2, 0, 0], &[0x18, 1, 0], &[0x0e, 4, 0, 0, 0, 9]]
        {
            assert!(matches!(Frame::decode(bytes), Err(Malformed::BadBody(_))), "{bytes:?}");
        }
    }

    #[test]
    fn a_long_goodbye_is_cut_at_a_character() {
        let text = "ü".repeat(400);
        let mut out = Vec::new();
        Frame::Goodbye { status: Status::Ok, text: &text }.encode(&mut out);
        let Ok(Some((Frame::Goodbye { text: cut, .. }, _))) = Frame::decode(&out) else {
            panic!("no goodbye")
        };
        assert_eq!(cut, "ü".repeat(256));
    }
}
