//! How much one stream carries, and how the load tells the target: a number of bytes, or what fits into a time.
//!
//! Over a slow path one tool may need a hundred times as long as another for the same bytes, and the beginning of a
//! connection is slower than the rest: there the sender sends for a fixed time, and everything it sent is counted until
//! its last byte has arrived.

use std::io::{self, BufRead, Read, Write};
use std::time::{Duration, Instant};

use super::scratch;

/// The length that ends a timed stream from load to target.
const NO_MORE: [u8; 4] = [0; 4];

/// How much one stream carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Amount {
    /// So many bytes.
    Bytes(u64),
    /// What the sender can write in this time.
    For(Duration),
}

impl Amount {
    /// The line that a stream begins with.
    pub(super) fn line(self) -> String {
        match self {
            Self::Bytes(bytes) => format!("{bytes}\n"),
            Self::For(time) => format!("for {}\n", time.as_millis()),
        }
    }

    /// Reads that line.
    pub(super) fn read(reader: &mut impl BufRead) -> io::Result<Self> {
        let mut line = String::new();
        reader.take(32).read_line(&mut line)?;
        let text = line.trim();
        let amount = match text.strip_prefix("for ") {
            Some(time) => time.parse().map(|time| Self::For(Duration::from_millis(time))),
            None => text.parse().map(Self::Bytes),
        };
        amount.map_err(|_| io::Error::other(format!("the first line is {line:?}")))
    }

    /// Target to load: sends so much. A timed stream ends with the number of bytes before that, in 8 bytes: the reader
    /// knows the last one when it comes, and that none is missing.
    pub(super) fn send(self, to: &mut impl Write) -> io::Result<()> {
        match self {
            Self::Bytes(bytes) => self.write(to, bytes, |_, _| Ok(())).map(drop),
            Self::For(_) => {
                let sent = self.write(to, u64::MAX, |_, _| Ok(()))?;
                to.write_all(&sent.to_be_bytes())
            }
        }
    }

    /// Load to target: sends so much, and gives the number of bytes. The target can't be told by the stream's end, which
    /// not every tool lets through: a timed stream is a row of pieces with their lengths ahead.
    pub(super) fn send_pieces(self, to: &mut impl Write) -> io::Result<u64> {
        match self {
            Self::Bytes(bytes) => self.write(to, bytes, |_, _| Ok(())),
            Self::For(_) => {
                let length = |to: &mut _, piece: &[u8]| {
                    let length = u32::try_from(piece.len()).map_err(io::Error::other)?;
                    Write::write_all(to, &length.to_be_bytes())
                };
                let sent = self.write(to, u64::MAX, length)?;
                to.write_all(&NO_MORE)?;
                Ok(sent)
            }
        }
    }

    fn write<W: Write>(
        self,
        to: &mut W,
        most: u64,
        before_each: impl Fn(&mut W, &[u8]) -> io::Result<()>,
    ) -> io::Result<u64> {
        let bytes = scratch();
        let start = Instant::now();
        let mut sent = 0;
        while sent < most && !matches!(self, Self::For(time) if start.elapsed() >= time) {
            let take = bytes.len().min(usize::try_from(most - sent).unwrap_or(usize::MAX));
            before_each(to, &bytes[..take])?;
            to.write_all(&bytes[..take])?;
            sent += take as u64;
        }
        Ok(sent)
    }

    /// Takes in what [`Self::send_pieces`] sends, and gives the number of bytes; none where the stream ends early.
    pub(super) fn discard(self, from: &mut impl Read) -> io::Result<Option<u64>> {
        let mut buffer = vec![0; scratch().len()];
        let mut total = 0;
        loop {
            let mut left = match self {
                Self::Bytes(bytes) => bytes - total,
                Self::For(_) => {
                    let mut length = NO_MORE;
                    from.read_exact(&mut length)?;
                    u32::from_be_bytes(length).into()
                }
            };
            if left == 0 {
                return Ok(Some(total));
            }
            while left > 0 {
                let most = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                let read = from.read(&mut buffer[..most])?;
                if read == 0 {
                    return Ok(None);
                }
                left -= read as u64;
                total += read as u64;
            }
        }
    }
}

/// Recognises the last byte of what [`Amount::send`] sends.
#[derive(Debug)]
pub(super) struct Incoming {
    amount: Amount,
    received: u64,
    /// The last bytes so far: at the end of a timed stream they say how many came before them.
    tail: [u8; 8],
}

impl Incoming {
    /// Nothing has come yet.
    pub(super) fn new(amount: Amount) -> Self {
        Self { amount, received: 0, tail: [0; 8] }
    }

    /// More has come. Whether that was all, or an error if it was more than all.
    pub(super) fn take(&mut self, bytes: &[u8]) -> io::Result<bool> {
        self.received += bytes.len() as u64;
        let kept = bytes.len().min(self.tail.len());
        self.tail.rotate_left(kept);
        let from = self.tail.len() - kept;
        self.tail[from..].copy_from_slice(&bytes[bytes.len() - kept..]);
        match self.amount {
            Amount::Bytes(wanted) if self.received > wanted => {
                Err(io::Error::other("more bytes came than were asked for"))
            }
            Amount::Bytes(wanted) => Ok(self.received == wanted),
            Amount::For(_) => Ok(self.received.checked_sub(8) == Some(u64::from_be_bytes(self.tail))),
        }
    }

    /// Bytes so far.
    pub(super) fn received(&self) -> u64 {
        self.received
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AMOUNTS: [Amount; 4] = [
        Amount::Bytes(0),
        Amount::Bytes(1_000_000),
        Amount::For(Duration::ZERO),
        Amount::For(Duration::from_millis(5)),
    ];

    #[test]
    fn what_is_asked_for_is_read_as_it_was_written() {
        for amount in AMOUNTS {
            assert_eq!(Amount::read(&mut amount.line().as_bytes()).unwrap(), amount);
        }
        assert!(Amount::read(&mut &b"for ever\n"[..]).is_err());
    }

    #[test]
    fn the_target_counts_what_the_load_has_sent() {
        for amount in AMOUNTS {
            let mut wire = Vec::new();
            let sent = amount.send_pieces(&mut wire).unwrap();
            assert_eq!(amount.discard(&mut &wire[..]).unwrap(), Some(sent), "{amount:?}");
        }
    }

    #[test]
    fn the_load_knows_the_last_byte_when_it_comes_in_whatever_pieces() {
        for amount in &AMOUNTS[1..] {
            let mut wire = Vec::new();
            amount.send(&mut wire).unwrap();
            for size in [5, 8, 100_000] {
                let mut incoming = Incoming::new(*amount);
                let complete: Vec<bool> =
                    wire.chunks(size).map(|piece| incoming.take(piece).unwrap()).collect();
                assert_eq!(complete.iter().position(|complete| *complete), Some(complete.len() - 1));
                assert_eq!(incoming.received(), wire.len() as u64);
            }
        }
    }
}
