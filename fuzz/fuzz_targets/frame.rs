//! Frames: whatever parses is encoded to something that parses to the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use relay_protocol::frame::Frame;

fuzz_target!(|bytes: &[u8]| {
    let mut rest = bytes;
    while let Ok(Some((frame, len))) = Frame::decode(rest) {
        assert!(0 < len && len <= rest.len());
        assert_eq!(Frame::decode(&rest[..len - 1]), Ok(None), "a frame without its last byte");
        if !matches!(frame, Frame::Unknown { .. }) {
            let mut again = Vec::new();
            frame.encode(&mut again);
            assert!(again.len() <= len, "the shortest encoding");
            let end = again.len();
            assert_eq!(Frame::decode(&again), Ok(Some((frame, end))));
        }
        rest = &rest[len..];
    }
});
