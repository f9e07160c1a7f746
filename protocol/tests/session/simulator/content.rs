//! What the programs write: every byte follows from the stream, the direction and the offset.

use std::sync::LazyLock;

use bytes::Bytes;

use super::network::Side;
use super::rng::Rng;

/// A prime, so that no chunk size divides it.
const PERIOD: usize = 65_521;
/// Bytes of a stream's number, ahead of what the client's program writes.
pub(crate) const TAG: u64 = 8;
/// The status byte, ahead of what the agent's program writes.
pub(crate) const STATUS: u64 = 1;

static NOISE: LazyLock<Bytes> = LazyLock::new(|| {
    let mut rng = Rng::new(1);
    let once: Vec<u8> = (0..PERIOD).map(|_| rng.next() as u8).collect();
    let mut noise = once.clone();
    noise.extend_from_slice(&once);
    noise.extend_from_slice(&once);
    Bytes::from(noise)
});

fn noise(number: usize, side: Side, offset: u64, len: usize) -> Bytes {
    let from = (offset as usize + number * 7_919 + side.index() * 31_337) % PERIOD;
    let len = len.min(2 * PERIOD);
    NOISE.slice(from..from + len)
}

/// At most `len` bytes of what `side` writes into stream `number` from `offset` on; at least one.
pub(crate) fn content(number: usize, side: Side, offset: u64, len: usize) -> Bytes {
    match side {
        Side::Client if offset < TAG => {
            let tag = (number as u64).to_be_bytes();
            Bytes::copy_from_slice(&tag[offset as usize..]).slice(..len.min((TAG - offset) as usize))
        }
        Side::Agent if offset < STATUS => Bytes::from_static(&[1]),
        _ => noise(number, side, offset, len),
    }
}

/// Where `data` first differs from what belongs there.
pub(crate) fn first_difference(number: usize, side: Side, offset: u64, data: &[u8]) -> Option<u64> {
    let mut done = 0;
    while done < data.len() {
        let wanted = content(number, side, offset + done as u64, data.len() - done);
        let got = &data[done..done + wanted.len()];
        if *got != wanted[..] {
            let at = got.iter().zip(&wanted).position(|(a, b)| a != b).unwrap_or_default();
            return Some(offset + (done + at) as u64);
        }
        done += wanted.len();
    }
    None
}
