//! The load: one process per measurement, blocking threads, no work on the bytes.
//!
//! It is a process of its own so that the same program can run in the node's network (for the
//! straight way to the pod) and so that its processor time can be told from everybody else's.

mod bulk;
mod connections;
mod echo;
mod proxy;
mod udp;

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use socket2::{Domain, Socket, Type};

use super::amount::Amount;
use super::process;
pub(super) use proxy::Spoken;

/// What is measured and where.
#[derive(Debug, Clone, Args)]
pub(super) struct Options {
    /// The kind of load.
    #[arg(value_enum)]
    kind: Kind,
    /// The service that `kind` is about.
    #[arg(long)]
    address: SocketAddr,
    /// A proxy through which the service is reached.
    #[arg(long, requires = "spoken")]
    proxy: Option<SocketAddr>,
    /// What the proxy is spoken to in.
    #[arg(long, value_enum)]
    spoken: Option<Spoken>,
    /// The source of the download beside which echoes are timed.
    #[arg(long)]
    source: Option<SocketAddr>,
    /// Connections at once.
    #[arg(long, default_value_t = 1)]
    streams: usize,
    /// Bytes of all streams together; without it, what is sent in `seconds`.
    #[arg(long)]
    bytes: Option<u64>,
    /// At most so many repetitions.
    #[arg(long, default_value_t = 1)]
    count: usize,
    /// At most so many seconds of repetitions.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
}

impl Options {
    /// The connection of this number to the service.
    fn connect(&self, number: usize) -> Result<TcpStream> {
        match (self.proxy, self.spoken) {
            (Some(proxy), Some(spoken)) => {
                let mut stream = connect_from(proxy, number)?;
                spoken.ask(&mut stream, self.address)?;
                Ok(stream)
            }
            _ => connect_from(self.address, number),
        }
    }

    /// What each of so many streams carries.
    fn amount(&self, streams: usize) -> Amount {
        match self.bytes {
            Some(bytes) => Amount::Bytes(bytes / streams as u64),
            None => Amount::For(Duration::from_secs_f64(self.seconds)),
        }
    }
}

/// The kinds of load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Kind {
    /// Round trips of 64 bytes on one connection; with `--source`, while a download runs.
    Echo,
    /// From the source, to the last byte.
    Download,
    /// To the sink, until it says that all is there.
    Upload,
    /// How long after its last byte a stream ends.
    End,
    /// Connect, echo, close.
    Connections,
    /// Connections that stay open until standard input ends, opened `streams` at a time.
    Hold,
    /// Round trips of 64 bytes on all connections at once, back to back.
    Busy,
    /// `count` connections that ask for as many bytes as there are and read none, until standard input ends.
    Stuck,
    /// In `streams` threads, until standard input ends: connect, `count` round trips of 64 bytes, close, and again, whatever
    /// fails.
    Again,
    /// New connections, one after the other: from connecting to the first answer.
    First,
    /// Datagrams of 512 bytes, 64 in flight.
    Udp,
    /// Datagrams of 512 bytes at a steady pace: how long each takes.
    UdpPaced,
}

/// What a measurement found, by name.
pub(super) type Figures = BTreeMap<&'static str, f64>;

/// Measures once and prints the figures as one line of JSON.
pub(super) fn run(options: &Options) -> Result<()> {
    process::allow_many_files();
    let mut figures = match options.kind {
        Kind::Echo => match options.source {
            None => echo::idle(options)?,
            Some(source) => echo::beside_a_download(options, source)?,
        },
        Kind::Download => bulk::download(options)?,
        Kind::Upload => bulk::upload(options)?,
        Kind::End => bulk::end(options)?,
        Kind::Connections => connections::rate(options)?,
        Kind::Hold => return connections::hold(options),
        Kind::Busy => echo::on_all(options)?,
        Kind::Stuck => return connections::stuck(options),
        Kind::Again => return connections::again(options),
        Kind::First => connections::first(options)?,
        Kind::Udp => udp::echo(options)?,
        Kind::UdpPaced => udp::paced(options)?,
    };
    figures.insert("load_cpu_s", process::cpu_seconds(std::process::id()).unwrap_or_default());
    println!("{}", serde_json::to_string(&figures)?);
    Ok(())
}

/// A thread per stream must be cheap: there may be ten thousand.
const STACK: usize = 128 * 1024;
/// A silence that long is an answer: the measurement fails.
const SILENCE: Duration = Duration::from_secs(100);

fn connect(address: SocketAddr) -> Result<TcpStream> {
    connect_from(address, 0)
}

/// Connects; on loopback from one of many source addresses, so that ports do not run out.
fn connect_from(address: SocketAddr, number: usize) -> Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    if address.ip().is_loopback() && address.is_ipv4() {
        let source = SocketAddr::from(([127, 0, 0, 2 + (number % 250) as u8], 0));
        socket.bind(&source.into())?;
    }
    socket.connect_timeout(&address.into(), SILENCE).with_context(|| format!("connect to {address}"))?;
    let stream = TcpStream::from(socket);
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(SILENCE))?;
    stream.set_write_timeout(Some(SILENCE))?;
    Ok(stream)
}
