//! The sending direction of a stream: what was written, sent, lost and acknowledged.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::ranges::Ranges;

/// Frames of one stream that may be unacknowledged at a time, so that the peer never sees more gaps than this.
const MAX_FRAMES_OUT: u32 = 2_048;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fin {
    /// More may be written.
    Open,
    /// The end has to go out (again).
    Due,
    Sent,
    Acked,
}

/// A piece to put into a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) offset: u64,
    pub(crate) len: usize,
    pub(crate) fin: bool,
}

#[derive(Debug)]
pub(crate) struct SendHalf {
    /// What may still have to be sent, from `front` to `written`.
    chunks: VecDeque<Bytes>,
    front: u64,
    written: u64,
    /// First offset that was never sent.
    next: u64,
    /// Acknowledged beyond `front`.
    acked: Ranges,
    /// Sent on a lane that died, and due again.
    resend: Ranges,
    limit: u64,
    fin: Fin,
    frames_out: u32,
}

impl SendHalf {
    pub(crate) fn new(limit: u64) -> Self {
        Self {
            chunks: VecDeque::new(),
            front: 0,
            written: 0,
            next: 0,
            acked: Ranges::default(),
            resend: Ranges::default(),
            limit,
            fin: Fin::Open,
            frames_out: 0,
        }
    }

    pub(crate) fn raise_limit(&mut self, limit: u64) -> bool {
        let raised = limit > self.limit;
        self.limit = self.limit.max(limit);
        raised
    }

    /// Bytes that the peer's credit still allows to be written.
    pub(crate) fn credit(&self) -> u64 {
        self.limit - self.written
    }

    /// Everything written but never sent.
    pub(crate) fn unsent(&self) -> u64 {
        self.written - self.next
    }

    /// Sent, and not known to have arrived; bytes acknowledged out of order still count.
    pub(crate) fn in_flight(&self) -> u64 {
        self.next - self.front
    }

    pub(crate) fn written(&self) -> u64 {
        self.written
    }

    /// The end of what may have reached the peer.
    pub(crate) fn sent(&self) -> u64 {
        self.next
    }

    /// Bytes held, in whole chunks.
    pub(crate) fn held(&self) -> usize {
        self.chunks.iter().map(Bytes::len).sum()
    }

    pub(crate) fn is_open(&self) -> bool {
        self.fin == Fin::Open
    }

    pub(crate) fn is_done(&self) -> bool {
        self.fin == Fin::Acked && self.chunks.is_empty()
    }

    /// Whether every byte written has been acknowledged.
    pub(crate) fn all_acked(&self) -> bool {
        self.chunks.is_empty()
    }

    /// The caller has checked the credit.
    pub(crate) fn write(&mut self, data: Bytes) {
        debug_assert!(self.is_open() && data.len() as u64 <= self.credit());
        self.written += data.len() as u64;
        if !data.is_empty() {
            self.chunks.push_back(data);
        }
    }

    pub(crate) fn finish(&mut self) {
        if self.fin == Fin::Open {
            self.fin = Fin::Due;
        }
    }

    pub(crate) fn has_work(&self) -> bool {
        let data = !self.resend.is_empty() || self.next < self.written || self.fin == Fin::Due;
        data && self.frames_out < MAX_FRAMES_OUT
    }

    /// Takes the next piece of at most `max` bytes: what was lost first.
    pub(crate) fn take(&mut self, max: usize) -> Option<Piece> {
        if !self.has_work() {
            return None;
        }
        let (offset, end) = match self.resend.first() {
            Some(range) => {
                let end = range.end.min(range.start + max as u64);
                self.resend.remove(range.start..end);
                (range.start, end)
            }
            None => {
                let end = self.written.min(self.next + max as u64);
                (std::mem::replace(&mut self.next, end), end)
            }
        };
        let fin = self.fin == Fin::Due && end == self.written && self.next == self.written;
        if fin {
            self.fin = Fin::Sent;
        }
        if offset == end && !fin {
            return None;
        }
        self.frames_out += 1;
        Some(Piece { offset, len: (end - offset) as usize, fin })
    }

    /// Appends the bytes of a piece.
    pub(crate) fn copy(&self, piece: Piece, out: &mut Vec<u8>) {
        let (mut at, end) = (self.front, piece.offset + piece.len as u64);
        // Most pieces are the newest bytes, so look from whichever end is nearer.
        let mut index = 0;
        if piece.offset - self.front > self.written - piece.offset {
            index = self.chunks.len();
            at = self.written;
            while at > piece.offset && index > 0 {
                index -= 1;
                at -= self.chunks[index].len() as u64;
            }
        }
        for chunk in self.chunks.iter().skip(index) {
            let next = at + chunk.len() as u64;
            if at >= end {
                break;
            }
            if next > piece.offset {
                let from = piece.offset.saturating_sub(at) as usize;
                let to = (end - at).min(chunk.len() as u64) as usize;
                out.extend_from_slice(&chunk[from..to]);
            }
            at = next;
        }
    }

    /// A frame with this piece was acknowledged. Returns how many held bytes that frees.
    pub(crate) fn on_ack(&mut self, piece: Piece) -> usize {
        self.frames_out = self.frames_out.saturating_sub(1);
        if piece.fin {
            self.fin = Fin::Acked;
        }
        let end = piece.offset + piece.len as u64;
        if end <= self.front {
            return 0;
        }
        self.resend.remove(piece.offset..end);
        self.acked.insert(piece.offset.max(self.front)..end);
        let Some(first) = self.acked.first().filter(|first| first.start <= self.front) else { return 0 };
        let mut freed = 0;
        while let Some(chunk) = self.chunks.front() {
            let next = self.front + chunk.len() as u64;
            if next > first.end {
                break;
            }
            freed += chunk.len();
            self.front = next;
            self.chunks.pop_front();
        }
        self.acked.remove_below(self.front);
        freed
    }

    /// A frame with this piece was lost with its lane.
    pub(crate) fn on_lost(&mut self, piece: Piece) {
        self.frames_out = self.frames_out.saturating_sub(1);
        self.requeue(piece);
    }

    /// Bytes below the first gap have arrived.
    fn first_gap(&self) -> u64 {
        self.acked.first().filter(|first| first.start <= self.front).map_or(self.front, |first| first.end)
    }

    /// Whether the stream can't go on before what is in flight arrives: the peer holds `held` bytes or more beyond a
    /// gap, or there is nothing else that may be sent.
    pub(crate) fn is_held_up(&self, held: u64) -> bool {
        let beyond = self.acked.end().map_or(0, |end| end.saturating_sub(self.first_gap()));
        let is_out_of_credit = self.limit == self.written;
        beyond >= held || (self.unsent() == 0 && (is_out_of_credit || self.fin != Fin::Open))
    }

    /// Sends a piece once more, whatever becomes of the frame it was in.
    pub(crate) fn requeue(&mut self, piece: Piece) {
        if piece.fin && self.fin == Fin::Sent {
            self.fin = Fin::Due;
        }
        let end = piece.offset + piece.len as u64;
        if end > self.front {
            for range in self.acked.missing(piece.offset.max(self.front)..end) {
                self.resend.insert(range);
            }
        }
    }

    /// Drops all data: the stream was reset. Returns how many held bytes that frees.
    pub(crate) fn discard(&mut self) -> usize {
        let freed = self.held();
        self.chunks.clear();
        self.acked.clear();
        self.resend.clear();
        self.front = self.written;
        self.next = self.written;
        if self.fin != Fin::Acked {
            self.fin = Fin::Sent;
        }
        freed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(half: &SendHalf, piece: Piece) -> String {
        let mut out = Vec::new();
        half.copy(piece, &mut out);
        String::from_utf8(out).unwrap()
    }

    fn half(parts: &[&'static str]) -> SendHalf {
        let mut half = SendHalf::new(100);
        for part in parts {
            half.write(Bytes::from_static(part.as_bytes()));
        }
        half
    }

    #[test]
    fn a_piece_may_span_chunks() {
        let mut half = half(&["ab", "cde", "f"]);
        let one = half.take(4).unwrap();
        assert_eq!(text(&half, one), "abcd");
        let two = half.take(9).unwrap();
        assert_eq!(text(&half, two), "ef");
        assert_eq!(half.take(9), None);
    }

    #[test]
    fn the_end_travels_with_the_last_bytes_or_alone() {
        let mut one = half(&["abc"]);
        one.finish();
        assert_eq!(one.take(9), Some(Piece { offset: 0, len: 3, fin: true }));
        let mut two = half(&["abc"]);
        two.take(9).unwrap();
        two.finish();
        assert_eq!(two.take(9), Some(Piece { offset: 3, len: 0, fin: true }));
        assert!(!two.has_work());
    }

    #[test]
    fn lost_pieces_come_again_without_what_another_copy_brought() {
        let mut half = half(&["abcdef"]);
        let (a, b, c) = (half.take(2).unwrap(), half.take(2).unwrap(), half.take(2).unwrap());
        assert_eq!(half.on_ack(b), 0, "a chunk goes as a whole");
        half.on_lost(Piece { offset: 0, len: 6, fin: false });
        let again = half.take(9).unwrap();
        assert_eq!(text(&half, again), "ab");
        let again = half.take(9).unwrap();
        assert_eq!(text(&half, again), "ef");
        half.on_ack(a);
        assert_eq!(half.on_ack(c), 6);
        assert!(half.all_acked());
    }

    #[test]
    fn a_lost_end_comes_again() {
        let mut half = half(&["abc"]);
        half.finish();
        let piece = half.take(9).unwrap();
        half.on_lost(piece);
        assert_eq!(half.take(9), Some(piece));
        half.on_ack(piece);
        assert!(half.is_done());
    }
}
