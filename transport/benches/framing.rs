//! What framing costs per payload: SPDY, WebSocket with SPDY inside, and the older WebSocket channels.
//! `cargo bench --package relay-transport --profile fast` runs it; `cargo xtask count` counts instructions.

#![allow(clippy::expect_used, reason = "a benchmark that fails here should panic")]

use std::hint::black_box;

use relay_microbench::Cases;
use relay_transport::framing::{Event, Inbound, MAX_OVERHEAD, Negotiated, Outbound};
use relay_transport::spdy;

const KINDS: [(&str, Negotiated); 3] = [
    ("spdy", Negotiated::Spdy),
    ("websocket", Negotiated::WebSocket),
    ("websocket-v4", Negotiated::WebSocketV4),
];
const SIZES: [usize; 3] = [64, 1024, 32 * 1024];
const PORT: u16 = 80;

/// Payloads to messages, masked where they are.
fn outbound(cases: &mut Cases) {
    for (kind, negotiated) in KINDS {
        for size in SIZES {
            let payload = vec![7; size];
            let mut target = vec![0; size + MAX_OVERHEAD];
            let mut outbound = Outbound::new(negotiated);
            cases.case(&format!("{kind}/out/{size}"), Some(size as u64), || {
                outbound.data(std::iter::once(&payload[..]), size, &mut target).expect("random bytes")
            });
        }
    }
}

/// A server's messages to payloads.
fn inbound(cases: &mut Cases) {
    for (kind, negotiated) in KINDS {
        for size in SIZES {
            let message = server_message(negotiated, size);
            let mut inbound = Inbound::new(negotiated, PORT);
            if let Negotiated::WebSocketV4 = negotiated {
                // Each channel's first message is the port.
                let port = PORT.to_le_bytes();
                for channel in [0, 1] {
                    decode(&mut inbound, &[0x82, 3, channel, port[0], port[1]]);
                }
            }
            cases.case(&format!("{kind}/in/{size}"), Some(size as u64), || {
                assert_eq!(decode(&mut inbound, black_box(&message)), size);
            });
        }
    }
}

/// The forwarded bytes in `input`.
fn decode(inbound: &mut Inbound, input: &[u8]) -> usize {
    let (mut taken, mut payload) = (0, 0);
    loop {
        let (used, event) = inbound.decode(&input[taken..], usize::MAX).expect("well-formed bytes");
        taken += used;
        match event {
            Event::Data(bytes) => payload += bytes.len(),
            Event::NeedMore if taken == input.len() => return payload,
            _ => {}
        }
    }
}

/// One payload as a server sends it: not masked.
fn server_message(negotiated: Negotiated, size: usize) -> Vec<u8> {
    let inner = match negotiated {
        Negotiated::WebSocketV4 => vec![0],
        _ => spdy::data_header(size, false).to_vec(),
    };
    let mut message = match negotiated {
        Negotiated::Spdy => Vec::new(),
        _ => {
            let length = u16::try_from(inner.len() + size).expect("a short message");
            match u8::try_from(length) {
                Ok(length @ ..126) => vec![0x82, length],
                _ => [[0x82, 126], length.to_be_bytes()].concat(),
            }
        }
    };
    message.extend(inner);
    message.resize(message.len() + size, 7);
    message
}

fn main() {
    relay_microbench::main(|cases| {
        outbound(cases);
        inbound(cases);
    });
}
