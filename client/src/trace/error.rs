//! Why there can be no trace.

use std::{io, path::PathBuf};

/// A capture that cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// The capture's file.
    #[error("cannot write --pcap {}: {source}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Bytes that mean nothing to whoever reads them.
    #[error("--pcap - writes bytes to stdout, which is a terminal")]
    Terminal,
    /// Two that want stdout.
    #[error("--pcap - and a command cannot both have stdout")]
    Command,
}

impl TraceError {
    /// What to do about it.
    pub fn hint(&self) -> String {
        match self {
            Self::Open { .. } => "name a file in a folder that is there and may be written to".into(),
            Self::Terminal => {
                "pipe it to whoever reads it: kubectl relay trace svc/web 8080:80 --pcap - | wireshark -k -i -".into()
            }
            Self::Command => "name a file: --pcap web.pcapng".into(),
        }
    }

    /// Whether it is the command line that is wrong.
    pub fn is_misuse(&self) -> bool {
        !matches!(self, Self::Open { .. })
    }
}
