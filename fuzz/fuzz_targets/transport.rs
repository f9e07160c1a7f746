//! The three ways of carrying a forwarded connection: the same bytes mean the same in whatever pieces they come.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use relay_transport::framing::{Event, Inbound, Negotiated};

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    kind: u8,
    piece: u8,
    limit: u8,
    bytes: &'a [u8],
}

/// Forwarded bytes, then what else happened, then how it ended.
fn run(negotiated: Negotiated, bytes: &[u8], piece: usize, limit: usize) -> (Vec<u8>, Vec<String>, bool) {
    let mut inbound = Inbound::new(negotiated, 9_527);
    let (mut data, mut events) = (Vec::new(), Vec::new());
    let (mut from, mut to) = (0, 0);
    loop {
        to = bytes.len().min(to.max(from) + piece);
        loop {
            match inbound.decode(&bytes[from..to], limit) {
                Ok((taken, event)) => {
                    assert!(taken <= to - from);
                    from += taken;
                    match event {
                        Event::NeedMore => break,
                        Event::Data(chunk) => {
                            assert!(!chunk.is_empty() && chunk.len() <= limit);
                            data.extend_from_slice(chunk);
                        }
                        // The peer says no more after this.
                        Event::Closed(_) => return (data, events, true),
                        other => events.push(format!("{other:?}")),
                    }
                }
                Err(error) => {
                    events.push(error.to_string());
                    return (data, events, false);
                }
            }
        }
        assert_eq!(from, to, "what needs more has taken everything");
        if to == bytes.len() {
            return (data, events, true);
        }
    }
}

fuzz_target!(|input: Input<'_>| {
    let negotiated = match input.kind % 3 {
        0 => Negotiated::WebSocket,
        1 => Negotiated::WebSocketV4,
        _ => Negotiated::Spdy,
    };
    let whole = run(negotiated, input.bytes, usize::MAX / 2, usize::MAX);
    let pieces =
        run(negotiated, input.bytes, usize::from(input.piece).max(1), usize::from(input.limit).max(1));
    assert_eq!(whole, pieces);
});
