//! Which targets may be reached, and which from this machine instead of the cluster.

use std::{fmt, net::IpAddr, ops::RangeInclusive, str::FromStr};

use ipnet::IpNet;
use relay_protocol::header::Address;

use crate::Target;

/// A name pattern, an address or a range of addresses, with ports where they matter.
///
/// `*` in a name stands for any characters, dots too. Ports follow a colon: `*.example.com:443`, `10.0.0.0/8:8000-8100`,
/// `[fd00::/8]:53`. A Service's name means the same with and
/// without its `.svc.cluster.local`, as far as the namespace is named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    host: HostPattern,
    ports: Option<RangeInclusive<u16>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum HostPattern {
    Any,
    /// In lower case, in its short form.
    Name(String),
    Net(IpNet),
}

/// Text that is no pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is no pattern of targets")]
pub struct PatternError(String);

impl PatternError {
    /// What to type instead.
    pub fn hint(&self) -> String {
        "write NAME, *.NAME, ADDRESS or CIDR, with :PORT or :PORT-PORT where it matters: *.example.com:443"
            .into()
    }
}

impl FromStr for Pattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        let bad = || PatternError(text.to_owned());
        let trimmed = text.trim();
        let (host, ports) = split(trimmed).ok_or_else(bad)?;
        let ports = ports.map(|ports| parse_ports(ports).ok_or_else(bad)).transpose()?;
        Ok(Self { host: parse_host(host).ok_or_else(bad)?, ports })
    }
}

/// Host and ports; a colon within an IPv6 address is no separator.
fn split(text: &str) -> Option<(&str, Option<&str>)> {
    if let Some(rest) = text.strip_prefix('[') {
        let (host, after) = rest.split_once(']')?;
        return match after.strip_prefix(':') {
            Some(ports) => Some((host, Some(ports))),
            None if after.is_empty() => Some((host, None)),
            None => None,
        };
    }
    match text.split_once(':') {
        Some((_, rest)) if rest.contains(':') => Some((text, None)),
        Some((host, ports)) => Some((host, Some(ports))),
        None => Some((text, None)),
    }
}

fn parse_ports(text: &str) -> Option<RangeInclusive<u16>> {
    let port =
        |text: &str| text.parse::<u16>().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()));
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (port(first)?, port(last)?);
    (first <= last).then_some(first..=last)
}

fn parse_host(text: &str) -> Option<HostPattern> {
    let text = plain(text);
    if text == "*" {
        return Some(HostPattern::Any);
    }
    if let Ok(net) = text.parse::<IpNet>() {
        return Some(HostPattern::Net(net.trunc()));
    }
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Some(HostPattern::Net(ip.to_canonical().into()));
    }
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.*".contains(&byte);
    let all_good =
        !text.is_empty() && text.bytes().all(is_part) && !text.contains("..") && !text.ends_with('.');
    (all_good && is_name(&text)).then(|| HostPattern::Name(short(&text).to_owned()))
}

/// Something like 10.0.0 would never match what it seems to mean.
fn is_name(text: &str) -> bool {
    text.bytes().any(|byte| !byte.is_ascii_digit() && byte != b'.')
}

/// In lower case, without the dot at the end.
fn plain(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

/// `NAME.NAMESPACE` of a Service's longer name; anything else as it is. A pattern that leaves the namespace open stays
/// what it is too: without its end, it would mean any name of two words.
fn short(name: &str) -> &str {
    let service = match name.find(".svc.") {
        Some(at) => &name[..at],
        None => name.strip_suffix(".svc").unwrap_or(name),
    };
    match service.rsplit_once('.') {
        Some((_, namespace)) if !namespace.contains('*') => service,
        _ => name,
    }
}

/// Whether `*` in the pattern can stand for something that makes it the name.
fn is_match(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = name.strip_prefix(first) else { return false };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else { return rest.is_empty() };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.len() >= last.len() && rest.ends_with(last)
}

impl Pattern {
    /// Whether the target is one of those that are meant. A range of addresses is about addresses only: names are
    /// resolved by whoever dials.
    pub fn matches(&self, target: &Target) -> bool {
        if self.ports.as_ref().is_some_and(|ports| !ports.contains(&target.port)) {
            return false;
        }
        match (&self.host, &target.address) {
            (HostPattern::Any, _) => true,
            (HostPattern::Name(pattern), Address::Host(name)) => {
                let name = plain(name.as_str());
                is_match(pattern, &name) || is_match(pattern, short(&name))
            }
            (HostPattern::Net(net), Address::Ip(ip)) => net.contains(&ip.to_canonical()),
            _ => false,
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            HostPattern::Any => f.write_str("*")?,
            HostPattern::Name(name) if is_name(name) => f.write_str(name)?,
            HostPattern::Name(name) => write!(f, "{name}.svc")?,
            HostPattern::Net(net @ IpNet::V6(_)) if self.ports.is_some() => write!(f, "[{net}]")?,
            HostPattern::Net(net) => net.fmt(f)?,
        }
        match &self.ports {
            Some(ports) if ports.start() == ports.end() => write!(f, ":{}", ports.start()),
            Some(ports) => write!(f, ":{}-{}", ports.start(), ports.end()),
            None => Ok(()),
        }
    }
}

/// From where a target is dialled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Origin {
    /// By the agent.
    Cluster,
    /// By this machine.
    Here,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cluster => "cluster",
            Self::Here => "here",
        })
    }
}

/// All rules of a proxy.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    /// Where there are any, nothing else may be reached.
    pub allow: Vec<Pattern>,
    /// May not be reached, whatever is allowed.
    pub deny: Vec<Pattern>,
    /// Go out from this machine.
    pub direct: Vec<Pattern>,
    /// Namespaces that short names are looked for in, in this order.
    pub search: Vec<String>,
}

impl Rules {
    /// Which names to try for a target, in their order; one that is as good as denied is not among them. Empty: it is
    /// denied. So is the loopback of whoever dials in the cluster: nothing there is for clients, and the agent itself
    /// listens on it, which knows nothing of these rules.
    ///
    /// A name without a dot is looked for in the namespaces of the search list first, then as it is; one with a single
    /// dot (a pod's behind a headless Service, but also NAME.NAMESPACE) the other way round.
    pub fn ways(&self, target: &Target) -> Vec<(Target, Origin)> {
        if is_any(&self.direct, target) {
            let allowed = self.is_allowed(target, target);
            return allowed.then(|| (target.clone(), Origin::Here)).into_iter().collect();
        }
        let candidates = self.candidates(target);
        candidates
            .into_iter()
            .filter(|candidate| !is_loopback(target) && self.is_allowed(target, candidate))
            .map(|candidate| (candidate, Origin::Cluster))
            .collect()
    }

    fn is_allowed(&self, typed: &Target, candidate: &Target) -> bool {
        let either = |patterns: &[Pattern]| is_any(patterns, typed) || is_any(patterns, candidate);
        !either(&self.deny) && (self.allow.is_empty() || either(&self.allow))
    }

    fn candidates(&self, target: &Target) -> Vec<Target> {
        let as_it_is = target.clone();
        let Address::Host(name) = &target.address else { return vec![as_it_is] };
        let dots = name.as_str().bytes().filter(|byte| *byte == b'.').count();
        let within = |namespace: &String| {
            let address = format!("{name}.{namespace}").parse().ok()?;
            Some(Target { address, port: target.port })
        };
        let searched = self.search.iter().filter_map(within);
        match dots {
            0 => searched.chain([as_it_is]).collect(),
            1 if !name.as_str().ends_with('.') => std::iter::once(as_it_is).chain(searched).collect(),
            _ => vec![as_it_is],
        }
    }
}

/// Whether the target is, by its address or its name, whoever dials.
pub(crate) fn is_loopback(target: &Target) -> bool {
    match &target.address {
        Address::Ip(ip) => {
            let ip = ip.to_canonical();
            ip.is_loopback() || ip.is_unspecified()
        }
        Address::Host(name) => {
            let name = plain(name.as_str());
            name == "localhost" || name.ends_with(".localhost")
        }
    }
}

fn is_any(patterns: &[Pattern], target: &Target) -> bool {
    patterns.iter().any(|pattern| pattern.matches(target))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn matches(pattern: &str, target: &str) -> bool {
        pattern.parse::<Pattern>().unwrap().matches(&target.parse().unwrap())
    }

    #[test]
    fn patterns_match_what_they_say() {
        let cases = [
            ("*", "web:80", true),
            ("*", "[fd00::7]:80", true),
            ("*:22", "web:80", false),
            ("web", "web:80", true),
            ("web", "web.default:80", false),
            ("WEB.default", "web.Default.:80", true),
            ("*.example.com", "a.b.example.com:1", true),
            ("*.example.com", "example.com:1", false),
            ("*.example.com", "example.com.evil:1", false),
            ("*.example.com:443", "a.example.com:443", true),
            ("web-*-db", "web-db:1", false),
            ("web-*-db", "web--db:1", true),
            ("a*b*c", "abbc:1", true),
            ("a*bc*c", "abc:1", false),
            ("*.kube-system", "dns.kube-system.svc.cluster.local:53", true),
            ("*.kube-system.svc.cluster.local", "dns.kube-system:53", true),
            ("*.kube-system", "dns.kube-system.example.com:53", false),
            ("*.svc.cluster.local", "dns.kube-system.svc.cluster.local:53", true),
            ("*.svc.cluster.local", "example.com:53", false),
            ("web.*.svc", "web.example:53", false),
            ("5.3.svc", "5.3.svc.cluster.local:53", true),
            ("10.0.0.1.svc:53", "10.0.0.1:53", false),
            ("web", "web.svc.example.com:53", false),
            ("10.0.0.0/8", "10.9.9.9:1", true),
            ("10.0.0.7/8", "10.9.9.9:1", true),
            ("10.0.0.0/8", "11.0.0.1:1", false),
            ("10.0.0.0/8:8000-8100", "10.0.0.1:8100", true),
            ("10.0.0.0/8:8000-8100", "10.0.0.1:8101", false),
            ("10.0.0.0/8", "[::ffff:10.0.0.1]:1", true),
            ("10.0.0.0/8", "web:1", false),
            ("fd00::/8", "[fd12::1]:1", true),
            ("fd00::7", "[fd00::7]:1", true),
            ("[fd00::/8]:53", "[fd00::1]:53", true),
            ("[fd00::/8]:53", "[fd00::1]:54", false),
        ];
        for (pattern, target, expected) in cases {
            assert_eq!(matches(pattern, target), expected, "{pattern} {target}");
            assert_eq!(
                matches(&pattern.parse::<Pattern>().unwrap().to_string(), target),
                expected,
                "{pattern} {target}"
            );
        }
    }

    #[test]
    fn what_is_no_pattern_is_refused_with_a_hint() {
        for text in [
            "",
            ":80",
            "web:",
            "web:x",
            "web:2-1",
            "web:70000",
            "a b",
            "10.0.0",
            "10.0.0.0/33",
            "[fd00::",
            "a..b",
            "kk..",
            "web:+1",
        ] {
            let error = text.parse::<Pattern>().unwrap_err();
            assert!(error.to_string().contains(text) && !error.hint().is_empty());
        }
    }

    fn rules(allow: &[&str], deny: &[&str], direct: &[&str], search: &[&str]) -> Rules {
        let patterns = |all: &[&str]| all.iter().map(|text| text.parse().unwrap()).collect();
        let search = search.iter().map(|name| (*name).to_owned()).collect();
        Rules { allow: patterns(allow), deny: patterns(deny), direct: patterns(direct), search }
    }

    fn ways(rules: &Rules, target: &str) -> Vec<String> {
        let ways = rules.ways(&target.parse().unwrap());
        ways.into_iter().map(|(target, origin)| format!("{target} {origin}")).collect()
    }

    #[test]
    fn denied_wins_over_allowed_and_over_direct() {
        let rules = rules(&["*.dev", "10.0.0.0/8"], &["db.dev", "*:22"], &["*.dev:8080", "db.dev"], &[]);
        assert_eq!(ways(&rules, "web.dev:80"), ["web.dev:80 cluster"]);
        assert_eq!(ways(&rules, "web.dev:8080"), ["web.dev:8080 here"]);
        for denied in
            ["db.dev:80", "db.dev.svc:80", "web.dev:22", "10.0.0.1:22", "web.prod:80", "11.0.0.1:80"]
        {
            assert!(ways(&rules, denied).is_empty(), "{denied}");
        }
    }

    #[test]
    fn whoever_dials_is_no_target() {
        let rules = rules(&["*"], &[], &["127.0.0.1:80"], &["dev"]);
        assert_eq!(ways(&rules, "127.0.0.1:80"), ["127.0.0.1:80 here"]);
        for own in [
            "127.0.0.1:9527",
            "127.9.9.9:1",
            "[::1]:1",
            "[::ffff:127.0.0.1]:1",
            "0.0.0.0:1",
            "[::]:1",
            "LocalHost.:1",
            "a.localhost:1",
        ] {
            assert!(ways(&rules, own).is_empty(), "{own}");
        }
    }

    #[test]
    fn short_names_are_looked_for_in_the_order_of_the_search_list() {
        let rules = rules(&[], &["*.secret"], &[], &["dev", "secret", "test"]);
        assert_eq!(ways(&rules, "web:80"), ["web.dev:80 cluster", "web.test:80 cluster", "web:80 cluster"]);
        assert_eq!(
            ways(&rules, "db-0.db:80"),
            ["db-0.db:80 cluster", "db-0.db.dev:80 cluster", "db-0.db.test:80 cluster"]
        );
        assert_eq!(ways(&rules, "a.b.c:80"), ["a.b.c:80 cluster"]);
        assert_eq!(ways(&rules, "web.:80"), ["web.:80 cluster"]);
        assert_eq!(ways(&rules, "10.0.0.1:80"), ["10.0.0.1:80 cluster"]);
    }

    #[test]
    fn a_rule_about_the_full_name_holds_for_the_short_one() {
        let rules = rules(&["web.dev"], &[], &[], &["dev"]);
        assert_eq!(ways(&rules, "web:80"), ["web.dev:80 cluster"]);
        assert!(ways(&rules, "db:80").is_empty());
    }

    proptest! {
        #[test]
        fn any_text_is_a_pattern_or_an_error_and_patterns_come_back(text in "([a-z0-9*.:/\\[\\]-]{0,20}(\\.svc)?[a-z0-9.:]{0,10})") {
            if let Ok(pattern) = text.parse::<Pattern>() {
                prop_assert_eq!(pattern.to_string().parse::<Pattern>(), Ok(pattern));
            }
        }

        #[test]
        fn stars_match_whatever_is_put_in_their_place(parts in prop::collection::vec("[a-c]{0,3}", 1..5), fills in prop::collection::vec("[a-c.]{0,3}", 4)) {
            let pattern = parts.join("*");
            let mut name = parts[0].clone();
            for (fill, part) in fills.iter().zip(&parts[1..]) {
                name.push_str(fill);
                name.push_str(part);
            }
            prop_assert!(is_match(&pattern, &name));
        }
    }
}
