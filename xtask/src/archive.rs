//! Archives whose bytes follow from what is in them: sorted, of one owner and one age.

mod zip;

use std::io::Write;

use anyhow::{Context, Result};
use flate2::Compression;
use flate2::write::GzEncoder;

pub(crate) use zip::zip;

/// Something in an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Its path, without a `/` at its beginning.
    pub(crate) path: String,
    /// What it is.
    pub(crate) content: Content,
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Content {
    /// A folder.
    Folder,
    /// A file that everybody may read.
    File(Vec<u8>),
    /// A file that everybody may execute.
    Program(Vec<u8>),
    /// A symbolic link to this path.
    Link(String),
}

impl Entry {
    /// A file that everybody may read.
    pub(crate) fn file(path: impl Into<String>, bytes: impl Into<Vec<u8>>) -> Self {
        Self { path: path.into(), content: Content::File(bytes.into()) }
    }

    /// A file that everybody may execute.
    pub(crate) fn program(path: impl Into<String>, bytes: impl Into<Vec<u8>>) -> Self {
        Self { path: path.into(), content: Content::Program(bytes.into()) }
    }

    /// A symbolic link.
    pub(crate) fn link(path: impl Into<String>, to: impl Into<String>) -> Self {
        Self { path: path.into(), content: Content::Link(to.into()) }
    }

    fn mode(&self) -> u32 {
        match self.content {
            Content::File(_) => 0o644,
            Content::Folder | Content::Program(_) => 0o755,
            Content::Link(_) => 0o777,
        }
    }
}

/// A tar archive: sorted by path, owned by root, of this age in seconds since 1970.
pub(crate) fn tar(mut entries: Vec<Entry>, time: u64) -> Result<Vec<u8>> {
    entries.sort_by(|one, other| one.path.cmp(&other.path));
    let mut tar = tar::Builder::new(Vec::new());
    for entry in &entries {
        let mut header = tar::Header::new_ustar();
        header.set_mode(entry.mode());
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(time);
        header.set_size(0);
        let added = match &entry.content {
            Content::File(bytes) | Content::Program(bytes) => {
                header.set_size(bytes.len() as u64);
                tar.append_data(&mut header, &entry.path, bytes.as_slice())
            }
            Content::Folder => {
                header.set_entry_type(tar::EntryType::Directory);
                tar.append_data(&mut header, format!("{}/", entry.path), std::io::empty())
            }
            Content::Link(to) => {
                header.set_entry_type(tar::EntryType::Symlink);
                tar.append_link(&mut header, &entry.path, to)
            }
        };
        added.with_context(|| format!("archive {}", entry.path))?;
    }
    Ok(tar.into_inner()?)
}

/// Compresses without a name and without a time.
pub(crate) fn gzip(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::best());
    gzip.write_all(bytes)?;
    Ok(gzip.finish()?)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn entries() -> Vec<Entry> {
        vec![
            Entry::program("usr/bin/program", *b"machine code"),
            Entry::link("usr/bin/alias", "program"),
            Entry::file("LICENSE", *b"do what you like"),
            Entry { path: "usr".into(), content: Content::Folder },
        ]
    }

    #[test]
    fn a_tar_holds_what_was_given_sorted_and_without_a_trace_of_who_made_it() {
        let bytes = tar(entries(), 1_700_000_000).unwrap();
        let mut seen = Vec::new();
        for entry in tar::Archive::new(bytes.as_slice()).entries().unwrap() {
            let mut entry = entry.unwrap();
            let header = entry.header().clone();
            assert_eq!((header.uid().unwrap(), header.gid().unwrap()), (0, 0));
            assert_eq!(header.mtime().unwrap(), 1_700_000_000);
            let mut content = String::new();
            entry.read_to_string(&mut content).unwrap();
            let link = header.link_name().unwrap().map(|link| link.display().to_string());
            let path = entry.path().unwrap().display().to_string();
            seen.push((path, header.mode().unwrap(), link.unwrap_or(content)));
        }
        let expected = [
            ("LICENSE", 0o644, "do what you like"),
            ("usr/", 0o755, ""),
            ("usr/bin/alias", 0o777, "program"),
            ("usr/bin/program", 0o755, "machine code"),
        ];
        assert_eq!(seen, expected.map(|(path, mode, content)| (path.to_owned(), mode, content.to_owned())));
    }

    #[test]
    fn the_order_in_which_entries_are_given_makes_no_difference() {
        let mut turned = entries();
        turned.reverse();
        let pack = |entries| gzip(&tar(entries, 7).unwrap()).unwrap();
        let packed = pack(entries());
        assert_eq!(packed, pack(turned));
        let mut unpacked = Vec::new();
        flate2::read::GzDecoder::new(packed.as_slice()).read_to_end(&mut unpacked).unwrap();
        assert_eq!(unpacked, tar(entries(), 7).unwrap());
        // Bytes 4 to 7 are the time, byte 3 tells of a name.
        assert_eq!(packed[3..8], [0; 5]);
    }
}
