//! Datagrams with a fixed number in flight, or at a steady pace: rate or times, loss, duplicates.

use std::io::ErrorKind;
use std::net::UdpSocket;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::{Figures, Options};
use crate::bench::report::percentile;

const SIZE: usize = 512;
const IN_FLIGHT: usize = 64;
/// After that long without an answer what is missing counts as lost.
const PATIENCE: Duration = Duration::from_millis(300);

/// Between two datagrams at a steady pace: far less than any lane carries.
const PACE: Duration = Duration::from_millis(5);
/// Behind the last one at a steady pace so much is waited for late answers.
const LATE: Duration = Duration::from_secs(2);

/// One datagram every few milliseconds, whatever comes back: how long those took that did.
pub(super) fn paced(options: &Options) -> Result<Figures> {
    let local = if options.address.ip().is_loopback() { "127.0.0.1:0" } else { "0.0.0.0:0" };
    let socket = UdpSocket::bind(local)?;
    socket.connect(options.address)?;
    let start = Instant::now();
    let end = start + Duration::from_secs_f64(options.seconds);
    let mut sent = Vec::new();
    let mut times: Vec<Option<f64>> = Vec::new();
    let mut duplicates = 0;
    loop {
        let now = Instant::now();
        let next = start + PACE * u32::try_from(sent.len())?;
        if now < end && now >= next {
            let mut datagram = [7; SIZE];
            datagram[..8].copy_from_slice(&(sent.len() as u64).to_be_bytes());
            socket.send(&datagram)?;
            sent.push(now);
            times.push(None);
            continue;
        }
        let wait = if now < end { next - now } else { (end + LATE).saturating_duration_since(now) };
        if wait.is_zero() || now >= end && times.iter().all(Option::is_some) {
            break;
        }
        socket.set_read_timeout(Some(wait))?;
        if let Some(at) = receive(&socket)? {
            match times.get_mut(at) {
                Some(time @ None) => *time = Some(sent[at].elapsed().as_secs_f64() * 1e6),
                _ => duplicates += 1,
            }
        }
    }
    let mut back: Vec<f64> = times.iter().flatten().copied().collect();
    back.sort_by(f64::total_cmp);
    let lost = 1.0 - back.len() as f64 / sent.len() as f64;
    Ok(Figures::from([
        ("p50_us", percentile(&back, 0.50)),
        ("p99_us", percentile(&back, 0.99)),
        ("loss_percent", 100.0 * lost),
        ("duplicates", f64::from(duplicates)),
    ]))
}

/// Waits for one answer, as long as the socket does; gives its number.
fn receive(socket: &UdpSocket) -> Result<Option<usize>> {
    let mut datagram = [0; SIZE + 1];
    match socket.recv(&mut datagram) {
        Ok(_) => {}
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return Ok(None),
        Err(error) => return Err(error.into()),
    }
    let mut number = [0; 8];
    number.copy_from_slice(&datagram[..8]);
    // One that was never sent counts as a duplicate.
    Ok(Some(usize::try_from(u64::from_be_bytes(number)).unwrap_or(usize::MAX)))
}

/// Every answer is followed by the next question, so that the number in flight stays the same.
pub(super) fn echo(options: &Options) -> Result<Figures> {
    let local = if options.address.ip().is_loopback() { "127.0.0.1:0" } else { "0.0.0.0:0" };
    let socket = UdpSocket::bind(local)?;
    socket.connect(options.address)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let mut run = Run { socket, seen: Vec::new(), received: 0, duplicates: 0 };
    // The first opens the flow, which is not what is measured here.
    run.send()?;
    run.receive()?;
    let start = Instant::now();
    let end = start + Duration::from_secs_f64(options.seconds);
    let before = run.received;
    for _ in 0..IN_FLIGHT {
        run.send()?;
    }
    while Instant::now() < end {
        let window = if run.receive()? { 1 } else { IN_FLIGHT };
        for _ in 0..window {
            run.send()?;
        }
    }
    let rate = (run.received - before) as f64 / start.elapsed().as_secs_f64();
    while run.receive()? {}
    let sent = run.seen.len();
    Ok(Figures::from([
        ("per_s", rate),
        ("loss_percent", 100.0 * (sent - run.received) as f64 / sent as f64),
        ("duplicates", run.duplicates as f64),
    ]))
}

struct Run {
    socket: UdpSocket,
    /// Of every datagram sent, whether it came back.
    seen: Vec<bool>,
    received: usize,
    duplicates: usize,
}

impl Run {
    fn send(&mut self) -> Result<()> {
        let mut datagram = [7; SIZE];
        datagram[..8].copy_from_slice(&(self.seen.len() as u64).to_be_bytes());
        self.seen.push(false);
        match self.socket.send(&datagram) {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits for one answer; false when none comes.
    fn receive(&mut self) -> Result<bool> {
        let Some(at) = receive(&self.socket)? else { return Ok(false) };
        match self.seen.get_mut(at) {
            Some(seen) if !*seen => {
                *seen = true;
                self.received += 1;
            }
            _ => self.duplicates += 1,
        }
        Ok(true)
    }
}
