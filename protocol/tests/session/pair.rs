//! Two ends without a network: a test carries the bytes by hand, in the order and as often as it likes.

use std::time::{Duration, Instant};

use bytes::Bytes;
use relay_protocol::Status;
use relay_protocol::frame::Frame;
use relay_protocol::hello::{Instance, Secret, SessionId};
use relay_protocol::session::{Config, Event, FlowKey, Read, Session, StreamKey};

use crate::simulator::network::Side::{self, Agent, Client};

pub(crate) const INSTANCE: Instance = Instance([7; 16]);

/// Two ends, joined by lane 1 at first.
pub(crate) struct Pair {
    pub(crate) now: Instant,
    pub(crate) client: Session,
    pub(crate) agent: Session,
}

impl Pair {
    pub(crate) fn new() -> Self {
        Self::with(Config::client(), Config::agent())
    }

    pub(crate) fn with(client: Config, agent: Config) -> Self {
        let now = Instant::now();
        let mut client = Session::client(client, SessionId([1; 16]), Secret([2; 32]), now);
        let (lane, hello) = client.next_hello();
        let (agent, welcome) = Session::agent(agent, &hello, INSTANCE, now).expect("a welcome");
        assert!(client.welcomed(lane, &welcome, now));
        Self { now, client, agent }
    }

    pub(crate) fn end(&mut self, side: Side) -> &mut Session {
        match side {
            Client => &mut self.client,
            Agent => &mut self.agent,
        }
    }

    /// One more lane; its number.
    pub(crate) fn add_lane(&mut self) -> u64 {
        let (lane, hello) = self.client.next_hello();
        let welcome = self.agent.join(&hello, self.now).expect("a welcome");
        assert!(self.client.welcomed(lane, &welcome, self.now));
        lane
    }

    /// All that `from` has for a lane now.
    pub(crate) fn take(&mut self, from: Side, lane: u64) -> Vec<u8> {
        let now = self.now;
        let mut out = Vec::new();
        while self.end(from).has_work(lane, now) {
            let before = out.len();
            self.end(from).transmit(lane, now, &mut out);
            assert!(out.len() > before || !self.end(from).has_work(lane, now), "work that never gets done");
        }
        out
    }

    pub(crate) fn give(&mut self, to: Side, lane: u64, bytes: &[u8]) {
        let now = self.now;
        assert_eq!(self.end(to).receive(lane, bytes, now), Ok(bytes.len()));
    }

    /// Carries everything on all lanes until nothing is left, acknowledgements included.
    pub(crate) fn exchange(&mut self) {
        for _ in 0..100 {
            let mut any = false;
            for side in Side::BOTH {
                let lanes: Vec<u64> = self.end(side).lanes().collect();
                for lane in lanes {
                    let bytes = self.take(side, lane);
                    any |= !bytes.is_empty();
                    self.give(side.other(), lane, &bytes);
                }
            }
            if !any {
                // The acknowledgements fall due.
                self.pass(Duration::from_millis(3));
                if Side::BOTH.iter().all(|&side| {
                    let now = self.now;
                    self.end(side).lanes_with_work(now).count() == 0
                }) {
                    return;
                }
            }
        }
        panic!("the ends never stop talking");
    }

    pub(crate) fn pass(&mut self, time: Duration) {
        self.now += time;
        self.client.handle_timeout(self.now);
        self.agent.handle_timeout(self.now);
    }

    /// Opens a stream at the client and writes into it.
    pub(crate) fn open(&mut self, text: &str) -> StreamKey {
        let key = self.client.open().expect("a stream");
        self.write(Client, key, text);
        key
    }

    pub(crate) fn write(&mut self, side: Side, key: StreamKey, text: &str) {
        let data = Bytes::copy_from_slice(text.as_bytes());
        assert_eq!(self.end(side).write(key, &data), Ok(text.len()));
    }

    /// Reads all there is, as text, and what comes then.
    pub(crate) fn read(&mut self, side: Side, key: StreamKey) -> (String, Read) {
        let now = self.now;
        let mut text = String::new();
        loop {
            match self.end(side).read(now, key, usize::MAX) {
                Read::Data(data) => text += std::str::from_utf8(&data).expect("text"),
                other => return (text, other),
            }
        }
    }

    pub(crate) fn events(&mut self, side: Side) -> Vec<Event> {
        std::iter::from_fn(|| self.end(side).poll_event()).collect()
    }

    /// The streams that the agent has been told of since the last look.
    pub(crate) fn opened(&mut self) -> Vec<StreamKey> {
        let events = self.events(Agent).into_iter();
        events.filter_map(|event| if let Event::Opened(key) = event { Some(key) } else { None }).collect()
    }

    /// The one flow that the agent has been told of.
    pub(crate) fn accepted_flow(&mut self) -> FlowKey {
        let events = self.events(Agent).into_iter();
        let mut opened =
            events.filter_map(|event| if let Event::FlowOpened(key) = event { Some(key) } else { None });
        opened.next().expect("the flow")
    }

    /// The one stream that the agent has been told of.
    pub(crate) fn accepted(&mut self) -> StreamKey {
        let opened = self.opened();
        assert_eq!(opened.len(), 1, "one stream was opened");
        opened[0]
    }
}

/// The frames in what was sent.
pub(crate) fn frames(mut bytes: &[u8]) -> Vec<Frame<'_>> {
    let mut frames = Vec::new();
    while let Some((frame, len)) = Frame::decode(bytes).expect("frames") {
        frames.push(frame);
        bytes = &bytes[len..];
    }
    assert!(bytes.is_empty());
    frames
}

pub(crate) fn encoded(frames: &[Frame<'_>]) -> Vec<u8> {
    let mut out = Vec::new();
    frames.iter().for_each(|frame| frame.encode(&mut out));
    out
}

pub(crate) fn reset(status: Status) -> Read {
    Read::Reset(status)
}
