//! HPACK (RFC 7541), as far as a passer-by needs it: every field is decoded, since the table depends on each, and only
//! the values of those that are told are kept, in the table too. The libraries that decode HPACK keep every value, or are
//! part of an endpoint; this reads along, and must neither hold what is secret nor more than the table's size.

mod huffman;
mod table;

pub(crate) use table::Name;
use table::{Entry, Table};

/// The longest value that is kept, in bytes; what comes after is counted only.
pub(crate) const VALUE: usize = 1024;
/// The longest name that is told from others.
const NAME: usize = 16;
/// No length or index of a header block is larger: blocks are not.
const LARGEST: u32 = 1 << 20;

/// A block that is no HPACK, or that wants a larger table than is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Broken;

/// A value as far as it is kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Value {
    pub(crate) bytes: Vec<u8>,
    /// Whether it was longer.
    pub(crate) is_cut: bool,
}

/// One direction's decoder.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    table: Table,
}

impl Decoder {
    /// Decodes a whole header block; `field` is told of each field that matters.
    pub(crate) fn decode(
        &mut self,
        mut block: &[u8],
        mut field: impl FnMut(Name, &Value),
    ) -> Result<(), Broken> {
        while let Some(&first) = block.first() {
            match first {
                0x80.. => {
                    let index = integer(&mut block, 7)?;
                    let (name, value) = self.table.field(index)?;
                    tell(name, value, &mut field);
                }
                0x40.. => {
                    let (name, len) = self.name(&mut block, 6)?;
                    let (value, size) = string(&mut block, kept(name))?;
                    tell(name, &value, &mut field);
                    self.table.insert(Entry::new(name, len, value, size));
                }
                0x20.. => self.table.resize(integer(&mut block, 5)?)?,
                _ => {
                    let (name, _) = self.name(&mut block, 4)?;
                    let (value, _) = string(&mut block, kept(name))?;
                    tell(name, &value, &mut field);
                }
            }
        }
        Ok(())
    }

    /// The name of a literal field, and its length.
    fn name(&self, block: &mut &[u8], prefix: u8) -> Result<(Name, u32), Broken> {
        match integer(block, prefix)? {
            0 => {
                let (name, len) = string(block, NAME)?;
                Ok((if name.is_cut { Name::Other } else { Name::of(&name.bytes) }, len))
            }
            index => self.table.name(index),
        }
    }
}

fn kept(name: Name) -> usize {
    if name == Name::Other { 0 } else { VALUE }
}

fn tell(name: Name, value: &Value, field: &mut impl FnMut(Name, &Value)) {
    if name != Name::Other {
        field(name, value);
    }
}

/// An integer behind the bits that tell what it is (section 5.1).
fn integer(block: &mut &[u8], prefix: u8) -> Result<u32, Broken> {
    let first = *block.split_off_first().ok_or(Broken)?;
    let most = (1u32 << prefix) - 1;
    let mut value = u32::from(first) & most;
    if value < most {
        return Ok(value);
    }
    for shift in (0..28).step_by(7) {
        let byte = *block.split_off_first().ok_or(Broken)?;
        value =
            value.checked_add(u32::from(byte & 0x7f) << shift).filter(|sum| *sum <= LARGEST).ok_or(Broken)?;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(Broken)
}

/// A string (section 5.2) of which at most so much is kept, and its whole length.
fn string(block: &mut &[u8], keep: usize) -> Result<(Value, u32), Broken> {
    let is_packed = block.first().ok_or(Broken)? & 0x80 != 0;
    let len = integer(block, 7)?;
    let raw = block.split_off(..len as usize).ok_or(Broken)?;
    let mut bytes = Vec::new();
    let mut total = 0;
    let mut push = |byte: u8| {
        total += 1;
        if bytes.len() < keep {
            bytes.push(byte);
        }
    };
    if is_packed {
        huffman::unpack(raw, push)?;
    } else {
        raw.iter().for_each(|byte| push(*byte));
    }
    let is_cut = total as usize > bytes.len();
    Ok((Value { bytes, is_cut }, total))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(decoder: &mut Decoder, block: &[u8]) -> Result<Vec<(Name, String)>, Broken> {
        let mut fields = Vec::new();
        decoder.decode(block, |name, value| {
            fields.push((name, String::from_utf8(value.bytes.clone()).expect("text")));
        })?;
        Ok(fields)
    }

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
        let pair = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        digits.chunks(2).map(pair).collect()
    }

    fn request(path: &str) -> Vec<(Name, String)> {
        let fields = [(Name::Method, "GET"), (Name::Path, path), (Name::Authority, "www.example.com")];
        fields.map(|(name, value)| (name, value.to_owned())).to_vec()
    }

    /// The three requests of appendix C.3 and C.4 of the RFC, plain and packed.
    #[test]
    fn the_requests_of_the_rfc() {
        let plain = [
            "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
            "8286 84be 5808 6e6f 2d63 6163 6865",
            "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
        ];
        let packed = [
            "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff",
            "8286 84be 5886 a8eb 1064 9cbf",
            "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
        ];
        for blocks in [plain, packed] {
            let mut decoder = Decoder::default();
            for (block, path) in blocks.into_iter().zip(["/", "/", "/index.html"]) {
                assert_eq!(decoded(&mut decoder, &hex(block)).unwrap(), request(path));
            }
            assert_eq!(decoder.table.size(), 164);
        }
    }

    /// The responses of appendix C.6, where a table of 256 bytes has to let entries go.
    #[test]
    fn the_responses_of_the_rfc() {
        let blocks = [
            "3fe1 01 4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e 919d \
             29ad 1718 63c7 8f0b 97c8 e9ae 82ae 43d3",
            "4883 640e ffc1 c0bf",
            "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab 77ad 94e7 821d d7f2 e6c7 \
             b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160 65c0 03ed 4ee5 b106 3d50 07",
        ];
        let mut decoder = Decoder::default();
        for (block, (status, size)) in blocks.into_iter().zip([("302", 222), ("307", 222), ("200", 215)]) {
            assert_eq!(decoded(&mut decoder, &hex(block)).unwrap(), [(Name::Status, status.into())]);
            assert_eq!(decoder.table.size(), size);
        }
    }

    #[test]
    fn what_is_no_hpack_is_refused() {
        for block in [
            "80",               // index 0
            "be",               // an index beyond the table
            "ffff ffff ff7f",   // an endless integer
            "41 85 aa",         // a string that is longer than the block
            "00 01 61 82 ffff", // the end of a packed string is no end
            "3fe2 ff7f",        // a larger table than is kept
            "40",
        ] {
            assert_eq!(decoded(&mut Decoder::default(), &hex(block)), Err(Broken), "{block}");
        }
    }
}
