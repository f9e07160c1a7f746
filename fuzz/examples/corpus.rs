//! Writes the seeds of the corpus: real encodings, from which the fuzzer goes on.
//!
//! `cargo run --manifest-path fuzz/Cargo.toml --example corpus`, whenever the wire format gains something.

use std::path::Path;

use relay_protocol::frame::Frame;
use relay_protocol::hello::{Hello, Instance, Request, Secret, SessionId, Welcome};
use relay_protocol::{Header, Protocol, Status};

type Seeds = Vec<(&'static str, Vec<u8>)>;

fn headers() -> Seeds {
    let encode = |protocol, port, address: &str| {
        let mut out = Vec::new();
        let address = address.parse().expect("an address");
        Header { request_id: Default::default(), protocol, port, address }.encode(&mut out);
        out
    };
    let v0 = |protocol: u8, kind: u8, address: &[u8]| {
        let mut out =
            vec![0, 0, 12 + address.len() as u8, b'a', b'b', b'c', b'd', b'e', protocol, 0, 80, kind];
        out.extend_from_slice(address);
        out
    };
    vec![
        ("ipv4", encode(Protocol::Tcp, 80, "10.96.0.1")),
        ("ipv6", encode(Protocol::Udp, 53, "fd00::10")),
        ("name", encode(Protocol::Tcp, 443, "web.default.svc.cluster.local")),
        ("complete-name", encode(Protocol::Tcp, 8080, "example.org.")),
        ("v0-ipv4", v0(0, 0, &[10, 96, 0, 1])),
        ("v0-name", v0(1, 1, b"kube-dns.kube-system")),
        ("v0-keep-alive", v0(2, 0, &[])),
    ]
}

fn frames() -> Seeds {
    let encode = |frames: &[Frame<'_>]| {
        let mut out = Vec::new();
        frames.iter().for_each(|frame| frame.encode(&mut out));
        out
    };
    vec![
        ("stream", encode(&[Frame::Stream { id: 0, offset: 0, fin: false, data: b"hello" }])),
        ("end", encode(&[Frame::Stream { id: 4, offset: 70_000, fin: true, data: b"" }])),
        ("credit", encode(&[Frame::MaxData { id: 2, limit: 1 << 20 }, Frame::MaxStreams { limit: 256 }])),
        ("reset", encode(&[Frame::Reset { id: 6, status: Status::ResetByPeer, final_offset: 9 }])),
        ("datagram", encode(&[Frame::Datagram { id: 0, seq: 1, header: None, data: b"query" }])),
        (
            "first-datagram",
            encode(&[Frame::Datagram { id: 0, seq: 0, header: Some(b"header"), data: b"query" }]),
        ),
        ("flow-close", encode(&[Frame::FlowClose { id: 0, status: Status::Ok }])),
        (
            "lane",
            encode(&[
                Frame::LaneAck { lane: 1, position: 77 },
                Frame::Ping { token: 5 },
                Frame::Pong { token: 5 },
            ]),
        ),
        ("closing", encode(&[Frame::LaneClose, Frame::Drain { grace: 30_000 }])),
        ("goodbye", encode(&[Frame::Goodbye { status: Status::ShuttingDown, text: "shutting down" }])),
        ("unknown", vec![0x21, 3, 1, 2, 3]),
    ]
}

fn hellos() -> Seeds {
    let (session, instance, secret) = (SessionId([1; 16]), Instance([2; 16]), Secret([3; 32]));
    let hello = |request, lane| {
        Hello { request, session, lane, versions: (1, 1), features: 0, initial_credit: 2_048 }.encode()
    };
    let proof = secret.proof(session, instance, 3, &[1, 2]);
    let welcome = Welcome {
        status: Status::Ok,
        versions: (1, 1),
        features: 0,
        instance,
        initial_credit: 16_384,
        max_streams: 128,
    };
    vec![
        ("create", hello(Request::Create { secret: secret.clone() }, 1)),
        ("join", hello(Request::Join { proof, held: vec![1, 2] }, 3)),
        ("welcome", welcome.encode()),
        ("refusal", Welcome::refusal(Status::AgentLost, instance).encode()),
    ]
}

/// Server frames of each kind; the first byte chooses how they are carried, from the end of the input.
fn transports() -> Seeds {
    let message = |payload: &[u8]| {
        let mut out = vec![0x82, payload.len() as u8];
        out.extend_from_slice(payload);
        out
    };
    let spdy = [
        // SYN_REPLY of stream 3 without a header block, DATA on it, DATA with FIN on the error stream, PING.
        &[0x80, 3, 0, 2, 0, 0, 0, 4, 0, 0, 0, 3][..],
        &[0, 0, 0, 3, 0, 0, 0, 5],
        b"hello",
        &[0, 0, 0, 1, 1, 0, 0, 0],
        &[0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 2],
        &[0, 0, 0, 3, 1, 0, 0, 0],
    ]
    .concat();
    let port = 9_527u16.to_le_bytes();
    let v4 = [
        message(&[0, port[0], port[1]]),
        message(&[1, port[0], port[1]]),
        message(b"\0hello"),
        message(b"\x01refused"),
    ]
    .concat();
    let input = |kind: u8, bytes: &[u8]| [&[kind, 3, 2][..], bytes].concat();
    vec![
        ("tunnel", input(0, &message(&spdy))),
        ("v4", input(1, &v4)),
        ("spdy", input(2, &spdy)),
        ("ping-close", input(0, &[0x89, 1, 7, 0x88, 2, 3, 0xe8])),
    ]
}

fn socks() -> Seeds {
    let datagram = relay_proxy::socks5::datagram::encode(
        &"kube-dns.kube-system:53".parse().expect("a target"),
        b"query",
    );
    vec![
        ("four", b"\x04\x01\x00P\x0a\x00\x00\x07me\x00".to_vec()),
        ("four-a", b"\x04\x01\x00P\x00\x00\x00\x01\x00web.default\x00early".to_vec()),
        ("greeting", b"\x05\x02\x00\x02".to_vec()),
        ("login", b"\x01\x02me\x06secret".to_vec()),
        ("name", b"\x05\x01\x00\x03\x0bweb.default\x00P".to_vec()),
        ("associate", b"\x05\x03\x00\x01\x00\x00\x00\x00\x00\x00".to_vec()),
        ("ipv6", [&b"\x05\x01\x00\x04"[..], &[0xfd; 16], &[1, 187]].concat()),
        ("datagram", datagram),
    ]
}

fn heads() -> Seeds {
    let head = |text: &str| text.as_bytes().to_vec();
    vec![
        ("get", head("GET http://web:8080/a?b\nhost: web\nconnection: keep-alive, x\nx: 1")),
        (
            "upgrade",
            head("GET http://web/\nhost: web\nconnection: upgrade\nupgrade: websocket\nte: trailers"),
        ),
        ("options", head("OPTIONS http://me:secret@[fd00::7]:80\nhost: web")),
        ("connect", head("CONNECT web.default:443\nhost: web.default:443")),
        ("page", head("GET /proxy.pac\nhost: [::1]:1080")),
        ("pattern", head("*.dev:8000-8100 web.dev.svc.cluster.local:8080\nhost: x")),
        ("range", head("[fd00::/8]:53 [fd00::7]:53\nhost: x")),
        ("login", head("Basic bWU6c2VjcmV0 me:secret\nhost: x")),
        ("dots-at-the-end", head("kk.. 9:2")),
    ]
}

/// Both sides of a connection; each part behind a byte that tells whose it is, and its length.
fn conversations() -> Seeds {
    let part = |is_client: bool, bytes: &[u8]| {
        let kind = (bytes.len() as u8) << 1 | u8::from(is_client);
        [&[kind], bytes].concat()
    };
    let input = |parts: &[Vec<u8>]| [&[3][..], &parts.concat()].concat();
    let upgrade = b"GET /ws HTTP/1.1\r\nUpgrade: websocket\r\n\r\n";
    let chunks = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;a\r\nhello\r\n0\r\nT: x\r\n\r\n";
    let settings = b"\0\0\0\x04\0\0\0\0\0";
    let grpc = b"\0\0\x01\x01\x04\0\0\0\x01\x88\0\0\x0f\x01\x05\0\0\0\x01\x40\x0bgrpc-status\x015";
    vec![
        (
            "pipelined",
            input(&[
                part(true, b"HEAD /1 HTTP/1.1\r\n\r\nPUT /2 HTTP/1.1\r\nContent-Length: 2\r\n\r\nhi"),
                part(false, b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nHTTP/1.1 100 Go on\r\n\r\n"),
                part(false, b"HTTP/1.1 204 None\r\n\r\n"),
            ]),
        ),
        ("chunks", input(&[part(true, b"GET /?q HTTP/1.1\r\n\r\n"), part(false, chunks)])),
        (
            "upgrade",
            input(&[part(true, upgrade), part(false, b"HTTP/1.1 101 Go\r\n\r\n"), part(true, b"\x81")]),
        ),
        (
            "http2",
            input(&[
                part(true, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
                part(true, settings),
                part(false, settings),
                part(true, b"\0\0\x02\x01\x05\0\0\0\x01\x82\x84"),
                part(false, grpc),
            ]),
        ),
        ("tls", input(&[part(true, b"\x16\x03\x01\0\x2a\x01\0\0\x26\x03\x03")])),
    ]
}

fn main() -> std::io::Result<()> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let targets = [
        ("header", headers()),
        ("frame", frames()),
        ("hello", hellos()),
        ("transport", transports()),
        ("proxy_socks", socks()),
        ("proxy_head", heads()),
        ("trace", conversations()),
    ];
    for (target, seeds) in targets {
        let folder = corpus.join(target);
        std::fs::create_dir_all(&folder)?;
        for (name, bytes) in seeds {
            std::fs::write(folder.join(name), bytes)?;
        }
    }
    Ok(())
}
