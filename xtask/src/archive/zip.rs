//! ZIP, as far as a release needs it: a few files, each below 4 GiB, deflated.

use std::io::Write;

use anyhow::{Context, Result, bail};
use flate2::write::DeflateEncoder;
use flate2::{Compression, Crc};

use super::{Content, Entry};

/// 1980-01-01, where ZIP's calendar begins: its times have no zone, so none would be true.
const DATE: u16 = 0x21;
/// The version of ZIP that knows deflate and folders.
const VERSION: u16 = 20;
/// In the upper byte of "made by": modes are Unix's.
const UNIX: u16 = 3 << 8;
/// Names are UTF-8.
const FLAGS: u16 = 1 << 11;
const DEFLATED: u16 = 8;

/// A ZIP archive of files and programs, sorted by path.
///
/// # Errors
/// An entry is a link or a folder, which Windows would not make of it, or is too large.
pub(crate) fn zip(mut entries: Vec<Entry>) -> Result<Vec<u8>> {
    entries.sort_by(|one, other| one.path.cmp(&other.path));
    let mut archive = Vec::new();
    let mut directory = Vec::new();
    for entry in &entries {
        let (Content::File(bytes) | Content::Program(bytes)) = &entry.content else {
            bail!("{} is no file, and a ZIP archive of ours holds nothing else", entry.path);
        };
        let mut deflated = DeflateEncoder::new(Vec::new(), Compression::best());
        deflated.write_all(bytes)?;
        let deflated = deflated.finish()?;
        let about = about(&entry.path, bytes, &deflated)?;
        let offset = length(archive.len())?;

        archive.extend(b"PK\x03\x04");
        archive.extend(VERSION.to_le_bytes());
        archive.extend(&about);
        archive.extend(entry.path.as_bytes());
        archive.extend(deflated);

        directory.extend(b"PK\x01\x02");
        directory.extend((UNIX | VERSION).to_le_bytes());
        directory.extend(VERSION.to_le_bytes());
        directory.extend(&about);
        // No comment, the first disk, no internal attributes.
        directory.extend([0; 6]);
        // A regular file of this mode.
        directory.extend(((0o100_000 | entry.mode()) << 16).to_le_bytes());
        directory.extend(offset.to_le_bytes());
        directory.extend(entry.path.as_bytes());
    }
    let start = length(archive.len())?;
    let count = u16::try_from(entries.len()).context("too many files")?;
    archive.extend(&directory);
    archive.extend(b"PK\x05\x06");
    archive.extend([0; 4]);
    archive.extend(count.to_le_bytes());
    archive.extend(count.to_le_bytes());
    archive.extend(length(directory.len())?.to_le_bytes());
    archive.extend(start.to_le_bytes());
    archive.extend([0; 2]);
    Ok(archive)
}

/// What the header before a file and its entry in the directory have in common, from the flags on.
fn about(path: &str, bytes: &[u8], deflated: &[u8]) -> Result<Vec<u8>> {
    let mut crc = Crc::new();
    crc.update(bytes);
    let mut about = Vec::new();
    about.extend(FLAGS.to_le_bytes());
    about.extend(DEFLATED.to_le_bytes());
    about.extend(0_u16.to_le_bytes());
    about.extend(DATE.to_le_bytes());
    about.extend(crc.sum().to_le_bytes());
    about.extend(length(deflated.len())?.to_le_bytes());
    about.extend(length(bytes.len())?.to_le_bytes());
    about.extend(u16::try_from(path.len()).context("a path is too long")?.to_le_bytes());
    // Nothing extra.
    about.extend([0; 2]);
    Ok(about)
}

fn length(bytes: usize) -> Result<u32> {
    u32::try_from(bytes).context("too large for ZIP")
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn number(bytes: &[u8], offset: usize, size: usize) -> usize {
        bytes[offset..offset + size].iter().rev().fold(0, |sum, byte| sum << 8 | usize::from(*byte))
    }

    /// Reads an archive as unzip does, from its end.
    fn read(archive: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
        let end = archive.len() - 22;
        assert_eq!(&archive[end..end + 4], b"PK\x05\x06");
        let mut entry = number(archive, end + 16, 4);
        let mut files = Vec::new();
        for _ in 0..number(archive, end + 10, 2) {
            assert_eq!(&archive[entry..entry + 4], b"PK\x01\x02");
            let name = number(archive, entry + 28, 2);
            let path = String::from_utf8(archive[entry + 46..entry + 46 + name].to_vec()).unwrap();
            let mode = u32::try_from(number(archive, entry + 40, 2)).unwrap();
            let header = number(archive, entry + 42, 4);
            assert_eq!(&archive[header..header + 4], b"PK\x03\x04");
            assert_eq!(archive[header + 6..header + 30], archive[entry + 8..entry + 32]);
            let data = header + 30 + name;
            let deflated = &archive[data..data + number(archive, entry + 20, 4)];
            let mut bytes = Vec::new();
            flate2::read::DeflateDecoder::new(deflated).read_to_end(&mut bytes).unwrap();
            assert_eq!(bytes.len(), number(archive, entry + 24, 4));
            files.push((path, mode, bytes));
            entry += 46 + name;
        }
        assert_eq!(entry, end);
        files
    }

    #[test]
    fn what_is_packed_comes_out_again_in_the_order_of_the_paths() {
        let entries = vec![Entry::program("program.exe", vec![7; 100_000]), Entry::file("LICENSE", *b"free")];
        let archive = zip(entries).unwrap();
        let expected = vec![
            ("LICENSE".to_owned(), 0o100_644, b"free".to_vec()),
            ("program.exe".to_owned(), 0o100_755, vec![7; 100_000]),
        ];
        assert_eq!(read(&archive), expected);
        assert!(archive.len() < 1_000);
    }

    #[test]
    fn a_link_is_refused() {
        let error = zip(vec![Entry::link("alias", "program")]).unwrap_err();
        assert!(error.to_string().contains("alias"));
    }
}
