//! What one side sends, the other side receives: every message of ours is well formed, and means what was said.
#![no_main]

use libfuzzer_sys::fuzz_target;
use relay_transport::framing::{Event, Inbound, MAX_OVERHEAD, Negotiated, Outbound, Reply};
use relay_transport::spdy;
use relay_transport::websocket::Control;

const PORT: u16 = 9_527;
/// Room for a message: the largest payload of an act, and what opens a connection.
const ROOM: usize = 1024 + MAX_OVERHEAD;

/// A client's WebSocket frame as its payload and first byte; it must be whole, final, masked and nothing else.
fn unmasked(frame: &[u8]) -> (u8, Vec<u8>) {
    assert!(frame[0] & 0xf0 == 0x80 && frame[1] & 0x80 != 0, "final, no reserved bits, masked");
    let (len, at) = match frame[1] & 0x7f {
        126 => (usize::from(u16::from_be_bytes([frame[2], frame[3]])), 4),
        127 => panic!("no message is that long"),
        short => (usize::from(short), 2),
    };
    let (key, payload) = frame[at..].split_at(4);
    assert_eq!(payload.len(), len);
    (frame[0], payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key).collect())
}

/// A server's WebSocket frame.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![first, 126];
    out.extend_from_slice(&(payload.len() as u16).to_be_bytes());
    if let short @ 0..=125 = payload.len() {
        out = vec![first, short as u8];
    }
    out.extend_from_slice(payload);
    out
}

/// What our messages look like when the other side sends them.
struct Mirror {
    negotiated: Negotiated,
    outbound: Outbound,
    bytes: Vec<u8>,
}

impl Mirror {
    fn new(negotiated: Negotiated) -> Self {
        let mut mirror = Self { negotiated, outbound: Outbound::new(negotiated), bytes: Vec::new() };
        if negotiated == Negotiated::WebSocketV4 {
            // Each channel of a server begins with the port; a client's do not.
            let [low, high] = PORT.to_le_bytes();
            mirror.bytes = [frame(0x82, &[1, low, high]), frame(0x82, &[0, low, high])].concat();
            return mirror;
        }
        let mut target = [0; ROOM];
        let written = mirror.outbound.open(PORT, &mut target).expect("there is randomness");
        let opening = match negotiated {
            Negotiated::Spdy => target[..written].to_vec(),
            _ => unmasked(&target[..written]).1,
        };
        assert_eq!(opening, spdy::open_streams(PORT));
        mirror
    }

    fn take(&mut self, message: &[u8]) {
        if self.negotiated == Negotiated::Spdy {
            self.bytes.extend_from_slice(message);
        } else if !message.is_empty() {
            let (first, payload) = unmasked(message);
            self.bytes.extend(frame(first, &payload));
        }
    }

    fn data(&mut self, payload: &[u8], cut: usize) {
        let mut target = vec![0xa5; payload.len() + MAX_OVERHEAD];
        let slices = payload.chunks(cut.max(1));
        let written = self.outbound.data(slices, payload.len(), &mut target).expect("there is randomness");
        assert!(target[written..].iter().all(|byte| *byte == 0xa5), "wrote behind its end");
        self.take(&target[..written]);
    }

    fn reply(&mut self, reply: &Reply) {
        let mut target = [0; ROOM];
        let written = self.outbound.reply(reply, &mut target).expect("there is randomness");
        self.take(&target[..written]);
    }

    fn finish(&mut self) {
        let mut target = [0; ROOM];
        let written = self.outbound.finish(&mut target).expect("there is randomness");
        self.take(&target[..written]);
        // An orderly end is one of both streams, and ours of the error stream came with its opening.
        let error_stream = [0, 0, 0, 1, 1, 0, 0, 0];
        match self.negotiated {
            Negotiated::Spdy => self.bytes.extend_from_slice(&error_stream),
            Negotiated::WebSocket => self.bytes.extend(frame(0x82, &error_stream)),
            Negotiated::WebSocketV4 => {}
        }
    }
}

// How it is carried, the size of the pieces and the most to take at a time; then acts, each with a byte for its kind,
// one for its length, and its bytes.
fuzz_target!(|input: &[u8]| {
    let [kind, piece, limit, acts @ ..] = input else { return };
    let negotiated = match kind % 3 {
        0 => Negotiated::Spdy,
        1 => Negotiated::WebSocket,
        _ => Negotiated::WebSocketV4,
    };
    let mut mirror = Mirror::new(negotiated);
    let (mut sent, mut pings, mut rest) = (Vec::new(), Vec::new(), acts);
    while let [act, length, tail @ ..] = rest {
        let (payload, tail) = tail.split_at(tail.len().min(usize::from(*length)));
        rest = tail;
        match act % 4 {
            // No node tunnels SPDY in the older protocol.
            1 if negotiated != Negotiated::WebSocketV4 => {
                let id = u32::from(*length) * 2;
                mirror.reply(&Reply::SpdyPing(id));
                pings.push(Reply::SpdyPing(id));
            }
            // Without a WebSocket there is no pong to send.
            2 if negotiated != Negotiated::Spdy => mirror.reply(&Reply::Pong(Control::new(payload))),
            cut => {
                mirror.data(payload, usize::from(act / 4).max(usize::from(cut)));
                sent.extend_from_slice(payload);
            }
        }
    }
    mirror.finish();

    let mut inbound = Inbound::new(negotiated, PORT);
    let (mut received, mut replies, mut ended) = (Vec::new(), Vec::new(), false);
    for mut piece in mirror.bytes.chunks(usize::from(*piece).max(1)) {
        loop {
            let decoded = inbound.decode(piece, usize::from(*limit).max(1));
            let (taken, event) = decoded.expect("what we send is well formed");
            piece = &piece[taken..];
            match event {
                Event::NeedMore => break,
                Event::Data(data) => received.extend_from_slice(data),
                Event::Reply(reply) => replies.push(reply),
                Event::Accepted => {}
                Event::Finished => ended = true,
                Event::Closed(reason) => {
                    assert_eq!((negotiated, reason.close_reason().0), (Negotiated::WebSocketV4, 1000));
                    ended = true;
                }
            }
        }
    }
    assert!(received == sent && replies == pings && ended);
});
