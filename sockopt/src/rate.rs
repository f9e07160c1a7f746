//! How fast a socket brings bytes.

use std::time::Duration;

use tokio::time::Instant;

/// Bytes that come within [`SPAN`] where they are bulk: 50 MiB/s.
const ENOUGH: usize = 1 << 20;
const SPAN: Duration = Duration::from_millis(20);

/// Counts bytes, and looks at the time once a mebibyte.
#[derive(Debug, Default)]
pub(crate) struct Rate {
    bytes: usize,
    since: Option<Instant>,
}

impl Rate {
    /// So many more bytes have come. True where as many came quickly.
    pub(crate) fn is_bulk(&mut self, bytes: usize) -> bool {
        self.bytes += bytes;
        if self.bytes < ENOUGH {
            return false;
        }
        self.bytes = 0;
        let now = Instant::now();
        self.since.replace(now).is_some_and(|since| now - since <= SPAN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_what_comes_quickly_is_bulk() {
        let mut rate = Rate::default();
        assert!(!rate.is_bulk(ENOUGH), "nobody knows how long that took");
        tokio::time::advance(SPAN).await;
        assert!(rate.is_bulk(ENOUGH));
        tokio::time::advance(SPAN * 2).await;
        assert!(!rate.is_bulk(ENOUGH));
        assert!(!rate.is_bulk(ENOUGH - 1));
        assert!(rate.is_bulk(1));
    }
}
