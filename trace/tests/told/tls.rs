//! The first words of TLS.

use super::support::{Said, told_in, whole};
use proptest::prelude::*;

/// As `openssl s_client -servername db.example.com -alpn h2,http/1.1` says it, but for what does not matter here.
fn hello() -> Vec<u8> {
    let sized = |width: usize, bytes: &[u8]| [&bytes.len().to_be_bytes()[8 - width..], bytes].concat();
    let name = sized(2, &[&[0][..], &sized(2, b"db.example.com")].concat());
    let protocols = sized(2, &[sized(1, b"h2"), sized(1, b"http/1.1")].concat());
    let extensions = [
        [&[0, 43][..], &sized(2, &[2, 3, 4])].concat(),
        [&[0, 0][..], &sized(2, &name)].concat(),
        [&[0, 16][..], &sized(2, &protocols)].concat(),
        [&[0, 51][..], &sized(2, &[7; 1200])].concat(),
    ]
    .concat();
    let body = [
        &[3, 3][..],
        &[9; 32],
        &sized(1, &[1; 32]),
        &sized(2, &[0x13, 1, 0x13, 2]),
        &sized(1, &[0]),
        &sized(2, &extensions),
    ]
    .concat();
    [&[1][..], &sized(3, &body)].concat()
}

fn record(bytes: &[u8]) -> Vec<u8> {
    [&[22, 3, 1][..], &u16::try_from(bytes.len()).unwrap().to_be_bytes(), bytes].concat()
}

const EXPECTED: &str = r#"TLS Some("db.example.com") ["h2", "http/1.1"]"#;

#[test]
fn the_servers_name_and_the_protocols_are_told_once() {
    let one = record(&hello());
    let several: Vec<u8> = hello().chunks(300).flat_map(record).collect();
    for client in [one, several] {
        let said =
            [Said::Client(&client), Said::Server(b"\x16\x03\x03"), Said::Client(b"GET / HTTP/1.1\r\n\r\n")];
        assert_eq!(whole(&said), [EXPECTED]);
        proptest!(|(cuts in prop::collection::vec(1..200usize, 1..5))| {
            prop_assert_eq!(told_in(&said, &cuts), [EXPECTED]);
        });
    }
}

#[test]
fn what_is_broken_off_or_made_up_is_tls_all_the_same() {
    let nothing = ["TLS None []"];
    let whole_hello = record(&hello());
    for end in [2, 5, 6, 50, 400] {
        assert_eq!(whole(&[Said::Client(&whole_hello[..end])]), nothing, "{end}");
    }
    assert_eq!(whole(&[Said::Client(&record(&[1, 0xff, 0xff, 0xff].repeat(8000)))]), nothing);
    assert_eq!(whole(&[Said::Client(&[22, 3, 1, 0, 0, 22, 3])]), nothing);
    proptest!(|(at in 0..1400usize, byte: u8)| {
        let mut changed = whole_hello.clone();
        let at = at % changed.len();
        changed[at] = byte;
        prop_assert_eq!(whole(&[Said::Client(&changed)]).len(), 1);
    });
}
