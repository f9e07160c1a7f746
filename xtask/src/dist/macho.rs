//! What a program for macOS says of itself: for which processor it is, what it loads, and whether its signature is that
//! of its pages. Apple's system ends a program whose signature is not, and no Mac is here to show it.

use anyhow::{Context, Result, bail, ensure};

use crate::image::sha256;

const MAGIC: u64 = 0xfeed_facf;
/// Kinds of load commands: a library, the same if it is there, passed on to others, and the signature.
const LIBRARIES: [u64; 3] = [0xc, 0x8000_0018, 0x8000_001f];
const SIGNATURE: u64 = 0x1d;

/// A signature's parts, each with its magic number: the whole, and the list of pages.
const BLOB: u64 = 0xfade_0cc0;
const DIRECTORY: u64 = 0xfade_0c02;
/// What such a list says of itself: signed by nobody; by SHA-256, whose hashes have 32 bytes.
const AD_HOC: u64 = 2;
const SHA256: u64 = 2;
const HASH: u64 = 32;

/// Where a Mac has its own libraries.
const PLACES: [&str; 2] = ["/usr/lib/", "/System/Library/Frameworks/"];

/// Makes sure that these bytes are a program for `arch` (Go's name) that loads only what each Mac has, and that it is
/// signed as it is. Intel's processors take it without a signature too, but not with a wrong one.
pub(crate) fn check(program: &[u8], arch: &str) -> Result<()> {
    let program = Bytes(program);
    ensure!(program.little(0)? == MAGIC, "no 64-bit Mach-O program");
    let machine = match arch {
        "amd64" => 0x0100_0007,
        "arm64" => 0x0100_000c,
        other => bail!("no idea of the processor {other}"),
    };
    ensure!(program.little(4)? == machine, "not for {arch}");
    let mut signature = None;
    let mut place = 32;
    for _ in 0..program.little(16)? {
        let (kind, size) = (program.little(place)?, program.little(place + 4)?);
        if LIBRARIES.contains(&kind) {
            let library = program.text(place + program.little(place + 8)?)?;
            let is_apples = PLACES.iter().any(|place| library.starts_with(place));
            ensure!(is_apples, "it loads {library}, which no Mac has by itself");
        } else if kind == SIGNATURE {
            signature = Some(program.little(place + 8)?);
        }
        ensure!(size > 0, "a load command of no size");
        place += size;
    }
    match signature {
        Some(place) => check_signature(&program, place),
        None => {
            ensure!(arch != "arm64", "not signed");
            Ok(())
        }
    }
}

/// Each page has the hash that the signature says; and everything before it is signed.
fn check_signature(program: &Bytes<'_>, place: u64) -> Result<()> {
    ensure!(program.big(place)? == BLOB, "no signature where one should be");
    for number in 0..program.big(place + 8)? {
        let directory = place + program.big(place + 16 + number * 8)?;
        if program.big(directory)? != DIRECTORY {
            continue;
        }
        let (flags, hashes) = (program.big(directory + 12)?, directory + program.big(directory + 16)?);
        let (pages, end) = (program.big(directory + 28)?, program.big(directory + 32)?);
        let [size, kind, _, log2] = program.slice(directory + 36, 4)? else {
            bail!("the program is cut off")
        };
        ensure!(flags & AD_HOC != 0, "signed by somebody");
        ensure!(
            (u64::from(*size), u64::from(*kind)) == (HASH, SHA256),
            "signed with other hashes than SHA-256"
        );
        let page =
            1_u64.checked_shl((*log2).into()).filter(|page| *page < 1 << 20).context("pages of no size")?;
        ensure!(end == place && pages == end.div_ceil(page), "the signature is not for the whole program");
        for number in 0..pages {
            let begin = number * page;
            let content = program.slice(begin, page.min(end - begin))?;
            let signed = program.slice(hashes + number * HASH, HASH)?;
            let signed: String = signed.iter().map(|byte| format!("{byte:02x}")).collect();
            ensure!(sha256(content) == signed, "page {number} is not the one that was signed");
        }
        return Ok(());
    }
    bail!("the signature has no list of pages")
}

struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn slice(&self, offset: u64, size: u64) -> Result<&'a [u8]> {
        let (offset, size) = (usize::try_from(offset)?, usize::try_from(size)?);
        self.0.get(offset..).and_then(|rest| rest.get(..size)).context("the program is cut off")
    }

    /// Four bytes as Apple's headers have them.
    fn little(&self, offset: u64) -> Result<u64> {
        let field: [u8; 4] = self.slice(offset, 4)?.try_into()?;
        Ok(u32::from_le_bytes(field).into())
    }

    /// Four bytes as signatures have them.
    fn big(&self, offset: u64) -> Result<u64> {
        let field: [u8; 4] = self.slice(offset, 4)?.try_into()?;
        Ok(u32::from_be_bytes(field).into())
    }

    /// Up to a zero.
    fn text(&self, offset: u64) -> Result<String> {
        let rest = self.0.get(usize::try_from(offset)?..).context("the program is cut off")?;
        let end = rest.iter().position(|byte| *byte == 0).context("a name without an end")?;
        Ok(String::from_utf8_lossy(&rest[..end]).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A program of 5000 bytes that loads this, with a signature after it.
    fn program(machine: u32, library: &str) -> Vec<u8> {
        let mut program = Vec::new();
        let mut name = library.as_bytes().to_vec();
        name.resize(48, 0);
        for field in [0xfeed_facf, machine, 0, 2, 2, 72 + 16, 0, 0, 0xc, 72, 24, 0, 0, 0] {
            program.extend(u32::to_le_bytes(field));
        }
        program.extend(name);
        for field in [0x1d, 16, 5000, 0] {
            program.extend(u32::to_le_bytes(field));
        }
        program.resize(5000, 7);
        let hashes: Vec<String> = program.chunks(4096).map(sha256).collect();
        for field in [0xfade_0cc0, 0, 1, 0, 20, 0xfade_0c02, 0, 0, 2, 44, 0, 0, 2, 5000, 0x2002_000c, 0] {
            program.extend(u32::to_be_bytes(field));
        }
        for hash in hashes {
            let byte = |place: usize| u8::from_str_radix(&hash[place * 2..place * 2 + 2], 16).unwrap();
            program.extend((0..32).map(byte));
        }
        program
    }

    #[test]
    fn a_program_that_a_mac_would_run_is_taken_and_nothing_else() {
        let system = "/usr/lib/libSystem.B.dylib";
        let good = program(0x0100_000c, system);
        let refusal = |program: &[u8], arch| check(program, arch).unwrap_err().to_string();
        check(&good, "arm64").unwrap();
        check(&program(0x0100_0007, system), "amd64").unwrap();
        assert_eq!(refusal(&good, "amd64"), "not for amd64");
        assert_eq!(refusal(&good[..5100], "arm64"), "the program is cut off");
        assert_eq!(refusal(b"\x7fELF\x02\x01", "arm64"), "no 64-bit Mach-O program");
        let strange = program(0x0100_000c, "/opt/homebrew/lib/libz.dylib");
        assert_eq!(
            refusal(&strange, "arm64"),
            "it loads /opt/homebrew/lib/libz.dylib, which no Mac has by itself"
        );
    }

    #[test]
    fn a_signature_of_other_pages_is_found_out() {
        let good = program(0x0100_000c, "/usr/lib/libSystem.B.dylib");
        let mut changed = good.clone();
        changed[4500] += 1;
        assert_eq!(
            check(&changed, "arm64").unwrap_err().to_string(),
            "page 1 is not the one that was signed"
        );
        // As if what was signed had been longer.
        let mut longer = good.clone();
        longer[5000 + 20 + 32..][..4].copy_from_slice(&4999_u32.to_be_bytes());
        let error = check(&longer, "arm64").unwrap_err();
        assert_eq!(error.to_string(), "the signature is not for the whole program");
        // Without the command that says where it is, which only Intel's processors accept.
        let mut unsigned = good;
        unsigned[16] = 1;
        assert_eq!(check(&unsigned, "arm64").unwrap_err().to_string(), "not signed");
        unsigned[4..8].copy_from_slice(&0x0100_0007_u32.to_le_bytes());
        check(&unsigned, "amd64").unwrap();
    }
}
