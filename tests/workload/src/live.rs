//! A page that stays connected: a WebSocket that echoes and a stream of events, for browsers.

use std::time::Duration;

use anyhow::{Result, bail};
use base64::Engine as _;
use sha1::{Digest as _, Sha1};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// The page.
pub(crate) const PAGE: &str = include_str!("live.html");
/// Between two events.
const PACE: Duration = Duration::from_millis(100);
/// What RFC 6455 appends to a key.
const PROTOCOL: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// The longest payload whose length is in a frame's second byte.
const LONGEST: u8 = 125;

const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

/// Events, numbered from 0, until the client is gone.
pub(crate) async fn events(writer: &mut (impl AsyncWrite + Unpin)) -> Result<()> {
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-store\r\n\
                Connection: close\r\n\r\n";
    writer.write_all(head.as_bytes()).await?;
    for number in 0u64.. {
        writer.write_all(format!("data: event {number}\n\n").as_bytes()).await?;
        tokio::time::sleep(PACE).await;
    }
    Ok(())
}

/// Switches to a WebSocket and sends every short message back, until the client closes it.
pub(crate) async fn socket(
    key: &str,
    reader: &mut (impl AsyncRead + Unpin),
    writer: &mut (impl AsyncWrite + Unpin),
) -> Result<()> {
    let accept = base64::engine::general_purpose::STANDARD.encode(Sha1::digest(format!("{key}{PROTOCOL}")));
    let head = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\n\r\n"
    );
    writer.write_all(head.as_bytes()).await?;
    loop {
        let (kind, payload) = read_frame(reader).await?;
        let answer = if kind == PING { PONG } else { kind };
        let frame = [&[0x80 | answer, payload.len() as u8][..], &payload].concat();
        writer.write_all(&frame).await?;
        if kind == CLOSE {
            return Ok(());
        }
    }
}

/// One short message of a client: its opcode and its payload.
async fn read_frame(reader: &mut (impl AsyncRead + Unpin)) -> Result<(u8, Vec<u8>)> {
    let mut head = [0; 6];
    reader.read_exact(&mut head).await?;
    let [first, second, mask @ ..] = head;
    let length = second & 0x7f;
    if first & 0xf0 != 0x80 || second & 0x80 == 0 || length > LONGEST {
        bail!("only whole, masked messages of up to {LONGEST} bytes are echoed");
    }
    let mut payload = vec![0; length.into()];
    reader.read_exact(&mut payload).await?;
    for (byte, mask) in payload.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= mask;
    }
    Ok((first & 0x0f, payload))
}
