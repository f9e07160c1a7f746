//! HTTP/2 as it passes, between a client and a server of another making.

use std::sync::{Arc, Mutex};

use super::support::{Said, told_in, whole};
use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

/// A conversation that was recorded.
type Recorded = Vec<(bool, Vec<u8>)>;

fn said(recorded: &[(bool, Vec<u8>)]) -> Vec<Said<'_>> {
    recorded
        .iter()
        .map(|(is_client, bytes)| if *is_client { Said::Client(bytes) } else { Said::Server(bytes) })
        .collect()
}

/// Copies one direction and writes it down.
async fn copy(
    mut from: tokio::io::ReadHalf<DuplexStream>,
    mut to: tokio::io::WriteHalf<DuplexStream>,
    is_client: bool,
    record: Arc<Mutex<Recorded>>,
) {
    let mut buffer = vec![0; 4096];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        record.lock().unwrap().push((is_client, buffer[..count].to_vec()));
        if to.write_all(&buffer[..count]).await.is_err() {
            break;
        }
    }
}

/// A server that answers by the path: `/grpc/N` as gRPC does, `/drop` with a reset, all else with 3,000 bytes.
async fn serve(io: DuplexStream) {
    let mut connection = h2::server::Builder::new().max_concurrent_streams(200).handshake(io).await.unwrap();
    while let Some(accepted) = connection.accept().await {
        let Ok((request, mut respond)) = accepted else { break };
        tokio::spawn(async move {
            let path = request.uri().path().to_owned();
            let mut body = request.into_body();
            while let Some(Ok(data)) = body.data().await {
                let _ = body.flow_control().release_capacity(data.len());
            }
            if path == "/drop" {
                respond.send_reset(h2::Reason::CANCEL);
                return;
            }
            let response =
                Response::builder().header("x-made-up", format!("value of {path}")).body(()).unwrap();
            let mut send = respond.send_response(response, false).unwrap();
            match path.strip_prefix("/grpc/") {
                Some(status) => {
                    let mut trailers = HeaderMap::new();
                    trailers.insert("grpc-status", status.parse().unwrap());
                    trailers.insert("grpc-message", "secret".parse().unwrap());
                    send.send_trailers(trailers).unwrap();
                }
                None => send.send_data(Bytes::from(vec![b'x'; 3000]), true).unwrap(),
            }
        });
    }
}

/// Requests, one after the other, over one connection whose bytes are written down.
fn recorded(requests: Vec<Request<Bytes>>) -> Recorded {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (client, client_side) = tokio::io::duplex(64 << 10);
        let (server_side, server) = tokio::io::duplex(64 << 10);
        let record = Arc::new(Mutex::new(Recorded::new()));
        let (client_read, client_write) = tokio::io::split(client_side);
        let (server_read, server_write) = tokio::io::split(server_side);
        let copies = [
            tokio::spawn(copy(client_read, server_write, true, record.clone())),
            tokio::spawn(copy(server_read, client_write, false, record.clone())),
        ];
        let served = tokio::spawn(serve(server));
        let (mut sender, connection) = h2::client::handshake(client).await.unwrap();
        let connection = tokio::spawn(connection);
        for request in requests {
            let (head, body) = request.into_parts();
            sender = sender.ready().await.unwrap();
            let (response, mut send) =
                sender.send_request(Request::from_parts(head, ()), body.is_empty()).unwrap();
            if !body.is_empty() {
                send.send_data(body, true).unwrap();
            }
            let Ok(response) = response.await else { continue };
            let mut body = response.into_body();
            while let Some(data) = body.data().await {
                body.flow_control().release_capacity(data.unwrap().len()).unwrap();
            }
            let _ = body.trailers().await;
        }
        drop(sender);
        let _ = connection.await;
        for copy in copies {
            copy.abort();
        }
        served.abort();
        record.lock().unwrap().clone()
    })
}

fn request(method: &str, path: &str, body: &'static [u8]) -> Request<Bytes> {
    let request = Request::builder().method(method).uri(format!("http://web.default{path}"));
    request.header("authorization", "Bearer secret").body(Bytes::from_static(body)).unwrap()
}

/// What is told but for the bytes, which are the libraries' choice.
fn without_bytes(told: &[String]) -> Vec<String> {
    let is_count = |word: &&str| !word.starts_with("sent=") && !word.starts_with("received=");
    told.iter().map(|line| line.split(' ').filter(is_count).collect::<Vec<_>>().join(" ")).collect()
}

#[test]
fn exchanges_are_told_with_their_status_and_grpcs() {
    let recorded = recorded(vec![
        request("GET", "/a?token=x", b""),
        request("POST", "/grpc/5", b"body"),
        request("POST", "/grpc/0", b"body"),
        request("GET", "/drop", b""),
        request("PUT", "/%E2%82%AC", b"0123456789"),
    ]);
    let told = whole(&said(&recorded));
    assert_eq!(
        without_bytes(&told),
        [
            "HTTP/2 GET /a?... 200 Complete",
            "HTTP/2 POST /grpc/5 200 grpc=5 Complete",
            "HTTP/2 POST /grpc/0 200 grpc=0 Complete",
            "HTTP/2 GET /drop - Reset(8)",
            "HTTP/2 PUT /%E2%82%AC 200 Complete",
        ]
    );
    // 3,000 bytes in a frame, and a head.
    let received: u64 =
        told[4].split("received=").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
    assert!((3018..3100).contains(&received), "{received}");
}

#[test]
fn more_headers_than_the_table_holds_are_followed() {
    let long = "v".repeat(300);
    let of = |index: usize| {
        let mut request = request("GET", &format!("/{index}"), b"");
        for header in 0..5 {
            let name: http::HeaderName = format!("x-{}", (index * 3 + header) % 40).parse().unwrap();
            request.headers_mut().insert(name, format!("{long}{}", index % 7).parse().unwrap());
        }
        request
    };
    let told = whole(&said(&recorded((0..200).map(of).collect())));
    let expected: Vec<String> = (0..200).map(|index| format!("HTTP/2 GET /{index} 200 Complete")).collect();
    assert_eq!(without_bytes(&told), expected);
}

/// A frame.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

#[test]
fn padding_priorities_and_blocks_in_pieces_are_understood() {
    // GET and /: in three frames, padded, with a priority.
    let client = [
        PREFACE.to_vec(),
        frame(4, 0, 0, &[]),
        frame(1, 1 | 8 | 32, 1, &[2, 0, 0, 0, 0, 15, 0x82, 0, 0]),
        frame(9, 0, 1, &[]),
        frame(9, 4, 1, &[0x84]),
    ]
    .concat();
    let server = [
        frame(4, 0, 0, &[]),
        frame(1, 4, 1, b"\x08\x03103"),
        frame(5, 4, 1, b"\0\0\0\x02\x82\x84"),
        frame(6, 0, 0, &[0; 8]),
        frame(1, 4, 1, &[0x88]),
        frame(0, 1, 1, b"body"),
    ]
    .concat();
    let told = whole(&[Said::Client(&client), Said::Server(&server)]);
    assert_eq!(told, ["HTTP/2 GET / 200 sent=37 received=37 Complete"]);
    // The server may be the first to speak.
    let (settings, rest) = server.split_at(9);
    let first = [Said::Server(settings), Said::Client(&client), Said::Server(rest)];
    assert_eq!(told_in(&first, &[1]), told);
}

#[test]
fn what_is_broken_is_told_once_and_costs_little() {
    let begin = [PREFACE, &frame(1, 5, 1, &[0x82, 0x84])].concat();
    let settings = frame(4, 0, 0, &[]);
    let lost = |more: &[u8], server: &[u8]| {
        let client = [begin.as_slice(), more].concat();
        whole(&[Said::Client(&client), Said::Server(server), Said::Client(&begin)])
    };
    let cut = "HTTP/2 GET / - sent=11 received=0 Cut";
    let block = "lost: a header block of more than 64 KiB";
    assert_eq!(lost(&frame(1, 4, 3, &vec![0; 65 << 10]), &[]), [cut, block]);
    let endless: Vec<u8> =
        frame(1, 0, 3, &[]).into_iter().chain((0..9).flat_map(|_| frame(9, 0, 3, &[0x82; 9000]))).collect();
    assert_eq!(lost(&endless, &[]), [cut, block]);
    let broken = "lost: a header block is broken off";
    assert_eq!(lost(&[frame(1, 0, 3, &[]), frame(0, 0, 3, &[])].concat(), &[]), [cut, broken]);
    assert_eq!(lost(&frame(9, 0, 3, &[]), &[]), [cut, broken]);
    assert_eq!(lost(&frame(1, 4, 3, &[0x80]), &[]), [cut, "lost: a header block is no HPACK"]);
    let other = "lost: the server does not answer in HTTP/2";
    assert_eq!(lost(&[], b"HTTP/1.1 400 No\r\n\r\n"), [cut, other]);
    // A table of a gigabyte.
    assert_eq!(lost(&[], &[settings, frame(1, 4, 1, &[0x3f, 0xff, 0xff, 0xff, 0x7f])].concat()).len(), 2);
}

#[test]
fn of_very_many_streams_at_once_some_are_only_counted() {
    let client: Vec<u8> = (0..2000u32).flat_map(|index| frame(1, 5, index * 2 + 1, &[0x82, 0x84])).collect();
    let told = whole(&[Said::Client(PREFACE), Said::Client(&client)]);
    assert_eq!(told.len(), 1025);
    assert_eq!(told[1024], "skipped: 976");
}

/// A conversation in which much happens.
fn eventful() -> Recorded {
    recorded((0..30).map(|index| request("POST", &format!("/grpc/{}", index % 17), b"some body")).collect())
}

#[test]
fn the_pieces_do_not_matter() {
    let recorded = eventful();
    let said = said(&recorded);
    let expected = whole(&said);
    assert_eq!(expected.len(), 30);
    let strategy = prop::collection::vec(1..50usize, 1..6);
    proptest!(|(cuts in strategy)| prop_assert_eq!(&told_in(&said, &cuts), &expected));
}

#[test]
fn a_changed_byte_ends_nothing_but_the_telling() {
    let recorded = eventful();
    let parts = 0..recorded.len();
    proptest!(|(part in parts, at: prop::sample::Index, byte: u8, cuts in prop::collection::vec(1..50usize, 1..3))| {
        let mut changed = recorded.clone();
        let bytes = &mut changed[part].1;
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let said = said(&changed);
        prop_assert_eq!(told_in(&said, &cuts), whole(&said));
    });
}
