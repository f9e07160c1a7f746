//! The packed strings of HPACK (RFC 7541, appendix B). The code is canonical: the lengths of the codes tell the codes.

use std::sync::LazyLock;

use super::Broken;

/// The length of each symbol's code, in bits; the last symbol is the end, which no string may hold.
#[rustfmt::skip]
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
    30,
];
const END: u16 = 256;
const LONGEST: usize = 30;

/// The symbols in the order of their codes; for each length the first code, and which symbol has it.
struct Code {
    symbols: Vec<u16>,
    first: [u32; LONGEST + 1],
    begin: [usize; LONGEST + 2],
}

static CODE: LazyLock<Code> = LazyLock::new(|| {
    let mut symbols: Vec<u16> = (0..=END).collect();
    symbols.sort_by_key(|symbol| LENGTHS[usize::from(*symbol)]);
    let (mut first, mut begin) = ([0; LONGEST + 1], [0; LONGEST + 2]);
    let (mut code, mut index) = (0, 0);
    for len in 1..=LONGEST {
        let count = LENGTHS.iter().filter(|symbol| usize::from(**symbol) == len).count();
        (first[len], begin[len]) = (code, index);
        index += count;
        code = (code + count as u32) << 1;
    }
    begin[LONGEST + 1] = index;
    Code { symbols, first, begin }
});

/// Tells each byte of a packed string.
pub(super) fn unpack(packed: &[u8], mut byte: impl FnMut(u8)) -> Result<(), Broken> {
    let code = &*CODE;
    let (mut bits, mut len) = (0u32, 0usize);
    for packed in packed {
        for shift in (0..8).rev() {
            bits = bits << 1 | u32::from(packed >> shift & 1);
            len += 1;
            if len > LONGEST {
                return Err(Broken);
            }
            let count = code.begin[len + 1] - code.begin[len];
            let Some(offset) = bits.checked_sub(code.first[len]).map(|offset| offset as usize) else {
                continue;
            };
            if offset >= count {
                continue;
            }
            // The end is no byte.
            byte(u8::try_from(code.symbols[code.begin[len] + offset]).map_err(|_| Broken)?);
            (bits, len) = (0, 0);
        }
    }
    // What is left is the beginning of the end's code, less than a byte of it.
    let is_padding = len < 8 && bits == (1 << len) - 1;
    is_padding.then_some(()).ok_or(Broken)
}
