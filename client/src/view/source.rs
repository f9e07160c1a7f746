//! Where snapshots come from.

use std::{io, time::Duration};

use tokio::{
    io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt},
    time::{Instant, sleep_until},
};

use crate::ledger::{Ledger, Snapshot, VERSION};

/// Numbers are looked at so often,
const EVERY: Duration = Duration::from_secs(1);
/// and changes are gathered for so long.
const GATHER: Duration = Duration::from_millis(100);
/// The longest snapshot that is read, in bytes: some ten thousand forwards.
const LONGEST: u64 = 8 << 20;

/// Gives snapshots.
pub trait Source {
    /// The next one: when something has changed, or after a second. Nothing: there will be no more.
    fn next(&mut self) -> impl Future<Output = Result<Option<Snapshot>, SourceError>>;
}

/// Snapshots that cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The other process cannot be read.
    #[error("the process that forwards cannot be read: {0}")]
    Io(#[from] io::Error),
    /// It says something else.
    #[error("the process that forwards says what is no snapshot: {0}")]
    NoSnapshot(String),
    /// It is of another time.
    #[error("the process that forwards tells of itself in version {0}, this one knows {VERSION}")]
    Version(u32),
}

impl SourceError {
    /// What to do about it.
    pub fn hint(&self) -> String {
        match self {
            Self::Io(_) => "see whether it still runs: kubectl relay ls".into(),
            Self::NoSnapshot(_) | Self::Version(_) => {
                "end it and start it anew with this version of the plugin".into()
            }
        }
    }
}

/// The ledger of this process.
pub struct InProcess {
    ledger: Ledger,
    changes: tokio::sync::watch::Receiver<u64>,
    last: Option<Instant>,
}

impl InProcess {
    /// From now on.
    pub fn new(ledger: Ledger) -> Self {
        let changes = ledger.changes();
        Self { ledger, changes, last: None }
    }
}

impl Source for InProcess {
    async fn next(&mut self) -> Result<Option<Snapshot>, SourceError> {
        if let Some(last) = self.last {
            tokio::select! {
                () = sleep_until(last + EVERY) => {}
                Ok(()) = self.changes.changed() => sleep_until(last + GATHER).await,
            }
        }
        self.changes.mark_unchanged();
        self.last = Some(Instant::now());
        Ok(Some(self.ledger.snapshot()))
    }
}

/// Another process, which writes a snapshot as JSON on each line.
pub struct Lines<R> {
    reader: R,
    line: Vec<u8>,
}

impl<R: AsyncBufRead + Unpin> Lines<R> {
    /// What it writes from now on.
    pub fn new(reader: R) -> Self {
        Self { reader, line: Vec::new() }
    }
}

impl<R: AsyncBufRead + Unpin> Source for Lines<R> {
    /// Cancellation safe: what was read of a line stays.
    async fn next(&mut self) -> Result<Option<Snapshot>, SourceError> {
        let left = LONGEST.saturating_sub(self.line.len() as u64);
        (&mut self.reader).take(left).read_until(b'\n', &mut self.line).await?;
        if !self.line.ends_with(b"\n") {
            return match self.line.len() as u64 {
                LONGEST.. => Err(SourceError::NoSnapshot("a line without an end".into())),
                _ => Ok(None),
            };
        }
        let line = std::mem::take(&mut self.line);
        let snapshot = read(&line)?;
        Ok(Some(snapshot))
    }
}

fn read(line: &[u8]) -> Result<Snapshot, SourceError> {
    let no_snapshot = || {
        let text: String = String::from_utf8_lossy(line).trim().chars().take(200).collect();
        SourceError::NoSnapshot(text)
    };
    let value: serde_json::Value = serde_json::from_slice(line).map_err(|_| no_snapshot())?;
    match value["version"].as_u64().and_then(|version| u32::try_from(version).ok()) {
        Some(VERSION) => serde_json::from_value(value).map_err(|_| no_snapshot()),
        Some(other) => Err(SourceError::Version(other)),
        None => Err(no_snapshot()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn numbers_come_once_a_second_and_changes_soon() {
        let ledger = Ledger::new();
        let mut source = InProcess::new(ledger.clone());
        let start = Instant::now();
        source.next().await.unwrap().unwrap();
        assert_eq!(start.elapsed(), Duration::ZERO);
        source.next().await.unwrap().unwrap();
        assert_eq!(start.elapsed(), EVERY);
        ledger.add_agent(None, "dev");
        let seen = source.next().await.unwrap().unwrap();
        assert_eq!((start.elapsed(), seen.agents.len()), (EVERY + GATHER, 1));
        source.next().await.unwrap().unwrap();
        assert_eq!(start.elapsed(), EVERY * 2 + GATHER);
    }

    #[tokio::test]
    async fn lines_of_another_process_are_read_to_their_end() {
        let one = serde_json::to_string(&Ledger::new().snapshot()).unwrap();
        let text = format!("{one}\n{one}\n{one}");
        let mut source = Lines::new(text.as_bytes());
        assert!(source.next().await.unwrap().is_some() && source.next().await.unwrap().is_some());
        // The process was killed while it wrote.
        assert!(source.next().await.unwrap().is_none());
    }

    #[tokio::test]
    async fn what_is_no_snapshot_of_this_version_is_told() {
        let told = async |text: &str| Lines::new(text.as_bytes()).next().await.unwrap_err().to_string();
        assert!(told("{\"version\":2}\n").await.ends_with("in version 2, this one knows 1"));
        assert!(told("{\"version\":1}\n").await.ends_with("no snapshot: {\"version\":1}"));
        assert!(told("hello\n").await.ends_with("no snapshot: hello"));
    }
}
