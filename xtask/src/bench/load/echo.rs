//! Round trips on one connection, alone and beside a download.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::{Figures, Options, STACK, bulk, connect};
use crate::bench::amount::Amount;
use crate::bench::report::percentile;

/// Round trips before those that count: at most so many, and not for longer than this.
const WARM_UP: (usize, Duration) = (50, Duration::from_millis(500));
/// Between two round trips beside a download.
const PACE: Duration = Duration::from_millis(3);
/// After so many bytes everything between the two ends has filled.
const FULL: u64 = 16 * 1024 * 1024;

/// Round trips on a connection that nothing disturbs, in microseconds.
pub(super) fn idle(options: &Options) -> Result<Figures> {
    let mut stream = connect(options.address)?;
    warm_up(&mut stream)?;
    let end = Instant::now() + Duration::from_secs_f64(options.seconds);
    let mut times = Vec::with_capacity(options.count);
    while times.len() < options.count && Instant::now() < end {
        times.push(round_trip(&mut stream)?);
    }
    Ok(figures(times))
}

/// Round trips from the moment the download's pipes are full until its last byte.
///
/// One every few milliseconds: back to back, the quick ones would outnumber the slow ones.
pub(super) fn beside_a_download(options: &Options, source: SocketAddr) -> Result<Figures> {
    let mut stream = connect(options.address)?;
    warm_up(&mut stream)?;
    let download = bulk::Download::begin(source, options.amount(1))?;
    let progress = Progress::default();
    let (times, received) = thread::scope(|scope| {
        let download = scope.spawn(|| {
            let received = download.finish(&progress.received, &progress.over);
            progress.over.store(true, Ordering::Relaxed);
            received
        });
        let times = while_it_runs(&mut stream, &progress, options.amount(1));
        (times, download.join().unwrap_or_else(|_| bail!("the download's thread failed")))
    });
    received?;
    let times = times.context("no echo while a download runs")?;
    if times.is_empty() {
        bail!("the download was over before an echo came back");
    }
    Ok(figures(times))
}

/// Round trips on every one of `streams` connections, back to back for `seconds`: how many per second, and in
/// microseconds.
pub(super) fn on_all(options: &Options) -> Result<Figures> {
    let mut streams =
        (0..options.streams).map(|number| options.connect(number)).collect::<Result<Vec<_>>>()?;
    for stream in &mut streams {
        round_trip(stream)?;
    }
    let start = Instant::now();
    let end = start + Duration::from_secs_f64(options.seconds);
    let times: Vec<Result<Vec<f64>>> = thread::scope(|scope| {
        let threads: Vec<_> = streams
            .iter_mut()
            .map(|stream| {
                thread::Builder::new().stack_size(STACK).spawn_scoped(scope, || {
                    let mut times = Vec::new();
                    while Instant::now() < end {
                        times.push(round_trip(stream)?);
                    }
                    Ok(times)
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread?.join().unwrap_or_else(|_| bail!("a stream's thread failed")))
            .collect()
    });
    let seconds = start.elapsed().as_secs_f64();
    let times = times.into_iter().collect::<Result<Vec<_>>>()?.concat();
    let rate = times.len() as f64 / seconds;
    let mut figures = figures(times);
    figures.insert("per_s", rate);
    Ok(figures)
}

#[derive(Default)]
struct Progress {
    received: AtomicU64,
    /// Ended, well or not.
    over: AtomicBool,
}

fn while_it_runs(stream: &mut TcpStream, progress: &Progress, amount: Amount) -> Result<Vec<f64>> {
    let start = Instant::now();
    let over = || progress.over.load(Ordering::Relaxed);
    // A timed download has filled everything when a quarter of its time is over.
    let full = || match amount {
        Amount::Bytes(bytes) => progress.received.load(Ordering::Relaxed) >= FULL.min(bytes / 4),
        Amount::For(time) => start.elapsed() >= time / 4,
    };
    while !full() && !over() {
        thread::sleep(PACE);
    }
    let mut times = Vec::new();
    while !over() {
        let start = Instant::now();
        times.push(round_trip(stream)?);
        thread::sleep(PACE.saturating_sub(start.elapsed()));
    }
    Ok(times)
}

fn warm_up(stream: &mut TcpStream) -> Result<()> {
    let start = Instant::now();
    for _ in 0..WARM_UP.0 {
        round_trip(stream)?;
        if start.elapsed() > WARM_UP.1 {
            break;
        }
    }
    Ok(())
}

fn figures(mut times: Vec<f64>) -> Figures {
    times.sort_by(f64::total_cmp);
    Figures::from([
        ("p50_us", percentile(&times, 0.50)),
        ("p99_us", percentile(&times, 0.99)),
        ("samples", times.len() as f64),
    ])
}

fn round_trip(stream: &mut TcpStream) -> Result<f64> {
    let mut buffer = [7; 64];
    let start = Instant::now();
    stream.write_all(&buffer)?;
    stream.read_exact(&mut buffer)?;
    Ok(start.elapsed().as_secs_f64() * 1e6)
}
