//! What a parser makes of the bytes so far.

/// A message, or how much of it is missing at least.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step<T> {
    /// The message, and how many bytes it took.
    Complete(T, usize),
    /// At least so many bytes are missing, at least one: whoever reads no more than that never reads what follows
    /// the message.
    Need(usize),
}

/// Bytes of a message that may not be all there.
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

/// So many bytes are missing.
pub(crate) struct Missing(pub(crate) usize);

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    pub(crate) fn take(&mut self, len: usize) -> Result<&'a [u8], Missing> {
        let rest = &self.bytes[self.at..];
        let taken = rest.get(..len).ok_or(Missing(len.saturating_sub(rest.len())))?;
        self.at += len;
        Ok(taken)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Missing> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    pub(crate) fn byte(&mut self) -> Result<u8, Missing> {
        self.array().map(|[byte]| byte)
    }

    pub(crate) fn port(&mut self) -> Result<u16, Missing> {
        self.array().map(u16::from_be_bytes)
    }

    /// Up to a zero byte, which is taken too; `None` where `most` bytes have none.
    pub(crate) fn until_zero(&mut self, most: usize) -> Result<Option<&'a [u8]>, Missing> {
        let rest = &self.bytes[self.at..];
        match rest.iter().take(most + 1).position(|byte| *byte == 0) {
            Some(len) => {
                self.at += len + 1;
                Ok(Some(&rest[..len]))
            }
            None if rest.len() > most => Ok(None),
            None => Err(Missing(1)),
        }
    }

    pub(crate) fn taken(&self) -> usize {
        self.at
    }

    pub(crate) fn rest(&self) -> &'a [u8] {
        &self.bytes[self.at..]
    }
}
