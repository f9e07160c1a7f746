//! Hello and welcome: whatever parses is encoded to something that parses to the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use relay_protocol::hello::{Hello, MAX_LEN, Welcome};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(Some((hello, len))) = Hello::decode(bytes) {
        assert!(len <= bytes.len() && len <= MAX_LEN);
        let again = hello.encode();
        let end = again.len();
        assert_eq!(Hello::decode(&again), Ok(Some((hello, end))));
    }
    if let Ok(Some((welcome, len))) = Welcome::decode(bytes) {
        assert!(len <= bytes.len() && len <= MAX_LEN);
        let again = welcome.encode();
        let end = again.len();
        assert_eq!(Welcome::decode(&again), Ok(Some((welcome, end))));
    }
});
