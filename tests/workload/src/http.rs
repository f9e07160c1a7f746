//! A small HTTP/1.1 server: pages, health that can be switched, and bytes to measure with.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, bail};
use relay_workload::{MARKER, hex, sha256_of_pattern};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use crate::live;

/// What all connections share.
#[derive(Debug)]
pub(crate) struct Site {
    /// The pod's host name, shown on the page.
    pub(crate) host: String,
    /// Whether `/healthz` says 200 or 503.
    pub(crate) ready: AtomicBool,
}

struct Request {
    method: String,
    path: String,
    length: u64,
    close: bool,
    /// Of a client that asks for a WebSocket.
    key: Option<String>,
}

/// Serves requests on one connection until the client closes it or asks to.
pub(crate) async fn serve(stream: TcpStream, site: Arc<Site>) -> Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    while let Some(request) = read_request(&mut reader).await? {
        let received = read_body(&mut reader, request.length).await?;
        if let Some(count) = request.path.strip_prefix("/bytes/").and_then(|n| n.parse::<u64>().ok()) {
            writer.write_all(head("200 OK", "application/octet-stream", count).as_bytes()).await?;
            crate::servers::send_pattern(&mut writer, count).await?;
        } else if request.path == "/live/events" {
            return live::events(&mut writer).await;
        } else if let ("/live/socket", Some(key)) = (request.path.as_str(), &request.key) {
            return live::socket(key, &mut reader, &mut writer).await;
        } else if request.path == "/live" {
            let head = head("200 OK", "text/html; charset=utf-8", live::PAGE.len() as u64);
            writer.write_all((head + live::PAGE).as_bytes()).await?;
        } else {
            let (status, body) = answer(&request, &received, &site);
            let head = head(status, "text/plain; charset=utf-8", body.len() as u64);
            writer.write_all((head + &body).as_bytes()).await?;
        }
        if request.close {
            break;
        }
    }
    writer.shutdown().await?;
    Ok(())
}

fn answer(request: &Request, received: &str, site: &Site) -> (&'static str, String) {
    match (request.method.as_str(), request.path.as_str()) {
        ("GET" | "HEAD", "/") => ("200 OK", format!("{MARKER}\nhost: {}\n", site.host)),
        (_, "/healthz") if site.ready.load(Ordering::Relaxed) => ("200 OK", "ok\n".to_owned()),
        (_, "/healthz") => ("503 Service Unavailable", "not ready\n".to_owned()),
        (_, "/ready/on") => switch(site, true),
        (_, "/ready/off") => switch(site, false),
        (_, "/sink") => ("200 OK", format!("{received}\n")),
        (_, path) => match path.strip_prefix("/sha256/").and_then(|n| n.parse().ok()) {
            Some(count) => ("200 OK", format!("{}\n", sha256_of_pattern(count))),
            None => ("404 Not Found", format!("nothing at {path}\n")),
        },
    }
}

fn switch(site: &Site, ready: bool) -> (&'static str, String) {
    site.ready.store(ready, Ordering::Relaxed);
    ("200 OK", format!("ready: {ready}\n"))
}

fn head(status: &str, kind: &str, length: u64) -> String {
    format!("HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n")
}

async fn read_request(reader: &mut (impl AsyncBufRead + Unpin)) -> Result<Option<Request>> {
    let mut line = String::new();
    if reader.read_line(&mut line).await? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace();
    let (Some(method), Some(path), Some(version)) = (words.next(), words.next(), words.next()) else {
        bail!("not an HTTP request line: {line:?}");
    };
    let mut request = Request {
        method: method.to_owned(),
        path: path.to_owned(),
        length: 0,
        close: version == "HTTP/1.0",
        key: None,
    };
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).await? == 0 {
            bail!("the request ended within its headers");
        }
        let line = line.trim_end();
        let Some((name, value)) = line.split_once(':') else {
            if line.is_empty() {
                return Ok(Some(request));
            }
            bail!("not a header: {line:?}");
        };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => request.length = value.trim().parse().context("Content-Length")?,
            "sec-websocket-key" => request.key = Some(value.trim().to_owned()),
            "connection" => request.close = value.trim().eq_ignore_ascii_case("close"),
            _ => {}
        }
    }
}

/// Reads the body away; gives its digest and length.
async fn read_body(reader: &mut (impl AsyncBufRead + Unpin), length: u64) -> Result<String> {
    let mut digest = Sha256::new();
    let mut body = reader.take(length);
    let mut buffer = vec![0; 64 * 1024];
    let mut count = 0;
    while let read @ 1.. = body.read(&mut buffer).await? {
        digest.update(&buffer[..read]);
        count += read as u64;
    }
    Ok(format!("{} {count}", hex(&digest.finalize())))
}

/// A client for probes from inside a pod that has no shell: prints the body of `http://HOST/PATH`.
pub(crate) async fn get(address: &str, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect(address).await.with_context(|| format!("connect to {address}"))?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut reply = String::new();
    stream.read_to_string(&mut reply).await?;
    let (head, body) = reply.split_once("\r\n\r\n").context("the answer has no end of headers")?;
    if !head.starts_with("HTTP/1.1 200") {
        bail!("{}", head.lines().next().unwrap_or_default());
    }
    Ok(body.to_owned())
}
