//! A byte stream that both ends can make for themselves.
//!
//! Any part of it follows from the offset alone, so a test checks each byte as it arrives, in
//! constant memory, and a byte that is lost, doubled or out of place cannot go unseen.

use sha2::{Digest, Sha256};

/// The pseudo-random stream, read from an offset on.
///
/// Equal offsets give equal bytes, however the reads before were cut.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pattern {
    offset: u64,
}

impl Pattern {
    /// The stream from its beginning.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The stream from the byte at `offset` on.
    #[must_use]
    pub fn at(offset: u64) -> Self {
        Self { offset }
    }

    /// How many bytes of the stream lie before the next one.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Fills `buffer` with the next bytes.
    pub fn fill(&mut self, buffer: &mut [u8]) {
        let mut rest = buffer;
        let within = (self.offset % 8) as usize;
        if within != 0 {
            let word = word(self.offset / 8);
            let take = rest.len().min(8 - within);
            rest[..take].copy_from_slice(&word[within..within + take]);
            self.offset += take as u64;
            rest = &mut rest[take..];
        }
        let mut chunks = rest.chunks_exact_mut(8);
        let mut index = self.offset / 8;
        for chunk in &mut chunks {
            chunk.copy_from_slice(&word(index));
            index += 1;
            self.offset += 8;
        }
        let tail = chunks.into_remainder();
        if !tail.is_empty() {
            tail.copy_from_slice(&word(index)[..tail.len()]);
            self.offset += tail.len() as u64;
        }
    }

    /// The next `count` bytes.
    #[must_use]
    pub fn take(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.fill(&mut bytes);
        bytes
    }

    /// Compares `received` with the next bytes of the stream and moves on.
    ///
    /// # Errors
    /// The offset, in the whole stream, of the first byte that differs.
    pub fn check(&mut self, received: &[u8]) -> Result<(), u64> {
        let mut expected = [0; 4096];
        for part in received.chunks(expected.len()) {
            let start = self.offset;
            let expected = &mut expected[..part.len()];
            self.fill(expected);
            if let Some(at) = part.iter().zip(expected.iter()).position(|(a, b)| a != b) {
                return Err(start + at as u64);
            }
        }
        Ok(())
    }
}

/// Eight bytes of the stream: the splitmix64 generator, counted instead of stepped.
fn word(index: u64) -> [u8; 8] {
    let mut z = index.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (z ^ (z >> 31)).to_le_bytes()
}

/// SHA-256, in lower-case hexadecimal, of the stream's first `count` bytes.
#[must_use]
pub fn sha256_of_pattern(count: u64) -> String {
    let mut pattern = Pattern::new();
    let mut digest = Sha256::new();
    let mut buffer = [0; 16 * 1024];
    let mut left = count;
    while left > 0 {
        let take = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        pattern.fill(&mut buffer[..take]);
        digest.update(&buffer[..take]);
        left -= take as u64;
    }
    hex(&digest.finalize())
}

/// Lower-case hexadecimal.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes.iter().flat_map(|b| [b >> 4, b & 15]).map(|digit| char::from(DIGITS[usize::from(digit)])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_do_not_depend_on_how_reads_are_cut() {
        let whole = Pattern::new().take(1000);
        for step in [1, 3, 7, 8, 9, 64, 333] {
            let mut pattern = Pattern::new();
            let mut pieces = Vec::new();
            while pieces.len() < whole.len() {
                let next = step.min(whole.len() - pieces.len());
                pieces.extend(pattern.take(next));
            }
            assert_eq!(pieces, whole, "cut every {step} bytes");
            assert_eq!(pattern.offset(), 1000);
        }
        assert_eq!(Pattern::at(123).take(50), whole[123..173]);
    }

    #[test]
    fn a_wrong_byte_is_found_at_its_offset() {
        let mut bytes = Pattern::new().take(10_000);
        let mut pattern = Pattern::new();
        assert_eq!(pattern.check(&bytes[..100]), Ok(()));
        bytes[5000] ^= 1;
        assert_eq!(pattern.check(&bytes[100..]), Err(5000));
    }

    #[test]
    fn the_digest_is_that_of_the_bytes() {
        let bytes = Pattern::new().take(40_000);
        assert_eq!(sha256_of_pattern(40_000), hex(&Sha256::digest(&bytes)));
        assert_eq!(sha256_of_pattern(0), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    }
}
