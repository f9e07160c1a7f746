//! Connections and datagrams through a forward, each byte checked.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use relay_workload::{Pattern, hex, sha256_of_pattern};
use sha2::{Digest as _, Sha256};

/// No read in a test waits longer than this.
const PATIENCE: Duration = Duration::from_secs(120);

/// Connects, with a limit on every read.
pub fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("the forward accepts");
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// Connects from a local address of the caller's choice, for more connections than one address has ports.
pub fn connect_from(local: [u8; 4], address: SocketAddr) -> io::Result<TcpStream> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
    socket.bind(&SocketAddr::from((local, 0)).into())?;
    socket.connect(&address.into())?;
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// The body of a page, over HTTP/1.1.
pub fn http_get(address: SocketAddr, path: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n")?;
    let mut reply = String::new();
    stream.read_to_string(&mut reply)?;
    match reply.split_once("\r\n\r\n") {
        Some((head, body)) if head.starts_with("HTTP/1.1 200") => Ok(body.to_owned()),
        _ => Err(io::Error::other(format!("no page: {reply:?}"))),
    }
}

/// One message there and back.
pub fn echo_once(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    stream.write_all(message)?;
    let mut back = vec![0; message.len()];
    stream.read_exact(&mut back)?;
    if back == message { Ok(()) } else { Err(io::Error::other("another message came back")) }
}

/// Writes `len` bytes of the pattern.
pub fn send_pattern(stream: &mut TcpStream, len: u64) -> io::Result<()> {
    let (mut pattern, mut buffer) = (Pattern::new(), vec![0; 64 * 1024]);
    let mut left = len;
    while left > 0 {
        let part = left.min(buffer.len() as u64) as usize;
        pattern.fill(&mut buffer[..part]);
        stream.write_all(&buffer[..part])?;
        left -= part as u64;
    }
    Ok(())
}

/// Reads to the end; every byte must be the pattern's, and there must be `len` of them.
pub fn receive_pattern(stream: &mut TcpStream, len: u64) -> io::Result<()> {
    receive_watched(stream, len, &AtomicU64::new(0))
}

/// As [`receive_pattern`], and tells others how many bytes have arrived.
fn receive_watched(stream: &mut TcpStream, len: u64, arrived: &AtomicU64) -> io::Result<()> {
    let (mut pattern, mut digest) = (Pattern::new(), Sha256::new());
    let (mut buffer, mut expected, mut total) = (vec![0; 64 * 1024], vec![0; 64 * 1024], 0);
    loop {
        let part = stream.read(&mut buffer)?;
        if part == 0 {
            break;
        }
        pattern.fill(&mut expected[..part]);
        if buffer[..part] != expected[..part] {
            return Err(io::Error::other(format!("a wrong byte after {total}")));
        }
        digest.update(&buffer[..part]);
        total += part as u64;
        arrived.store(total, Ordering::Relaxed);
    }
    if total != len {
        return Err(io::Error::other(format!("{total} bytes of {len} arrived")));
    }
    let digest = hex(&digest.finalize());
    if digest == sha256_of_pattern(len) { Ok(()) } else { Err(io::Error::other("another digest")) }
}

/// Uploads `len` bytes to the sink and checks the digest that it answers with.
pub fn upload(address: SocketAddr, len: u64) -> io::Result<()> {
    let mut stream = connect(address);
    send_pattern(&mut stream, len)?;
    stream.shutdown(std::net::Shutdown::Write)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let expected = format!("{} {len}", sha256_of_pattern(len));
    if answer.trim() == expected {
        Ok(())
    } else {
        Err(io::Error::other(format!("the sink answered {answer:?} instead of {expected:?}")))
    }
}

/// Downloads `len` bytes from the source.
pub fn download(address: SocketAddr, len: u64) -> io::Result<()> {
    download_watched(address, len, &AtomicU64::new(0))
}

/// As [`download`], and tells others how many bytes have arrived.
pub fn download_watched(address: SocketAddr, len: u64, arrived: &AtomicU64) -> io::Result<()> {
    let mut stream = connect(address);
    writeln!(stream, "{len}")?;
    receive_watched(&mut stream, len, arrived)
}

/// Asks the half-close server for `len` bytes after `delay`, and ends the own direction first.
pub fn half_close(address: SocketAddr, delay: Duration, len: u64) -> io::Result<()> {
    let mut stream = connect(address);
    writeln!(stream, "{} {len}", delay.as_millis())?;
    stream.shutdown(std::net::Shutdown::Write)?;
    receive_pattern(&mut stream, len)
}

/// One datagram there and back, from a socket of its own; asks again where it gets no answer, as UDP programs do.
pub fn udp_echo(address: SocketAddr, len: usize) -> io::Result<()> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut sent = vec![0; len];
    Pattern::at(len as u64).fill(&mut sent);
    let mut back = vec![0; 65_536];
    let mut result = Err(io::ErrorKind::TimedOut.into());
    for _ in 0..3 {
        socket.send_to(&sent, address)?;
        result = socket.recv_from(&mut back);
        if result.is_ok() {
            break;
        }
    }
    let (got, _) = result?;
    if back[..got] == sent[..] {
        Ok(())
    } else {
        Err(io::Error::other(format!("{got} other bytes came back")))
    }
}

/// Waits until something holds, and tells how long that took.
pub fn wait_until(what: &str, limit: Duration, mut holds: impl FnMut() -> bool) -> Duration {
    let since = Instant::now();
    while !holds() {
        assert!(since.elapsed() < limit, "not within {limit:?}: {what}");
        thread::sleep(Duration::from_millis(20));
    }
    since.elapsed()
}
