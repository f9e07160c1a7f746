//! A file that is a program and, behind it, what the program unpacks: the launcher and the packed agent in one, so that
//! both fit into one ConfigMap. What lies behind the launcher is found from the end of the file:
//!
//! | offset from the end | width | what |
//! | --- | --- | --- |
//! | 24 + N | N | the agent as raw LZMA data (lc 3, lp 0, pb 2, a dictionary of both lengths), to whose dictionary the whole launcher is known from the start: both programs hold Rust's library, and one copy of it is enough |
//! | 24 | 8 | N, big-endian |
//! | 16 | 8 | the agent's length, big-endian |
//! | 8 | 8 | [`MAGIC`] |

#![forbid(unsafe_code)]

#[cfg(any(test, feature = "pack"))]
mod pack;

use std::io::{self, Write};

use lzma_rust2::LzmaReader;
#[cfg(any(test, feature = "pack"))]
pub use pack::pack;

/// The last bytes of the file.
pub const MAGIC: [u8; 8] = *b"RLYAGENT";
/// Both lengths and the magic.
const TRAILER: usize = 24;
/// Literal context bits, literal position bits and position bits of the LZMA data: its usual ones.
const LC_LP_PB: (u32, u32, u32) = (3, 0, 2);

/// A file that holds no agent.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// It does not end as such a file ends.
    #[error("no agent is packed into this file")]
    NoAgent,
    /// It is damaged, or there is no room for what it holds.
    #[error("the packed agent cannot be unpacked: {0}")]
    Damaged(#[from] io::Error),
}

/// Writes the agent that is packed into a file.
///
/// # Errors
/// When there is none, when it is damaged, or when writing fails.
pub fn unpack(file: &[u8], to: &mut impl Write) -> Result<(), UnpackError> {
    let (rest, trailer) = file.split_last_chunk::<TRAILER>().ok_or(UnpackError::NoAgent)?;
    let number = |at: usize| {
        let bytes = trailer[at..].first_chunk().copied().unwrap_or_default();
        usize::try_from(u64::from_be_bytes(bytes)).ok()
    };
    let (Some(packed), Some(length)) = (number(0), number(8)) else { return Err(UnpackError::NoAgent) };
    if trailer[16..] != MAGIC || packed > rest.len() {
        return Err(UnpackError::NoAgent);
    }
    let (launcher, packed) = rest.split_at(rest.len() - packed);
    let mut agent = LzmaReader::new(
        packed,
        length as u64,
        LC_LP_PB.0,
        LC_LP_PB.1,
        LC_LP_PB.2,
        dictionary_size(launcher.len(), length),
        Some(launcher),
    )?;
    let copied = io::copy(&mut agent, to)?;
    if copied == length as u64 { Ok(()) } else { Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()) }
}

/// Everything can be looked back at, and no more memory is taken than that needs.
fn dictionary_size(launcher: usize, agent: usize) -> u32 {
    launcher.checked_add(agent).and_then(|size| u32::try_from(size).ok()).unwrap_or(u32::MAX)
}
