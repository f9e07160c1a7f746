//! The API server's and node's part of a port-forward, written from the protocols' descriptions and
//! sharing no code with what it tests.

use std::collections::BTreeMap;

use base64::Engine as _;
use flate2::{Decompress, FlushDecompress};
use hyper_util::rt::TokioIo;
use kube::client::Body;
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::sync::mpsc;

/// SPDY stream ids that the client uses.
pub(crate) const ERROR: u32 = 1;
pub(crate) const DATA: u32 = 3;

/// A `kube::Client` each of whose requests opens a new in-memory connection with `buffer` bytes per
/// direction; the other ends come out of the channel.
pub(crate) fn client(buffer: usize) -> (kube::Client, mpsc::Receiver<DuplexStream>) {
    let (peers, receiver) = mpsc::channel(8);
    let service = tower::service_fn(move |request: http::Request<Body>| {
        let peers = peers.clone();
        async move {
            let (ours, theirs) = tokio::io::duplex(buffer);
            peers.send(theirs).await.expect("the test waits for connections");
            let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(ours)).await?;
            tokio::spawn(connection.with_upgrades());
            sender.send_request(request).await
        }
    });
    (kube::Client::new(service, "default"), receiver)
}

/// A request as it came in: its first line and its headers, names in lower case.
pub(crate) struct Head {
    pub(crate) line: String,
    pub(crate) headers: BTreeMap<String, String>,
}

pub(crate) async fn read_head(io: &mut DuplexStream) -> Head {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        bytes.push(io.read_u8().await.expect("a request"));
    }
    let text = String::from_utf8(bytes).unwrap();
    let mut lines = text.trim_end().split("\r\n");
    let line = lines.next().unwrap().to_owned();
    let headers = lines
        .map(|line| line.split_once(": ").unwrap())
        .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
        .collect();
    Head { line, headers }
}

/// Answers with `status` and a Kubernetes status object.
pub(crate) async fn refuse(io: &mut DuplexStream, status: u16, reason: &str, message: &str) {
    let body = serde_json::json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure",
        "message": message, "reason": reason, "code": status,
    });
    respond(io, status, &body.to_string()).await;
}

pub(crate) async fn respond(io: &mut DuplexStream, status: u16, body: &str) {
    let response =
        format!("HTTP/1.1 {status} No\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
    io.write_all(response.as_bytes()).await.unwrap();
}

/// How the bytes behind the upgrade are framed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Carrier {
    Tunnel,
    V4,
    Spdy,
}

/// Accepts the next connection's upgrade as `carrier`.
pub(crate) async fn accept(io: DuplexStream, carrier: Carrier) -> Peer {
    accept_for(io, carrier, "?ports=9527 ").await
}

/// As [`accept`], where the client names no port yet.
pub(crate) async fn accept_idle(io: DuplexStream, carrier: Carrier) -> Peer {
    accept_for(io, carrier, "/portforward ").await
}

async fn accept_for(mut io: DuplexStream, carrier: Carrier, end: &str) -> Peer {
    let head = read_head(&mut io).await;
    let method = if carrier == Carrier::Spdy { "POST" } else { "GET" };
    assert!(
        head.line.starts_with(&format!("{method} /api/v1/namespaces/n/pods/p/portforward")),
        "{}",
        head.line
    );
    assert_eq!(head.headers["connection"], "Upgrade");
    let answer = match carrier {
        Carrier::Spdy => {
            assert_eq!(head.headers["upgrade"], "SPDY/3.1");
            assert_eq!(head.headers["x-stream-protocol-version"], "portforward.k8s.io");
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\
             X-Stream-Protocol-Version: portforward.k8s.io\r\n\r\n"
                .to_owned()
        }
        _ => {
            assert_eq!(head.headers["upgrade"], "websocket");
            assert_eq!(head.headers["sec-websocket-version"], "13");
            assert!(head.line.contains(end), "{}", head.line);
            let protocol =
                if carrier == Carrier::V4 { "v4.channel.k8s.io" } else { "SPDY/3.1+portforward.k8s.io" };
            assert!(head.headers["sec-websocket-protocol"].contains(protocol));
            websocket_answer(&head, protocol)
        }
    };
    io.write_all(answer.as_bytes()).await.unwrap();
    Peer::new(io, carrier)
}

pub(crate) fn websocket_answer(head: &Head, protocol: &str) -> String {
    let key = format!("{}258EAFA5-E914-47DA-95CA-C5AB0DC85B11", head.headers["sec-websocket-key"]);
    let accept =
        base64::engine::general_purpose::STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, key.as_bytes()));
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Protocol: {protocol}\r\n\r\n"
    )
}

/// One SPDY frame of the client's.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Frame {
    Syn { stream: u32, fin: bool, headers: BTreeMap<String, String> },
    Data { stream: u32, fin: bool, bytes: Vec<u8> },
    Ping(u32),
}

/// What the client sent in the terms that all carriers share.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Received {
    Bytes(Vec<u8>),
    /// The end of its direction.
    Fin,
    SpdyPing(u32),
    Pong(Vec<u8>),
    Close(Vec<u8>),
}

pub(crate) struct Peer {
    pub(crate) io: DuplexStream,
    carrier: Carrier,
    /// SPDY bytes taken out of messages and not yet parsed.
    spdy: Vec<u8>,
    inflater: Decompress,
}

impl Peer {
    fn new(io: DuplexStream, carrier: Carrier) -> Self {
        // Expects a zlib header, as the peer's inflater does.
        Self { io, carrier, spdy: Vec::new(), inflater: Decompress::new(true) }
    }

    /// Takes in the two frames that a SPDY client opens with, without looking at them.
    pub(crate) async fn take_opening(&mut self) {
        let whole = |bytes: &[u8]| bytes.len() >= 8 && bytes.len() >= 8 + usize::from(bytes[7]);
        let both = |bytes: &[u8]| whole(bytes) && whole(&bytes[8 + usize::from(bytes[7])..]);
        while self.carrier != Carrier::V4 && !both(&self.spdy) {
            assert_eq!(self.fill().await, Some(None));
        }
    }

    /// Opens both streams: reads and answers the SPDY client's frames, or announces the channels.
    pub(crate) async fn streams(&mut self) {
        if self.carrier == Carrier::V4 {
            self.message(&[0, 0x37, 0x25]).await;
            self.message(&[1, 0x37, 0x25]).await;
            return;
        }
        for (id, kind, ends) in [(ERROR, "error", true), (DATA, "data", false)] {
            let Frame::Syn { stream, fin, headers } = self.frame().await.unwrap() else {
                panic!("no SYN_STREAM")
            };
            assert_eq!((stream, fin), (id, ends));
            assert_eq!(headers["streamtype"], kind);
            assert_eq!(headers["port"], "9527");
            assert_eq!(headers["requestid"], "0");
            // SYN_REPLY with a header block that nobody should look at.
            let mut reply = vec![0x80, 3, 0, 2, 0, 0, 0, 11];
            reply.extend_from_slice(&id.to_be_bytes());
            reply.extend_from_slice(b"garbage");
            self.raw_spdy(&reply).await;
        }
    }

    /// SPDY bytes, in whatever carries them.
    pub(crate) async fn raw_spdy(&mut self, bytes: &[u8]) {
        match self.carrier {
            Carrier::Spdy => self.io.write_all(bytes).await.unwrap(),
            _ => self.message(bytes).await,
        }
    }

    pub(crate) async fn message(&mut self, payload: &[u8]) {
        self.websocket_frame(true, 2, payload).await;
    }

    pub(crate) async fn websocket_frame(&mut self, last: bool, opcode: u8, payload: &[u8]) {
        let mut frame = vec![u8::from(last) << 7 | opcode];
        match payload.len() {
            short @ 0..=125 => frame.push(short as u8),
            medium @ 126..=0xffff => {
                frame.push(126);
                frame.extend_from_slice(&(medium as u16).to_be_bytes());
            }
            long => {
                frame.push(127);
                frame.extend_from_slice(&(long as u64).to_be_bytes());
            }
        }
        frame.extend_from_slice(payload);
        self.io.write_all(&frame).await.unwrap();
    }

    /// Bytes on the data stream or channel.
    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        match self.carrier {
            Carrier::V4 => self.message(&[&[0], bytes].concat()).await,
            _ => self.raw_spdy(&data(DATA, false, bytes)).await,
        }
    }

    /// An orderly end: of our direction, or of all where there is no other.
    pub(crate) async fn finish(&mut self) {
        match self.carrier {
            Carrier::V4 => self.websocket_frame(true, 8, &1000_u16.to_be_bytes()).await,
            _ => {
                self.raw_spdy(&data(DATA, true, b"")).await;
                self.raw_spdy(&data(ERROR, true, b"")).await;
            }
        }
    }

    /// What a node leaves when it cannot forward.
    pub(crate) async fn complain(&mut self, text: &str) {
        match self.carrier {
            Carrier::V4 => self.message(&[&[1], text.as_bytes()].concat()).await,
            _ => self.raw_spdy(&data(ERROR, false, text.as_bytes())).await,
        }
    }

    /// The next thing the client sent; `None` at the end of the connection.
    pub(crate) async fn receive(&mut self) -> Option<Received> {
        if self.carrier == Carrier::V4 {
            return Some(match self.client_frame().await? {
                (2, payload) => {
                    assert_eq!(payload[0], 0, "channel");
                    Received::Bytes(payload[1..].to_vec())
                }
                (8, payload) => Received::Close(payload),
                (10, payload) => Received::Pong(payload),
                (other, _) => panic!("opcode {other}"),
            });
        }
        loop {
            if let Some(frame) = self.parse() {
                return Some(match frame {
                    Frame::Data { stream: DATA, fin: false, bytes } => Received::Bytes(bytes),
                    Frame::Data { stream: DATA, fin: true, bytes } if bytes.is_empty() => Received::Fin,
                    Frame::Ping(id) => Received::SpdyPing(id),
                    other => panic!("unexpected {other:?}"),
                });
            }
            if let Some(control) = self.fill().await? {
                return Some(control);
            }
        }
    }

    /// Everything up to the client's end, as one string of bytes.
    pub(crate) async fn receive_all(&mut self) -> Vec<u8> {
        let mut all = Vec::new();
        loop {
            match self.receive().await {
                Some(Received::Bytes(bytes)) => all.extend_from_slice(&bytes),
                Some(Received::Fin | Received::Close(_)) | None => return all,
                Some(other) => panic!("unexpected {other:?}"),
            }
        }
    }

    async fn frame(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.parse() {
                return Some(frame);
            }
            assert_eq!(self.fill().await?, None);
        }
    }

    /// Gets more SPDY bytes, or a WebSocket control frame.
    async fn fill(&mut self) -> Option<Option<Received>> {
        if self.carrier == Carrier::Spdy {
            let mut chunk = vec![0; 4096];
            let read = self.io.read(&mut chunk).await.unwrap();
            self.spdy.extend_from_slice(&chunk[..read]);
            return (read > 0).then_some(None);
        }
        Some(match self.client_frame().await? {
            (2, payload) => {
                self.spdy.extend_from_slice(&payload);
                None
            }
            (8, payload) => Some(Received::Close(payload)),
            (10, payload) => Some(Received::Pong(payload)),
            (other, _) => panic!("opcode {other}"),
        })
    }

    /// One WebSocket frame of the client's, unmasked.
    async fn client_frame(&mut self) -> Option<(u8, Vec<u8>)> {
        let first = self.io.read_u8().await.ok()?;
        assert_eq!(first & 0xf0, 0x80, "whole messages without reserved bits");
        let second = self.io.read_u8().await.unwrap();
        assert_eq!(second & 0x80, 0x80, "a client masks");
        let length = match second & 0x7f {
            126 => u64::from(self.io.read_u16().await.unwrap()),
            127 => self.io.read_u64().await.unwrap(),
            short => u64::from(short),
        };
        let key = self.io.read_u32().await.unwrap().to_be_bytes();
        let mut payload = vec![0; length as usize];
        self.io.read_exact(&mut payload).await.unwrap();
        for (index, byte) in payload.iter_mut().enumerate() {
            *byte ^= key[index % 4];
        }
        Some((first & 0x0f, payload))
    }

    fn parse(&mut self) -> Option<Frame> {
        let header: [u8; 8] = self.spdy.get(..8)?.try_into().unwrap();
        let [_, l1, l2, l3] = u32::from_be_bytes(header[4..].try_into().unwrap()).to_be_bytes();
        let length = u32::from_be_bytes([0, l1, l2, l3]) as usize;
        let fin = header[4] & 1 == 1;
        if self.spdy.len() < 8 + length {
            return None;
        }
        let frame: Vec<u8> = self.spdy.drain(..8 + length).skip(8).collect();
        let word = |at: usize| u32::from_be_bytes(frame[at..at + 4].try_into().unwrap());
        let first = u32::from_be_bytes(header[..4].try_into().unwrap());
        Some(match first {
            0x8003_0001 => Frame::Syn { stream: word(0), fin, headers: self.headers(&frame[10..]) },
            0x8003_0006 => Frame::Ping(word(0)),
            stream if stream < 0x8000_0000 => Frame::Data { stream, fin, bytes: frame },
            other => panic!("frame {other:x}"),
        })
    }

    /// Inflates a header block the way a peer does: what a block holds must come out when the block's
    /// last byte has gone in, without a dictionary.
    fn headers(&mut self, block: &[u8]) -> BTreeMap<String, String> {
        let mut list = Vec::with_capacity(4096);
        self.inflater.decompress_vec(block, &mut list, FlushDecompress::Sync).unwrap();
        let mut rest = list.as_slice();
        let count = u32::from_be_bytes(rest[..4].try_into().unwrap());
        rest = &rest[4..];
        let mut strings = Vec::new();
        for _ in 0..2 * count {
            let length = u32::from_be_bytes(rest[..4].try_into().unwrap()) as usize;
            strings.push(String::from_utf8(rest[4..4 + length].to_vec()).unwrap());
            rest = &rest[4 + length..];
        }
        assert!(rest.is_empty(), "nothing follows the list");
        strings.chunks(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect()
    }
}

pub(crate) fn data(stream: u32, fin: bool, bytes: &[u8]) -> Vec<u8> {
    let mut frame = stream.to_be_bytes().to_vec();
    frame.extend_from_slice(&(u32::from(fin) << 24 | bytes.len() as u32).to_be_bytes());
    frame.extend_from_slice(bytes);
    frame
}
