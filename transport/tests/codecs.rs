//! Properties of the codecs: what was sent arrives however it is cut, and no bytes at all make them panic.

#![expect(clippy::unwrap_used, reason = "a helper's surprise is a test's failure")]

use proptest::collection::vec;
use proptest::prelude::*;
use relay_transport::framing::{Event, Inbound, MAX_OVERHEAD, Negotiated, Outbound, Reply};
use relay_transport::websocket::{Control, Decoder, Masker, Opcode, Step, accept_for, frame_header};
use relay_transport::{ConnectionError, spdy, websocket};

const PORT: u16 = 9527;

/// What a server does, in the terms that all transports share.
#[derive(Debug, Clone)]
enum Act {
    Data(Vec<u8>),
    Ping(u8),
    /// Something that means nothing to us.
    Noise(u8),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => vec(any::<u8>(), 1..400).prop_map(Act::Data),
        1 => any::<u8>().prop_map(Act::Ping),
        1 => any::<u8>().prop_map(Act::Noise),
    ]
}

fn frame(last: bool, opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![u8::from(last) << 7 | opcode];
    match payload.len() {
        short @ 0..=125 => bytes.push(short as u8),
        long => {
            bytes.push(127);
            bytes.extend_from_slice(&(long as u64).to_be_bytes());
        }
    }
    bytes.extend_from_slice(payload);
    bytes
}

fn control(kind: u16, flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x80, 3];
    bytes.extend_from_slice(&kind.to_be_bytes());
    bytes.extend_from_slice(&(u32::from(flags) << 24 | payload.len() as u32).to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

fn data(stream: u32, fin: bool, payload: &[u8]) -> Vec<u8> {
    let mut bytes = stream.to_be_bytes().to_vec();
    bytes.extend_from_slice(&(u32::from(fin) << 24 | payload.len() as u32).to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// A server's SPDY bytes, opening and orderly end included.
fn spdy_bytes(acts: &[Act]) -> Vec<u8> {
    let mut bytes = control(2, 0, b"\0\0\0\x01headers");
    bytes.extend(control(2, 0, b"\0\0\0\x03"));
    for act in acts {
        match act {
            Act::Data(payload) => bytes.extend(data(3, false, payload)),
            // Even, as a server's.
            Act::Ping(id) => bytes.extend(control(6, 0, &(u32::from(*id) * 2).to_be_bytes())),
            // SETTINGS, HEADERS, WINDOW_UPDATE, empty DATA and types that nobody has defined.
            Act::Noise(kind @ 0..=4) => bytes.extend(data(1 + 2 * (u32::from(*kind) % 2), false, b"")),
            Act::Noise(kind) => {
                bytes.extend(control([4, 8, 9, 77][usize::from(kind % 4)], *kind, &[*kind; 21]));
            }
        }
    }
    bytes.extend(data(3, true, b""));
    bytes.extend(data(1, true, b""));
    bytes
}

/// What all of a server's bytes decode to when they come in pieces of the given sizes, in turn.
fn decode(
    negotiated: Negotiated,
    bytes: &[u8],
    pieces: &[usize],
    limit: usize,
) -> (Vec<u8>, Vec<Reply>, Ending) {
    let mut inbound = Inbound::new(negotiated, PORT);
    let (mut received, mut replies) = (Vec::new(), Vec::new());
    let mut rest = bytes;
    let mut sizes = pieces.iter().cycle();
    while !rest.is_empty() {
        let (mut piece, tail) = rest.split_at(rest.len().min(*sizes.next().unwrap()));
        rest = tail;
        loop {
            let (used, event) = match inbound.decode(piece, limit) {
                Ok(decoded) => decoded,
                Err(error) => return (received, replies, Ending::Failed(error)),
            };
            piece = &piece[used..];
            match event {
                Event::NeedMore => {
                    assert!(piece.is_empty(), "bytes were left behind");
                    break;
                }
                Event::Data(data) => {
                    assert!(!data.is_empty() && data.len() <= limit);
                    received.extend_from_slice(data);
                }
                Event::Reply(reply) => replies.push(reply),
                Event::Accepted => {}
                Event::Finished => return (received, replies, Ending::Finished),
                Event::Closed(reason) => return (received, replies, Ending::Closed(reason.close_reason().0)),
            }
        }
    }
    (received, replies, Ending::None)
}

#[derive(Debug, PartialEq)]
enum Ending {
    None,
    Finished,
    Closed(u16),
    Failed(ConnectionError),
}

fn sent(acts: &[Act]) -> Vec<u8> {
    acts.iter()
        .filter_map(|act| match act {
            Act::Data(payload) => Some(payload.as_slice()),
            _ => None,
        })
        .collect::<Vec<_>>()
        .concat()
}

proptest! {
    #[test]
    fn spdy_arrives_whole_however_it_is_cut(
        acts in vec(act(), 0..12), pieces in vec(1_usize..90, 1..8), limit in 1_usize..500,
    ) {
        let (received, replies, ending) = decode(Negotiated::Spdy, &spdy_bytes(&acts), &pieces, limit);
        prop_assert_eq!(received, sent(&acts));
        let pings: Vec<_> = acts.iter().filter_map(|act| match act {
            Act::Ping(id) => Some(Reply::SpdyPing(u32::from(*id) * 2)),
            _ => None,
        }).collect();
        prop_assert_eq!(replies, pings);
        prop_assert_eq!(ending, Ending::Finished);
    }

    #[test]
    fn tunnelled_spdy_arrives_whole_whatever_the_messages_and_fragments(
        acts in vec(act(), 0..12), messages in vec((any::<bool>(), 0_usize..300), 1..10),
        pieces in vec(1_usize..90, 1..8), limit in 1_usize..500,
    ) {
        let inner = spdy_bytes(&acts);
        let (mut bytes, mut rest, mut pings, mut within) = (Vec::new(), inner.as_slice(), 0, false);
        // However the sizes fall, one of them makes progress.
        let mut cuts = messages.iter().chain([&(true, 50)]).cycle();
        while !rest.is_empty() {
            let (last, size) = cuts.next().unwrap();
            let (payload, tail) = rest.split_at(rest.len().min(*size));
            rest = tail;
            let last = *last || rest.is_empty();
            bytes.extend(frame(last, if within { 0 } else { 2 }, payload));
            within = !last;
            bytes.extend(frame(true, 9, b"ping"));
            pings += 1;
        }
        let (received, replies, ending) = decode(Negotiated::WebSocket, &bytes, &pieces, limit);
        prop_assert_eq!(received, sent(&acts));
        let pong = Reply::Pong(Control::new(b"ping"));
        let pongs = replies.iter().filter(|reply| **reply == pong).count();
        // The last ping comes after the end.
        prop_assert_eq!(pongs, pings - 1);
        prop_assert_eq!(ending, Ending::Finished);
    }

    #[test]
    fn channel_messages_arrive_whole_however_they_are_cut(
        payloads in vec(vec(any::<u8>(), 0..400), 0..12), pieces in vec(1_usize..90, 1..8), limit in 1_usize..500,
    ) {
        let mut bytes = [frame(true, 2, &[1, 0x37, 0x25]), frame(true, 2, &[0, 0x37, 0x25])].concat();
        for payload in &payloads {
            bytes.extend(frame(true, 2, &[&[0], payload.as_slice()].concat()));
        }
        bytes.extend(frame(true, 8, &1000_u16.to_be_bytes()));
        let (received, _, ending) = decode(Negotiated::WebSocketV4, &bytes, &pieces, limit);
        prop_assert_eq!(received, payloads.concat());
        prop_assert_eq!(ending, Ending::Closed(1000));
    }

    #[test]
    fn error_texts_arrive_whole_however_they_are_cut(
        text in "[a-z]{1,300}", pieces in vec(1_usize..90, 1..8),
    ) {
        let spdy = data(1, false, text.as_bytes());
        let channel = frame(true, 2, &[&[1], text.as_bytes()].concat());
        let cases = [
            (Negotiated::Spdy, spdy.clone()),
            (Negotiated::WebSocket, frame(true, 2, &spdy)),
            (Negotiated::WebSocketV4, [frame(true, 2, &[1, 0x37, 0x25]), channel].concat()),
        ];
        for (negotiated, bytes) in cases {
            let (_, _, ending) = decode(negotiated, &bytes, &pieces, 100);
            prop_assert_eq!(ending, Ending::Failed(ConnectionError::Remote(text.clone())));
        }
    }

    #[test]
    fn hostile_bytes_never_panic(
        bytes in vec(any::<u8>(), 0..300), pieces in vec(1_usize..40, 1..4), limit in 1_usize..50,
    ) {
        for negotiated in [Negotiated::Spdy, Negotiated::WebSocket, Negotiated::WebSocketV4] {
            let (received, _, _) = decode(negotiated, &bytes, &pieces, limit);
            prop_assert!(received.len() <= bytes.len());
        }
    }

    #[test]
    fn damaged_streams_never_panic(
        acts in vec(act(), 0..6), damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        pieces in vec(1_usize..40, 1..4), tunnelled in any::<bool>(),
    ) {
        let mut bytes = spdy_bytes(&acts);
        if tunnelled {
            bytes = bytes.chunks(50).flat_map(|chunk| frame(true, 2, chunk)).collect();
        }
        for (at, value) in damage {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        let negotiated = if tunnelled { Negotiated::WebSocket } else { Negotiated::Spdy };
        let (received, _, _) = decode(negotiated, &bytes, &pieces, 64);
        prop_assert!(received.len() <= bytes.len());
    }

    #[test]
    fn masking_in_pieces_is_masking_byte_by_byte(
        key in any::<[u8; 4]>(), pieces in vec(vec(any::<u8>(), 0..70), 0..8),
    ) {
        let mut masker = Masker::new(key);
        let mut masked = Vec::new();
        for piece in &pieces {
            let mut target = vec![0; piece.len() + 3];
            masker.copy(piece, &mut target);
            prop_assert_eq!(&target[piece.len()..], &[0; 3]);
            masked.extend_from_slice(&target[..piece.len()]);
        }
        let plain: Vec<u8> = pieces.concat().iter().enumerate().map(|(at, byte)| byte ^ key[at % 4]).collect();
        prop_assert_eq!(masked, plain);
    }

    #[test]
    fn what_we_send_is_one_masked_message_of_the_announced_length(
        pieces in vec(vec(any::<u8>(), 0..3000), 0..6), v4 in any::<bool>(),
    ) {
        let payload = pieces.concat();
        let negotiated = if v4 { Negotiated::WebSocketV4 } else { Negotiated::WebSocket };
        let mut target = vec![0; payload.len() + MAX_OVERHEAD];
        let slices = pieces.iter().map(Vec::as_slice);
        let written = Outbound::new(negotiated).data(slices, payload.len(), &mut target).unwrap();
        prop_assert_eq!(target[0], 0x82);
        prop_assert_eq!(target[1] & 0x80, 0x80);
        let at = match target[1] & 0x7f { 126 => 4, 127 => 10, _ => 2 };
        let key: [u8; 4] = target[at..at + 4].try_into().unwrap();
        let message: Vec<u8> =
            target[at + 4..written].iter().enumerate().map(|(at, byte)| byte ^ key[at % 4]).collect();
        let expected = if v4 { [&[0], payload.as_slice()].concat() } else { data(3, false, &payload) };
        prop_assert_eq!(message, expected);
    }
}

#[test]
fn frame_headers_use_the_shortest_length() {
    for (length, expected) in [(0, 6), (125, 6), (126, 8), (65_535, 8), (65_536, 14)] {
        assert_eq!(frame_header(Opcode::Binary, length, [0; 4]).1, expected, "{length}");
    }
}

/// The example of RFC 6455, section 1.3.
#[test]
fn the_accept_header_is_what_the_standard_says() {
    assert_eq!(accept_for("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
}

#[test]
fn a_server_that_breaks_websocket_rules_is_refused_by_name() {
    let cases: [(&[u8], websocket::Error); 8] = [
        (&[0xc2, 0], websocket::Error::ReservedBits),
        (&[0x82, 0x80], websocket::Error::Masked),
        (&[0x81, 1, b'x'], websocket::Error::Opcode(1)),
        (&[0x8b, 0], websocket::Error::Opcode(11)),
        (&[0x80, 0], websocket::Error::Fragment),
        (&[0x02, 0, 0x82, 0], websocket::Error::Fragment),
        (&[0x09, 0], websocket::Error::Control),
        (&[0x82, 127, 0xff, 0, 0, 0, 0, 0, 0, 0], websocket::Error::Length(0xff << 56)),
    ];
    for (bytes, expected) in cases {
        let mut decoder = Decoder::default();
        let mut rest = bytes;
        let error = loop {
            match decoder.next(rest) {
                Ok((_, Step::NeedMore)) => panic!("{bytes:x?} was accepted"),
                Ok((used, _)) => rest = &rest[used..],
                Err(error) => break error,
            }
        };
        assert_eq!(error, expected);
    }
}

#[test]
fn a_peer_that_breaks_spdy_rules_is_refused_by_name() {
    let cases = [
        (vec![0x80, 2, 0, 6, 0, 0, 0, 4], spdy::Error::Version(2)),
        (data(5, false, b"x"), spdy::Error::Stream(5)),
        (control(3, 0, &[0, 0, 0, 7, 0, 0, 0, 1]), spdy::Error::Stream(7)),
        (control(3, 0, &[0, 0, 0, 3]), spdy::Error::Short { kind: 3, length: 4 }),
        (control(1, 0, &[0; 10]), spdy::Error::PeerStream),
    ];
    for (bytes, expected) in cases {
        assert_eq!(spdy::Decoder::default().decode(&bytes, 10), Err(expected));
    }
}

#[test]
fn a_channel_for_another_port_is_refused() {
    let bytes = frame(true, 2, &[0, 80, 0]);
    let (_, _, ending) = decode(Negotiated::WebSocketV4, &bytes, &[100], 10);
    assert!(matches!(ending, Ending::Failed(ConnectionError::V4(_))), "{ending:?}");
}

/// Frames of the greatest length that can be claimed, of which little ever comes.
#[test]
fn a_claimed_length_costs_no_memory_and_no_patience() {
    let huge = [
        &[0x82, 127, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff][..],
        &[0, 0, 0, 3, 0, 0xff, 0xff, 0xff],
    ];
    let (received, _, ending) =
        decode(Negotiated::WebSocket, &[&huge.concat()[..], b"abc"].concat(), &[7], 10);
    assert_eq!((received.as_slice(), ending), (&b"abc"[..], Ending::None));
}
