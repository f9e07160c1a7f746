//! Each codec of the transport: the same bytes mean the same in whatever pieces they come, and no length that they
//! claim costs memory.
#![no_main]

use std::alloc::System;
use std::fmt::{self, Write as _};

use cap::Cap;
use libfuzzer_sys::fuzz_target;
use relay_transport::framing::{Event, Inbound, Negotiated};
use relay_transport::{spdy, v4, websocket};

#[global_allocator]
static MEMORY: Cap<System> = Cap::new(System, usize::MAX);

/// The most that a connection may ever have asked for, in bytes: the kept part of an error text, as it grows and as
/// it becomes a string.
const MOST: usize = 64 << 10;

const PORT: u16 = 9_527;

/// What a decoder said, as one number, so that keeping it costs no memory.
#[derive(PartialEq, Debug)]
struct Said(u64);

impl Said {
    const NOTHING: Self = Self(0xcbf2_9ce4_8422_2325);

    /// Bytes of the same kind mean the same in one piece or in several.
    fn bytes(&mut self, kind: u8, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(kind) << 8 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    fn one(&mut self, event: &impl fmt::Debug) {
        // Hashing cannot fail.
        let _ = write!(self, "{event:?}.");
    }
}

impl fmt::Write for Said {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.bytes(0, text.as_bytes());
        Ok(())
    }
}

/// `bytes` in pieces of these sizes, in turn.
fn pieces<'a>(mut bytes: &'a [u8], sizes: [usize; 2]) -> impl Iterator<Item = &'a [u8]> {
    let mut sizes = sizes.into_iter().cycle();
    std::iter::from_fn(move || {
        let size = sizes.next()?.min(bytes.len());
        let piece = bytes.split_off(..size)?;
        (!piece.is_empty()).then_some(piece)
    })
}

/// What a decoder did with the front of a piece: how much it took, and whether it can go on without more.
type Step = (usize, bool);

/// Hands a decoder all pieces in turn. `step` decodes once; at an error, which it has said itself, it is over.
fn feed(bytes: &[u8], sizes: [usize; 2], mut step: impl FnMut(&[u8], &mut Said) -> Option<Step>) -> Said {
    let mut said = Said::NOTHING;
    for mut piece in pieces(bytes, sizes) {
        loop {
            let Some((taken, goes_on)) = step(piece, &mut said) else { return said };
            piece = &piece[taken..];
            if !goes_on {
                break;
            }
        }
        assert!(piece.is_empty(), "what needs more has taken everything");
    }
    said
}

/// Says the error of a decoder that is over.
fn over<T>(result: Result<T, impl fmt::Debug>, said: &mut Said) -> Option<T> {
    result.inspect_err(|error| said.one(error)).ok()
}

fn spdy(bytes: &[u8], sizes: [usize; 2], limit: usize) -> Said {
    let mut decoder = spdy::Decoder::default();
    feed(bytes, sizes, |piece, said| {
        let (taken, event) = over(decoder.decode(piece, limit), said)?;
        match event {
            spdy::Event::NeedMore => return Some((taken, false)),
            spdy::Event::Data(data) => {
                assert!(!data.is_empty() && data.len() <= limit);
                said.bytes(1, data);
            }
            spdy::Event::ErrorText { bytes, last } => {
                said.bytes(2, bytes);
                if last {
                    said.one(&last);
                }
            }
            event => said.one(&event),
        }
        Some((taken, true))
    })
}

fn websocket(bytes: &[u8], sizes: [usize; 2], limit: usize) -> Said {
    let mut decoder = websocket::Decoder::default();
    feed(bytes, sizes, |piece, said| {
        let (mut taken, step) = over(decoder.next(piece), said)?;
        match step {
            websocket::Step::NeedMore => return Some((taken, false)),
            websocket::Step::Payload(len) => {
                let payload = &piece[taken..];
                assert!(0 < len && len <= payload.len());
                let used = len.min(limit);
                said.bytes(1, &payload[..used]);
                decoder.advance(used);
                taken += used;
            }
            step => said.one(&step),
        }
        Some((taken, true))
    })
}

/// Messages are 16 bytes long; the pieces are theirs.
fn v4(bytes: &[u8], sizes: [usize; 2], limit: usize) -> Said {
    let (mut decoder, mut said) = (v4::Decoder::new(PORT), Said::NOTHING);
    for message in bytes.chunks(16) {
        decoder.begin_message();
        for mut piece in pieces(message, sizes) {
            while !piece.is_empty() {
                match decoder.decode(piece, limit) {
                    Ok((taken, chunk)) => {
                        assert!(taken > 0, "no progress");
                        piece = &piece[taken..];
                        match chunk {
                            v4::Chunk::None => {}
                            v4::Chunk::Data(data) => {
                                assert!(data.len() <= limit);
                                said.bytes(1, data);
                            }
                            v4::Chunk::ErrorText(text) => said.bytes(2, text),
                        }
                    }
                    Err(error) => {
                        said.one(&error);
                        return said;
                    }
                }
            }
        }
    }
    said
}

fn inbound(negotiated: Negotiated, bytes: &[u8], sizes: [usize; 2], limit: usize) -> Said {
    let mut decoder = Inbound::new(negotiated, PORT);
    feed(bytes, sizes, |piece, said| {
        let (taken, event) = over(decoder.decode(piece, limit), said)?;
        match event {
            Event::NeedMore => return Some((taken, false)),
            Event::Data(data) => {
                assert!(!data.is_empty() && data.len() <= limit);
                said.bytes(1, data);
            }
            event => said.one(&event),
        }
        Some((taken, true))
    })
}

fn decode(kind: u8, bytes: &[u8], sizes: [usize; 2], limit: usize) -> Said {
    let before = MEMORY.total_allocated();
    let (said, most) = match kind % 6 {
        0 => (spdy(bytes, sizes, limit), 0),
        1 => (websocket(bytes, sizes, limit), 0),
        2 => (v4(bytes, sizes, limit), 0),
        3 => (inbound(Negotiated::Spdy, bytes, sizes, limit), MOST),
        4 => (inbound(Negotiated::WebSocket, bytes, sizes, limit), MOST),
        _ => (inbound(Negotiated::WebSocketV4, bytes, sizes, limit), MOST),
    };
    let allocated = MEMORY.total_allocated() - before;
    assert!(allocated <= most, "{allocated} bytes for {} of input", bytes.len());
    said
}

// Which codec, the most bytes to take at a time, the sizes of the pieces; then what the peer sends.
fuzz_target!(|input: &[u8]| {
    let [kind, limit, one, other, bytes @ ..] = input else { return };
    let whole = decode(*kind, bytes, [usize::MAX; 2], usize::MAX);
    let sizes = [usize::from(*one).max(1), usize::from(*other).max(1)];
    let cut = decode(*kind, bytes, sizes, usize::from(*limit).max(1));
    assert_eq!(whole, cut);
});
