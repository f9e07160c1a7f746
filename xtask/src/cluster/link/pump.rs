//! The link as a process: packets from one TUN device to another and back, by way of a [`Line`] each.
//!
//! One thread per direction, nothing shared while packets flow: what limits the link is the kernel's price for a packet.

use std::io::{self, ErrorKind};
use std::num::NonZeroU64;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::setpriority_process;
use rustix::thread::set_current_timer_slack;
use tun_rs::SyncDevice;

use super::line::{Counts, Line};
use super::settings::Settings;

/// The largest packet that a TUN device gives.
const LARGEST: usize = 65_536;
/// As `nice` counts.
const PRIORITY: i32 = -15;
/// Packets read before due ones are looked for again.
const BATCH: usize = 64;
/// New settings are noticed within this.
const LOOK: Duration = Duration::from_millis(100);
/// Buffers kept for packets to come.
const SPARE: usize = 4096;

/// What the directions and whoever watches them share.
pub(super) struct Control {
    settings: Mutex<Settings>,
    /// Counts up with every change of `settings`.
    changes: AtomicU64,
    counts: [Mutex<Counts>; 2],
}

impl Control {
    /// A link that begins with these settings.
    pub(super) fn new(settings: Settings) -> Self {
        Self { settings: Mutex::new(settings), changes: AtomicU64::new(0), counts: Default::default() }
    }

    /// Other settings from now on.
    pub(super) fn change(&self, settings: Settings) {
        *self.settings.lock().unwrap_or_else(PoisonError::into_inner) = settings;
        self.changes.fetch_add(1, Ordering::Release);
    }

    /// What became of packets so far: from the client, to the client.
    pub(super) fn counts(&self) -> [Counts; 2] {
        self.counts.each_ref().map(|counts| *counts.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Carries packets both ways, until a device fails.
pub(super) fn run(near: &SyncDevice, far: &SyncDevice, control: &Control) -> Result<()> {
    // A busy machine must not make the link slower: its threads sleep most of the time, and go first when they wake.
    setpriority_process(None, PRIORITY)?;
    near.set_nonblocking(true)?;
    far.set_nonblocking(true)?;
    thread::scope(|scope| {
        let up = scope.spawn(|| one_way(near, far, control, 0));
        one_way(far, near, control, 1)?;
        up.join().unwrap_or_else(|_| Err(io::Error::other("a direction's thread failed")))
    })
    .context("carry packets over the link")
}

fn one_way(from: &SyncDevice, to: &SyncDevice, control: &Control, direction: usize) -> io::Result<()> {
    // By default the kernel may wake us 50 µs late.
    set_current_timer_slack(NonZeroU64::new(1))?;
    let began = Instant::now();
    let mut seen = control.changes.load(Ordering::Acquire);
    let settings = *control.settings.lock().unwrap_or_else(PoisonError::into_inner);
    let mut line: Line<Vec<u8>> = Line::new(settings, direction as u64);
    let mut buffer = vec![0; LARGEST];
    let mut spare: Vec<Vec<u8>> = Vec::new();
    let mut looked = Duration::ZERO;
    loop {
        let now = began.elapsed();
        while let Some(packet) = line.leave(now) {
            send(to, &packet)?;
            recycle(&mut spare, packet);
        }
        let mut more = true;
        for _ in 0..BATCH {
            match from.recv(&mut buffer) {
                Ok(size) => {
                    let mut packet = spare.pop().unwrap_or_default();
                    packet.clear();
                    packet.extend_from_slice(&buffer[..size]);
                    if let Some(dropped) = line.enter(began.elapsed(), size, packet) {
                        recycle(&mut spare, dropped);
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    more = false;
                    break;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if now >= looked + LOOK {
            looked = now;
            *control.counts[direction].lock().unwrap_or_else(PoisonError::into_inner) = line.counts();
            let changes = control.changes.load(Ordering::Acquire);
            if changes != seen {
                seen = changes;
                line.change(*control.settings.lock().unwrap_or_else(PoisonError::into_inner));
            }
        }
        if !more {
            let until = line.next().map_or(LOOK, |due| due.saturating_sub(began.elapsed()).min(LOOK));
            wait(from, until)?;
        }
    }
}

fn wait(from: &SyncDevice, time: Duration) -> io::Result<()> {
    if time.is_zero() {
        return Ok(());
    }
    let limit = Timespec { tv_sec: 0, tv_nsec: i64::from(time.min(LOOK).subsec_nanos()) };
    match poll(&mut [PollFd::new(from, PollFlags::IN)], Some(&limit)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// A device that takes no packet now loses it, as any link would.
fn send(to: &SyncDevice, packet: &[u8]) -> io::Result<()> {
    use rustix::io::Errno;
    let Err(error) = to.send(packet) else { return Ok(()) };
    match Errno::from_io_error(&error) {
        // Full, interrupted, no IP packet; down for a moment; short of memory.
        Some(Errno::AGAIN | Errno::INTR | Errno::INVAL | Errno::IO | Errno::NOBUFS) => Ok(()),
        _ => Err(error),
    }
}

fn recycle(spare: &mut Vec<Vec<u8>>, packet: Vec<u8>) {
    if spare.len() < SPARE {
        spare.push(packet);
    }
}
