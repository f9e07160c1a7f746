//! `kubectl relay trace` on the real cluster: what it tells and writes, and that the traffic does not notice.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that fails here should panic")]

use std::{
    fs::File,
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use etherparse::{SlicedPacket, TransportSlice};
use pcap_parser::{Block, PcapBlockOwned, PcapError, PcapNGReader, traits::PcapReaderIterator as _};
use relay_tests::{Relay, Signal, connect, download, http_get, send_pattern, udp_echo};
use relay_workload::{MARKER, Pattern, sha256_of_pattern};

const MIB: u64 = 1 << 20;
const SOON: Duration = Duration::from_secs(20);

/// Starts a traced run whose forwards are on 127.0.0.1.
fn start(args: &[&str]) -> (Relay, SocketAddr) {
    Relay::start(&[&["trace", "-l", "127.0.0.1"], args].concat())
}

/// The payloads of the capture that come from a port, in their order. Segments of TCP must follow each other without a gap.
fn from_port(capture: &Path, port: u16) -> Vec<u8> {
    let mut reader = PcapNGReader::new(1 << 20, File::open(capture).unwrap()).unwrap();
    let (mut bytes, mut next) = (Vec::new(), None);
    loop {
        match reader.next() {
            Ok((size, block)) => {
                if let PcapBlockOwned::NG(Block::EnhancedPacket(packet)) = block {
                    let sliced = SlicedPacket::from_ethernet(&packet.data[..packet.caplen as usize]).unwrap();
                    match sliced.transport.unwrap() {
                        TransportSlice::Tcp(tcp) if tcp.source_port() == port => {
                            let seq = tcp.sequence_number();
                            assert!(tcp.syn() || next.is_none_or(|next| next == seq), "a gap");
                            let length =
                                tcp.payload().len() as u32 + u32::from(tcp.syn()) + u32::from(tcp.fin());
                            next = Some(seq.wrapping_add(length));
                            bytes.extend(tcp.payload());
                        }
                        TransportSlice::Udp(udp) if udp.source_port() == port => bytes.extend(udp.payload()),
                        _ => {}
                    }
                }
                reader.consume(size);
            }
            Err(PcapError::Eof) => return bytes,
            Err(PcapError::Incomplete(_)) => reader.refill().unwrap(),
            Err(error) => panic!("{error:?}"),
        }
    }
}

/// The next line of stdout that is no Forwarding line, without its time.
fn told(relay: &Relay) -> String {
    loop {
        let line = relay.next_line(SOON);
        if !line.starts_with("Forwarding") {
            return line.split_once(' ').expect("a time").1.to_owned();
        }
    }
}

/// The words of a line without the one that says how long it took.
fn without_seconds(line: &str) -> String {
    let is_time = |word: &&str| !(word.ends_with('s') && word.contains('.') && !word.contains('='));
    line.split(' ').filter(is_time).collect::<Vec<_>>().join(" ")
}

#[test]
fn every_request_of_a_service_is_told_and_its_pages_are_the_same() {
    let (relay, address) = start(&["svc/web", ":http"]);
    assert!(http_get(address, "/").unwrap().contains(MARKER));
    let line = told(&relay);
    assert!(line.starts_with("svc/web 80 \"GET / HTTP/1.1\" 200 "), "{line}");
    assert!(http_get(address, "/nothing?token=secret").is_err());
    let line = told(&relay);
    assert!(line.starts_with("svc/web 80 \"GET /nothing?... HTTP/1.1\" 404 "), "{line}");

    // Several on one connection, one of them large.
    let mut stream = connect(address);
    for request in ["GET /sha256/1000", "GET /healthz", "GET /bytes/20000000"] {
        write!(stream, "{request} HTTP/1.1\r\nHost: web\r\nAuthorization: secret\r\n\r\n").unwrap();
    }
    stream.shutdown(Shutdown::Write).unwrap();
    let mut all = Vec::new();
    stream.read_to_end(&mut all).unwrap();
    let mut expected = vec![0; 20_000_000];
    Pattern::new().fill(&mut expected);
    assert!(all.ends_with(&expected));
    assert!(String::from_utf8_lossy(&all[..300]).contains(&sha256_of_pattern(1000)));
    let lines: Vec<String> = (0..3).map(|_| without_seconds(&told(&relay))).collect();
    let begins = [
        "\"GET /sha256/1000 HTTP/1.1\" 200",
        "\"GET /healthz HTTP/1.1\" 200",
        "\"GET /bytes/20000000 HTTP/1.1\" 200",
    ];
    for (line, begin) in lines.iter().zip(begins) {
        assert!(line.starts_with(&format!("svc/web 80 {begin} ")), "{lines:?}");
    }
    let exited = relay.stop(Signal::INT);
    assert_eq!(exited.code, Some(0), "{}", exited.stderr);
    assert!(!exited.stdout.contains("secret") && !exited.stderr.contains("secret"));
}

#[test]
fn as_events_exchanges_have_their_fields_and_other_connections_their_kind() {
    let (relay, address) = start(&["svc/web", ":http", ":echo@tcp", ":7007@udp", "-o", "json"]);
    let (echo, datagrams) = (relay.next_forward(), relay.next_forward());
    assert!(http_get(address, "/nothing").is_err());
    let mut stream = connect(echo);
    stream.write_all(b"\x16\x03\x01\x00\x02\x01\x00").unwrap();
    stream.read_exact(&mut [0; 7]).unwrap();
    drop(stream);
    udp_echo(datagrams, 100).unwrap();
    let since = Instant::now() - SOON;
    let of = |what: &str, kind: &str| {
        relay
            .wait_event(what, since, SOON, |event| {
                event.value["event"] == what && event.value.to_string().contains(kind)
            })
            .value
    };
    let exchange = of("exchange", "HTTP/1.1");
    for (field, value) in
        [("target", "svc/web"), ("method", "GET"), ("path", "/nothing"), ("end", "complete")]
    {
        assert_eq!(exchange[field], value, "{exchange}");
    }
    assert_eq!((&exchange["status"], &exchange["remotePort"]), (&404.into(), &80.into()), "{exchange}");
    of("traffic", "\"tls\"");
    of("traffic", "\"datagrams\"");
}

#[test]
fn a_capture_holds_what_was_sent_byte_by_byte() {
    let folder = tempfile::tempdir().unwrap();
    let capture = folder.path().join("web.pcapng");
    let pcap = capture.to_str().unwrap();
    let (relay, source) = start(&["svc/web", ":source", ":sink", ":7007@udp", "--pcap", pcap]);
    let (sink, datagrams) = (relay.next_forward(), relay.next_forward());
    download(source, 5 * MIB).unwrap();
    let mut stream = connect(sink);
    let port = stream.local_addr().unwrap().port();
    send_pattern(&mut stream, 5 * MIB).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert_eq!(answer.trim(), format!("{} {}", sha256_of_pattern(5 * MIB), 5 * MIB));
    udp_echo(datagrams, 65_507).unwrap();
    let exited = relay.stop(Signal::INT);
    assert_eq!(exited.code, Some(0), "{}", exited.stderr);
    assert!(exited.stderr.contains("none is missing"), "{}", exited.stderr);

    assert_eq!(capture.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let mut expected = vec![0; 5 << 20];
    Pattern::new().fill(&mut expected);
    assert!(from_port(&capture, 7010) == expected, "what the source sent");
    assert!(from_port(&capture, port) == expected, "what the sink was sent");
    assert_eq!(from_port(&capture, 7009), answer.as_bytes());
    assert_eq!(from_port(&capture, 7007).len(), 65_507);
}

#[test]
fn a_capture_on_stdout_is_nothing_but_that_and_its_reader_may_leave() {
    let mut child = Command::new(Relay::program())
        .args(["trace", "-l", "127.0.0.1", "svc/web", ":source", "--pcap", "-"])
        .env("KUBECONFIG", relay_tests::admin_kubeconfig())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let mut begin = [0; 4];
    stdout.read_exact(&mut begin).unwrap();
    assert_eq!(begin, [0x0a, 0x0d, 0x0d, 0x0a]);
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stderr.take().unwrap()));
    let address: SocketAddr = lines
        .find_map(|line| {
            let line = line.unwrap();
            line.strip_prefix("Forwarding from ")?.split(" -> ").next()?.parse().ok()
        })
        .expect("a Forwarding line on stderr");
    // Nobody reads any more, and then nobody is there: the traffic is the same.
    download(address, 40 * MIB).unwrap();
    drop(stdout);
    download(address, 5 * MIB).unwrap();
    assert!(lines.any(|line| line.unwrap().contains("whoever read --pcap - has gone")));
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn http_2_is_told_with_the_status_of_grpc_and_its_bytes_are_the_same() {
    let (relay, address) = start(&["deploy/web", ":7015"]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let socket = tokio::net::TcpStream::connect(address).await.unwrap();
        let (mut sender, connection) = h2::client::handshake(socket).await.unwrap();
        let connection = tokio::spawn(connection);
        for (path, length) in [("/grpc/5", 4), ("/bytes/300000", 300_000)] {
            sender = sender.ready().await.unwrap();
            let request = http::Request::post(format!("http://web{path}?token=secret")).body(()).unwrap();
            let (response, _) = sender.send_request(request, true).unwrap();
            let mut body = response.await.unwrap().into_body();
            let mut all = Vec::new();
            while let Some(data) = body.data().await {
                let data = data.unwrap();
                body.flow_control().release_capacity(data.len()).unwrap();
                all.extend_from_slice(&data);
            }
            body.trailers().await.unwrap().expect("trailers");
            let mut expected = vec![0; length];
            Pattern::new().fill(&mut expected);
            assert!(all == expected);
        }
        drop(sender);
        let _ = connection.await;
    });
    for expected in
        ["\"POST /grpc/5?... HTTP/2\" 200 grpc=5 ", "\"POST /bytes/300000?... HTTP/2\" 200 grpc=0 "]
    {
        let line = told(&relay);
        assert!(line.starts_with(&format!("deploy/web 7015 {expected}")) && !line.contains("end="), "{line}");
    }
}
