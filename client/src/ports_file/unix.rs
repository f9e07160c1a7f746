//! Whose a file is, and which.

use std::{
    fs::{Metadata, OpenOptions},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
};

/// Makes it readable by its owner alone.
pub(super) fn private(options: &mut OpenOptions) -> &mut OpenOptions {
    options.mode(0o600)
}

/// Device and inode: no two files have the same while one of them is open.
pub(super) fn identity(metadata: Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}
