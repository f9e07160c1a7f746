//! Many bytes in one direction, timed to the last one; and the end of a stream, timed apart.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::{Figures, Options, connect, connect_from};
use crate::bench::report::percentile;
use crate::bench::scratch;

const MIB: f64 = 1024.0 * 1024.0;

/// A download whose request is sent.
pub(super) struct Download {
    stream: TcpStream,
    bytes: u64,
}

impl Download {
    /// Asks `source` for `bytes`.
    pub(super) fn begin(source: SocketAddr, bytes: u64) -> Result<Self> {
        let mut stream = connect(source)?;
        stream.write_all(format!("{bytes}\n").as_bytes())?;
        Ok(Self { stream, bytes })
    }

    /// Reads to the last byte, then to the end; gives the moments of both. Counts into `received`.
    pub(super) fn finish(mut self, received: &AtomicU64) -> Result<(Instant, Instant)> {
        receive(&mut self.stream, self.bytes, received)
    }
}

/// From all streams at once; MiB per second from the first request to the last byte.
pub(super) fn download(options: &Options) -> Result<Figures> {
    together(options, |stream, bytes| {
        stream.write_all(format!("{bytes}\n").as_bytes())?;
        receive(stream, bytes, &AtomicU64::new(0))
    })
}

/// To all streams at once; MiB per second from the first byte until the sinks have the last.
pub(super) fn upload(options: &Options) -> Result<Figures> {
    let data = scratch();
    together(options, |stream, bytes| {
        stream.write_all(format!("{bytes}\n").as_bytes())?;
        let mut left = bytes;
        while left > 0 {
            let take = data.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            stream.write_all(&data[..take])?;
            left -= take as u64;
        }
        let wanted = format!("{bytes}\n");
        let mut answer = vec![0; wanted.len()];
        stream.read_exact(&mut answer).context("the sink does not say that all has arrived")?;
        if answer != wanted.as_bytes() {
            bail!("the sink counted {:?} of {bytes} bytes", String::from_utf8_lossy(&answer));
        }
        let now = Instant::now();
        Ok((now, now))
    })
}

/// Small downloads: milliseconds from the last byte to the end.
pub(super) fn end(options: &Options) -> Result<Figures> {
    let mut times = Vec::new();
    for _ in 0..options.count {
        let (last, end) = Download::begin(options.address, options.bytes)?.finish(&AtomicU64::new(0))?;
        times.push((end - last).as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    Ok(Figures::from([("end_ms", percentile(&times, 0.5))]))
}

fn together(
    options: &Options,
    work: impl Fn(&mut TcpStream, u64) -> Result<(Instant, Instant)> + Sync,
) -> Result<Figures> {
    let mut streams = Vec::new();
    for number in 0..options.streams {
        streams.push(connect_from(options.address, number)?);
    }
    // A tunnel may open the far side of a stream only now: that belongs to connections, not here.
    thread::sleep(Duration::from_millis(100));
    let each = options.bytes / options.streams as u64;
    let barrier = Barrier::new(streams.len() + 1);
    let (start, ends) = thread::scope(|scope| {
        let threads: Vec<_> = streams
            .iter_mut()
            .map(|stream| {
                scope.spawn(|| {
                    barrier.wait();
                    work(stream, each)
                })
            })
            .collect();
        let start = Instant::now();
        barrier.wait();
        let ends: Vec<_> = threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|_| bail!("a stream's thread failed")))
            .collect();
        (start, ends)
    });
    let mut last = start;
    for end in ends {
        last = last.max(end?.0);
    }
    let seconds = (last - start).as_secs_f64();
    let bytes = (each * options.streams as u64) as f64;
    Ok(Figures::from([("mib_s", bytes / MIB / seconds), ("bytes", bytes), ("seconds", seconds)]))
}

fn receive(stream: &mut TcpStream, bytes: u64, received: &AtomicU64) -> Result<(Instant, Instant)> {
    let mut buffer = vec![0; scratch().len()];
    let mut left = bytes;
    while left > 0 {
        let read = stream.read(&mut buffer)?;
        if read == 0 {
            bail!("the stream ended {left} bytes early");
        }
        left = left.checked_sub(read as u64).context("more bytes came than were asked for")?;
        received.store(bytes - left, Ordering::Relaxed);
    }
    let last = Instant::now();
    if stream.read(&mut buffer)? != 0 {
        bail!("more bytes came than were asked for");
    }
    Ok((last, Instant::now()))
}
