//! The test services, in one static program; what listens where is in the library's documentation.

mod h2c;
mod http;
mod live;
mod pause;
mod probe;
mod scan;
mod servers;

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use relay_workload::ports;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::signal::unix::{SignalKind, signal};

#[derive(Parser)]
#[command(about = "Test services for kubectl relay", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Listen on every port.
    Serve {
        /// Go on serving this many seconds after SIGTERM.
        #[arg(long, default_value_t = 0)]
        term_delay: u64,
        /// Start as not ready; `/ready/on` changes that.
        #[arg(long)]
        not_ready: bool,
        /// Answer TCP on 127.0.0.1 only.
        #[arg(long)]
        loopback: bool,
    },
    /// Wait for a signal and reap children: the first process of a sandbox.
    Pause,
    /// Print what `http://HOST:PORT/PATH` answers, for probes from inside a pod.
    Get {
        /// HOST:PORT.
        address: String,
        /// Path with its leading slash.
        #[arg(default_value = "/")]
        path: String,
    },
    /// Ask for `http://HOST:PORT/` at a steady rate until the input ends; print each failure and their number.
    Probe {
        /// HOST:PORT.
        address: String,
        /// Requests per second.
        #[arg(long, default_value_t = 20)]
        per_second: u32,
    },
    /// Print which TCP ports of an address are open.
    Scan {
        /// The address.
        address: IpAddr,
    },
    /// Print the addresses that a host name has here.
    Resolve {
        /// The name, with or without its domain.
        name: String,
    },
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    match Cli::parse().command {
        Command::Serve { term_delay, not_ready, loopback } => {
            // An IPv6 socket takes IPv4 peers too, so one listener serves pods of either family.
            let address = if loopback { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::UNSPECIFIED.into() };
            tokio::select! {
                done = serve(address, !not_ready) => done,
                done = terminated(Duration::from_secs(term_delay)) => done,
            }
        }
        Command::Pause => pause::run().await,
        Command::Get { address, path } => {
            print!("{}", http::get(&address, &path).await?);
            Ok(())
        }
        Command::Probe { address, per_second } => probe::run(&address, per_second).await,
        Command::Scan { address } => scan::run(address).await,
        Command::Resolve { name } => {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await;
            for address in found.with_context(|| format!("resolve {name}"))? {
                println!("{}", address.ip());
            }
            Ok(())
        }
    }
}

async fn terminated(delay: Duration) -> Result<()> {
    signal(SignalKind::terminate())?.recv().await;
    tokio::time::sleep(delay).await;
    Ok(())
}

async fn serve(address: IpAddr, ready: bool) -> Result<()> {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let site = Arc::new(http::Site { host: host.clone(), ready: AtomicBool::new(ready) });
    let udp = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, ports::ECHO)).await.context("UDP echo")?;
    println!("listening as {host}, ready: {}", site.ready.load(Ordering::Relaxed));
    tokio::try_join!(
        listen(address, ports::HTTP, move |stream| http::serve(stream, site.clone())),
        listen(address, ports::ECHO, servers::echo),
        listen(address, ports::BANNER, move |stream| {
            let host = host.clone();
            async move { servers::banner(stream, &host).await }
        }),
        listen(address, ports::SINK, servers::sink),
        listen(address, ports::SOURCE, servers::source),
        listen(address, ports::HALF_CLOSE, servers::half_close),
        listen(address, ports::RESET, servers::reset),
        listen(address, ports::NEVER_READ, servers::never_read),
        listen(address, ports::SLOW, servers::slow),
        listen(address, ports::H2C, h2c::serve),
        servers::udp_echo(udp),
    )?;
    Ok(())
}

/// Serves every connection to `port` in a task of its own; what one connection meets harms no other.
async fn listen<F>(address: IpAddr, port: u16, serve: impl Fn(TcpStream) -> F) -> Result<()>
where
    F: Future<Output = Result<()>> + Send + 'static,
{
    let listener = TcpListener::bind((address, port)).await;
    let listener = listener.with_context(|| format!("listen on port {port}"))?;
    loop {
        let Ok((stream, peer)) = listener.accept().await else {
            // Out of descriptors: give the connections that hold them time to end.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let _ = stream.set_nodelay(true);
        let connection = serve(stream);
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                eprintln!("port {port}, peer {peer}: {error:#}");
            }
        });
    }
}
