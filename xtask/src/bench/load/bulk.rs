//! Many bytes in one direction, timed to the last one; and the end of a stream, timed apart.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::{Figures, Options, STACK, connect};
use crate::bench::amount::{Amount, Incoming};
use crate::bench::report::percentile;
use crate::bench::scratch;

const MIB: f64 = 1024.0 * 1024.0;

/// A download whose request is sent.
pub(super) struct Download {
    stream: TcpStream,
    amount: Amount,
}

/// What came of one stream.
pub(super) struct Moved {
    bytes: u64,
    /// When the last byte was there.
    last: Instant,
    /// When the stream ended.
    end: Instant,
}

impl Download {
    /// Asks `source` for so much.
    pub(super) fn begin(source: SocketAddr, amount: Amount) -> Result<Self> {
        let mut stream = connect(source)?;
        stream.write_all(amount.line().as_bytes())?;
        Ok(Self { stream, amount })
    }

    /// Reads to the last byte, then to the end. Counts into `received`, and says `over` with the last byte.
    pub(super) fn finish(mut self, received: &AtomicU64, over: &AtomicBool) -> Result<Moved> {
        receive(&mut self.stream, self.amount, received, over)
    }
}

/// From all streams at once; MiB per second from the first request to the last byte.
pub(super) fn download(options: &Options) -> Result<Figures> {
    together(options, |stream, amount| {
        stream.write_all(amount.line().as_bytes())?;
        receive(stream, amount, &AtomicU64::new(0), &AtomicBool::new(false))
    })
}

/// To all streams at once; MiB per second from the first byte until the sinks have the last.
pub(super) fn upload(options: &Options) -> Result<Figures> {
    together(options, |stream, amount| {
        stream.write_all(amount.line().as_bytes())?;
        let bytes = amount.send_pieces(stream)?;
        let wanted = format!("{bytes}\n");
        let mut answer = vec![0; wanted.len()];
        stream.read_exact(&mut answer).context("the sink does not say that all has arrived")?;
        if answer != wanted.as_bytes() {
            bail!("the sink counted {:?} of {bytes} bytes", String::from_utf8_lossy(&answer));
        }
        let now = Instant::now();
        Ok(Moved { bytes, last: now, end: now })
    })
}

/// Small downloads: milliseconds from the last byte to the end.
pub(super) fn end(options: &Options) -> Result<Figures> {
    let mut times = Vec::new();
    for _ in 0..options.count {
        let download = Download::begin(options.address, options.amount(1))?;
        let moved = download.finish(&AtomicU64::new(0), &AtomicBool::new(false))?;
        times.push((moved.end - moved.last).as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    Ok(Figures::from([("end_ms", percentile(&times, 0.5))]))
}

fn together(
    options: &Options,
    work: impl Fn(&mut TcpStream, Amount) -> Result<Moved> + Sync,
) -> Result<Figures> {
    let mut streams = Vec::new();
    for number in 0..options.streams {
        streams.push(options.connect(number)?);
    }
    // A tunnel may open the far side of a stream only now: that belongs to connections, not here.
    thread::sleep(Duration::from_millis(100));
    let each = options.amount(options.streams);
    let barrier = Barrier::new(streams.len() + 1);
    let (start, ends) = thread::scope(|scope| -> io::Result<_> {
        let threads: Vec<_> = streams
            .iter_mut()
            .map(|stream| {
                thread::Builder::new().stack_size(STACK).spawn_scoped(scope, || {
                    barrier.wait();
                    work(stream, each)
                })
            })
            .collect::<io::Result<_>>()?;
        let start = Instant::now();
        barrier.wait();
        let ends: Vec<_> = threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|_| bail!("a stream's thread failed")))
            .collect();
        Ok((start, ends))
    })?;
    let mut last = start;
    let mut bytes = 0;
    for moved in ends {
        let moved = moved?;
        last = last.max(moved.last);
        bytes += moved.bytes;
    }
    let (seconds, bytes) = ((last - start).as_secs_f64(), bytes as f64);
    Ok(Figures::from([("mib_s", bytes / MIB / seconds), ("bytes", bytes), ("seconds", seconds)]))
}

fn receive(stream: &mut TcpStream, amount: Amount, received: &AtomicU64, over: &AtomicBool) -> Result<Moved> {
    let mut buffer = vec![0; scratch().len()];
    let mut incoming = Incoming::new(amount);
    loop {
        let read = stream.read(&mut buffer)?;
        if read == 0 {
            bail!("the stream ended early, after {} bytes", incoming.received());
        }
        let complete = incoming.take(&buffer[..read])?;
        received.store(incoming.received(), Ordering::Relaxed);
        if complete {
            break;
        }
    }
    let last = Instant::now();
    over.store(true, Ordering::Relaxed);
    if stream.read(&mut buffer)? != 0 {
        bail!("more bytes came than were asked for");
    }
    Ok(Moved { bytes: incoming.received(), last, end: Instant::now() })
}
