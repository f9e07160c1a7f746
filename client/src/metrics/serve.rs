//! The metrics' listener: one small page for whoever asks.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use relay_observe::http;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{sleep, timeout},
};
use tokio_util::task::AbortOnDropHandle;

use super::{MetricsError, render};
use crate::ledger::Ledger;

/// Connections at a time; more wait in the system's queue.
const MOST: usize = 8;
/// How long one may take, all in all.
const PATIENCE: Duration = Duration::from_secs(5);
/// With no file descriptor left, accepting again at once would only burn time.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// To a name of somebody else's that leads here.
const MISDIRECTED: &[u8] =
    b"HTTP/1.1 421 Misdirected Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";

/// A page with the metrics, as long as this lives.
pub struct Metrics {
    /// Where it is.
    pub local: SocketAddr,
    _task: AbortOnDropHandle<()>,
}

/// Listens, and tells everybody who asks how the ledger stands. To be called within a runtime.
///
/// # Errors
/// Where the address cannot be had.
pub fn serve(address: SocketAddr, ledger: Ledger) -> Result<Metrics, MetricsError> {
    let failed = |source| MetricsError { address, source };
    let listener = std::net::TcpListener::bind(address).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    let local = listener.local_addr().map_err(failed)?;
    let listener = TcpListener::from_std(listener).map_err(failed)?;
    let task = tokio::spawn(accept(listener, local.ip().is_loopback(), ledger));
    Ok(Metrics { local, _task: AbortOnDropHandle::new(task) })
}

async fn accept(listener: TcpListener, is_private: bool, ledger: Ledger) {
    let places = Arc::new(Semaphore::new(MOST));
    // The semaphore is never closed.
    while let Ok(place) = Arc::clone(&places).acquire_owned().await {
        match listener.accept().await {
            Ok((client, _)) => {
                let ledger = ledger.clone();
                tokio::spawn(async move {
                    match timeout(PATIENCE, answer(client, is_private, &ledger)).await {
                        Ok(Ok(())) => {}
                        Ok(Err(error)) => tracing::debug!(%error, "metrics not delivered"),
                        Err(_) => tracing::debug!("metrics not taken in time"),
                    }
                    drop(place);
                });
            }
            Err(error) => {
                tracing::debug!(%error, "metrics: connection not accepted");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn answer(mut client: TcpStream, is_private: bool, ledger: &Ledger) -> io::Result<()> {
    let mut request = Vec::with_capacity(1_024);
    let answer = loop {
        let page = || render(&ledger.snapshot(), env!("CARGO_PKG_VERSION"));
        if let Some(answer) = http::answer(&request, page) {
            break answer;
        }
        if client.read_buf(&mut request).await? == 0 {
            return Ok(());
        }
    };
    // A web page elsewhere may make its own name lead here, and would read the answer.
    let answer = if is_private && !is_for_this_machine(&request) { MISDIRECTED } else { &answer };
    client.write_all(answer).await?;
    client.shutdown().await
}

/// Whether a request names an address, or `localhost`, or nobody.
fn is_for_this_machine(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request);
    let host = text.split("\r\n").skip(1).find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("host").then(|| value.trim().to_owned())
    });
    let Some(host) = host else { return true };
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host.as_str(),
    };
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost") || bare.parse::<std::net::IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn asked(metrics: &Metrics, request: &str) -> String {
        let mut socket = TcpStream::connect(metrics.local).await.unwrap();
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        timeout(PATIENCE, socket.read_to_string(&mut answer)).await.unwrap().unwrap();
        answer
    }

    #[tokio::test]
    async fn the_page_is_there_for_this_machine_and_for_no_name_of_others() {
        let metrics = serve("127.0.0.1:0".parse().unwrap(), Ledger::new()).unwrap();
        for host in ["127.0.0.1", "127.0.0.1:9100", "localhost:1", "[::1]:1", "[::1]"] {
            let answer = asked(&metrics, &format!("GET /metrics HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
            assert!(
                answer.starts_with("HTTP/1.1 200 ") && answer.contains("build_info{version="),
                "{answer}"
            );
        }
        for host in ["evil.example", "evil.example:80", "localhost.evil.example"] {
            let answer = asked(&metrics, &format!("GET /metrics HTTP/1.1\r\nhost:{host}\r\n\r\n")).await;
            assert!(answer.starts_with("HTTP/1.1 421 ") && !answer.contains("build_info"), "{answer}");
        }
        assert!(asked(&metrics, "GET / HTTP/1.0\r\n\r\n").await.starts_with("HTTP/1.1 404 "));
    }

    #[tokio::test]
    async fn a_busy_port_is_told_with_the_way_out() {
        let taken = serve("127.0.0.1:0".parse().unwrap(), Ledger::new()).unwrap();
        let Err(error) = serve(taken.local, Ledger::new()) else { panic!("{} is taken", taken.local) };
        assert!(error.to_string().starts_with(&format!("cannot listen on {} for the metrics", taken.local)));
        assert_eq!(error.hint(), "let the system choose a port: --metrics 127.0.0.1:0");
    }
}
