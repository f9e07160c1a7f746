//! Which file one is.

use std::{
    fs::{Metadata, OpenOptions},
    os::windows::fs::MetadataExt,
};

/// The folder decides who may read it.
pub(super) fn private(options: &mut OpenOptions) -> &mut OpenOptions {
    options
}

/// When it was made and written, to 100 nanoseconds, and its length: the standard library tells no number of a file there.
pub(super) fn identity(metadata: Metadata) -> (u64, u64, u64) {
    (metadata.creation_time(), metadata.last_write_time(), metadata.file_size())
}
