//! Rules as people type them, and as nobody should.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::net::{IpAddr, SocketAddr};

use proptest::prelude::*;
use relay_policy::{Names, Policy, Rule, RuleError};

fn parse(text: &str) -> Result<Rule, RuleError> {
    text.parse()
}

#[test]
fn every_form_is_understood_and_shown_as_it_was_typed() {
    for text in [
        "10.0.0.0/8",
        "10.1.2.3",
        "10.0.0.0/8:443",
        "10.1.2.3:80,443,8000-8999",
        "fd00::/8",
        "::1",
        "[fd00::/8]:443",
        "[fd00::/8]",
        "db.example.com",
        "db.example.com.:5432",
        "*.example.com:0-65535",
        "web",
        "my_db.ns.svc.cluster.local",
        "*",
        "*:443",
    ] {
        assert_eq!(parse(text).unwrap().to_string(), text);
    }
}

#[test]
fn every_mistake_has_its_error() {
    type Make = fn(String) -> RuleError;
    let table: [(&[&str], &str, Make); 4] = [
        (
            &["10.0.0.0/33", "10.0.0.300", "10.0.0", "10", "fd00::/129", "1:2:3", "a/8", "/8"],
            "",
            RuleError::Net,
        ),
        (
            &["a:", "a:0x1", "a:65536", "a:+1", "a:2-1", "a:1-", "a:,", "a:1,,2", "a:80 "],
            "a:",
            RuleError::Ports,
        ),
        (&["[fd00::/8", "[fd00::/8]443", "[10.0.0.0/8]:443", "[]:1", "[name]:1"], "", RuleError::Brackets),
        (&["*a", "*.", "a..b", ".a", "**", "a*", "*.*", "a b", "é", "a\n"], "", RuleError::Name),
    ];
    for (texts, prefix, error) in table {
        for text in texts {
            let shown = text.strip_prefix(prefix).unwrap();
            assert_eq!(parse(text), Err(error(shown.to_owned())), "{text}");
            assert!(!error(String::new()).hint().is_empty());
        }
    }
    assert_eq!(parse(""), Err(RuleError::Length));
    assert_eq!(parse(&"a".repeat(1_025)), Err(RuleError::Length));
    assert!(matches!(parse(":80"), Err(RuleError::Net(_))));
}

fn reach(rule: &str, address: SocketAddr) -> bool {
    let policy = Policy { allow: vec![rule.parse().unwrap()], ..Policy::default() };
    policy.judge(&Names::default(), address).is_ok()
}

proptest! {
    #[test]
    fn no_text_does_harm(text in "[\\PC\\[\\]*.:/,0-9a-f-]{0,40}") {
        if let Ok(rule) = parse(&text) {
            prop_assert_eq!(rule.to_string(), text);
        }
    }

    #[test]
    fn a_network_has_the_addresses_that_share_its_prefix(ip: u32, other: u32, prefix in 0u32..=32, port: u16) {
        // Away from what is reserved.
        let (ip, other) = (ip & 0x00ff_ffff | 0x0a00_0000, other & 0x00ff_ffff | 0x0a00_0000);
        let mask = u32::MAX.checked_shl(32 - prefix).unwrap_or(0);
        let dotted = |ip: u32| IpAddr::from(ip.to_be_bytes());
        let rule = format!("{}/{prefix}:{port}", dotted(ip));
        prop_assert_eq!(reach(&rule, (dotted(other), port).into()), ip & mask == other & mask);
        prop_assert!(!reach(&rule, (dotted(ip), port.wrapping_add(1)).into()));
    }

    #[test]
    fn a_list_of_ports_has_its_members(ranges in proptest::collection::vec((any::<u16>(), any::<u16>()), 1..6), port: u16) {
        let ranges: Vec<_> = ranges.into_iter().map(|(a, b)| (a.min(b), a.max(b))).collect();
        let list: Vec<_> = ranges.iter().map(|(a, b)| if a == b { a.to_string() } else { format!("{a}-{b}") }).collect();
        let member = ranges.iter().any(|&(a, b)| a <= port && port <= b);
        let rule = format!("*:{}", list.join(","));
        prop_assert_eq!(reach(&rule, ([10, 0, 0, 1], port).into()), member);
    }

    #[test]
    fn a_pattern_has_what_is_below_it_and_nothing_else(
        labels in proptest::collection::vec("[a-c]{1,2}", 1..5),
        name in proptest::collection::vec("[a-cA-C]{1,2}", 1..6),
        below: bool,
    ) {
        let pattern = format!("{}{}", if below { "*." } else { "" }, labels.join("."));
        let policy = Policy { deny: vec![pattern.parse().unwrap()], ..Policy::default() };
        let lower: Vec<_> = name.iter().map(|label| label.to_ascii_lowercase()).collect();
        let expected = match below {
            true => lower.len() > labels.len() && lower.ends_with(&labels),
            false => lower == labels,
        };
        let names = Names::new(&name.join("."), "elsewhere");
        prop_assert_eq!(policy.judge(&names, ([10, 0, 0, 1], 1).into()).is_err(), expected);
    }
}
