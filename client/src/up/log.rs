//! The log of the background process: in a file with a bound, and in memory for whoever asks for it.

use std::{
    collections::VecDeque,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use jiff::{Timestamp, Unit};
use tokio::sync::broadcast;

/// A file of this size makes room for the next one; one older is kept.
const LARGEST: u64 = 1 << 20;
/// Lines that are remembered.
const REMEMBERED: usize = 1000;
/// Lines that somebody who reads may be behind; then some are left out for them.
const BEHIND: usize = 1024;

/// Where lines go. Clones share it.
#[derive(Clone)]
pub struct Log(Arc<Mutex<Inner>>);

struct Inner {
    path: PathBuf,
    file: File,
    size: u64,
    remembered: VecDeque<Arc<str>>,
    new: broadcast::Sender<Arc<str>>,
}

/// A stream of bytes into the log; a line is logged when it is whole.
pub struct Lines {
    log: Log,
    begun: Vec<u8>,
}

impl Log {
    /// Goes on with the file at `path`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = append(path)?;
        let size = file.metadata()?.len();
        let (new, _) = broadcast::channel(BEHIND);
        let inner = Inner { path: path.into(), file, size, remembered: VecDeque::new(), new };
        Ok(Self(Arc::new(Mutex::new(inner))))
    }

    /// For an [`crate::output::Output`].
    pub fn writer(&self) -> Box<dyn Write + Send> {
        Box::new(Lines { log: self.clone(), begun: Vec::new() })
    }

    /// Adds a line, with the time before it.
    pub fn line(&self, text: &str) {
        let now = Timestamp::now();
        let now = now.round(Unit::Second).unwrap_or(now);
        self.inner().add(format!("{now} {text}").into());
    }

    /// What is remembered, and what follows.
    pub fn read(&self) -> (Vec<Arc<str>>, broadcast::Receiver<Arc<str>>) {
        let inner = self.inner();
        (inner.remembered.iter().cloned().collect(), inner.new.subscribe())
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn add(&mut self, line: Arc<str>) {
        if self.size > LARGEST {
            // Without room for a new one, the old one goes on.
            let renamed = fs::rename(&self.path, self.path.with_extension("1"));
            if let Ok(file) = renamed.and_then(|()| append(&self.path)) {
                let _ = rustix::stdio::dup2_stderr(&file);
                (self.file, self.size) = (file, 0);
            }
        }
        // There is nowhere left to report this to.
        let _ = writeln!(self.file, "{line}");
        self.size += line.len() as u64 + 1;
        if self.remembered.len() == REMEMBERED {
            self.remembered.pop_front();
        }
        self.remembered.push_back(Arc::clone(&line));
        // Perhaps nobody reads.
        let _ = self.new.send(line);
    }
}

/// Opens a log to write at its end.
pub(super) fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.begun.extend_from_slice(bytes);
        while let Some(end) = self.begun.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.begun.drain(..=end).collect();
            self.log.line(&String::from_utf8_lossy(&line[..end]));
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_lines_are_kept_with_their_time_and_told_to_readers() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let log = Log::open(&path).unwrap();
        let mut writer = log.writer();
        writer.write_all(b"one\ntw").unwrap();
        let (remembered, mut new) = log.read();
        assert!(remembered[0].ends_with(" one") && remembered.len() == 1);
        writer.write_all(b"o\n").unwrap();
        assert!(new.try_recv().unwrap().ends_with("Z two"));
        assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 2);
    }

    #[test]
    fn the_file_has_a_bound() {
        let folder = tempfile::tempdir().unwrap();
        let log = Log::open(&folder.path().join("log")).unwrap();
        let line = "x".repeat(4096);
        for _ in 0..800 {
            log.line(&line);
        }
        let size = |name: &str| fs::metadata(folder.path().join(name)).unwrap().len();
        assert!(size("log") <= LARGEST + 8192 && size("log.1") <= LARGEST + 8192);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
        assert!(log.read().0.len() <= REMEMBERED);
    }
}
