//! As much of a DNS message as has to be understood to pass it on: its header, its question, and what its sender can
//! take. Everything else is bytes.
//!
//! Reading is total: any bytes give a query, or what to do about them; nothing is allocated by a count in a message.

use bytes::{BufMut, Bytes, BytesMut};

/// Bytes before the question.
pub const HEADER: usize = 12;
/// The largest answer over UDP to whoever names no other size.
pub const CLASSIC_PAYLOAD: usize = 512;
/// What an answer of our own says that we take.
const OWN_PAYLOAD: u16 = 1232;
/// The longest name, with its lengths and its end.
const MAX_NAME: usize = 255;
const TYPE_OPT: u16 = 41;
const TYPE_IXFR: u16 = 251;
const TYPE_AXFR: u16 = 252;

/// The codes that this server answers with by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Rcode {
    /// The query cannot be read.
    FormErr = 1,
    /// Nothing answered in time.
    ServFail = 2,
    /// Something else than a query.
    NotImp = 4,
    /// Transfers of whole zones are not passed on.
    Refused = 5,
}

/// A query that can be passed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// The whole message.
    pub bytes: Bytes,
    /// Where the question ends; it begins behind the header.
    question_end: usize,
    /// The largest UDP payload that its sender takes, as its EDNS says; `None` without EDNS.
    payload: Option<u16>,
}

/// What is no query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unfit {
    /// Too short for a header, or an answer: to reply could go on for ever.
    Ignored,
    /// To be answered with this.
    Answered(Bytes),
}

impl Query {
    /// Reads a message from a client.
    ///
    /// # Errors
    /// What to do with it instead of passing it on.
    pub fn read(bytes: Bytes) -> Result<Self, Unfit> {
        if bytes.len() < HEADER || is_response(&bytes) {
            return Err(Unfit::Ignored);
        }
        let refused = |rcode, question_end| Err(Unfit::Answered(reply(&bytes, question_end, None, rcode)));
        let question_end = (count(&bytes, 4) == 1).then(|| question_end(&bytes)).flatten();
        if opcode(&bytes) != 0 {
            return refused(Rcode::NotImp, question_end);
        }
        let Some(end) = question_end else { return refused(Rcode::FormErr, None) };
        let Some(payload) = payload(&bytes, end) else { return refused(Rcode::FormErr, Some(end)) };
        let query = Self { bytes, question_end: end, payload };
        if matches!(query.kind(), TYPE_AXFR | TYPE_IXFR) {
            return Err(Unfit::Answered(query.fail(Rcode::Refused)));
        }
        Ok(query)
    }

    /// The id that its sender gave.
    pub fn id(&self) -> u16 {
        u16_at(&self.bytes, 0).unwrap_or_default()
    }

    /// Name, type and class, as they were written.
    pub fn question(&self) -> &[u8] {
        &self.bytes[HEADER..self.question_end]
    }

    /// The type that is asked for.
    pub fn kind(&self) -> u16 {
        u16_at(&self.bytes, self.question_end - 4).unwrap_or_default()
    }

    /// How many labels its name has.
    pub fn labels(&self) -> usize {
        let name = self.question();
        let (mut at, mut labels) = (0, 0);
        while name[at] != 0 {
            at += 1 + usize::from(name[at]);
            labels += 1;
        }
        labels
    }

    /// The same, with another id.
    pub fn with_id(&self, id: u16) -> Bytes {
        with_id(&self.bytes, id)
    }

    /// Whether a message answers it; its id has been looked at. The name server repeats the question, but where it
    /// could not read it.
    pub fn is_answered_by(&self, message: &[u8]) -> bool {
        if message.len() < HEADER || !is_response(message) {
            return false;
        }
        if count(message, 4) == 0 {
            return message[3] & 0x0f != 0;
        }
        let (asked, Some(told)) = (self.question(), message.get(HEADER..self.question_end)) else {
            return false;
        };
        let (name, kind) = asked.split_at(asked.len() - 4);
        let (told_name, told_kind) = told.split_at(asked.len() - 4);
        count(message, 4) == 1 && name.eq_ignore_ascii_case(told_name) && kind == told_kind
    }

    /// An answer of our own.
    pub fn fail(&self, rcode: Rcode) -> Bytes {
        reply(&self.bytes, Some(self.question_end), self.payload, rcode)
    }

    /// The answer as it may go out over UDP: what is larger than the sender takes becomes an invitation to ask over
    /// TCP.
    pub fn fitted(&self, answer: Bytes) -> Bytes {
        let limit = self.payload.map_or(CLASSIC_PAYLOAD, |payload| CLASSIC_PAYLOAD.max(payload.into()));
        if answer.len() <= limit {
            return answer;
        }
        let mut cut = BytesMut::with_capacity(self.question_end + 11);
        cut.put_slice(&answer[..4]);
        cut[2] |= 0x02;
        put_rest(&mut cut, self.question(), self.payload.is_some());
        cut.freeze()
    }
}

/// A message with another id.
pub(crate) fn with_id(message: &[u8], id: u16) -> Bytes {
    let mut other = BytesMut::from(message);
    other[..2].copy_from_slice(&id.to_be_bytes());
    other.freeze()
}

/// A message's id, if it has one.
pub(crate) fn id(message: &[u8]) -> Option<u16> {
    u16_at(message, 0)
}

/// The answer's code, without what EDNS adds.
pub(crate) fn rcode(answer: &[u8]) -> u8 {
    answer.get(3).map_or(0, |byte| byte & 0x0f)
}

fn reply(query: &[u8], question_end: Option<usize>, payload: Option<u16>, rcode: Rcode) -> Bytes {
    let question = question_end.map_or(&[][..], |end| &query[HEADER..end]);
    let mut answer = BytesMut::with_capacity(HEADER + question.len() + 11);
    answer.put_slice(&query[..2]);
    // A response; its opcode, and whether recursion is wanted, as in the query. Recursion is to be had.
    answer.put_u8(0x80 | (query[2] & 0x79));
    answer.put_u8(0x80 | rcode as u8);
    put_rest(&mut answer, question, payload.is_some());
    answer.freeze()
}

/// Counts, question, and EDNS for whoever speaks it.
fn put_rest(message: &mut BytesMut, question: &[u8], edns: bool) {
    for count in [u16::from(!question.is_empty()), 0, 0, u16::from(edns)] {
        message.put_u16(count);
    }
    message.put_slice(question);
    if edns {
        message.put_u8(0);
        message.put_u16(TYPE_OPT);
        message.put_u16(OWN_PAYLOAD);
        message.put_u32(0);
        message.put_u16(0);
    }
}

fn is_response(message: &[u8]) -> bool {
    message[2] & 0x80 != 0
}

fn opcode(message: &[u8]) -> u8 {
    (message[2] >> 3) & 0x0f
}

fn count(message: &[u8], at: usize) -> u16 {
    u16_at(message, at).unwrap_or_default()
}

fn u16_at(message: &[u8], at: usize) -> Option<u16> {
    let bytes = message.get(at..at.checked_add(2)?)?;
    Some(u16::from_be_bytes([bytes[0], bytes[1]]))
}

/// Where the first question ends. Its name has nothing before it that it could point at.
fn question_end(message: &[u8]) -> Option<usize> {
    let mut at = HEADER;
    loop {
        match *message.get(at)? {
            0 => break,
            length @ 1..=63 => at += 1 + usize::from(length),
            _ => return None,
        }
        if at - HEADER >= MAX_NAME {
            return None;
        }
    }
    let end = at + 1 + 4;
    (end <= message.len()).then_some(end)
}

/// The payload size in the query's EDNS, if it has one; `None` when its records cannot be read, or there is more than
/// one EDNS.
fn payload(message: &[u8], mut at: usize) -> Option<Option<u16>> {
    let mut found = None;
    let records: u32 = [6, 8, 10].map(|at| u32::from(count(message, at))).iter().sum();
    // Each record takes eleven bytes or more, so the message's end ends this.
    for _ in 0..records {
        at = record_name_end(message, at)?;
        let (kind, class, length) =
            (u16_at(message, at)?, u16_at(message, at + 2)?, u16_at(message, at + 8)?);
        at += 10 + usize::from(length);
        if at > message.len() {
            return None;
        }
        if kind == TYPE_OPT && found.replace(class).is_some() {
            return None;
        }
    }
    Some(found)
}

/// Where a record's name ends, which may be at a pointer: where that leads is of no interest.
fn record_name_end(message: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *message.get(at)? {
            0 => return Some(at + 1),
            length @ 1..=63 => at += 1 + usize::from(length),
            192.. => return Some(at + 2),
            _ => return None,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
