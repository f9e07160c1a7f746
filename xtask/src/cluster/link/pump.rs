//! The link as a process: packets from one TUN device to another and back, by way of a [`Line`] each.
//!
//! One thread per direction, nothing shared while packets flow: what limits the link is the kernel's price for a packet.
//! So the devices hand over TCP's segments as they would to a network card, many in one piece of up to 64 KiB, and take
//! them so; on links that lose packets, or where such a piece takes long, each segment travels alone.

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
use tun_rs::{SyncDevice, VIRTIO_NET_HDR_LEN as HEADER, VirtioNetHdr};

use super::line::{Counts, Line};
use super::settings::Settings;

/// The largest packet that a TUN device gives.
const LARGEST: usize = 65_536;
/// As `nice` counts.
const PRIORITY: i32 = -15;
/// The largest packet that travels alone, with room to spare.
const SMALL: usize = 2048;
/// So many of them may be in a piece: a sender that chose small segments.
const PIECES: usize = 512;
/// How a piece is to be cut, as `linux/virtio_net.h` has it.
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
const GSO_ECN: u8 = 0x80;
/// From this rate on pieces travel whole, which take half a millisecond then at most.
const FAST: u64 = 1_000_000_000;
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

    fn settings(&self) -> Settings {
        *self.settings.lock().unwrap_or_else(PoisonError::into_inner)
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
    let settings = control.settings();
    let mut is_whole = stay_whole(settings);
    let mut line: Line<Vec<u8>> = Line::new(settings, direction as u64);
    let mut arrivals = Arrivals::new();
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
            match arrivals.receive(from, is_whole) {
                Ok(arrived) => {
                    let now = began.elapsed();
                    for (size, bytes) in arrived {
                        let mut packet = spare.pop().unwrap_or_default();
                        packet.clear();
                        packet.extend_from_slice(bytes);
                        if let Some(dropped) = line.enter(now, size, packet) {
                            recycle(&mut spare, dropped);
                        }
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    more = false;
                    break;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // Not the system's word, but of what it has given: nothing that a link could carry.
                Err(error) if error.raw_os_error().is_none() => {}
                Err(error) => return Err(error),
            }
        }
        if now >= looked + LOOK {
            looked = now;
            *control.counts[direction].lock().unwrap_or_else(PoisonError::into_inner) = line.counts();
            let changes = control.changes.load(Ordering::Acquire);
            if changes != seen {
                seen = changes;
                let settings = control.settings();
                is_whole = stay_whole(settings);
                line.change(settings);
            }
        }
        if !more {
            let until = line.next().map_or(LOOK, |due| due.saturating_sub(began.elapsed()).min(LOOK));
            wait(from, until)?;
        }
    }
}

/// Whether pieces travel whole: chance and the queue would take all of their segments at once.
fn stay_whole(settings: Settings) -> bool {
    settings.loss == 0.0 && settings.rate.is_none_or(|rate| rate >= FAST)
}

/// What a device gives, behind the header in which it tells how it is to be cut and what is missing of its checksum.
struct Arrivals {
    piece: Vec<u8>,
    packets: Vec<[u8; HEADER + SMALL]>,
    sizes: Vec<usize>,
}

impl Arrivals {
    fn new() -> Self {
        Self {
            piece: vec![0; HEADER + LARGEST],
            packets: vec![[0; HEADER + SMALL]; PIECES],
            sizes: vec![0; PIECES],
        }
    }

    /// Reads once: packets with their sizes on the wire, headers of the device not counted, or one piece.
    fn receive(
        &mut self,
        from: &SyncDevice,
        is_whole: bool,
    ) -> io::Result<impl Iterator<Item = (usize, &[u8])>> {
        let Self { piece, packets, sizes } = self;
        let (whole, count) = if is_whole {
            let size = from.recv(piece)?;
            (Some((on_the_wire(&piece[..size])?, &piece[..size])), 0)
        } else {
            (None, from.recv_multiple(piece, packets, sizes, HEADER)?)
        };
        let alone = packets.iter().zip(sizes.iter()).take(count);
        // Their headers stay zero: nothing to be cut, nothing missing.
        Ok(whole.into_iter().chain(alone.map(|(packet, size)| (*size, &packet[..HEADER + size]))))
    }
}

/// How many bytes a piece has once each of its segments has the headers of a packet.
fn on_the_wire(piece: &[u8]) -> io::Result<usize> {
    let header = VirtioNetHdr::decode(piece)?;
    let packet = &piece[HEADER..];
    let (transport, segment) = (usize::from(header.csum_start), usize::from(header.gso_size));
    // What the kernel tells of the headers' length is that of the first segment where it has forwarded the piece.
    let own = match header.gso_type & !GSO_ECN {
        GSO_TCPV4 | GSO_TCPV6 => {
            packet.get(transport + 12).map(|offset| transport + usize::from(offset >> 4) * 4)
        }
        GSO_UDP_L4 => Some(transport + 8),
        _ => return Ok(packet.len()),
    };
    match own {
        Some(own) if segment > 0 && own < packet.len() => {
            Ok(packet.len() + ((packet.len() - own).div_ceil(segment) - 1) * own)
        }
        _ => Err(io::Error::other("a piece without segments")),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_segment_of_a_piece_has_headers_on_the_wire() {
        let piece = |gso_type, gso_size, size: usize| {
            let mut bytes = vec![0; HEADER + size];
            let header =
                VirtioNetHdr { gso_type, hdr_len: 1500, gso_size, csum_start: 20, ..Default::default() };
            header.encode(&mut bytes).unwrap();
            bytes[HEADER + 20 + 12] = 8 << 4;
            on_the_wire(&bytes)
        };
        assert_eq!(piece(GSO_TCPV4, 1448, 1500).unwrap(), 1500);
        assert_eq!(piece(GSO_TCPV4, 1448, 1501).unwrap(), 1500 + 53);
        assert_eq!(piece(GSO_TCPV4 | GSO_ECN, 1448, 52 + 10 * 1448).unwrap(), 10 * 1500);
        assert_eq!(piece(GSO_UDP_L4, 1000, 28 + 2000).unwrap(), 2 * 1028);
        assert_eq!(piece(0, 0, 1500).unwrap(), 1500);
        assert!(piece(GSO_TCPV4, 0, 1500).is_err());
        assert!(piece(GSO_TCPV4, 1448, 40).is_err());
        assert!(on_the_wire(&[0; HEADER - 1]).is_err());
    }

    #[test]
    fn what_is_lost_or_slow_travels_alone() {
        for (link, whole) in [
            ("80ms", true),
            ("20ms/1gbit", true),
            ("20ms/50mbit", false),
            ("0ms/1%", false),
            ("20ms/1%/1gbit", false),
        ] {
            assert_eq!(stay_whole(link.parse().unwrap()), whole, "{link}");
        }
    }
}
