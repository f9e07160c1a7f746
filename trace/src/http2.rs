//! HTTP/2 behind its preface: each stream an exchange.

mod frames;

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use self::frames::{Broken, Frame, Frames};
use crate::{
    hpack::{Decoder, Name, Value},
    http1::Then,
    seen::{End, Exchange, Version},
    text,
};

/// What a client says first.
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Streams that are looked at at once.
const STREAMS: usize = 1024;

const NO_HPACK: Broken = Broken("a header block is no HPACK");

#[derive(Debug)]
struct Stream {
    exchange: Exchange,
    is_whole: bool,
    is_answered: bool,
}

/// The fields of a header block that matter.
#[derive(Debug, Default)]
struct Fields {
    method: Value,
    path: Option<Value>,
    authority: Value,
    status: Option<u16>,
    grpc_status: Option<u32>,
}

#[derive(Debug)]
pub(crate) struct Http2 {
    with_query: bool,
    client: Frames,
    server: Frames,
    requests: Decoder,
    answers: Decoder,
    streams: HashMap<u32, Stream>,
    /// The highest stream of the client.
    latest: u32,
    skipped: u64,
}

impl Http2 {
    pub(crate) fn new(with_query: bool) -> Self {
        Self {
            with_query,
            client: Frames::default(),
            server: Frames::of_server(),
            requests: Decoder::default(),
            answers: Decoder::default(),
            streams: HashMap::new(),
            latest: 0,
            skipped: 0,
        }
    }

    /// Exchanges that were not looked at.
    pub(crate) fn skipped(&self) -> u64 {
        self.skipped
    }

    pub(crate) fn sent(&mut self, mut bytes: &[u8], at: Duration, done: &mut VecDeque<Exchange>) -> Then {
        while !bytes.is_empty() {
            let handled = match self.client.read(&mut bytes) {
                Ok(Some(frame)) => self.of_client(frame, at, done),
                Ok(None) => Ok(()),
                Err(broken) => Err(broken),
            };
            if let Err(Broken(why)) = handled {
                return Then::Lost(why);
            }
        }
        Then::Follow
    }

    pub(crate) fn received(&mut self, mut bytes: &[u8], at: Duration, done: &mut VecDeque<Exchange>) -> Then {
        while !bytes.is_empty() {
            let handled = match self.server.read(&mut bytes) {
                Ok(Some(frame)) => self.of_server(frame, at, done),
                Ok(None) => Ok(()),
                Err(broken) => Err(broken),
            };
            if let Err(Broken(why)) = handled {
                return Then::Lost(why);
            }
        }
        Then::Follow
    }

    fn of_client(&mut self, frame: Frame, at: Duration, done: &mut VecDeque<Exchange>) -> Result<(), Broken> {
        let (id, bytes, is_last) = match frame {
            Frame::Headers { stream: id, block, bytes, is_last } => {
                let fields = fields(&mut self.requests, &block)?;
                if id > self.latest {
                    self.latest = id;
                    self.open(id, &fields, at);
                }
                (id, bytes, is_last)
            }
            Frame::Data { stream, bytes, is_last } => (stream, bytes, is_last),
            Frame::Reset { stream, code } => {
                self.reset(stream, code, at, done);
                return Ok(());
            }
            Frame::Promise { .. } | Frame::Other => return Ok(()),
        };
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.exchange.sent += bytes;
            stream.is_whole |= is_last;
            if stream.is_whole && stream.is_answered {
                self.tell(id, at, End::Complete, done);
            }
        }
        Ok(())
    }

    fn of_server(&mut self, frame: Frame, at: Duration, done: &mut VecDeque<Exchange>) -> Result<(), Broken> {
        let (id, bytes, is_last) = match frame {
            Frame::Headers { stream: id, block, bytes, is_last } => {
                let fields = fields(&mut self.answers, &block)?;
                if let Some(stream) = self.streams.get_mut(&id) {
                    // Interim answers are not told.
                    let status = fields.status.filter(|status| !(100..200).contains(status));
                    stream.exchange.status = stream.exchange.status.or(status);
                    stream.exchange.grpc_status = stream.exchange.grpc_status.or(fields.grpc_status);
                }
                (id, bytes, is_last)
            }
            Frame::Data { stream, bytes, is_last } => (stream, bytes, is_last),
            Frame::Reset { stream, code } => {
                self.reset(stream, code, at, done);
                return Ok(());
            }
            Frame::Promise { block } => {
                // The table has to go along.
                fields(&mut self.answers, &block)?;
                return Ok(());
            }
            Frame::Other => return Ok(()),
        };
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.exchange.received += bytes;
            if is_last && !stream.is_answered {
                stream.is_answered = true;
                stream.exchange.took = at.saturating_sub(stream.exchange.began);
            }
            if stream.is_whole && stream.is_answered {
                self.tell(id, at, End::Complete, done);
            }
        }
        Ok(())
    }

    fn open(&mut self, id: u32, fields: &Fields, at: Duration) {
        if self.streams.len() >= STREAMS {
            self.skipped += 1;
            return;
        }
        // A CONNECT has no path.
        let target = fields.path.as_ref().unwrap_or(&fields.authority);
        let exchange = Exchange {
            method: text::shown(&fields.method.bytes, fields.method.is_cut),
            target: text::target(&target.bytes, target.is_cut, self.with_query),
            began: at,
            ..Exchange::new(Version::Http2)
        };
        self.streams.insert(id, Stream { exchange, is_whole: false, is_answered: false });
    }

    fn reset(&mut self, id: u32, code: u32, at: Duration, done: &mut VecDeque<Exchange>) {
        self.tell(id, at, End::Reset(code), done);
    }

    fn tell(&mut self, id: u32, at: Duration, end: End, done: &mut VecDeque<Exchange>) {
        let Some(Stream { mut exchange, is_answered, .. }) = self.streams.remove(&id) else { return };
        if is_answered {
            exchange.end = End::Complete;
        } else {
            exchange.end = end;
            exchange.took = at.saturating_sub(exchange.began);
        }
        done.push_back(exchange);
    }

    /// The connection is over, or can't be followed any more.
    pub(crate) fn ended(&mut self, at: Duration, done: &mut VecDeque<Exchange>) {
        let mut left: Vec<u32> = self.streams.keys().copied().collect();
        left.sort_unstable();
        for id in left {
            self.tell(id, at, End::Cut, done);
        }
    }
}

fn fields(decoder: &mut Decoder, block: &[u8]) -> Result<Fields, Broken> {
    let mut fields = Fields::default();
    let decoded = decoder.decode(block, |name, value| match name {
        Name::Method => fields.method = value.clone(),
        Name::Path => fields.path = Some(value.clone()),
        Name::Authority => fields.authority = value.clone(),
        Name::Status => fields.status = number(value),
        Name::GrpcStatus => fields.grpc_status = number(value),
        Name::Other => {}
    });
    decoded.map_err(|_| NO_HPACK)?;
    Ok(fields)
}

fn number<T: std::str::FromStr>(value: &Value) -> Option<T> {
    let is_number = !value.is_cut && value.bytes.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(&value.bytes).ok().filter(|_| is_number)?.parse().ok()
}
