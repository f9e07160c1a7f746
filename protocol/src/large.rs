//! A STREAM frame that is read into a buffer of its own, so that its bytes need not be copied out of a lane's.

use bytes::buf::Limit;
use bytes::{BufMut as _, BytesMut};

use crate::cursor::Cursor;
use crate::frame::{MAX_BODY, kind};

/// Fewer bytes of data are copied: a buffer of their own would cost as much.
const LEAST: usize = 16 * 1024;

/// A large STREAM frame, of which the front has arrived.
#[derive(Debug)]
pub struct LargeFrame {
    pub(crate) id: u64,
    pub(crate) offset: u64,
    pub(crate) fin: bool,
    /// Bytes of the frame before its data.
    head: usize,
    /// Bytes of its data.
    len: usize,
    data: BytesMut,
}

impl LargeFrame {
    /// The frame at the front of `bytes`, if it is a STREAM with at least 16 KiB of data that are not all there. All of
    /// `bytes` are then part of it, and it goes to [`Session::receive_large`](crate::Session::receive_large) instead of
    /// [`Session::receive`](crate::Session::receive).
    #[must_use]
    pub fn begin(bytes: &[u8]) -> Option<Self> {
        let mut cursor = Cursor(bytes);
        let (kind, body) = (cursor.varint()?, cursor.varint()?);
        let fin = kind == kind::STREAM_FIN;
        if !(fin || kind == kind::STREAM) || body > MAX_BODY as u64 {
            return None;
        }
        let before = cursor.0.len();
        let (id, offset) = (cursor.varint()?, cursor.varint()?);
        let here = cursor.0;
        let len = (body as usize).checked_sub(before - here.len())?;
        if len < LEAST || here.len() >= len {
            return None;
        }
        let mut data = BytesMut::with_capacity(len);
        data.extend_from_slice(here);
        Some(Self { id, offset, fin, head: bytes.len() - here.len(), len, data })
    }

    /// How many bytes have not come yet.
    #[must_use]
    pub fn missing(&self) -> usize {
        self.len - self.data.len()
    }

    /// Where they go; it ends with the frame.
    pub fn rest(&mut self) -> Limit<&mut BytesMut> {
        let missing = self.missing();
        (&mut self.data).limit(missing)
    }

    /// Bytes of the whole frame.
    pub(crate) fn frame_len(&self) -> usize {
        self.head + self.len
    }

    pub(crate) fn into_data(self) -> BytesMut {
        self.data
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::Frame;

    fn frame(len: usize, fin: bool) -> (Vec<u8>, Vec<u8>) {
        let data: Vec<u8> = (0..len).map(|at| (at % 251) as u8).collect();
        let mut bytes = Vec::new();
        Frame::Stream { id: 70, offset: 5_000_000, fin, data: &data }.encode(&mut bytes);
        (bytes, data)
    }

    #[test]
    fn the_rest_of_a_large_frame_is_what_is_missing() {
        for (len, fin) in [(LEAST, false), (LEAST + 1, true), (65_000, false)] {
            let (bytes, data) = frame(len, fin);
            for here in [bytes.len() - len, bytes.len() - len + 1, bytes.len() - 1] {
                let mut large = LargeFrame::begin(&bytes[..here]).unwrap();
                assert_eq!(large.missing(), bytes.len() - here);
                large.rest().put_slice(&bytes[here..]);
                assert_eq!((large.missing(), large.rest().remaining_mut()), (0, 0));
                assert_eq!((large.id, large.offset, large.fin), (70, 5_000_000, fin));
                assert_eq!(large.frame_len(), bytes.len());
                assert_eq!(large.into_data(), data);
            }
        }
    }

    #[test]
    fn nothing_else_is_one() {
        let (bytes, _) = frame(LEAST, false);
        for here in 0..bytes.len() - LEAST {
            assert!(LargeFrame::begin(&bytes[..here]).is_none(), "half a head, {here} bytes");
        }
        assert!(LargeFrame::begin(&bytes).is_none(), "whole");
        let (small, _) = frame(LEAST - 1, false);
        assert!(LargeFrame::begin(&small[..small.len() - 1]).is_none(), "small");
        let mut datagram = Vec::new();
        let data = vec![0; LEAST];
        Frame::Datagram { id: 1, seq: 2, header: None, data: &data }.encode(&mut datagram);
        assert!(LargeFrame::begin(&datagram[..100]).is_none(), "a datagram");
        let beyond = [2, 0x80, 0x01, 0x04, 0x01, 0, 0];
        assert!(LargeFrame::begin(&beyond).is_none(), "longer than any frame");
        // A body that says it is shorter than its own fields.
        assert!(LargeFrame::begin(&[2, 1, 0xc0, 0, 0, 0, 0, 0, 0, 1, 0]).is_none());
    }
}
