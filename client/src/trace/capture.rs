//! `--pcap`: a file, or a pipe with somebody at its other end, written from a thread of its own.

use std::{
    fs::{File, OpenOptions},
    io::{self, BufWriter, IsTerminal, Write},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use jiff::Timestamp;
use relay_trace::{
    flow::{Ends, Plan, Way},
    pcapng,
};
use tokio::sync::oneshot;

use super::{
    error::TraceError,
    queue::{Outlet, Queue, queue},
    tap::About,
    title,
};
use crate::output::Output;

/// Packets that wait to be written.
const PACKETS: usize = 16_384;
/// Bytes of them.
const BYTES: usize = 16 << 20;
/// Written at once.
const BUFFER: usize = 256 << 10;
/// Only the owner may read what has passed.
#[cfg(unix)]
const MODE: u32 = 0o600;

/// Where packets of a forward come from, for the reader.
#[derive(Debug)]
pub(super) struct Interface {
    name: String,
    lost: AtomicU64,
    lost_bytes: AtomicU64,
}

impl Interface {
    /// A packet of so many bytes of traffic did not fit.
    pub(super) fn lose(&self, bytes: usize) {
        self.lost.fetch_add(1, Ordering::Relaxed);
        self.lost_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

/// A packet on its way.
#[derive(Debug)]
pub(super) struct Packet {
    pub(super) interface: Arc<Interface>,
    pub(super) at: Timestamp,
    pub(super) ends: Ends,
    pub(super) way: Way,
    pub(super) plan: Plan,
    pub(super) payload: Vec<u8>,
    pub(super) missing: u64,
    pub(super) is_first: bool,
}

#[derive(Debug)]
pub(super) struct Capture {
    path: PathBuf,
    queue: Queue<Packet>,
    interfaces: Mutex<Vec<Arc<Interface>>>,
    /// Whether nothing can be written any more.
    is_over: Arc<AtomicBool>,
    written: Arc<AtomicU64>,
    ended: Mutex<Option<oneshot::Receiver<()>>>,
}

impl Capture {
    /// Opens the file, and begins to write.
    pub(super) fn open(path: &Path, output: Arc<Output>) -> Result<Self, TraceError> {
        let file = if path.as_os_str() == "-" { stdout()? } else { file(path)? };
        let (queue, outlet) = queue(PACKETS, BYTES);
        let (end, ended) = oneshot::channel();
        let (is_over, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut writer = Writer {
            out: BufWriter::with_capacity(BUFFER, file),
            interfaces: Vec::new(),
            written: Arc::clone(&written),
        };
        let (shown, over) = (path.display().to_string(), Arc::clone(&is_over));
        thread::spawn(move || {
            let mut outlet = outlet;
            if let Err(error) = writer.write_all(&mut outlet) {
                over.store(true, Ordering::Relaxed);
                tell_end(&output, &shown, &error);
                while outlet.next(|| ()).is_some() {}
            }
            // Nobody may wait any more.
            let _ = end.send(());
        });
        let ended = Mutex::new(Some(ended));
        Ok(Self { path: path.into(), queue, interfaces: Mutex::default(), is_over, written, ended })
    }

    /// What packets of this forward come from.
    pub(super) fn interface(&self, about: &About) -> Arc<Interface> {
        let name = title(&about.target, about.remote, about.protocol);
        let mut interfaces = self.interfaces.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = interfaces.iter().find(|known| known.name == name) {
            return Arc::clone(known);
        }
        let interface = Arc::new(Interface { name, lost: AtomicU64::new(0), lost_bytes: AtomicU64::new(0) });
        interfaces.push(Arc::clone(&interface));
        interface
    }

    /// Takes a packet with so much of the traffic; false where there is no room for it.
    pub(super) fn take(&self, size: usize, packet: impl FnOnce() -> Packet) -> bool {
        // Once nothing can be written, nothing is missing either: that has been told.
        self.is_over.load(Ordering::Relaxed) || self.queue.push(size, packet)
    }

    /// Waits until all is written, but not for ever, and tells what is missing.
    pub(super) async fn finish(&self, output: &Output, limit: Duration) {
        let is_late = !self.queue.ends_within(limit, &self.ended).await;
        let path = self.path.display();
        if is_late {
            let message = format!("--pcap {path} ends in the middle: whoever reads it was not done in time");
            output.warning(&message, None);
        }
        if self.is_over.load(Ordering::Relaxed) {
            return;
        }
        let interfaces = self.interfaces.lock().unwrap_or_else(PoisonError::into_inner);
        let sum = |of: fn(&Interface) -> &AtomicU64| -> u64 {
            interfaces.iter().map(|interface| of(interface).load(Ordering::Relaxed)).sum()
        };
        let (lost, bytes) = (sum(|interface| &interface.lost), sum(|interface| &interface.lost_bytes));
        let written = self.written.load(Ordering::Relaxed);
        if lost > 0 {
            let message = format!(
                "--pcap {path} has {written} packets; {lost} with {bytes} bytes are missing: they came faster than they were written"
            );
            output
                .warning(&message, Some("the traffic itself is whole; a faster disk or reader misses less"));
        } else if written > 0 {
            output.note(&format!("--pcap {path} has {written} packets; none is missing"));
        }
    }
}

/// That there is nowhere to write to any more. The traffic goes on.
fn tell_end(output: &Output, path: &str, error: &io::Error) {
    if error.kind() == io::ErrorKind::BrokenPipe {
        output.note(&format!("whoever read --pcap {path} has gone; the forwards go on without it"));
    } else {
        let message = format!("cannot write --pcap {path} any further: {error}");
        output.warning(&message, Some("the forwards go on without it"));
    }
}

fn stdout() -> Result<File, TraceError> {
    let stdout = io::stdout();
    if stdout.is_terminal() {
        return Err(TraceError::Terminal);
    }
    #[cfg(unix)]
    let opened = std::os::fd::AsFd::as_fd(&stdout).try_clone_to_owned();
    #[cfg(windows)]
    let opened = std::os::windows::io::AsHandle::as_handle(&stdout).try_clone_to_owned();
    opened.map(File::from).map_err(|source| TraceError::Open { path: "-".into(), source })
}

fn file(path: &Path) -> Result<File, TraceError> {
    open(path).map_err(|source| TraceError::Open { path: path.into(), source })
}

#[cfg(unix)]
fn open(path: &Path) -> io::Result<File> {
    use std::{
        fs::Permissions,
        os::unix::fs::{OpenOptionsExt, PermissionsExt},
    };
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(MODE).open(path)?;
    if file.metadata()?.is_file() {
        // It may have been there before.
        file.set_permissions(Permissions::from_mode(MODE))?;
    }
    Ok(file)
}

/// Who may read it is inherited from its folder.
#[cfg(windows)]
fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(true).open(path)
}

struct Writer<W: Write> {
    out: BufWriter<W>,
    /// Those that the file names so far, with the packets of each.
    interfaces: Vec<(Arc<Interface>, u64)>,
    written: Arc<AtomicU64>,
}

impl<W: Write> Writer<W> {
    fn write_all(&mut self, outlet: &mut Outlet<Packet>) -> io::Result<()> {
        let program = concat!("kubectl relay ", env!("CARGO_PKG_VERSION"));
        let remark = "What passed forwards of kubectl relay, in packets that might have carried it: bytes, their order and \
                      times are real, addresses are those of the local program and the target, all else is made up.";
        self.out.write_all(&pcapng::section(program, remark))?;
        self.out.flush()?;
        let mut flushed = Ok(());
        while let Some(packet) = outlet.next(|| flushed = self.out.flush()) {
            std::mem::replace(&mut flushed, Ok(()))?;
            self.write(&packet)?;
        }
        let now = nanoseconds(Timestamp::now());
        for (number, (interface, received)) in (0..).zip(&self.interfaces) {
            let lost = interface.lost.load(Ordering::Relaxed);
            self.out.write_all(&pcapng::statistics(number, now, received + lost, lost))?;
        }
        self.out.flush()
    }

    fn write(&mut self, packet: &Packet) -> io::Result<()> {
        let number = self.number(&packet.interface)?;
        let mut remarks = Vec::new();
        if packet.is_first {
            remarks.push(format!("to {}", packet.interface.name));
        }
        if packet.missing > 0 {
            remarks.push(format!("{} packets before this one are missing", packet.missing));
        }
        let remark = (!remarks.is_empty()).then(|| remarks.join("; "));
        let bytes = packet.ends.packet(packet.way, packet.plan, &packet.payload);
        let block = pcapng::packet(number, nanoseconds(packet.at), &bytes, packet.missing, remark.as_deref());
        self.out.write_all(&block)?;
        self.written.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// The interface's number in the file, which names it before its first packet.
    fn number(&mut self, interface: &Arc<Interface>) -> io::Result<u32> {
        let known = (0..).zip(&mut self.interfaces).find(|(_, (known, _))| Arc::ptr_eq(known, interface));
        if let Some((number, (_, packets))) = known {
            *packets += 1;
            return Ok(number);
        }
        let description = format!("kubectl relay {}", interface.name);
        self.out.write_all(&pcapng::interface(&interface.name, &description))?;
        self.interfaces.push((Arc::clone(interface), 1));
        Ok(self.interfaces.len() as u32 - 1)
    }
}

fn nanoseconds(at: Timestamp) -> u64 {
    u64::try_from(at.as_nanosecond()).unwrap_or_default()
}
