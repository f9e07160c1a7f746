use super::*;
use proptest::prelude::*;

fn hosts() -> impl Strategy<Value = Address> {
    "[a-z0-9_-]{1,63}(\\.[A-Z0-9-]{1,40}){0,3}\\.?".prop_map(|name| name.parse().unwrap())
}

fn headers() -> impl Strategy<Value = Header> {
    let address = prop_oneof![any::<IpAddr>().prop_map(Address::Ip), hosts()];
    (any::<u128>(), prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp)], any::<u16>(), address).prop_map(
        |(id, protocol, port, address)| Header { request_id: Uuid::from_u128(id), protocol, port, address },
    )
}

#[test]
fn the_documented_bytes() {
    let header = Header {
        request_id: Uuid::from_u128(0x0011_2233_4455_6677_8899_aabb_ccdd_eeff),
        protocol: Protocol::Udp,
        port: 53,
        address: Address::Ip([10, 96, 0, 10].into()),
    };
    let mut out = Vec::new();
    header.encode(&mut out);
    let id = [0x00, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff];
    assert_eq!(out, [&[1, 0, 27][..], &id, &[1, 0, 53, 0, 10, 96, 0, 10]].concat());
}

#[test]
fn a_v0_header_as_an_old_client_sends_it() {
    let bytes = [&[0, 0, 15, 1, 2, 3, 4, 5, 0, 0x1f, 0x90, 1][..], b"web"].concat();
    let (header, len) = v0::Header::decode(&bytes).unwrap().unwrap();
    assert_eq!((header.request_id, len), ([1, 2, 3, 4, 5], 15));
    let target = v0::Target { port: 8080, address: "web".parse().unwrap() };
    assert_eq!(header.purpose, v0::Purpose::Tcp(target));
    let alive = [0, 0, 16, 1, 2, 3, 4, 5, 2, 0, 0, 0, 0, 0, 0, 0];
    assert_eq!(v0::Header::decode(&alive).unwrap().unwrap().0.purpose, v0::Purpose::KeepAlive);
    let bare = [0, 0, 12, 1, 2, 3, 4, 5, 2, 0, 0, 0];
    assert_eq!(v0::Header::decode(&bare).unwrap().unwrap().0.purpose, v0::Purpose::KeepAlive);
}

#[test]
fn what_is_not_a_header_is_named() {
    assert_eq!(Header::decode(&[9]), Err(HeaderError::UnknownVersion(9)));
    assert_eq!(Header::decode(&[1, 0, 23]), Err(HeaderError::BadLength(23)));
    assert_eq!(Header::decode(&[1, 0xff, 0xff]), Err(HeaderError::BadLength(65_535)));
    let mut five = vec![1, 0, 28];
    five.extend([0; 16]);
    five.extend([0, 0, 1, 0, 1, 2, 3, 4, 5]);
    assert_eq!(Header::decode(&five), Err(HeaderError::BadLength(5)));
    five[19] = 7;
    assert_eq!(Header::decode(&five), Err(HeaderError::UnknownProtocol(7)));
}

#[test]
fn host_names_are_checked() {
    let long = format!("{}.{}", "a".repeat(63), ["b".repeat(63), "c".repeat(63), "d".repeat(61)].join("."));
    for good in ["a", "web.default.svc.cluster.local.", "_sip._tcp.x", &long] {
        assert!(HostName::new(good).is_ok(), "{good}");
    }
    for bad in ["", ".", "a..b", "a b", "ü", "a/b", "a\0", &format!("{long}d"), &"x".repeat(64)] {
        assert_eq!(HostName::new(bad), Err(HeaderError::BadHostName), "{bad}");
    }
}

proptest! {
    #[test]
    fn round_trip_and_every_cut_needs_more(header in headers(), tail in any::<[u8; 3]>()) {
        let mut out = Vec::new();
        header.encode(&mut out);
        prop_assert_eq!(out.len(), header.encoded_len());
        for cut in 0..out.len() {
            prop_assert_eq!(Header::decode(&out[..cut]), Ok(None));
        }
        let len = out.len();
        out.extend(tail);
        prop_assert_eq!(Header::decode(&out), Ok(Some((header, len))));
    }

    #[test]
    fn any_bytes_give_an_answer(mut bytes in proptest::collection::vec(any::<u8>(), 0..400), version in 0u8..3) {
        if let Some(first) = bytes.first_mut() {
            *first = version;
        }
        for result in [Header::decode(&bytes).map(|some| some.map(|(_, len)| len)), v0::Header::decode(&bytes).map(|some| some.map(|(_, len)| len))] {
            if let Ok(Some(len)) = result {
                prop_assert!(len <= bytes.len());
            }
        }
    }
}
