//! `kubectl relay proxy` as its clients see it.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::relay::Relay;
use crate::traffic::connect;

/// What a client speaks to the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spoken {
    /// SOCKS5.
    Socks5,
    /// SOCKS4a.
    Socks4a,
    /// HTTP CONNECT.
    Connect,
}

impl Spoken {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Socks5, Self::Socks4a, Self::Connect];

    /// Sends the request for a connection.
    pub fn ask(self, stream: &mut TcpStream, host: &str, port: u16) -> io::Result<()> {
        let name = [&[host.len() as u8][..], host.as_bytes(), &port.to_be_bytes()].concat();
        match self {
            Self::Socks5 => stream.write_all(&[&[5, 1, 0, 5, 1, 0, 3][..], &name].concat()),
            Self::Socks4a => {
                let head = [&[4, 1][..], &port.to_be_bytes(), &[0, 0, 0, 1, 0]].concat();
                stream.write_all(&[&head[..], host.as_bytes(), &[0]].concat())
            }
            Self::Connect => write!(stream, "CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n"),
        }
    }

    /// Reads the answer: the code of SOCKS, or the status of HTTP.
    pub fn answer(self, stream: &mut TcpStream) -> io::Result<u16> {
        match self {
            Self::Socks5 => {
                let mut answer = [0; 12];
                stream.read_exact(&mut answer)?;
                Ok(answer[3].into())
            }
            Self::Socks4a => {
                let mut answer = [0; 8];
                stream.read_exact(&mut answer)?;
                Ok(answer[1].into())
            }
            Self::Connect => {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    let mut byte = [0];
                    stream.read_exact(&mut byte)?;
                    head.push(byte[0]);
                }
                let head = String::from_utf8_lossy(&head);
                let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
                status.ok_or_else(|| io::Error::other(format!("no status: {head}")))
            }
        }
    }

    /// What the answer is when the target was reached.
    pub fn good(self) -> u16 {
        match self {
            Self::Socks5 => 0,
            Self::Socks4a => 90,
            Self::Connect => 200,
        }
    }

    /// A connection to a target.
    pub fn connect(self, proxy: SocketAddr, host: &str, port: u16) -> io::Result<TcpStream> {
        let mut stream = connect(proxy);
        self.ask(&mut stream, host, port)?;
        match self.answer(&mut stream)? {
            answer if answer == self.good() => Ok(stream),
            answer => Err(io::Error::other(format!("{self:?} answers {answer} for {host}:{port}"))),
        }
    }
}

impl Relay {
    /// Starts a proxy on a free port and waits until traffic can flow.
    pub fn start_proxy(args: &[&str]) -> (Self, SocketAddr) {
        let relay = Self::spawn(&[&["proxy", "-l", "127.0.0.1:0"], args].concat());
        loop {
            let line = relay.next_line(Duration::from_secs(60));
            if let Some(rest) = line.strip_prefix("Proxy listening on ") {
                let address = rest.split(' ').next().unwrap().parse().expect("an address");
                return (relay, address);
            }
            let event: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
            if event["event"] == "proxy" {
                let address = format!("{}:{}", event["address"].as_str().unwrap(), event["port"]);
                return (relay, address.parse().expect("an address"));
            }
        }
    }
}
