//! HTTP/1: requests and answers, each answer told with its request. Both directions are read as an endpoint would, and
//! where two endpoints could disagree about the end of a message, it is said that track is lost.

mod body;
mod head;

use std::{collections::VecDeque, time::Duration};

use self::{
    body::Body,
    head::{Bad, Head, Side, request_line, status_line},
};
use crate::{
    seen::{End, Exchange, Version},
    text,
};

/// Requests that may wait for their answers.
const PENDING: usize = 256;
/// What a client may send behind a request that would end HTTP, before its answer, in bytes.
const HELD: usize = 64 << 10;

/// What becomes of the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Then {
    /// It goes on.
    Follow,
    /// It goes on in another protocol, as has been told.
    Switched,
    /// It is no HTTP.
    NotHttp,
    /// It cannot be followed.
    Lost(&'static str),
}

/// A request that has no whole answer yet.
#[derive(Debug)]
struct Pending {
    exchange: Exchange,
    is_whole: bool,
    is_answered: bool,
    wants_upgrade: bool,
}

/// What a direction is in.
#[derive(Debug)]
enum Part {
    Head(Head),
    Body(Body),
}

#[derive(Debug)]
pub(crate) struct Http1 {
    with_query: bool,
    client: Part,
    server: Part,
    /// When the head began that the client is in.
    began: Duration,
    pending: VecDeque<Pending>,
    /// What the client said behind a request that its answer may make the last one.
    held: Option<Vec<u8>>,
    /// Whether anything was HTTP.
    has_begun: bool,
}

impl Http1 {
    pub(crate) fn new(with_query: bool) -> Self {
        Self {
            with_query,
            client: Part::Head(Head::of(Side::Client)),
            server: Part::Head(Head::of(Side::Server)),
            began: Duration::ZERO,
            pending: VecDeque::new(),
            held: None,
            has_begun: false,
        }
    }

    /// Whether anything has been HTTP.
    pub(crate) fn has_begun(&self) -> bool {
        self.has_begun
    }

    pub(crate) fn sent(&mut self, mut bytes: &[u8], at: Duration, done: &mut VecDeque<Exchange>) -> Then {
        while !bytes.is_empty() {
            if let Some(held) = &mut self.held {
                if held.len() + bytes.len() > HELD {
                    return Then::Lost("too much behind a request whose answer is not there");
                }
                held.extend_from_slice(bytes);
                return Then::Follow;
            }
            match &mut self.client {
                Part::Head(head) => {
                    if head.bytes == 0 {
                        self.began = at;
                    }
                    match head.read(&mut bytes) {
                        Ok(false) => {}
                        Ok(true) => {
                            if let Err(bad) = self.request() {
                                return self.bad(bad);
                            }
                        }
                        Err(bad) => return self.bad(bad),
                    }
                }
                Part::Body(body) => {
                    let before = bytes.len();
                    let is_broken = body.read(&mut bytes).is_none();
                    let is_done = body.is_done();
                    if let Some(last) = self.pending.back_mut() {
                        last.exchange.sent += (before - bytes.len()) as u64;
                    }
                    if is_broken {
                        return Then::Lost("a request's chunks are broken");
                    }
                    if is_done {
                        self.request_is_whole();
                    }
                }
            }
            // An answer may have come before the request's end.
            self.tell_answered(at, done);
        }
        Then::Follow
    }

    /// The client's head is complete.
    fn request(&mut self) -> Result<(), Bad> {
        let Part::Head(head) = std::mem::replace(&mut self.client, Part::Head(Head::of(Side::Client))) else {
            return Ok(());
        };
        let mut exchange = asked(&head.first, self.with_query).ok_or(Bad::NotHttp)?;
        if self.pending.len() >= PENDING {
            return Err(Bad::Unclear("too many requests wait for their answers"));
        }
        let body = head.body_of_request()?;
        (exchange.began, exchange.sent) = (self.began, head.bytes);
        let wants_upgrade = head.wants_upgrade || exchange.method == "CONNECT";
        self.has_begun = true;
        self.pending.push_back(Pending { exchange, is_whole: false, is_answered: false, wants_upgrade });
        if body.is_done() {
            self.request_is_whole();
        } else {
            self.client = Part::Body(body);
        }
        Ok(())
    }

    fn request_is_whole(&mut self) {
        self.client = Part::Head(Head::of(Side::Client));
        if let Some(last) = self.pending.back_mut() {
            last.is_whole = true;
            if last.wants_upgrade && !last.is_answered {
                self.held = Some(Vec::new());
            }
        }
    }

    pub(crate) fn received(&mut self, mut bytes: &[u8], at: Duration, done: &mut VecDeque<Exchange>) -> Then {
        while !bytes.is_empty() {
            let before = bytes.len();
            match &mut self.server {
                Part::Head(head) => match head.read(&mut bytes) {
                    Ok(false) => {}
                    Ok(true) => match self.answer(at, done) {
                        Ok(Then::Follow) => {}
                        Ok(then) => return then,
                        Err(bad) => return self.bad(bad),
                    },
                    Err(bad) => return self.bad(bad),
                },
                Part::Body(body) => {
                    let is_broken = body.read(&mut bytes).is_none();
                    let is_done = body.is_done();
                    if let Some(first) = self.pending.front_mut() {
                        first.exchange.received += (before - bytes.len()) as u64;
                    }
                    if is_broken {
                        return Then::Lost("an answer's chunks are broken");
                    }
                    if is_done {
                        let then = self.answer_is_whole(at, done);
                        if then != Then::Follow {
                            return then;
                        }
                    }
                }
            }
        }
        Then::Follow
    }

    /// The server's head is complete.
    fn answer(&mut self, at: Duration, done: &mut VecDeque<Exchange>) -> Result<Then, Bad> {
        let Part::Head(head) = std::mem::replace(&mut self.server, Part::Head(Head::of(Side::Server))) else {
            return Ok(Then::Follow);
        };
        let (version, status) = status_line(&head.first).ok_or(Bad::NotHttp)?;
        self.has_begun = true;
        if self.pending.is_empty() {
            // Servers say so when they close what was idle, or what they could not read.
            let exchange = Exchange { began: at, ..Exchange::new(version) };
            let (is_whole, is_answered, wants_upgrade) = (true, false, false);
            self.pending.push_back(Pending { exchange, is_whole, is_answered, wants_upgrade });
        }
        let Some(first) = self.pending.front_mut() else { return Ok(Then::Follow) };
        if first.is_answered {
            return Err(Bad::Unclear("two answers to one request"));
        }
        first.exchange.received += head.bytes;
        if matches!(status, 100 | 102..=199) {
            return Ok(Then::Follow);
        }
        let method = first.exchange.method.as_str();
        let is_tunnel = method == "CONNECT" && (200..300).contains(&status);
        first.exchange.status = Some(status);
        if is_tunnel || status == 101 {
            if !first.wants_upgrade {
                return Err(Bad::Unclear("another protocol that was not asked for"));
            }
            self.tell_first(at, End::Switched, done);
            return Ok(Then::Switched);
        }
        let has_none = method == "HEAD" || matches!(status, 204 | 304);
        let body = if has_none { Body::Length(0) } else { head.body_of_answer() };
        if body.is_done() {
            return Ok(self.answer_is_whole(at, done));
        }
        self.server = Part::Body(body);
        Ok(Then::Follow)
    }

    fn answer_is_whole(&mut self, at: Duration, done: &mut VecDeque<Exchange>) -> Then {
        self.server = Part::Head(Head::of(Side::Server));
        let Some(first) = self.pending.front_mut() else { return Then::Follow };
        first.is_answered = true;
        first.exchange.took = at.saturating_sub(first.exchange.began);
        let is_last = self.pending.len() == 1;
        self.tell_answered(at, done);
        // It was not the last request after all.
        match self.held.take_if(|_| is_last) {
            Some(held) => self.sent(&held, at, done),
            None => Then::Follow,
        }
    }

    /// Tells the first exchange where both its ends are there.
    fn tell_answered(&mut self, at: Duration, done: &mut VecDeque<Exchange>) {
        if self.pending.front().is_some_and(|first| first.is_whole && first.is_answered) {
            self.tell_first(at, End::Complete, done);
        }
    }

    fn tell_first(&mut self, at: Duration, end: End, done: &mut VecDeque<Exchange>) {
        if let Some(Pending { mut exchange, is_answered, .. }) = self.pending.pop_front() {
            if !is_answered {
                exchange.took = at.saturating_sub(exchange.began);
            }
            exchange.end = if is_answered { End::Complete } else { end };
            done.push_back(exchange);
        }
    }

    /// The server has no more to say.
    pub(crate) fn received_all(&mut self, at: Duration, done: &mut VecDeque<Exchange>) {
        if matches!(self.server, Part::Body(Body::UntilEnd)) {
            self.answer_is_whole(at, done);
        }
    }

    /// The connection is over, or can't be followed any more.
    pub(crate) fn ended(&mut self, at: Duration, done: &mut VecDeque<Exchange>) {
        while !self.pending.is_empty() {
            self.tell_first(at, End::Cut, done);
        }
        // A request that was not even whole.
        if let Part::Head(head) = &self.client
            && head.has_first
            && let Some(exchange) = asked(&head.first, self.with_query)
        {
            let took = at.saturating_sub(self.began);
            done.push_back(Exchange { began: self.began, took, sent: head.bytes, end: End::Cut, ..exchange });
            self.client = Part::Head(Head::of(Side::Client));
        }
    }

    fn bad(&mut self, bad: Bad) -> Then {
        match bad {
            Bad::NotHttp if self.has_begun => Then::Lost("what follows is no HTTP"),
            Bad::NotHttp => Then::NotHttp,
            Bad::Unclear(why) => {
                self.has_begun = true;
                Then::Lost(why)
            }
        }
    }
}

impl Exchange {
    /// Nothing is known yet.
    pub(crate) fn new(version: Version) -> Self {
        Self {
            version,
            method: String::new(),
            target: String::new(),
            status: None,
            grpc_status: None,
            began: Duration::ZERO,
            took: Duration::ZERO,
            sent: 0,
            received: 0,
            end: End::Complete,
        }
    }
}

/// What a request's first line tells.
fn asked(line: &[u8], with_query: bool) -> Option<Exchange> {
    let (method, target, version) = request_line(line)?;
    let target = text::target(target, false, with_query);
    Some(Exchange { method: text::shown(method, false), target, ..Exchange::new(version) })
}
