//! What the bench talks to, inside a pod's network: servers that cost next to nothing.
//!
//! The services of the test workload compute digests and patterns, which would be measured along
//! with the tools. These move bytes and count them.

use std::io::{self, BufReader, Read, Write};
use std::net::{Ipv6Addr, TcpListener, TcpStream, UdpSocket};
use std::thread;

use anyhow::{Context, Result};
use serde_json::json;

use super::amount::Amount;
use super::process;

/// A thread per connection must be cheap: a thousand of them only wait.
const STACK: usize = 64 * 1024;

/// Serves until standard input ends, so that it never outlives the run that started it.
///
/// Prints one line of JSON with the port of each service:
/// - `echo` and `udp`: everything back
/// - `source`: the line of an [`Amount`], then so much, then the end
/// - `sink`: the line of an [`Amount`], so much, then a line with the number of bytes as soon as the last one is there
pub(super) fn run() -> Result<()> {
    process::allow_many_files();
    let udp = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).context("UDP echo")?;
    let ports = json!({
        "echo": listen(echo)?,
        "source": listen(source)?,
        "sink": listen(sink)?,
        "udp": udp.local_addr()?.port(),
    });
    thread::spawn(move || udp_echo(&udp));
    println!("{ports}");
    io::copy(&mut io::stdin(), &mut io::sink())?;
    Ok(())
}

fn listen(serve: fn(TcpStream) -> io::Result<()>) -> Result<u16> {
    // An IPv6 socket takes IPv4 peers too: a port-forward comes over loopback of either family.
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)).context("listen")?;
    let port = listener.local_addr()?.port();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let _ = stream.set_nodelay(true);
            // What one connection meets is seen at the other end of it.
            let _ = thread::Builder::new().stack_size(STACK).spawn(move || serve(stream));
        }
    });
    Ok(port)
}

fn echo(mut stream: TcpStream) -> io::Result<()> {
    let mut buffer = [0; 4096];
    while let read @ 1.. = stream.read(&mut buffer)? {
        stream.write_all(&buffer[..read])?;
    }
    Ok(())
}

fn source(stream: TcpStream) -> io::Result<()> {
    let mut reader = BufReader::with_capacity(64, stream);
    Amount::read(&mut reader)?.send(reader.get_mut())
}

fn sink(stream: TcpStream) -> io::Result<()> {
    let mut reader = BufReader::with_capacity(64, stream);
    let Some(count) = Amount::read(&mut reader)?.discard(&mut reader)? else { return Ok(()) };
    let stream = reader.get_mut();
    stream.write_all(format!("{count}\n").as_bytes())?;
    // The peer closes first, so that waiting states gather at its addresses.
    while stream.read(&mut [0; 4096])? > 0 {}
    Ok(())
}

fn udp_echo(socket: &UdpSocket) {
    let mut buffer = vec![0; 65_536];
    loop {
        if let Ok((length, peer)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(&buffer[..length], peer);
        }
    }
}
