//! What a Linux program says of itself: for which processor it is, and whether it needs anything beside it.

use anyhow::{Context, Result, bail};

/// The kind of a program header that names a dynamic linker.
const INTERPRETER: u64 = 3;

/// Makes sure that these bytes are a program for `arch` (Go's name) that no dynamic linker has to load.
pub(crate) fn check_static(program: &[u8], arch: &str) -> Result<()> {
    if !program.starts_with(b"\x7fELF\x02\x01") {
        bail!("no 64-bit little-endian ELF program");
    }
    let machine = match arch {
        "amd64" => 62,
        "arm64" => 183,
        other => bail!("no idea of the processor {other}"),
    };
    if number(program, 18, 2)? != machine {
        bail!("not for {arch}");
    }
    let headers = number(program, 32, 8)?;
    let (size, count) = (number(program, 54, 2)?, number(program, 56, 2)?);
    for place in 0..count {
        if number(program, headers + place * size, 4)? == INTERPRETER {
            bail!("not static: it names a dynamic linker");
        }
    }
    Ok(())
}

fn number(bytes: &[u8], offset: u64, size: usize) -> Result<u64> {
    let offset = usize::try_from(offset)?;
    let field = bytes.get(offset..).and_then(|rest| rest.get(..size)).context("the program is cut off")?;
    Ok(field.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(machine: u8, kinds: &[u8]) -> Vec<u8> {
        let mut program = vec![0; 64];
        program[..6].copy_from_slice(b"\x7fELF\x02\x01");
        program[18] = machine;
        program[32] = 64;
        program[54] = 56;
        program[56] = u8::try_from(kinds.len()).unwrap();
        for kind in kinds {
            program.push(*kind);
            program.extend([0; 55]);
        }
        program
    }

    #[test]
    fn a_static_program_for_the_right_processor_is_taken_and_nothing_else() {
        let refusal = |program: &[u8], arch| check_static(program, arch).unwrap_err().to_string();
        assert!(check_static(&program(62, &[1, 1, 2]), "amd64").is_ok());
        assert!(check_static(&program(183, &[1]), "arm64").is_ok());
        assert_eq!(refusal(&program(62, &[1]), "arm64"), "not for arm64");
        assert_eq!(refusal(&program(62, &[1, 3]), "amd64"), "not static: it names a dynamic linker");
        assert_eq!(refusal(&program(62, &[1, 1])[..100], "amd64"), "the program is cut off");
        assert_eq!(refusal(b"#!/bin/sh", "amd64"), "no 64-bit little-endian ELF program");
    }
}
