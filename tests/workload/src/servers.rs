//! The TCP and UDP services, each with one way of behaving that a tunnel can get wrong.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use relay_workload::{BANNER, Pattern, hex};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader, Interest};
use tokio::net::{TcpStream, UdpSocket};

const CHUNK: usize = 64 * 1024;
/// A request line longer than this is not one of ours.
const LINE_LIMIT: u64 = 128;

/// Sends everything back, until the client has finished and all of it is sent.
pub(crate) async fn echo(mut stream: TcpStream) -> Result<()> {
    let mut buffer = vec![0; CHUNK];
    while let read @ 1.. = stream.read(&mut buffer).await? {
        stream.write_all(&buffer[..read]).await?;
    }
    stream.shutdown().await?;
    Ok(())
}

/// Speaks first, then echoes.
pub(crate) async fn banner(mut stream: TcpStream, host: &str) -> Result<()> {
    stream.write_all(format!("{BANNER} {host}\n").as_bytes()).await?;
    echo(stream).await
}

/// Reads to the end and answers with digest and count.
pub(crate) async fn sink(mut stream: TcpStream) -> Result<()> {
    let mut digest = Sha256::new();
    let mut count = 0u64;
    let mut buffer = vec![0; CHUNK];
    while let read @ 1.. = stream.read(&mut buffer).await? {
        digest.update(&buffer[..read]);
        count += read as u64;
    }
    stream.write_all(format!("{} {count}\n", hex(&digest.finalize())).as_bytes()).await?;
    stream.shutdown().await?;
    Ok(())
}

/// Sends as many bytes as the first line asks for, then closes.
pub(crate) async fn source(stream: TcpStream) -> Result<()> {
    let mut stream = BufReader::new(stream);
    let [count] = read_numbers(&mut stream).await?;
    send_pattern(stream.get_mut(), count).await?;
    stream.get_mut().shutdown().await?;
    Ok(())
}

/// Replies only after the client has finished sending and a delay has passed.
pub(crate) async fn half_close(stream: TcpStream) -> Result<()> {
    let mut stream = BufReader::new(stream);
    let [delay, count] = read_numbers(&mut stream).await?;
    tokio::io::copy(&mut stream, &mut tokio::io::sink()).await?;
    tokio::time::sleep(Duration::from_millis(delay)).await;
    send_pattern(stream.get_mut(), count).await?;
    stream.get_mut().shutdown().await?;
    Ok(())
}

/// Reads something, then resets the connection.
pub(crate) async fn reset(mut stream: TcpStream) -> Result<()> {
    let mut buffer = [0; 1024];
    let _ = stream.read(&mut buffer).await?;
    stream.set_zero_linger()?;
    Ok(())
}

/// Never reads; holds the connection until the peer resets it.
pub(crate) async fn never_read(stream: TcpStream) -> Result<()> {
    stream.ready(Interest::ERROR).await?;
    Ok(())
}

/// Sends as many bytes as the first line asks for, 10 KiB per second.
pub(crate) async fn slow(stream: TcpStream) -> Result<()> {
    let mut stream = BufReader::new(stream);
    let [mut left] = read_numbers(&mut stream).await?;
    let mut pattern = Pattern::new();
    while left > 0 {
        let take = left.min(1024);
        stream.get_mut().write_all(&pattern.take(take as usize)).await?;
        left -= take;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    stream.get_mut().shutdown().await?;
    Ok(())
}

/// Sends every datagram back to where it came from.
pub(crate) async fn udp_echo(socket: UdpSocket) -> Result<()> {
    let mut buffer = vec![0; 65_536];
    loop {
        // Both calls can report the ICMP answer to an earlier datagram, which is not our end.
        let Ok((length, peer)) = socket.recv_from(&mut buffer).await else { continue };
        let _ = socket.send_to(&buffer[..length], peer).await;
    }
}

/// Writes the first `count` bytes of the pattern.
pub(crate) async fn send_pattern(writer: &mut (impl AsyncWrite + Unpin), count: u64) -> Result<()> {
    let mut pattern = Pattern::new();
    let mut buffer = vec![0; CHUNK];
    let mut left = count;
    while left > 0 {
        let take = left.min(CHUNK as u64) as usize;
        pattern.fill(&mut buffer[..take]);
        writer.write_all(&buffer[..take]).await?;
        left -= take as u64;
    }
    writer.flush().await?;
    Ok(())
}

async fn read_numbers<const N: usize>(stream: &mut BufReader<TcpStream>) -> Result<[u64; N]> {
    let mut line = String::new();
    (&mut *stream).take(LINE_LIMIT).read_line(&mut line).await?;
    let numbers = line.split_whitespace().map(str::parse).collect::<Result<Vec<u64>, _>>();
    let numbers = numbers.with_context(|| format!("the first line is {line:?}"))?;
    let Ok(numbers) = numbers.try_into() else {
        bail!("the first line must be {N} decimal numbers, not {line:?}");
    };
    Ok(numbers)
}
