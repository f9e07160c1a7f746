use proptest::prelude::*;

use super::*;

fn target() -> impl Strategy<Value = Target> {
    let address = prop_oneof![
        any::<[u8; 4]>().prop_map(|octets| Address::Ip(octets.into())),
        any::<[u8; 16]>().prop_map(|octets| Address::Ip(octets.into())),
        "[a-z]([-a-z0-9]{0,20}[a-z])?(\\.[a-z][a-z0-9]{0,20}){0,5}\\.?"
            .prop_map(|name| name.parse().unwrap()),
    ];
    (address, any::<u16>()).prop_map(|(address, port)| Target { address, port })
}

fn written(command: u8, target: &Target) -> Vec<u8> {
    let mut bytes = vec![VERSION, command, 0];
    put_target(target, &mut bytes);
    bytes
}

#[test]
fn methods_are_found_among_others() {
    let methods = |bytes: &[u8]| match greeting(bytes).unwrap() {
        Step::Complete(methods, len) => (methods.no_login, methods.login, len),
        Step::Need(len) => panic!("{len} are missing"),
    };
    assert_eq!(methods(&[5, 0]), (false, false, 2));
    assert_eq!(methods(&[5, 1, 0, 99]), (true, false, 3));
    assert_eq!(methods(&[5, 3, 1, 0, 2]), (true, true, 5));
    assert_eq!(greeting(&[5, 3, 1]), Ok(Step::Need(2)));
    assert_eq!(greeting(&[4]), Err(BadRequest::Version(4)));
}

#[test]
fn a_login_may_be_empty_and_is_never_shown() {
    assert_eq!(login(&[1, 0, 0]), Ok(Step::Complete(Login { name: vec![], password: vec![] }, 3)));
    let me = Login { name: b"me".to_vec(), password: b"secret".to_vec() };
    assert!(!format!("{me:?}").contains("secret"));
    assert_eq!(login(b"\x01\x02me\x06secretx"), Ok(Step::Complete(me, 11)));
    assert_eq!(login(&[1, 5, b'a']), Ok(Step::Need(4)));
    assert_eq!(login(&[5]), Err(BadRequest::LoginVersion(5)));
}

#[test]
fn what_is_no_request_has_its_reply() {
    let cases: [(&[u8], Reply); 6] = [
        (&[4], Reply::Failed),
        (&[5, 2, 0, 1, 1, 2, 3, 4, 0, 80], Reply::UnknownCommand),
        (&[5, 1, 0, 2], Reply::UnknownAddress),
        (&[5, 1, 0, 3, 0, 0, 80], Reply::HostUnreachable),
        (&[5, 1, 0, 3, 2, 0xff, 0xff, 0, 80], Reply::HostUnreachable),
        (&[5, 1, 0, 3, 3, b'a', 0, b'b', 0, 80], Reply::HostUnreachable),
    ];
    for (bytes, reply) in cases {
        assert_eq!(request(bytes).unwrap_err().reply(), reply, "{bytes:?}");
    }
}

#[test]
fn every_status_has_the_code_that_clients_know() {
    let code = |status| Reply::from(status) as u8;
    assert_eq!(code(Status::Ok), 0);
    assert_eq!(code(Status::Refused), 5);
    assert_eq!(code(Status::NoSuchHost), 4);
    assert_eq!(code(Status::Unreachable), 3);
    assert_eq!(code(Status::Denied), 2);
    assert_eq!(code(Status::ConnectTimedOut), 6);
    for status in Status::ALL.into_iter().filter(|status| *status != Status::Ok) {
        assert_ne!(code(status), 0, "{status}");
    }
}

#[test]
fn a_literal_address_that_comes_as_a_name_is_an_address() {
    let step = request(&[&[5, 1, 0, 3, 8][..], b"10.0.0.7", &[0, 80]].concat()).unwrap();
    let Step::Complete(Request::Connect(target), 15) = step else { panic!("{step:?}") };
    assert!(matches!(target.address, Address::Ip(_)));
}

#[test]
fn fragments_and_short_datagrams_are_told_apart() {
    let whole = datagram::encode(&"kube-dns:53".parse().unwrap(), b"query");
    for len in 0..whole.len() - 5 {
        assert_eq!(datagram::parse(&whole[..len]), Err(BadRequest::Short), "{len}");
    }
    let mut fragment = whole.clone();
    fragment[2] = 1;
    assert_eq!(datagram::parse(&fragment), Err(BadRequest::Fragment));
    let mut reserved = whole;
    reserved[1] = 1;
    assert_eq!(datagram::parse(&reserved), Err(BadRequest::Reserved));
}

proptest! {
    #[test]
    fn any_bytes_are_a_message_a_part_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..600), version: bool) {
        let mut bytes = bytes;
        if version && let Some(first) = bytes.first_mut() { *first = VERSION }
        let needs = [
            greeting(&bytes).map(|step| matches!(step, Step::Need(0))),
            login(&bytes).map(|step| matches!(step, Step::Need(0))),
            request(&bytes).map(|step| matches!(step, Step::Need(0))),
        ];
        prop_assert!(!needs.contains(&Ok(true)));
        let _ = datagram::parse(&bytes);
    }

    #[test]
    fn requests_come_back_and_their_parts_never_need_more_than_is_missing(target in target(), udp: bool, cut: usize) {
        let whole = written(if udp { 3 } else { 1 }, &target);
        let expected = if udp { Request::Associate(target) } else { Request::Connect(target) };
        prop_assert_eq!(request(&whole), Ok(Step::Complete(expected, whole.len())));
        let cut = cut % whole.len();
        let Ok(Step::Need(len)) = request(&whole[..cut]) else { panic!("{cut}") };
        prop_assert!(len > 0 && cut + len <= whole.len());
    }

    #[test]
    fn datagrams_come_back(target in target(), payload in prop::collection::vec(any::<u8>(), 0..2000)) {
        let whole = datagram::encode(&target, &payload);
        prop_assert_eq!(datagram::parse(&whole), Ok((target, &payload[..])));
    }
}
