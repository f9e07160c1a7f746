//! What reads along with a connection: whatever both sides say, the same is told in whatever pieces it comes, and no
//! more memory is held than the limits allow.
#![no_main]

use std::alloc::System;
use std::time::Duration;

use cap::Cap;
use libfuzzer_sys::fuzz_target;
use relay_trace::{Observer, Seen};

#[global_allocator]
static MEMORY: Cap<System> = Cap::new(System, usize::MAX);

/// The most that a connection may hold beside what it has to tell, in bytes.
const MOST: usize = 2 << 20;

/// The parts of a conversation: a byte that says whose it is and how long, then the bytes.
fn parts(mut input: &[u8]) -> Vec<(bool, &[u8])> {
    let mut parts = Vec::new();
    while let Some((&kind, rest)) = input.split_first() {
        let (part, rest) = rest.split_at(rest.len().min(usize::from(kind >> 1)));
        parts.push((kind & 1 == 1, part));
        input = rest;
    }
    parts
}

fn told(parts: &[(bool, &[u8])], size: usize) -> Vec<Seen> {
    let (mut seen, at) = (Vec::new(), Duration::ZERO);
    let before = MEMORY.allocated();
    let mut observer = Observer::new(false);
    for (is_client, part) in parts {
        for piece in part.chunks(size) {
            if *is_client {
                observer.sent(piece, at);
            } else {
                observer.received(piece, at);
            }
        }
        let held = MEMORY.allocated().saturating_sub(before);
        assert!(held <= MOST, "{held} bytes are held");
    }
    observer.received_all(at);
    observer.ended(at);
    seen.extend(std::iter::from_fn(|| observer.next_seen()));
    for exchange in seen.iter() {
        if let Seen::Exchange(exchange) = exchange {
            let shown = [&exchange.method, &exchange.target];
            assert!(shown.iter().all(|text| text.bytes().all(|byte| byte.is_ascii_graphic())));
        }
    }
    seen
}

// The size of the pieces; then the conversation.
fuzz_target!(|input: &[u8]| {
    let [size, conversation @ ..] = input else { return };
    let parts = parts(conversation);
    assert_eq!(told(&parts, usize::MAX), told(&parts, usize::from(*size).max(1)));
});
