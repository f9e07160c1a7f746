//! A connection through a proxy.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use anyhow::{Result, bail};
use clap::ValueEnum;

/// No answer to CONNECT is longer.
const LONGEST: usize = 4096;

/// What a proxy is spoken to in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(in crate::bench) enum Spoken {
    /// SOCKS5, without a login.
    Socks5,
    /// HTTP CONNECT.
    Connect,
}

impl Spoken {
    /// As an option of the load.
    pub(in crate::bench) fn name(self) -> &'static str {
        match self {
            Self::Socks5 => "socks5",
            Self::Connect => "connect",
        }
    }

    /// Asks for a target and waits until it was reached.
    pub(super) fn ask(self, stream: &mut TcpStream, target: SocketAddr) -> Result<()> {
        match self {
            Self::Socks5 => socks5(stream, target),
            Self::Connect => connect(stream, target),
        }
    }
}

fn socks5(stream: &mut TcpStream, target: SocketAddr) -> Result<()> {
    let mut request = vec![5, 1, 0, 5, 1, 0];
    match target {
        SocketAddr::V4(target) => {
            request.push(1);
            request.extend(target.ip().octets());
        }
        SocketAddr::V6(target) => {
            request.push(4);
            request.extend(target.ip().octets());
        }
    }
    request.extend(target.port().to_be_bytes());
    stream.write_all(&request)?;
    let mut answer = [0; 12];
    stream.read_exact(&mut answer)?;
    if answer[..4] != [5, 0, 5, 0] {
        bail!("the proxy answers {answer:?} for {target}");
    }
    Ok(())
}

fn connect(stream: &mut TcpStream, target: SocketAddr) -> Result<()> {
    stream.write_all(format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n").as_bytes())?;
    let (mut head, mut len) = ([0; LONGEST], 0);
    // The target says nothing before it is asked, so all that comes is the head.
    while !head[..len].ends_with(b"\r\n\r\n") {
        let read = stream.read(&mut head[len..])?;
        if read == 0 {
            bail!("the proxy gives no answer for {target}");
        }
        len += read;
    }
    if !head.starts_with(b"HTTP/1.1 200 ") {
        bail!("the proxy answers {:?} for {target}", String::from_utf8_lossy(&head[..len]));
    }
    Ok(())
}
