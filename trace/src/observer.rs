//! One connection: finds out what it speaks, and hands its bytes to whoever understands that.

use std::{collections::VecDeque, time::Duration};

use crate::{
    http1::{Http1, Then},
    http2::{Http2, PREFACE},
    seen::{Exchange, Hello, Seen},
    tls::Greeting,
};

/// What the server may say before it is known what the client speaks, in bytes.
const EARLY: usize = 4096;
/// The beginning of a frame of settings, which a server of HTTP/2 may send first, but for its length and flags.
const SETTINGS: [Option<u8>; 9] = [Some(0), Some(0), None, Some(4), None, Some(0), Some(0), Some(0), Some(0)];

/// Tells what passes a connection. Times are counted from its beginning. What has been told by whom, and in which order,
/// matters; in which pieces it comes does not.
#[derive(Debug)]
pub struct Observer {
    with_query: bool,
    speaks: Speaks,
    seen: VecDeque<Seen>,
}

#[derive(Debug)]
enum Speaks {
    /// It is not known yet: the first bytes of both.
    Unknown {
        client: Vec<u8>,
        server: Vec<u8>,
    },
    Http1(Box<Http1>),
    Http2(Box<Http2>),
    Tls(Greeting),
    /// All has been told.
    Whatever,
}

impl Observer {
    /// Of a connection that begins. Query strings and the like are shown where `with_query` says so.
    pub fn new(with_query: bool) -> Self {
        let speaks = Speaks::Unknown { client: Vec::new(), server: Vec::new() };
        Self { with_query, speaks, seen: VecDeque::new() }
    }

    /// The client said this.
    pub fn sent(&mut self, bytes: &[u8], at: Duration) {
        if bytes.is_empty() {
            return;
        }
        match &mut self.speaks {
            Speaks::Unknown { client, .. } => {
                let before = client.len();
                let room = (PREFACE.len() - before).min(bytes.len());
                client.extend_from_slice(&bytes[..room]);
                match guess(client) {
                    Guess::Unknown => {}
                    Guess::Other => self.begin(Speaks::Whatever, &[], at, Some(Seen::NotHttp)),
                    Guess::Tls => self.begin(Speaks::Tls(Greeting::default()), &bytes[room..], at, None),
                    Guess::Http2 => {
                        self.begin(
                            Speaks::Http2(Http2::new(self.with_query).into()),
                            &bytes[room..],
                            at,
                            None,
                        );
                    }
                    Guess::Http1 => {
                        self.begin(
                            Speaks::Http1(Http1::new(self.with_query).into()),
                            &bytes[room..],
                            at,
                            None,
                        );
                    }
                }
            }
            Speaks::Http1(http) => {
                let mut done = VecDeque::new();
                let then = http.sent(bytes, at, &mut done);
                self.follow(done, then, at);
            }
            Speaks::Http2(http) => {
                let mut done = VecDeque::new();
                let then = http.sent(bytes, at, &mut done);
                self.follow(done, then, at);
            }
            Speaks::Tls(greeting) => {
                if let Some(hello) = greeting.read(bytes) {
                    self.tell_last(Seen::Tls(hello));
                }
            }
            Speaks::Whatever => {}
        }
    }

    /// The server said this.
    pub fn received(&mut self, bytes: &[u8], at: Duration) {
        if bytes.is_empty() {
            return;
        }
        match &mut self.speaks {
            Speaks::Unknown { client, server } => {
                let room = (EARLY - server.len()).min(bytes.len());
                server.extend_from_slice(&bytes[..room]);
                let is_settings = server
                    .iter()
                    .zip(SETTINGS)
                    .all(|(byte, wanted)| wanted.is_none_or(|wanted| wanted == *byte));
                if is_settings && server.len() < EARLY {
                    return;
                }
                // Whoever hears something before it has said anything may hear that it was too slow.
                let is_http =
                    client.is_empty() && server.iter().zip(b"HTTP/1.").all(|(byte, wanted)| byte == wanted);
                if is_http {
                    if server.len() >= b"HTTP/1.".len() {
                        self.begin(Speaks::Http1(Http1::new(self.with_query).into()), &[], at, None);
                        self.received(&bytes[room..], at);
                    }
                    return;
                }
                self.tell_last(Seen::NotHttp);
            }
            Speaks::Http1(http) => {
                let mut done = VecDeque::new();
                let then = http.received(bytes, at, &mut done);
                self.follow(done, then, at);
            }
            Speaks::Http2(http) => {
                let mut done = VecDeque::new();
                let then = http.received(bytes, at, &mut done);
                self.follow(done, then, at);
            }
            Speaks::Tls(_) | Speaks::Whatever => {}
        }
    }

    /// The client has no more to say.
    pub fn sent_all(&mut self, _at: Duration) {}

    /// The server has no more to say.
    pub fn received_all(&mut self, at: Duration) {
        if let Speaks::Http1(http) = &mut self.speaks {
            let mut done = VecDeque::new();
            http.received_all(at, &mut done);
            self.follow(done, Then::Follow, at);
        }
    }

    /// The connection is over.
    pub fn ended(&mut self, at: Duration) {
        let mut done = VecDeque::new();
        match std::mem::replace(&mut self.speaks, Speaks::Whatever) {
            Speaks::Unknown { client, server } if client.is_empty() && server.is_empty() => {}
            Speaks::Unknown { .. } => self.seen.push_back(Seen::NotHttp),
            Speaks::Tls(_) => self.seen.push_back(Seen::Tls(Hello::default())),
            Speaks::Http1(mut http) => {
                let has_begun = http.has_begun();
                http.ended(at, &mut done);
                if !has_begun && done.is_empty() {
                    self.seen.push_back(Seen::NotHttp);
                }
                self.tell(done);
            }
            Speaks::Http2(mut http) => {
                http.ended(at, &mut done);
                self.tell(done);
                if http.skipped() > 0 {
                    self.seen.push_back(Seen::Skipped(http.skipped()));
                }
            }
            Speaks::Whatever => {}
        }
    }

    /// What there is to tell, in its order.
    pub fn next_seen(&mut self) -> Option<Seen> {
        self.seen.pop_front()
    }

    /// It is known what is spoken: what has been said so far is read as that, the server's first, and then what is new.
    fn begin(&mut self, speaks: Speaks, new: &[u8], at: Duration, seen: Option<Seen>) {
        let before = std::mem::replace(&mut self.speaks, speaks);
        self.seen.extend(seen);
        let Speaks::Unknown { client, server } = before else { return };
        let is_http2 = matches!(self.speaks, Speaks::Http2(_));
        self.received(&server, at);
        if !is_http2 {
            self.sent(&client, at);
        }
        self.sent(new, at);
    }

    fn tell(&mut self, done: VecDeque<Exchange>) {
        self.seen.extend(done.into_iter().map(Seen::Exchange));
    }

    fn tell_last(&mut self, seen: Seen) {
        self.seen.push_back(seen);
        self.speaks = Speaks::Whatever;
    }

    fn follow(&mut self, done: VecDeque<Exchange>, then: Then, at: Duration) {
        self.tell(done);
        match then {
            Then::Follow => {}
            Then::Switched => self.speaks = Speaks::Whatever,
            Then::NotHttp => self.tell_last(Seen::NotHttp),
            Then::Lost(why) => {
                self.ended(at);
                self.seen.push_back(Seen::Lost(why));
            }
        }
    }
}

enum Guess {
    Unknown,
    Http1,
    Http2,
    Tls,
    Other,
}

/// What a client speaks that begins so.
fn guess(begin: &[u8]) -> Guess {
    match begin {
        [22] => Guess::Unknown,
        [22, 3, ..] => Guess::Tls,
        [22, ..] => Guess::Other,
        begin if begin == PREFACE => Guess::Http2,
        begin if PREFACE.starts_with(begin) => Guess::Unknown,
        _ => Guess::Http1,
    }
}
