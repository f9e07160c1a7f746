//! Headers of version 1 and 0: any bytes give a header, "need more" or an error; what parses is the same again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use relay_protocol::Header;
use relay_protocol::header::{MAX_HEADER, v0};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(Some((header, len))) = Header::decode(bytes) {
        assert!(len <= bytes.len() && len <= MAX_HEADER);
        let mut again = Vec::new();
        header.encode(&mut again);
        assert_eq!(again, bytes[..len]);
        assert_eq!(header.encoded_len(), len);
        assert_eq!(Header::decode(&bytes[..len - 1]), Ok(None), "a header without its last byte");
    }
    if let Ok(Some((header, len))) = v0::Header::decode(bytes) {
        assert!(len <= bytes.len());
        assert_eq!(v0::Header::decode(&bytes[..len]), Ok(Some((header, len))));
        assert_eq!(v0::Header::decode(&bytes[..len - 1]), Ok(None), "a header without its last byte");
    }
});
