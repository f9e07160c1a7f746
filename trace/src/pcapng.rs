//! Blocks of a capture file in pcapng, as far as they are needed here: little-endian, times in nanoseconds.
//!
//! Source: draft-ietf-opsawg-pcapng, section 4.

/// The most that a packet of a file may hold, in bytes.
const SNAP: u32 = 65_535 + 40 + 14;
const LINK_ETHERNET: u16 = 1;

const COMMENT: u16 = 1;
const IF_NAME: u16 = 2;
const IF_DESCRIPTION: u16 = 3;
const IF_TIME_UNIT: u16 = 9;
const SECTION_PROGRAM: u16 = 4;
const PACKET_DROPS: u16 = 4;
const COUNT_RECEIVED: u16 = 4;
const COUNT_DROPPED: u16 = 5;
const NANOSECONDS: u8 = 9;

/// The beginning of a file: what made it, and what is to be known of it.
pub fn section(program: &str, comment: &str) -> Vec<u8> {
    let mut body = Vec::new();
    body.extend_from_slice(&0x1a2b_3c4d_u32.to_le_bytes());
    body.extend_from_slice(&1u16.to_le_bytes());
    body.extend_from_slice(&0u16.to_le_bytes());
    // Its length is not known.
    body.extend_from_slice(&u64::MAX.to_le_bytes());
    option(&mut body, SECTION_PROGRAM, program.as_bytes());
    option(&mut body, COMMENT, comment.as_bytes());
    end_of_options(&mut body);
    block(0x0a0d_0d0a, &body)
}

/// What packets come from; they name it by its number in the file, counted from zero.
pub fn interface(name: &str, description: &str) -> Vec<u8> {
    let mut body = Vec::new();
    body.extend_from_slice(&LINK_ETHERNET.to_le_bytes());
    body.extend_from_slice(&0u16.to_le_bytes());
    body.extend_from_slice(&SNAP.to_le_bytes());
    option(&mut body, IF_NAME, name.as_bytes());
    option(&mut body, IF_DESCRIPTION, description.as_bytes());
    option(&mut body, IF_TIME_UNIT, &[NANOSECONDS]);
    end_of_options(&mut body);
    block(1, &body)
}

/// A packet: from which interface, when (nanoseconds since 1970), how many before it are missing, and a remark.
pub fn packet(interface: u32, at: u64, packet: &[u8], missing: u64, comment: Option<&str>) -> Vec<u8> {
    let length = u32::try_from(packet.len()).unwrap_or(u32::MAX);
    let mut body = Vec::with_capacity(packet.len() + 64);
    body.extend_from_slice(&interface.to_le_bytes());
    time(&mut body, at);
    body.extend_from_slice(&length.to_le_bytes());
    body.extend_from_slice(&length.to_le_bytes());
    body.extend_from_slice(packet);
    pad(&mut body);
    if missing > 0 {
        option(&mut body, PACKET_DROPS, &missing.to_le_bytes());
    }
    if let Some(comment) = comment {
        option(&mut body, COMMENT, comment.as_bytes());
    }
    if missing > 0 || comment.is_some() {
        end_of_options(&mut body);
    }
    block(6, &body)
}

/// What came from an interface in all, and what of it is missing.
pub fn statistics(interface: u32, at: u64, received: u64, dropped: u64) -> Vec<u8> {
    let mut body = Vec::new();
    body.extend_from_slice(&interface.to_le_bytes());
    time(&mut body, at);
    option(&mut body, COUNT_RECEIVED, &received.to_le_bytes());
    option(&mut body, COUNT_DROPPED, &dropped.to_le_bytes());
    end_of_options(&mut body);
    block(5, &body)
}

/// Two halves, the high one first.
fn time(body: &mut Vec<u8>, at: u64) {
    body.extend_from_slice(&((at >> 32) as u32).to_le_bytes());
    body.extend_from_slice(&(at as u32).to_le_bytes());
}

fn option(body: &mut Vec<u8>, code: u16, value: &[u8]) {
    let length = u16::try_from(value.len()).unwrap_or(u16::MAX);
    body.extend_from_slice(&code.to_le_bytes());
    body.extend_from_slice(&length.to_le_bytes());
    body.extend_from_slice(&value[..usize::from(length)]);
    pad(body);
}

fn end_of_options(body: &mut Vec<u8>) {
    body.extend_from_slice(&[0; 4]);
}

fn pad(body: &mut Vec<u8>) {
    body.resize(body.len().next_multiple_of(4), 0);
}

fn block(kind: u32, body: &[u8]) -> Vec<u8> {
    let length = (body.len() as u32 + 12).to_le_bytes();
    [&kind.to_le_bytes(), &length, body, &length].concat()
}
