//! Round trips on one connection, alone and beside a download.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::{Figures, Options, bulk, connect};
use crate::bench::report::percentile;

const WARM_UP: usize = 50;

/// Round trips on a connection that nothing disturbs, in microseconds.
pub(super) fn idle(options: &Options) -> Result<Figures> {
    let mut stream = connect(options.address)?;
    for _ in 0..WARM_UP {
        round_trip(&mut stream)?;
    }
    let end = Instant::now() + Duration::from_secs_f64(options.seconds);
    let mut times = Vec::with_capacity(options.count);
    while times.len() < options.count && Instant::now() < end {
        times.push(round_trip(&mut stream)?);
    }
    Ok(figures(times))
}

/// Round trips from a moment after the download's first byte until its last.
pub(super) fn beside_a_download(options: &Options, source: SocketAddr) -> Result<Figures> {
    let mut stream = connect(options.address)?;
    for _ in 0..WARM_UP {
        round_trip(&mut stream)?;
    }
    let download = bulk::Download::begin(source, options.bytes)?;
    let done = AtomicBool::new(false);
    let (times, received) = thread::scope(|scope| {
        let download = scope.spawn(|| {
            let received = download.finish();
            done.store(true, Ordering::Relaxed);
            received
        });
        // The pipes fill in the meantime.
        thread::sleep(Duration::from_millis(20));
        let mut times = Vec::new();
        let echoed = loop {
            match round_trip(&mut stream) {
                Ok(time) => times.push(time),
                Err(error) => break Err(error),
            }
            if done.load(Ordering::Relaxed) {
                break Ok(());
            }
        };
        let received = download.join().map_err(|_| anyhow::anyhow!("the download failed"));
        (echoed.map(|()| times), received)
    });
    received??;
    Ok(figures(times.context("no echo while a download runs")?))
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
