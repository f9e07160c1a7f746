//! What a policy says of addresses and names.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::net::SocketAddr;

use relay_policy::{Denial, Names, Policy};

/// `-10.0.0.0/8` denies, anything else allows.
fn policy(rules: &[&str]) -> Policy {
    let (mut allow, mut deny) = (Vec::new(), Vec::new());
    for rule in rules {
        match rule.strip_prefix('-') {
            Some(rule) => deny.push(rule.parse().unwrap()),
            None => allow.push(rule.parse().unwrap()),
        }
    }
    Policy { allow, deny, own_ports: Vec::new() }
}

fn at(address: &str) -> SocketAddr {
    address.parse().unwrap()
}

fn judge(rules: &[&str], address: &str) -> Result<(), Denial> {
    policy(rules).judge(&Names::default(), at(address))
}

fn named(rules: &[&str], asked: &str, complete: &str, aliases: &[&str]) -> Result<(), Denial> {
    let mut names = Names::new(asked, complete);
    aliases.iter().for_each(|alias| names.add_alias(alias));
    policy(rules).judge(&names, at("10.1.2.3:443"))
}

fn rule(text: &str) -> Result<(), Denial> {
    Err(Denial::Rule(text.to_owned()))
}

#[test]
fn without_rules_all_but_what_is_reserved_is_open() {
    for open in ["10.1.2.3:80", "8.8.8.8:53", "[fd00::1]:80", "[2001:db8::1]:1", "192.0.0.193:80"] {
        assert_eq!(judge(&[], open), Ok(()), "{open}");
    }
    let reserved = [
        "127.0.0.1:80",
        "127.255.0.1:80",
        "[::1]:80",
        "0.0.0.0:80",
        "[::]:80",
        "169.254.169.254:80",
        "169.254.20.10:53",
        "[fe80::1]:80",
        "[febf::1]:80",
        "[fd00:ec2::254]:80",
        "[fd20:ce::254]:80",
        "100.100.100.200:80",
        "168.63.129.16:80",
        "192.0.0.192:80",
        "224.0.0.251:5353",
        "[ff02::fb]:5353",
        "255.255.255.255:67",
        "[::ffff:127.0.0.1]:80",
        "[::ffff:169.254.169.254]:80",
        "[64:ff9b::a9fe:a9fe]:80",
        "[64:ff9b::7f00:1]:80",
    ];
    for reserved in reserved {
        assert!(matches!(judge(&[], reserved), Err(Denial::Reserved(_))), "{reserved}");
    }
}

#[test]
fn only_a_rule_within_what_is_reserved_lifts_it() {
    for wide in ["*", "0.0.0.0/0", "160.0.0.0/4", "*:80", "169.254.169.254:443", "127.0.0.1"] {
        assert!(judge(&[wide], "169.254.169.254:80").is_err(), "{wide}");
    }
    for meant in ["169.254.169.254", "169.254.169.254:80", "169.254.0.0/16", "::ffff:169.254.0.0/112"] {
        assert_eq!(judge(&[meant], "169.254.169.254:80"), Ok(()), "{meant}");
        assert_eq!(judge(&[meant, "*"], "[::ffff:169.254.169.254]:80"), Ok(()), "{meant}");
    }
    assert_eq!(judge(&["127.0.0.0/8"], "127.0.0.1:80"), Ok(()));
    assert!(judge(&["127.0.0.0/8"], "0.0.0.0:80").is_err());
    // A name is what its owner makes of it.
    let names = Names::new("me.example.com", "me.example.com");
    assert!(policy(&["me.example.com", "*"]).judge(&names, at("127.0.0.1:80")).is_err());
}

#[test]
fn a_deny_rule_wins_over_every_allow_rule() {
    assert_eq!(judge(&["*", "-10.0.0.0/8:1-99"], "10.1.2.3:80"), rule("10.0.0.0/8:1-99"));
    assert_eq!(judge(&["*", "-10.0.0.0/8:1-99"], "10.1.2.3:100"), Ok(()));
    assert_eq!(judge(&["10.1.2.3:80", "-*:80"], "10.1.2.3:80"), rule("*:80"));
    assert_eq!(judge(&["-10.0.0.0/8"], "[::ffff:10.1.2.3]:80"), rule("10.0.0.0/8"));
    assert_eq!(judge(&["-10.0.0.0/8"], "[64:ff9b::a01:203]:80"), rule("10.0.0.0/8"));
    assert_eq!(judge(&["127.0.0.1", "-127.0.0.1:9"], "127.0.0.1:9"), rule("127.0.0.1:9"));
}

#[test]
fn with_an_allow_rule_what_none_names_is_denied() {
    let rules = ["10.0.0.0/8:443", "[fd00::/8]:443", "*:53"];
    for open in ["10.1.2.3:443", "[fd00::1]:443", "8.8.8.8:53"] {
        assert_eq!(judge(&rules, open), Ok(()), "{open}");
    }
    for closed in ["10.1.2.3:444", "11.1.2.3:443", "[2001:db8::1]:443"] {
        assert_eq!(judge(&rules, closed), Err(Denial::NotAllowed), "{closed}");
    }
}

#[test]
fn a_denied_name_counts_as_asked_as_found_and_as_alias() {
    for deny in ["-web", "-WEB.ns.svc.test.", "-*.svc.test", "-real.example.com", "-*.example.com:443"] {
        let got = named(&["*", deny], "web", "web.ns.svc.test.", &["Real.Example.com."]);
        assert_eq!(got, rule(&deny[1..]), "{deny}");
    }
    for other in ["-b", "-eb", "-svc.test", "-example.com", "-*.web.ns.svc.test", "-*.example.com:80"] {
        assert_eq!(
            named(&["*", other], "web", "web.ns.svc.test.", &["real.example.com."]),
            Ok(()),
            "{other}"
        );
    }
}

#[test]
fn a_denied_name_is_not_even_asked_for() {
    let policy = policy(&["-*.example.com:443", "-10.0.0.0/8"]);
    assert_eq!(policy.judge_name("DB.example.com.", 443), rule("*.example.com:443"));
    assert_eq!(policy.judge_name("db.example.com", 80), Ok(()));
    assert_eq!(policy.judge_name("db.example.org", 443), Ok(()));
}

#[test]
fn an_allowed_name_counts_only_where_it_is_complete() {
    let search = |allow| named(&[allow], "web", "web.ns.svc.test", &["real.example.com"]);
    assert_eq!(search("web.ns.svc.test"), Ok(()));
    assert_eq!(search("*.svc.test:443"), Ok(()));
    assert_eq!(search("*.svc.test:80"), Err(Denial::NotAllowed));
    // Whoever owns the search list's domains could have made one of that name.
    assert_eq!(search("web"), Err(Denial::NotAllowed));
    // Whoever owns the name could have pointed it there.
    assert_eq!(search("real.example.com"), Err(Denial::NotAllowed));
}
