//! Read buffers that are used again. Allocators give memory of this size back to the system and take it anew at every
//! turn, which costs more than the copy that it saves.

use std::sync::{Mutex, PoisonError};

use bytes::Bytes;

/// Bytes of a buffer: the most that one read takes.
pub(crate) const SIZE: usize = 64 * 1024;
/// Buffers kept for later; beyond this many they are freed.
const SPARE: usize = 64;

static POOL: Mutex<Vec<Box<[u8]>>> = Mutex::new(Vec::new());

/// A buffer of [`SIZE`] bytes; back in the pool when the last slice of it goes.
pub(crate) struct Buffer(Box<[u8]>);

impl Buffer {
    pub(crate) fn take() -> Self {
        let spare = POOL.lock().unwrap_or_else(PoisonError::into_inner).pop();
        Self(spare.unwrap_or_else(|| vec![0; SIZE].into_boxed_slice()))
    }

    pub(crate) fn space(&mut self, len: usize) -> &mut [u8] {
        let len = len.min(SIZE);
        &mut self.0[..len]
    }

    /// The first `len` bytes: without a copy, unless a small slice would keep the whole buffer from others.
    pub(crate) fn into_bytes(self, len: usize) -> Bytes {
        if len < SIZE / 2 {
            Bytes::copy_from_slice(&self.0[..len])
        } else {
            Bytes::from_owner(self).slice(..len)
        }
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.0);
        let mut pool = POOL.lock().unwrap_or_else(PoisonError::into_inner);
        if pool.len() < SPARE {
            pool.push(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_large_and_small_hold_what_was_read() {
        for len in [1, 1_000, SIZE / 2, SIZE] {
            let mut buffer = Buffer::take();
            buffer.space(len).fill(7);
            let bytes = buffer.into_bytes(len);
            let other = Buffer::take().into_bytes(SIZE);
            assert_eq!(bytes, vec![7; len], "another buffer is another place");
            drop(other);
        }
        assert!(POOL.lock().unwrap().len() <= SPARE);
    }
}
