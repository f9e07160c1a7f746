//! One direction of HTTP/2 as frames (RFC 9113, section 4): those that matter are handed on whole, header blocks put
//! together; of all others only the length is looked at.

/// The largest header block that is put together, in bytes.
const BLOCK: usize = 64 << 10;

/// END_STREAM, and of a header block END_HEADERS, PADDED and PRIORITY.
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const PRIORITY: u8 = 32;

/// A frame that matters.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Frame {
    /// A piece of a stream's data, with so many bytes of the connection, and whether it is the last.
    Data {
        stream: u32,
        bytes: u64,
        is_last: bool,
    },
    /// A whole header block.
    Headers {
        stream: u32,
        block: Vec<u8>,
        bytes: u64,
        is_last: bool,
    },
    /// A whole header block of a request that the server makes up.
    Promise {
        block: Vec<u8>,
    },
    Reset {
        stream: u32,
        code: u32,
    },
    Other,
}

/// The frames are none, or too large.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Broken(pub(super) &'static str);

/// The beginning of a header block that goes on.
#[derive(Debug)]
struct Begun {
    stream: u32,
    block: Vec<u8>,
    bytes: u64,
    is_last: bool,
    is_promise: bool,
}

#[derive(Debug, Default)]
pub(super) struct Frames {
    header: [u8; 9],
    /// How much of the header is there.
    have: usize,
    /// How much of the payload is not.
    left: usize,
    /// What is kept of the payload.
    payload: Vec<u8>,
    begun: Option<Begun>,
    /// The kind that the first frame must have, until it is there.
    first: Option<u8>,
}

impl Frames {
    /// A server's, whose first frame has settings.
    pub(super) fn of_server() -> Self {
        Self { first: Some(4), ..Self::default() }
    }

    /// Takes from the front of `bytes` up to the end of a frame.
    pub(super) fn read(&mut self, bytes: &mut &[u8]) -> Result<Option<Frame>, Broken> {
        if self.have < self.header.len() {
            let count = (self.header.len() - self.have).min(bytes.len());
            let (taken, rest) = bytes.split_at(count);
            self.header[self.have..self.have + count].copy_from_slice(taken);
            (self.have, *bytes) = (self.have + count, rest);
            if self.have < self.header.len() {
                return Ok(None);
            }
            self.begin()?;
        }
        let (taken, rest) = bytes.split_at(self.left.min(bytes.len()));
        if self.is_kept() {
            self.payload.extend_from_slice(taken);
        }
        self.left -= taken.len();
        *bytes = rest;
        if self.left > 0 {
            return Ok(None);
        }
        self.have = 0;
        self.whole().map(Some)
    }

    fn length(&self) -> usize {
        u32::from_be_bytes([0, self.header[0], self.header[1], self.header[2]]) as usize
    }

    fn stream(&self) -> u32 {
        let [.., a, b, c, d] = self.header;
        u32::from_be_bytes([a & 0x7f, b, c, d])
    }

    fn is_kept(&self) -> bool {
        matches!(self.header[3], 1 | 3 | 5 | 9)
    }

    fn begin(&mut self) -> Result<(), Broken> {
        let (kind, length) = (self.header[3], self.length());
        if self.first.take().is_some_and(|first| first != kind) {
            return Err(Broken("the server does not answer in HTTP/2"));
        }
        if (kind == 9) != self.begun.is_some() {
            return Err(Broken("a header block is broken off"));
        }
        let before = self.begun.as_ref().map_or(0, |begun| begun.block.len());
        if self.is_kept() && before + length > BLOCK {
            return Err(Broken("a header block of more than 64 KiB"));
        }
        self.left = length;
        Ok(())
    }

    fn whole(&mut self) -> Result<Frame, Broken> {
        let payload = std::mem::take(&mut self.payload);
        let (kind, flags, stream) = (self.header[3], self.header[4], self.stream());
        let bytes = (self.header.len() + self.length()) as u64;
        let is_last = flags & END_STREAM != 0;
        Ok(match kind {
            0 => Frame::Data { stream, bytes, is_last },
            1 | 5 => {
                let is_promise = kind == 5;
                let block =
                    fragment(&payload, flags, is_promise).ok_or(Broken("a header block is broken"))?;
                let begun = Begun { stream, block: block.to_vec(), bytes, is_last, is_promise };
                self.go_on(begun, flags)
            }
            9 => {
                let Some(mut begun) = self.begun.take().filter(|begun| begun.stream == stream) else {
                    return Err(Broken("a header block is broken off"));
                };
                begun.block.extend_from_slice(&payload);
                begun.bytes += bytes;
                self.go_on(begun, flags)
            }
            3 => match payload.first_chunk() {
                Some(code) => Frame::Reset { stream, code: u32::from_be_bytes(*code) },
                None => return Err(Broken("a frame is too short")),
            },
            _ => Frame::Other,
        })
    }

    fn go_on(&mut self, begun: Begun, flags: u8) -> Frame {
        if flags & END_HEADERS == 0 {
            self.begun = Some(begun);
            return Frame::Other;
        }
        let Begun { stream, block, bytes, is_last, is_promise } = begun;
        if is_promise { Frame::Promise { block } } else { Frame::Headers { stream, block, bytes, is_last } }
    }
}

/// The part of a header block in a frame, without padding and what else stands before it.
fn fragment(mut payload: &[u8], flags: u8, is_promise: bool) -> Option<&[u8]> {
    let padding = if flags & PADDED != 0 { usize::from(*payload.split_off_first()?) } else { 0 };
    if is_promise {
        payload.split_off(..4)?;
    } else if flags & PRIORITY != 0 {
        payload.split_off(..5)?;
    }
    payload.get(..payload.len().checked_sub(padding)?)
}
