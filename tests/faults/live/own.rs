//! The page's two connections without a browser, as plain HTTP through the proxy.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use relay_tests::connect;

use super::{Seen, Viewer};

/// Between an echo and the next.
const PACE: Duration = Duration::from_millis(100);
/// The key of RFC 6455's example, and what has to be answered.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// A client; its connections go on until the proxy ends.
pub(super) struct Own(Arc<Mutex<Seen>>);

impl Own {
    /// Opens both connections.
    pub(super) fn start(proxy: SocketAddr) -> Self {
        let seen = Arc::new(Mutex::new(Seen::default()));
        for connection in [socket, events] {
            let seen = Arc::clone(&seen);
            thread::spawn(move || {
                let error = connection(proxy, &seen).expect_err("neither ends by itself");
                eprintln!("a connection of the tests' own has ended: {error}");
                lock(&seen).ended += 1;
            });
        }
        Self(seen)
    }
}

impl Viewer for Own {
    fn name(&self) -> &str {
        "plain HTTP"
    }

    fn seen(&self) -> Option<Seen> {
        Some(*lock(&self.0))
    }
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A WebSocket by `Upgrade`.
fn socket(proxy: SocketAddr, seen: &Mutex<Seen>) -> io::Result<()> {
    let mut stream = connect(proxy);
    let switch = format!(
        "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}"
    );
    write!(stream, "GET http://web.default/live/socket HTTP/1.1\r\nHost: web.default\r\n{switch}\r\n\r\n")?;
    let head = read_head(&mut stream)?;
    if !head.starts_with("HTTP/1.1 101 ") || !head.contains(ACCEPT) {
        return Err(io::Error::other(head));
    }
    let mut last = Instant::now();
    for number in 0u64.. {
        let text = format!("echo {number}");
        let length = text.len() as u8;
        // Masked with zeros.
        stream.write_all(&[&[0x81, 0x80 | length, 0, 0, 0, 0], text.as_bytes()].concat())?;
        let mut back = vec![0; 2 + text.len()];
        stream.read_exact(&mut back)?;
        let mut seen = lock(seen);
        seen.wrong += u64::from(back != [&[0x81, length], text.as_bytes()].concat());
        seen.longest = seen.longest.max(last.elapsed().as_millis() as u64);
        seen.echoes += 1;
        drop(seen);
        last = Instant::now();
        thread::sleep(PACE);
    }
    Ok(())
}

/// The events, as HTTP/1.0 so that nothing is chunked.
fn events(proxy: SocketAddr, seen: &Mutex<Seen>) -> io::Result<()> {
    let mut stream = connect(proxy);
    write!(stream, "GET http://web.default/live/events HTTP/1.0\r\nAccept: text/event-stream\r\n\r\n")?;
    let head = read_head(&mut stream)?;
    if !head.contains(" 200 ") {
        return Err(io::Error::other(head));
    }
    for line in BufReader::new(stream).lines() {
        if let Some(event) = line?.strip_prefix("data: ") {
            let mut seen = lock(seen);
            seen.wrong += u64::from(event != format!("event {}", seen.events));
            seen.events += 1;
        }
    }
    Err(io::ErrorKind::UnexpectedEof.into())
}

fn read_head(stream: &mut TcpStream) -> io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}
