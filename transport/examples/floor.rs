//! The least that the client of a port-forward can cost: one thread that takes what an API server sends over TLS and writes
//! it to a local connection, or the other way around, and does nothing else. No session, no frames, no WebSocket, no runtime,
//! and it sleeps until 64 KiB are there. Prints the processor time of that thread, in seconds per GiB.
//!
//! ```text
//! cargo run --profile fast -p relay-transport --example floor -- [MIB]
//! ```

use std::env;
use std::fs;
use std::io::{self, BufRead as _, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use base64::prelude::{BASE64_STANDARD, Engine as _};
use rustix::net::RecvFlags;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned};

const MIB: usize = 1 << 20;
/// One read or write of either program beside the client.
const PIECE: usize = 64 * 1024;
/// What an API server makes of 32 KiB from a kubelet: so many bytes in each TLS record, and each is a write of its own
/// (two WebSocket messages, each with its header first and an empty frame behind).
const RECORDS: [usize; 6] = [8, 16 * 1024, 2, 8, 16 * 1024, 2];
const NAME: &str = "localhost";

fn main() -> Result<()> {
    let args: Vec<String> = env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args.as_slice() {
        ["server", direction, mib] => serve(direction, mib.parse()?),
        ["program", direction, mib] => local(direction, mib.parse()?),
        [] => compare(512),
        [mib] => compare(mib.parse()?),
        _ => bail!("usage: floor [MIB]"),
    }
}

fn compare(mib: usize) -> Result<()> {
    let (down, up) = (carry("down", mib)?, carry("up", mib)?);
    println!("{}", serde_json::json!({"download_s_per_gib": down, "upload_s_per_gib": up}));
    Ok(())
}

/// Carries so much in one direction; gives the seconds of processor time per GiB.
fn carry(direction: &str, mib: usize) -> Result<f64> {
    let (mut server, lines) = Peer::start("server", direction, mib)?;
    let (mut program, at) = Peer::start("program", direction, mib)?;
    let [port, certificate] = lines.as_slice() else { bail!("the server says {lines:?}") };
    let [local] = at.as_slice() else { bail!("the program says {at:?}") };
    let mut tunnel = Tunnel::dial(port.parse()?, certificate)?;
    let mut local = TcpStream::connect((Ipv4Addr::LOCALHOST, local.parse()?))?;
    let (before, mut piece) = (processor_time()?, vec![0; PIECE]);
    if direction == "down" {
        tunnel.incoming.get_mut().waits_for_all = true;
        pump(&mut tunnel, &mut local, &mut piece)?;
    } else {
        pump(&mut local, &mut tunnel, &mut piece)?;
        tunnel.tls.send_close_notify();
        tunnel.flush()?;
    }
    let used = processor_time()? - before;
    drop((tunnel, local));
    server.end()?;
    program.end()?;
    Ok(used * 1024.0 / mib as f64)
}

fn pump(from: &mut impl Read, to: &mut impl Write, piece: &mut [u8]) -> Result<()> {
    loop {
        match from.read(piece)? {
            0 => return Ok(()),
            len => to.write_all(&piece[..len])?,
        }
    }
}

/// The socket under TLS. It may wait until all that a read has room for is there.
struct Socket {
    socket: TcpStream,
    waits_for_all: bool,
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let flags = if self.waits_for_all { RecvFlags::WAITALL } else { RecvFlags::empty() };
        let (len, _) = rustix::net::recv(&self.socket, buffer, flags)?;
        Ok(len)
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.socket.write(bytes)
    }

    fn write_vectored(&mut self, pieces: &[io::IoSlice<'_>]) -> io::Result<usize> {
        self.socket.write_vectored(pieces)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// TLS over a socket that is read in large pieces.
struct Tunnel {
    tls: ClientConnection,
    incoming: BufReader<Socket>,
}

impl Tunnel {
    /// Connects to the server, whose certificate is the only one trusted.
    fn dial(port: u16, certificate: &str) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from(BASE64_STANDARD.decode(certificate)?))?;
        let config = ClientConfig::builder_with_provider(as_in_go().into())
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let mut tls = ClientConnection::new(Arc::new(config), ServerName::try_from(NAME)?)?;
        let mut socket =
            Socket { socket: TcpStream::connect((Ipv4Addr::LOCALHOST, port))?, waits_for_all: false };
        while tls.is_handshaking() {
            tls.complete_io(&mut socket)?;
        }
        Ok(Self { tls, incoming: BufReader::with_capacity(PIECE, socket) })
    }
}

impl Read for Tunnel {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.tls.reader().read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.tls.read_tls(&mut self.incoming)?;
                    self.tls.process_new_packets().map_err(io::Error::other)?;
                }
                read => return read,
            }
        }
    }
}

impl Write for Tunnel {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let len = self.tls.writer().write(bytes)?;
        self.flush()?;
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        while self.tls.wants_write() {
            self.tls.write_tls(self.incoming.get_mut())?;
        }
        Ok(())
    }
}

/// The cipher that an API server, being a Go program, prefers.
fn as_in_go() -> CryptoProvider {
    CryptoProvider {
        cipher_suites: vec![ring::cipher_suite::TLS13_AES_128_GCM_SHA256],
        ..ring::default_provider()
    }
}

/// A program beside the client, in a process of its own: its time is not the client's.
struct Peer(Child);

impl Peer {
    /// Starts it; gives the words of its first line, which tells where it listens.
    fn start(role: &str, direction: &str, mib: usize) -> Result<(Self, Vec<String>)> {
        let mut command = Command::new(env::current_exe()?);
        let mut child = command
            .args([role, direction, &mib.to_string()])
            .stdout(Stdio::piped())
            .spawn()
            .context(role.to_owned())?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("no output")?).read_line(&mut line)?;
        Ok((Self(child), line.split_ascii_whitespace().map(str::to_owned).collect()))
    }

    fn end(&mut self) -> Result<()> {
        let status = self.0.wait()?;
        if status.success() { Ok(()) } else { bail!("a peer ended with {status}") }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The API server: sends as it does, or takes everything.
fn serve(direction: &str, mib: usize) -> Result<()> {
    let made = rcgen::generate_simple_self_signed([NAME.to_owned()])?;
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).map_err(anyhow::Error::msg)?;
    let mut config = ServerConfig::builder_with_provider(as_in_go().into())
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)?;
    // Nobody would read them, and what is unread when a connection is closed resets it.
    config.send_tls13_tickets = 0;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    println!("{} {}", listener.local_addr()?.port(), BASE64_STANDARD.encode(made.cert.der()));
    let (socket, _) = listener.accept()?;
    socket.set_nodelay(true)?;
    let mut stream = StreamOwned::new(ServerConnection::new(Arc::new(config))?, socket);
    if direction == "down" {
        let zeros = [0; 16 * 1024];
        let mut sent = 0;
        while sent < mib * MIB {
            for len in RECORDS {
                stream.write_all(&zeros[..len])?;
                sent += len;
            }
        }
        stream.conn.send_close_notify();
        stream.flush()?;
    } else {
        discard(&mut stream)?;
    }
    Ok(())
}

/// The program at the local port: sends, or takes everything.
fn local(direction: &str, mib: usize) -> Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    println!("{}", listener.local_addr()?.port());
    let (mut stream, _) = listener.accept()?;
    if direction == "up" {
        let zeros = vec![0; PIECE];
        (0..mib * MIB / PIECE).try_for_each(|_| stream.write_all(&zeros))?;
    } else {
        discard(&mut stream)?;
    }
    Ok(())
}

fn discard(stream: &mut impl Read) -> io::Result<()> {
    let mut piece = vec![0; PIECE];
    while stream.read(&mut piece)? > 0 {}
    Ok(())
}

/// Of this process's first thread so far, in seconds (proc(5), `schedstat`).
fn processor_time() -> Result<f64> {
    let text = fs::read_to_string("/proc/self/schedstat")?;
    let nanoseconds: f64 = text.split_ascii_whitespace().next().context("an empty schedstat")?.parse()?;
    Ok(nanoseconds / 1e9)
}
