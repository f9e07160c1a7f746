//! Making the file.

use std::io::{self, Write};

use lzma_rust2::{LzmaOptions, LzmaWriter};

use crate::{LC_LP_PB, MAGIC, dictionary_size};

/// A launcher with an agent behind it. Equal programs give equal files.
///
/// # Errors
/// When the agent cannot be packed.
pub fn pack(launcher: &[u8], agent: &[u8]) -> io::Result<Vec<u8>> {
    let mut options = LzmaOptions::with_preset(9);
    options.dict_size = dictionary_size(launcher.len(), agent.len());
    options.nice_len = LzmaOptions::NICE_LEN_MAX;
    (options.lc, options.lp, options.pb) = LC_LP_PB;
    options.preset_dict = Some(launcher.to_vec());
    let mut writer = LzmaWriter::new_no_header(Vec::new(), &options, false)?;
    writer.write_all(agent)?;
    let packed = writer.finish()?;
    let lengths = [packed.len() as u64, agent.len() as u64].map(u64::to_be_bytes).concat();
    Ok([launcher, &packed, &lengths, &MAGIC].concat())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{UnpackError, unpack};

    fn unpacked(file: &[u8]) -> Result<Vec<u8>, UnpackError> {
        let mut agent = Vec::new();
        unpack(file, &mut agent).map(|()| agent)
    }

    /// Some 300 KiB of real code.
    fn program() -> Vec<u8> {
        std::fs::read(std::env::current_exe().unwrap()).unwrap()[..300_000].to_vec()
    }

    #[test]
    fn what_was_packed_is_unpacked() {
        let program = program();
        for launcher in [&program[..], b"launcher"] {
            for agent in [&program[..], b"short", b""] {
                let file = pack(launcher, agent).unwrap();
                assert!(file.starts_with(launcher));
                assert!(unpacked(&file).unwrap() == agent, "{} behind {}", agent.len(), launcher.len());
            }
        }
    }

    #[test]
    fn what_the_launcher_holds_too_takes_no_room() {
        let program = program();
        let file = pack(&program, &program).unwrap();
        assert!(file.len() < program.len() + 1000, "{}", file.len());
    }

    #[test]
    fn the_same_programs_give_the_same_file() {
        let program = program();
        assert!(pack(b"launcher", &program).unwrap() == pack(b"launcher", &program).unwrap());
    }

    #[test]
    fn a_launcher_alone_holds_no_agent() {
        let mut longer_than_the_file = pack(b"l", b"agent").unwrap();
        longer_than_the_file.remove(0);
        longer_than_the_file.remove(0);
        for file in [&b""[..], b"short", &program(), &longer_than_the_file] {
            assert!(matches!(unpacked(file), Err(UnpackError::NoAgent)));
        }
    }

    #[test]
    fn a_file_that_lost_its_middle_is_damaged() {
        let file = pack(b"launcher", &program()).unwrap();
        let (start, end) = (&file[..1000], &file[file.len() - 24..]);
        let mut length = end.to_vec();
        length[..8].copy_from_slice(&(1000 - 8_u64).to_be_bytes());
        assert!(matches!(unpacked(&[start, &length].concat()), Err(UnpackError::Damaged(_))));
    }
}
