//! SOCKS4a and SOCKS5: any bytes are a message, a part of one, or an error; a part never asks for more than it misses,
//! and what was understood does not change when the bytes come one by one.

#![no_main]

use libfuzzer_sys::fuzz_target;
use relay_proxy::{Step, socks4, socks5};

fuzz_target!(|bytes: &[u8]| {
    piecewise(bytes, socks4::request);
    piecewise(bytes, socks5::greeting);
    piecewise(bytes, socks5::login);
    piecewise(bytes, socks5::request);
    if let Ok((target, payload)) = socks5::datagram::parse(bytes) {
        let again = socks5::datagram::encode(&target, payload);
        assert_eq!(socks5::datagram::parse(&again), Ok((target, payload)));
    }
});

/// Reads as the proxy does: never more than was asked for.
fn piecewise<T, E>(bytes: &[u8], parse: impl Fn(&[u8]) -> Result<Step<T>, E>)
where
    T: PartialEq + std::fmt::Debug,
    E: PartialEq + std::fmt::Debug,
{
    let whole = parse(bytes);
    let mut len = 0;
    loop {
        match parse(&bytes[..len]) {
            Ok(Step::Need(more)) => {
                assert!(more > 0, "nothing is needed");
                len += more;
                if len > bytes.len() {
                    assert!(matches!(whole, Ok(Step::Need(_))), "{whole:?}");
                    return;
                }
            }
            Ok(Step::Complete(value, taken)) => {
                assert_eq!(taken, len, "more was read than the message has");
                assert_eq!(whole, Ok(Step::Complete(value, taken)));
                return;
            }
            Err(error) => {
                assert_eq!(whole, Err(error));
                return;
            }
        }
    }
}
