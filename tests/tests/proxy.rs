//! `kubectl relay proxy`: every protocol, every kind of name, and the truth about what cannot be reached.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that fails here should panic")]

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use relay_tests::{Relay, Signal, Spoken, connect, kubectl, receive_pattern};
use relay_workload::MARKER;

/// Runs curl; gives the HTTP status of the answer, or nothing, and what it said.
fn curl(args: &[&str]) -> (bool, String) {
    let output = Command::new("curl")
        .args(["-sS", "--max-time", "40", "--noproxy", ""])
        .args(args)
        .output()
        .expect("curl runs");
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

#[test]
fn every_protocol_reaches_every_kind_of_name() {
    let (relay, proxy) = Relay::start_proxy(&[]);
    let selected = ["get", "pods", "-l", "app=web", "-o", "jsonpath={.items[0].status.podIP}"];
    let pod = format!("http://{}:8080/", kubectl(&selected));
    let pages = [
        "http://web/",
        "http://web.default/",
        "http://web.default.svc.cluster.local/",
        "http://web-external.default/",
        "http://sts-0.web-headless:8080/",
        "http://sts-1.web-headless.default.svc.cluster.local:8080/",
        &pod,
    ];
    for (scheme, more) in [("socks5h", ""), ("socks4a", ""), ("http", ""), ("http", "--proxytunnel")] {
        for page in pages {
            let through = format!("{scheme}://{proxy}");
            let args = ["-f", "-x", &through, page, more];
            let args = if more.is_empty() { &args[..4] } else { &args };
            let (good, said) = curl(args);
            assert!(good && said.contains(MARKER), "{scheme} {more} {page}: {said}\n{}", relay.stderr());
        }
    }
    // The certificate is the API server's own, for this name.
    let authority = tempfile::NamedTempFile::new().unwrap();
    let text = kubectl(&["get", "configmap", "kube-root-ca.crt", "-o", "jsonpath={.data.ca\\.crt}"]);
    std::fs::write(authority.path(), text).unwrap();
    for scheme in ["http", "socks5h"] {
        let through = format!("{scheme}://{proxy}");
        let authority = authority.path().to_str().unwrap();
        let url = "https://kubernetes.default.svc/version";
        let (good, said) = curl(&["-f", "-x", &through, "--cacert", authority, url]);
        assert!(good && said.contains("gitVersion"), "{scheme}: {said}");
    }
    let exited = relay.stop(Signal::INT);
    assert_eq!(exited.code, Some(0), "{}", exited.stderr);
    assert!(exited.took < Duration::from_secs(5), "{:?}", exited.took);
}

#[test]
fn what_cannot_be_reached_is_told_with_its_code_and_in_time() {
    let denied = ["--deny", "*.kube-system,*:7008"];
    let (_relay, proxy) = Relay::start_proxy(&denied);
    // Host, port, SOCKS5 code, HTTP status, and the longest time.
    let cases = [
        ("nobody.default", 80, 4, 502, 15),
        ("no-such-host.example.invalid", 80, 4, 502, 15),
        ("web", 7099, 5, 502, 5),
        ("sts-0.web-headless", 7098, 5, 502, 5),
        ("192.0.2.1", 80, 6, 504, 15),
        ("kube-dns.kube-system", 53, 2, 403, 1),
        ("kube-dns.kube-system.svc.cluster.local", 53, 2, 403, 1),
        ("web", 7008, 2, 403, 1),
        // The agent itself.
        ("127.0.0.1", 9527, 2, 403, 1),
        ("localhost", 9527, 2, 403, 1),
    ];
    let all: Vec<_> = Spoken::ALL.into_iter().flat_map(|spoken| cases.map(|case| (spoken, case))).collect();
    let asked = all.into_iter().map(|(spoken, (host, port, socks, http, limit))| {
        thread::spawn(move || {
            let (mut stream, since) = (connect(proxy), Instant::now());
            spoken.ask(&mut stream, host, port).unwrap();
            let (answer, took) = (spoken.answer(&mut stream).unwrap(), since.elapsed());
            let expected = match spoken {
                Spoken::Socks5 => socks,
                Spoken::Socks4a => 91,
                Spoken::Connect => http,
            };
            assert_eq!(answer, expected, "{spoken:?} {host}:{port}");
            assert!(took < Duration::from_secs(limit), "{spoken:?} {host}:{port}: {took:?}");
            (format!("{host}:{port}"), spoken, answer, took)
        })
    });
    for asked in asked.collect::<Vec<_>>() {
        let (target, spoken, answer, took) = asked.join().expect("the right answer");
        println!("{target} by {spoken:?}: {answer} after {took:?}");
    }
    let (good, said) = curl(&["-x", &format!("http://{proxy}"), "http://web:7099/"]);
    assert!(good && said.contains("web.default:7099 refuses the connection.\n"), "{said}");
}

#[test]
fn a_proxy_without_an_agent_is_refused_with_a_hint() {
    let exited =
        Relay::spawn(&["proxy", "-l", "127.0.0.1:0", "--agent-source", "none"]).wait(Duration::from_secs(20));
    assert_eq!((exited.code, exited.stdout.as_str()), (Some(2), ""), "{}", exited.stderr);
    assert!(exited.stderr.contains("needs an agent") && exited.stderr.contains("hint:"), "{}", exited.stderr);
}

#[test]
fn early_data_half_close_and_resets_pass() {
    let (_relay, proxy) = Relay::start_proxy(&[]);
    for spoken in Spoken::ALL {
        let mut stream = connect(proxy);
        spoken.ask(&mut stream, "web", 7007).unwrap();
        stream.write_all(b"before the answer").unwrap();
        assert_eq!(spoken.answer(&mut stream).unwrap(), spoken.good());
        let mut back = [0; 17];
        stream.read_exact(&mut back).unwrap();
        assert_eq!(&back, b"before the answer", "{spoken:?}");
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(stream.read(&mut back).unwrap(), 0, "{spoken:?}");

        let mut half_closed = spoken.connect(proxy, "web", 7011).unwrap();
        half_closed.write_all(b"100 70000\n").unwrap();
        half_closed.shutdown(std::net::Shutdown::Write).unwrap();
        receive_pattern(&mut half_closed, 70_000).unwrap_or_else(|error| panic!("{spoken:?}: {error}"));

        let mut reset = spoken.connect(proxy, "web", 7012).unwrap();
        reset.write_all(b"x").unwrap();
        let ended = reset.read_to_end(&mut Vec::new());
        let error = ended.expect_err("a reset");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{spoken:?}");
    }
}

/// An association, and the connection that it lives as long as.
fn associate(proxy: SocketAddr) -> (TcpStream, UdpSocket) {
    let mut stream = connect(proxy);
    stream.write_all(&[5, 1, 0, 5, 3, 0, 1, 0, 0, 0, 0, 0, 0]).unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(answer[..6], [5, 0, 5, 0, 0, 1]);
    let address = SocketAddr::from((
        [answer[6], answer[7], answer[8], answer[9]],
        u16::from_be_bytes([answer[10], answer[11]]),
    ));
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(address).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    (stream, socket)
}

fn datagram(host: &str, port: u16, payload: &[u8]) -> Vec<u8> {
    let head = [&[0, 0, 0, 3, host.len() as u8][..], host.as_bytes(), &port.to_be_bytes()].concat();
    [&head[..], payload].concat()
}

#[test]
fn datagrams_reach_the_clusters_dns_and_come_back_whole_at_every_size() {
    let (_relay, proxy) = Relay::start_proxy(&[]);
    let (_stream, socket) = associate(proxy);
    let mut query = vec![0, 77, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in ["kubernetes", "default", "svc", "cluster", "local"] {
        query.push(label.len() as u8);
        query.extend_from_slice(label.as_bytes());
    }
    query.extend_from_slice(&[0, 0, 1, 0, 1]);
    let exchange = |host: &str, port, payload: &[u8]| {
        let sent = datagram(host, port, payload);
        let mut buffer = vec![0; 65_536];
        // Datagrams may be lost.
        let tries = (0..3).find_map(|_| {
            socket.send(&sent).unwrap();
            socket.recv(&mut buffer).ok()
        });
        let len = tries.unwrap_or_else(|| panic!("no answer from {host}:{port} to {} bytes", payload.len()));
        let head = sent.len() - payload.len();
        assert_eq!(buffer[..head], sent[..head]);
        buffer[head..len].to_vec()
    };
    let answer = exchange("kube-dns.kube-system", 53, &query);
    assert!(answer[..2] == [0, 77] && answer[3] & 0x0f == 0 && answer[7] > 0, "{answer:?}");
    for len in [1, 1_472, 8_000, 65_000] {
        let payload: Vec<u8> = (0..len).map(|index| (index % 251) as u8).collect();
        assert!(exchange("web", 7007, &payload) == payload, "{len} bytes");
    }
}

#[test]
fn five_hundred_at_once_through_each_protocol() {
    let (relay, proxy) = Relay::start_proxy(&[]);
    let request = "GET / HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n";
    let tunnels = Spoken::ALL.map(Some);
    for spoken in tunnels.into_iter().chain([None]) {
        let since = Instant::now();
        let asking: Vec<_> = (0..500)
            .map(|_| {
                thread::spawn(move || {
                    let mut stream = match spoken {
                        Some(spoken) => {
                            spoken.connect(proxy, "web.default", 80).map_err(|error| error.to_string())?
                        }
                        None => connect(proxy),
                    };
                    let request = match spoken {
                        Some(_) => request.to_owned(),
                        None => request.replace("GET /", "GET http://web.default/"),
                    };
                    stream.write_all(request.as_bytes()).map_err(|error| error.to_string())?;
                    let mut reply = String::new();
                    stream.read_to_string(&mut reply).map_err(|error| error.to_string())?;
                    if reply.contains(MARKER) { Ok(()) } else { Err(reply) }
                })
            })
            .collect();
        let failed: Vec<String> =
            asking.into_iter().filter_map(|asking| asking.join().unwrap().err()).collect();
        let what = spoken.map_or("plain HTTP".to_owned(), |spoken| format!("{spoken:?}"));
        assert!(failed.is_empty(), "{what}: {} failed, first {:?}", failed.len(), failed[0]);
        println!("{what}: 500 in {:?}, the plugin holds {} MiB", since.elapsed(), relay.memory() >> 20);
    }
}

#[test]
fn beyond_this_machine_it_wants_a_password() {
    let refused = Relay::spawn(&["proxy", "-l", "0.0.0.0:0"]).wait(Duration::from_secs(10));
    assert_eq!(refused.code, Some(2));
    assert!(
        refused.stderr.contains("0.0.0.0 is not on this machine alone") && refused.stderr.contains("hint: "),
        "{}",
        refused.stderr
    );

    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "me:secret\n").unwrap();
    let (_relay, proxy) =
        Relay::start_proxy(&["--auth-file", file.path().to_str().unwrap(), "-l", "0.0.0.0:0"]);
    for scheme in ["socks5h", "http"] {
        let with = format!("{scheme}://me:secret@{proxy}");
        let (good, said) = curl(&["-f", "-x", &with, "http://web/"]);
        assert!(good && said.contains(MARKER), "{scheme}: {said}");
        let (good, said) = curl(&["-f", "-x", &format!("{scheme}://me:wrong@{proxy}"), "http://web/"]);
        assert!(!good, "{scheme}: {said}");
    }
}
