//! Datagrams with a fixed number in flight: rate, loss, duplicates.

use std::io::ErrorKind;
use std::net::UdpSocket;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::{Figures, Options};

const SIZE: usize = 512;
const IN_FLIGHT: usize = 64;
/// After that long without an answer what is missing counts as lost.
const PATIENCE: Duration = Duration::from_millis(300);

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
        let mut datagram = [0; SIZE + 1];
        match self.socket.recv(&mut datagram) {
            Ok(_) => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return Ok(false);
            }
            Err(error) => return Err(error.into()),
        }
        let mut number = [0; 8];
        number.copy_from_slice(&datagram[..8]);
        match usize::try_from(u64::from_be_bytes(number)).ok().and_then(|at| self.seen.get_mut(at)) {
            Some(seen) if !*seen => {
                *seen = true;
                self.received += 1;
            }
            _ => self.duplicates += 1,
        }
        Ok(true)
    }
}
