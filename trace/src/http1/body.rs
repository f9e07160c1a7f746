//! Where a message of HTTP/1 ends.

/// The longest line with a chunk's size, in bytes; extensions may stand there.
const SIZE_LINE: usize = 4096;

/// What is left of a message's body.
#[derive(Debug)]
pub(super) enum Body {
    /// So many bytes.
    Length(u64),
    /// Chunks.
    Chunked(Chunked),
    /// All that comes.
    UntilEnd,
}

/// A body in chunks.
#[derive(Debug)]
pub(super) enum Chunked {
    /// In the line with a size: its digits so far, whether they are over, how long the line is.
    Size {
        size: u64,
        digits: u8,
        is_over: bool,
        line: usize,
    },
    /// In a chunk, of which so much is left, or in the line end behind it.
    Data(u64),
    AfterData,
    /// In the lines behind the last chunk: how long this one is.
    Trailer(u64),
}

const SIZE: Chunked = Chunked::Size { size: 0, digits: 0, is_over: false, line: 0 };

impl Body {
    pub(super) fn chunked() -> Self {
        Self::Chunked(SIZE)
    }

    pub(super) fn is_done(&self) -> bool {
        matches!(self, Self::Length(0))
    }

    /// Takes from the front of `bytes` what is the body's. `None` where it is broken.
    pub(super) fn read(&mut self, bytes: &mut &[u8]) -> Option<()> {
        match self {
            Self::UntilEnd => *bytes = &[],
            Self::Length(left) => *left -= skip(bytes, *left),
            Self::Chunked(chunked) => {
                while !bytes.is_empty() {
                    if chunked.read(bytes)? {
                        *self = Self::Length(0);
                        break;
                    }
                }
            }
        }
        Some(())
    }
}

fn skip(bytes: &mut &[u8], left: u64) -> u64 {
    let count = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
    *bytes = &bytes[count..];
    count as u64
}

impl Chunked {
    /// Takes at least a byte; true where that was the last one.
    fn read(&mut self, bytes: &mut &[u8]) -> Option<bool> {
        if let Self::Data(left) = self {
            *left -= skip(bytes, *left);
            if *left == 0 {
                *self = Self::AfterData;
            }
            return Some(false);
        }
        let byte = *bytes.split_off_first()?;
        match self {
            Self::Size { size, digits, is_over, line } => {
                *line += 1;
                match (byte, char::from(byte).to_digit(16)) {
                    (b'\n', _) if *digits == 0 => return None,
                    (b'\n', _) => *self = if *size == 0 { Self::Trailer(0) } else { Self::Data(*size) },
                    (_, Some(digit)) if !*is_over => {
                        *digits = digits.checked_add(1).filter(|digits| *digits <= 16)?;
                        *size = *size << 4 | u64::from(digit);
                    }
                    (b';' | b' ' | b'\t' | b'\r', _) if *digits > 0 => *is_over = true,
                    _ if *is_over && *line <= SIZE_LINE => {}
                    _ => return None,
                }
            }
            Self::AfterData => match byte {
                b'\r' => {}
                b'\n' => *self = SIZE,
                _ => return None,
            },
            Self::Trailer(line) => match byte {
                b'\n' if *line == 0 => return Some(true),
                b'\n' => *line = 0,
                b'\r' => {}
                _ => *line += 1,
            },
            Self::Data(_) => {}
        }
        Some(false)
    }
}
