//! Connections as such: how many per second, and many that only stay open.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::{Figures, Options, STACK};
use crate::bench::amount::Amount;
use crate::bench::report::percentile;

/// Connect, echo, close, in `streams` threads: how many per second.
pub(super) fn rate(options: &Options) -> Result<Figures> {
    let next = AtomicUsize::new(0);
    let start = Instant::now();
    let end = start + Duration::from_secs_f64(options.seconds);
    let results = in_threads(options.streams, || {
        let mut done = 0;
        while Instant::now() < end {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= options.count {
                break;
            }
            drop(used_once(options, number)?);
            done += 1;
        }
        Ok(done)
    });
    let seconds = start.elapsed().as_secs_f64();
    let mut done = 0;
    for result in results {
        done += result?;
    }
    Ok(Figures::from([("per_s", done as f64 / seconds), ("connections", done as f64)]))
}

/// What each of so many threads has got by the same work.
fn in_threads<T: Send>(count: usize, work: impl Fn() -> Result<T> + Sync) -> Vec<Result<T>> {
    thread::scope(|scope| {
        let threads: Vec<_> = (0..count).map(|_| scope.spawn(&work)).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|_| bail!("a connection's thread failed")))
            .collect()
    })
}

fn used_once(options: &Options, number: usize) -> Result<TcpStream> {
    let mut stream = options.connect(number)?;
    let mut buffer = [7; 64];
    stream.write_all(&buffer)?;
    stream.read_exact(&mut buffer)?;
    Ok(stream)
}

/// From connecting to the answer to the first bytes, on one new connection after the other, in microseconds.
pub(super) fn first(options: &Options) -> Result<Figures> {
    let mut times = Vec::with_capacity(options.count);
    for number in 0..options.count {
        let start = Instant::now();
        drop(used_once(options, number)?);
        times.push(start.elapsed().as_secs_f64() * 1e6);
    }
    times.sort_by(f64::total_cmp);
    Ok(Figures::from([("p50_us", percentile(&times, 0.50)), ("samples", times.len() as f64)]))
}

/// Opens connections, `streams` at a time, uses each once, prints how long that took, and keeps them until standard
/// input ends.
pub(super) fn hold(options: &Options) -> Result<()> {
    let next = AtomicUsize::new(0);
    let start = Instant::now();
    let held = in_threads(options.streams, || {
        let mut held = Vec::new();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= options.count {
                return Ok(held);
            }
            held.push(used_once(options, number)?);
        }
    });
    let seconds = start.elapsed().as_secs_f64();
    let held = held.into_iter().collect::<Result<Vec<_>>>()?;
    println!("{{\"opened_s\": {seconds}}}");
    io::copy(&mut io::stdin(), &mut io::sink())?;
    drop(held);
    Ok(())
}

/// Connections of somebody who asks for everything and reads nothing.
pub(super) fn stuck(options: &Options) -> Result<()> {
    let everything = Amount::Bytes(1 << 40).line();
    let mut held = Vec::with_capacity(options.count);
    for number in 0..options.count {
        let mut stream = options.connect(number)?;
        // One that is refused is held as well: whoever listens has to deal with it.
        let _ = stream.write_all(everything.as_bytes());
        held.push(stream);
    }
    println!("{{\"opened\": {}}}", held.len());
    io::copy(&mut io::stdin(), &mut io::sink())?;
    drop(held);
    Ok(())
}

/// Connections that are used and made anew without end.
pub(super) fn again(options: &Options) -> Result<()> {
    let next = Arc::new(AtomicUsize::new(0));
    for _ in 0..options.streams {
        let (options, next) = (options.clone(), Arc::clone(&next));
        let work = move || {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                let Ok(mut stream) = used_once(&options, number) else { continue };
                let mut buffer = [7; 64];
                for _ in 1..options.count {
                    if stream.write_all(&buffer).is_err() || stream.read_exact(&mut buffer).is_err() {
                        break;
                    }
                }
            }
        };
        thread::Builder::new().stack_size(STACK).spawn(work)?;
    }
    println!("{{\"streams\": {}}}", options.streams);
    io::copy(&mut io::stdin(), &mut io::sink())?;
    Ok(())
}
