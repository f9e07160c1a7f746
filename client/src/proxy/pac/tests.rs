use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;
use rquickjs::{Context, Function, Runtime};

use super::*;

const PROXY: &str = "PROXY 127.0.0.1:1080";

/// What the script says about each host, as a browser would run it.
fn decided<'a>(pac: &Pac, hosts: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let runtime = Runtime::new().unwrap();
    let context = Context::full(&runtime).unwrap();
    context.with(|script| {
        script.eval::<(), _>(pac.script("127.0.0.1:1080")).unwrap();
        let find: Function = script.globals().get("FindProxyForURL").unwrap();
        let decide = |host: &str| find.call((format!("http://{host}/"), host)).unwrap();
        hosts.into_iter().map(decide).collect()
    })
}

fn pac() -> Pac {
    Pac {
        domains: vec!["cluster.local".into(), "svc".into(), "db.example.com".into()],
        namespaces: vec!["default".into(), "dev".into()],
        ranges: ["10.96.0.0/12", "192.0.2.7/32", "fd00:10::/33"].map(|range| range.parse().unwrap()).to_vec(),
    }
}

#[test]
fn the_clusters_names_go_through_and_nothing_else() {
    let through = [
        "web",
        "WEB.Default",
        "web.dev.",
        "sts-0.sts.default",
        "web.other.svc",
        "web.default.svc.cluster.local",
        "web.default.svc.cluster.local.",
        "cluster.local",
        "db.example.com",
        "a.b.db.example.com",
        "10.96.0.1",
        "10.111.255.255",
        "192.0.2.7",
        "fd00:10:7fff::1",
        "[fd00:10::1]",
        "::ffff:10.96.0.1",
    ];
    let direct = [
        "localhost",
        "x.localhost",
        "example.com",
        "xdb.example.com",
        "www.a.b.default",
        "web.other",
        "notcluster.local",
        "svc.example.com",
        "127.0.0.1",
        "10.112.0.0",
        "192.0.2.8",
        "10.96.0",
        "10.96.0.256",
        "::1",
        "fd00:10:8000::1",
        "fd00:11::1",
    ];
    for (host, decided) in through.iter().zip(decided(&pac(), through)) {
        assert_eq!(decided, PROXY, "{host}");
    }
    for (host, decided) in direct.iter().zip(decided(&pac(), direct)) {
        assert_eq!(decided, "DIRECT", "{host}");
    }
}

#[test]
fn ranges_and_domains_are_taken_as_they_are_meant_or_refused_with_a_hint() {
    let args = |range: &str, domain: &str| PacArgs {
        pac_range: vec![range.to_owned()],
        pac_domain: vec![domain.to_owned()],
    };
    let settings = PacSettings::from_args(&args("10.1.2.3/8", ".DB.Example.com.")).unwrap();
    let ranges = vec!["10.0.0.0/8".parse().unwrap()];
    assert_eq!(settings, PacSettings { ranges, domains: vec!["db.example.com".into()] });
    let single = PacSettings::from_args(&args("fd00::7", "x")).unwrap();
    assert_eq!(single.ranges[0].to_string(), "fd00::7/128");
    let cases = [
        ("10.0.0", "x", "--pac-range \"10.0.0\" is no range of addresses"),
        ("10.0.0.0/33", "x", "--pac-range \"10.0.0.0/33\" is no range of addresses"),
        ("10.0.0.0/8", "a b", "--pac-domain \"a b\" is no domain name"),
        ("10.0.0.0/8", "", "--pac-domain \"\" is no domain name"),
    ];
    for (range, domain, message) in cases {
        let error = PacSettings::from_args(&args(range, domain)).unwrap_err();
        assert_eq!(error.to_string(), message);
        assert!(!error.hint().is_empty());
    }
}

#[test]
fn without_namespaces_single_words_are_not_the_clusters() {
    let pac = Pac { namespaces: Vec::new(), ..pac() };
    assert_eq!(decided(&pac, ["web", "web.default", "web.default.svc"]), ["DIRECT", "DIRECT", PROXY]);
}

#[test]
fn nothing_that_is_given_can_become_script() {
    let evil = "\"];function FindProxyForURL(){return 'PROXY evil:1'};//\u{2028}</script>";
    let pac = Pac { domains: vec![evil.into()], namespaces: vec![evil.into()], ranges: Vec::new() };
    assert_eq!(decided(&pac, ["example.com"]), ["DIRECT"]);
}

fn address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        any::<u32>().prop_map(|bits| Ipv4Addr::from(bits).into()),
        // Many zeros, so that much of it is abbreviated.
        prop::array::uniform8(prop_oneof![Just(0), Just(0xffff), any::<u16>()])
            .prop_map(|groups| Ipv6Addr::from(groups).into()),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn ranges_hold_what_they_hold_elsewhere(
        pairs in prop::collection::vec((address(), any::<u8>(), address(), any::<bool>()), 1..20)
    ) {
        for (network, bits, other, near) in pairs {
            let most = if network.is_ipv4() { 32 } else { 128 };
            let range = IpNet::new(network, bits % (most + 1)).unwrap();
            let ip = if near { range.broadcast() } else { other };
            // A range of IPv4 addresses in IPv6 form is none that IPv4 addresses are in.
            prop_assume!(range.network().to_canonical() == range.network());
            let pac = Pac { ranges: vec![range], ..Pac::default() };
            let expected = if range.contains(&ip.to_canonical()) { PROXY } else { "DIRECT" };
            let text = ip.to_string();
            prop_assert_eq!(decided(&pac, [text.as_str()]), [expected], "{} in {}", ip, range);
        }
    }

    #[test]
    fn every_host_is_decided(hosts in prop::collection::vec("[ -~]{0,40}|[0-9a-f:.%\\[\\]]{0,30}", 1..30)) {
        for decision in decided(&pac(), hosts.iter().map(String::as_str)) {
            prop_assert!(decision == PROXY || decision == "DIRECT");
        }
    }
}
