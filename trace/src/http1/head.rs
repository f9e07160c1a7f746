//! The head of a request or an answer, line by line: only the first line and what says where the message ends is kept, so
//! that no head is too large to be followed. A parser that wants a whole head at once would have to keep it.

use super::body::Body;
use crate::seen::Version;

/// The longest first line, in bytes.
const FIRST_LINE: usize = 16 << 10;
/// What is kept of each header's line.
const LINE: usize = 256;
/// The longest method.
const METHOD: usize = 24;

/// Why a head can't be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bad {
    /// It is none at all.
    NotHttp,
    /// It is one, and nobody can say where its message ends.
    Unclear(&'static str),
}

/// Whose head it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Client,
    Server,
}

/// A head that is read.
#[derive(Debug)]
pub(super) struct Head {
    side: Side,
    /// The first line, or as much of it as is there.
    pub(super) first: Vec<u8>,
    /// Whether the first line is whole.
    pub(super) has_first: bool,
    line: Vec<u8>,
    line_len: usize,
    /// Bytes so far, the blank lines before it not among them.
    pub(super) bytes: u64,
    length: Option<u64>,
    /// The last of the transfer codings, if there are any: whether it is `chunked`.
    chunked: Option<bool>,
    pub(super) wants_upgrade: bool,
}

impl Head {
    pub(super) fn of(side: Side) -> Self {
        Self {
            side,
            first: Vec::new(),
            has_first: false,
            line: Vec::new(),
            line_len: 0,
            bytes: 0,
            length: None,
            chunked: None,
            wants_upgrade: false,
        }
    }

    /// Takes from the front of `bytes` what is the head's; true where it is complete.
    pub(super) fn read(&mut self, bytes: &mut &[u8]) -> Result<bool, Bad> {
        while !bytes.is_empty() {
            let end = bytes.iter().position(|byte| *byte == b'\n');
            let piece = bytes.split_off(..end.map_or(bytes.len(), |at| at + 1)).unwrap_or_default();
            let text = &piece[..piece.len() - usize::from(end.is_some())];
            self.bytes += piece.len() as u64;
            if self.has_first {
                let room = LINE.saturating_sub(self.line.len()).min(text.len());
                self.line.extend_from_slice(&text[..room]);
                self.line_len += text.len();
                if end.is_some() && self.end_of_line()? {
                    return Ok(true);
                }
            } else {
                self.first_line(text, end.is_some())?;
            }
        }
        Ok(false)
    }

    fn first_line(&mut self, text: &[u8], ends: bool) -> Result<(), Bad> {
        let room = (FIRST_LINE - self.first.len()).min(text.len());
        self.first.extend_from_slice(&text[..room]);
        let is_too_long = room < text.len();
        let ends = ends && !is_too_long;
        if ends && matches!(self.first.as_slice(), b"" | b"\r") {
            // Blank lines before a head are passed over.
            self.first.clear();
            self.bytes = 0;
            return Ok(());
        }
        let line = self.first.strip_suffix(b"\r").unwrap_or(&self.first);
        // What is whole has to pass as its beginnings have, or it would matter in which pieces it came.
        let can_be = match self.side {
            Side::Client => can_be_request(line) && (!ends || request_line(line).is_some()),
            Side::Server => can_be_answer(line) && (!ends || status_line(line).is_some()),
        };
        if !can_be {
            return Err(Bad::NotHttp);
        }
        if is_too_long {
            return Err(Bad::Unclear("a first line of more than 16 KiB"));
        }
        if ends {
            self.first.truncate(line.len());
            self.has_first = true;
        }
        Ok(())
    }

    /// True at the blank line that ends the head.
    fn end_of_line(&mut self) -> Result<bool, Bad> {
        let mut line = std::mem::take(&mut self.line);
        let is_cut = std::mem::take(&mut self.line_len) > line.len();
        if !is_cut && line.last() == Some(&b'\r') {
            line.pop();
        }
        if line.is_empty() {
            return Ok(true);
        }
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { return Ok(false) };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.eq_ignore_ascii_case(b"content-length") {
            let length =
                length(value).filter(|_| !is_cut).ok_or(Bad::Unclear("a Content-Length that is none"))?;
            if self.length.is_some_and(|before| before != length) {
                return Err(Bad::Unclear("two values of Content-Length"));
            }
            self.length = Some(length);
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            let last = value.rsplit(|byte| *byte == b',').next().unwrap_or_default().trim_ascii();
            self.chunked = Some(!is_cut && last.eq_ignore_ascii_case(b"chunked"));
        } else if name.eq_ignore_ascii_case(b"upgrade") {
            self.wants_upgrade = true;
        }
        Ok(false)
    }

    /// What follows a request.
    pub(super) fn body_of_request(&self) -> Result<Body, Bad> {
        match (self.chunked, self.length) {
            (Some(true), _) => Ok(Body::chunked()),
            (Some(false), _) => Err(Bad::Unclear("a request whose end nobody can tell")),
            (None, Some(length)) => Ok(Body::Length(length)),
            (None, None) => Ok(Body::Length(0)),
        }
    }

    /// What follows an answer that has a body.
    pub(super) fn body_of_answer(&self) -> Body {
        match (self.chunked, self.length) {
            (Some(true), _) => Body::chunked(),
            (None, Some(length)) => Body::Length(length),
            (Some(false), _) | (None, None) => Body::UntilEnd,
        }
    }
}

fn version(text: &[u8]) -> Option<Version> {
    match text {
        b"HTTP/1.0" => Some(Version::Http10),
        b"HTTP/1.1" => Some(Version::Http11),
        _ => None,
    }
}

/// Method, target, version.
pub(super) fn request_line(line: &[u8]) -> Option<(&[u8], &[u8], Version)> {
    let mut words = line.split(|byte| *byte == b' ');
    let (method, target, version) = (words.next()?, words.next()?, version(words.next()?)?);
    (!target.is_empty() && words.next().is_none()).then_some((method, target, version))
}

/// Version and status.
pub(super) fn status_line(line: &[u8]) -> Option<(Version, u16)> {
    let mut words = line.split(|byte| *byte == b' ');
    let (version, status) = (version(words.next()?)?, words.next()?);
    let is_number = status.len() == 3 && status.iter().all(u8::is_ascii_digit);
    let status = std::str::from_utf8(status).ok().filter(|_| is_number)?.parse().ok()?;
    (100..=999).contains(&status).then_some((version, status))
}

/// Whether a request can begin so: a method and a space.
fn can_be_request(begin: &[u8]) -> bool {
    let end = begin.iter().take(METHOD + 1).position(|byte| *byte == b' ');
    let method = &begin[..end.unwrap_or(begin.len())];
    let is_letter = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    method.len() <= METHOD && end != Some(0) && method.iter().all(is_letter)
}

/// Whether an answer can begin so.
fn can_be_answer(begin: &[u8]) -> bool {
    begin.iter().zip(b"HTTP/1.").all(|(byte, wanted)| byte == wanted)
}

/// Digits, or the same digits several times with commas.
fn length(value: &[u8]) -> Option<u64> {
    let mut all = value.split(|byte| *byte == b',').map(|digits| {
        let digits = digits.trim_ascii();
        let is_number = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
        std::str::from_utf8(digits).ok().filter(|_| is_number)?.parse::<u64>().ok()
    });
    let first = all.next()??;
    all.all(|other| other == Some(first)).then_some(first)
}
