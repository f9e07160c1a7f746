//! The examples in WIRE.md are what the code writes, and the limits in it are the code's.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test fails by a panic")]

use std::collections::BTreeMap;

use relay_protocol::frame::{self, Frame};
use relay_protocol::header::{MAX_HEADER, v0};
use relay_protocol::hello::{Hello, Instance, MAX_LANES, MAX_LEN, Request, Secret, SessionId, Welcome};
use relay_protocol::{AGENT_PORT, Header, HostName, MAX_DATAGRAM, Protocol, Status};

const WIRE: &str = include_str!("../WIRE.md");

/// The blocks of WIRE.md that are marked as `hex NAME`; what follows `;` is a remark.
fn examples() -> BTreeMap<&'static str, Vec<u8>> {
    let mut examples = BTreeMap::new();
    let mut lines = WIRE.lines();
    while let Some(line) = lines.next() {
        let Some(name) = line.strip_prefix("```hex ") else { continue };
        let hex: Vec<&str> = lines
            .by_ref()
            .take_while(|line| *line != "```")
            .flat_map(|line| line.split(';').next().unwrap_or_default().split_whitespace())
            .collect();
        let bytes = hex.iter().map(|byte| u8::from_str_radix(byte, 16).expect("hex")).collect();
        assert!(examples.insert(name, bytes).is_none(), "two examples are called {name}");
    }
    examples
}

fn header(protocol: Protocol, port: u16, address: &str) -> Vec<u8> {
    let request_id = "00010203-0405-0607-0809-0a0b0c0d0e0f".parse().unwrap();
    let mut out = Vec::new();
    Header { request_id, protocol, port, address: address.parse().unwrap() }.encode(&mut out);
    out
}

fn frame(frame: &Frame<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    frame.encode(&mut out);
    out
}

fn expected() -> BTreeMap<&'static str, Vec<u8>> {
    let (session, secret, instance) = (SessionId([0x11; 16]), Secret([0x22; 32]), Instance([0x33; 16]));
    let proof = secret.proof(session, instance, 3, &[1, 2]);
    let hello = |request, lane| {
        Hello { request, session, lane, versions: (1, 1), features: 0, initial_credit: 2_048 }.encode()
    };
    let welcome = Welcome {
        status: Status::Ok,
        versions: (1, 1),
        features: 0,
        instance,
        initial_credit: 16_384,
        max_streams: 128,
    };
    let target = header(Protocol::Tcp, 80, "10.96.0.1");
    BTreeMap::from([
        ("header-ipv4", target.clone()),
        ("header-name", header(Protocol::Udp, 53, "kube-dns")),
        ("hello-create", hello(Request::Create { secret: secret.clone() }, 1)),
        ("hello-join", hello(Request::Join { proof, held: vec![1, 2] }, 3)),
        ("welcome", welcome.encode()),
        ("stream-first", frame(&Frame::Stream { id: 0, offset: 0, fin: false, data: &target })),
        ("stream-status", frame(&Frame::Stream { id: 0, offset: 0, fin: false, data: &[1] })),
        ("stream-data", frame(&Frame::Stream { id: 2, offset: 27, fin: false, data: b"GET /" })),
        ("stream-end", frame(&Frame::Stream { id: 2, offset: 32, fin: true, data: b"" })),
        ("max-data", frame(&Frame::MaxData { id: 2, limit: 65_536 })),
        ("max-streams", frame(&Frame::MaxStreams { limit: 256 })),
        ("reset", frame(&Frame::Reset { id: 2, status: Status::Refused, final_offset: 0 })),
        ("datagram", frame(&Frame::Datagram { id: 1, seq: 7, header: None, data: b"hi" })),
        (
            "datagram-first",
            frame(&Frame::Datagram {
                id: 1,
                seq: 0,
                header: Some(&header(Protocol::Udp, 53, "kube-dns")),
                data: b"hi",
            }),
        ),
        ("flow-close", frame(&Frame::FlowClose { id: 1, status: Status::Ok })),
        ("lane-ack", frame(&Frame::LaneAck { lane: 1, position: 300 })),
        ("ping", frame(&Frame::Ping { token: 5 })),
        ("pong", frame(&Frame::Pong { token: 5 })),
        ("lane-close", frame(&Frame::LaneClose)),
        ("drain", frame(&Frame::Drain { grace: 30_000 })),
        ("goodbye", frame(&Frame::Goodbye { status: Status::ShuttingDown, text: "bye" })),
    ])
}

#[test]
fn the_examples_are_what_the_code_writes() {
    let documented = examples();
    for (name, bytes) in expected() {
        let hex: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let lines: Vec<String> = hex.chunks(16).map(|line| line.join(" ")).collect();
        let wanted = format!("```hex {name}\n{}\n```", lines.join("\n"));
        assert_eq!(documented.get(name), Some(&bytes), "WIRE.md should say:\n{wanted}\n");
    }
    let known: Vec<_> = expected().into_keys().chain(["v0-ipv4"]).collect();
    assert!(documented.keys().all(|name| known.contains(name)), "an example is checked by nothing");
}

#[test]
fn the_v0_example_is_what_the_code_reads() {
    let bytes = &examples()["v0-ipv4"];
    let (header, len) = v0::Header::decode(bytes).unwrap().unwrap();
    assert_eq!(len, bytes.len());
    assert_eq!(&header.request_id, b"abcde");
    let target = v0::Target { port: 80, address: "10.96.0.1".parse().unwrap() };
    assert_eq!(header.purpose, v0::Purpose::Tcp(target));
}

#[test]
fn the_limits_are_the_codes() {
    let limits = [
        ("header", MAX_HEADER),
        ("host name", HostName::MAX),
        ("hello or welcome", MAX_LEN),
        ("lanes of a session", MAX_LANES),
        ("frame's body", frame::MAX_BODY),
        ("datagram", MAX_DATAGRAM),
        ("GOODBYE's text", frame::MAX_TEXT),
        ("agent's port", AGENT_PORT.into()),
    ];
    for (what, limit) in limits {
        let row = format!("| {what} | {limit} |");
        assert!(WIRE.contains(&row), "WIRE.md should have the row {row}");
    }
}

#[test]
fn every_status_and_every_frame_type_is_listed() {
    for status in Status::ALL {
        let row = format!("| {} | {status} |", status.as_u8());
        assert!(WIRE.contains(&row), "WIRE.md should have the row {row}");
    }
    use frame::kind;
    let kinds = [
        ("STREAM", kind::STREAM),
        ("STREAM with FIN", kind::STREAM_FIN),
        ("MAX_DATA", kind::MAX_DATA),
        ("MAX_STREAMS", kind::MAX_STREAMS),
        ("RESET", kind::RESET),
        ("DATAGRAM", kind::DATAGRAM),
        ("DATAGRAM with header", kind::DATAGRAM_WITH_HEADER),
        ("FLOW_CLOSE", kind::FLOW_CLOSE),
        ("LANE_ACK", kind::LANE_ACK),
        ("PING", kind::PING),
        ("PONG", kind::PONG),
        ("LANE_CLOSE", kind::LANE_CLOSE),
        ("DRAIN", kind::DRAIN),
        ("GOODBYE", kind::GOODBYE),
    ];
    for (name, kind) in kinds {
        let row = format!("| `{kind:#04x}` | {name} |");
        assert!(WIRE.contains(&row), "WIRE.md should have a row that begins {row}");
    }
}
