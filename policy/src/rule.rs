//! One rule: a network, a name pattern or everything, and ports.

use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net};

/// The longest rule, in bytes: a name, and some hundred ports.
const LONGEST: usize = 1_024;

/// `CIDR[:PORTS]`, `NAMEPATTERN[:PORTS]`, or `*` for everything.
///
/// An address without a prefix length is that address alone. An IPv6 network is in brackets when ports follow. A name
/// pattern is a whole name, or `*.` and a name for all names below it. Ports are a number, a range `n-m`, or a list of
/// both with commas; without any, every port is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    text: String,
    pub(crate) place: Place,
    ports: Vec<RangeInclusive<u16>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Everywhere,
    Net(IpNet),
    Name(Pattern),
}

/// A name in lower case without a dot at its end, or everything below one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pattern {
    below: bool,
    name: String,
}

/// Why a text is no rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    /// Nothing there, or far too much.
    #[error("a rule has 1 to {LONGEST} characters")]
    Length,
    /// Digits and dots or colons that are no network.
    #[error("{0:?} is neither an address nor a network")]
    Net(String),
    /// The ports are none.
    #[error("{0:?} is not a port from 0 to 65535, a range such as 8000-8999, or a list of both with commas")]
    Ports(String),
    /// The brackets do not match, or something else than ports follows them.
    #[error("{0:?} has brackets that hold no IPv6 network")]
    Brackets(String),
    /// Not a host name or a pattern of one.
    #[error("{0:?} is neither a host name nor \"*.\" and one")]
    Name(String),
}

impl RuleError {
    /// What to do about it.
    pub const fn hint(&self) -> &'static str {
        match self {
            Self::Length => "write for example 10.0.0.0/8, db.example.com:5432 or *:443",
            Self::Net(_) => "write for example 10.0.0.0/8, 10.1.2.3 or fd00::/8; with ports [fd00::/8]:443",
            Self::Ports(_) => "write for example :443, :8000-8999 or :80,443; leave it out for every port",
            Self::Brackets(_) => "write for example [fd00::/8]:443",
            Self::Name(_) => "write for example db.example.com, or *.example.com for all names below it",
        }
    }
}

impl FromStr for Rule {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        if text.is_empty() || text.len() > LONGEST {
            return Err(RuleError::Length);
        }
        let (place, ports) = split(text)?;
        Ok(Self {
            text: text.to_owned(),
            place: parse_place(place)?,
            ports: ports.map(parse_ports).transpose()?.unwrap_or_else(|| vec![0..=u16::MAX]),
        })
    }
}

/// Parts a rule into its place and its ports.
fn split(text: &str) -> Result<(&str, Option<&str>), RuleError> {
    if let Some(rest) = text.strip_prefix('[') {
        let brackets = || RuleError::Brackets(text.to_owned());
        let (place, rest) = rest.split_once(']').ok_or_else(brackets)?;
        if !place.contains(':') {
            return Err(brackets());
        }
        return match rest.strip_prefix(':') {
            Some(ports) => Ok((place, Some(ports))),
            None if rest.is_empty() => Ok((place, None)),
            None => Err(brackets()),
        };
    }
    Ok(match text.split_once(':') {
        // More than one colon: an IPv6 network without ports.
        Some((_, rest)) if rest.contains(':') => (text, None),
        Some((place, ports)) => (place, Some(ports)),
        None => (text, None),
    })
}

fn parse_place(text: &str) -> Result<Place, RuleError> {
    if text == "*" {
        return Ok(Place::Everywhere);
    }
    let whole = text.strip_suffix('.').unwrap_or(text);
    // No name ends in a number: it is an address with a mistake.
    let last = whole.rsplit('.').next().unwrap_or_default();
    if text.contains([':', '/']) || last.chars().all(|c| c.is_ascii_digit()) {
        return parse_net(text).map(Place::Net).ok_or_else(|| RuleError::Net(text.to_owned()));
    }
    let name = whole.to_ascii_lowercase();
    let (below, name) = name.strip_prefix("*.").map_or((false, name.as_str()), |name| (true, name));
    if !is_name(name) {
        return Err(RuleError::Name(text.to_owned()));
    }
    Ok(Place::Name(Pattern { below, name: name.to_owned() }))
}

/// Networks of IPv4 inside IPv6 become what they stand for.
fn parse_net(text: &str) -> Option<IpNet> {
    let net = match text.contains('/') {
        true => text.parse::<IpNet>().ok()?,
        false => IpNet::from(text.parse::<IpAddr>().ok()?),
    };
    Some(match (net.addr().to_canonical(), net.prefix_len()) {
        (IpAddr::V4(ip), prefix) if net.addr().is_ipv6() => match prefix.checked_sub(96) {
            Some(prefix) => Ipv4Net::new(ip, prefix).ok()?.into(),
            None => net,
        },
        _ => net,
    })
}

/// Letters, digits, `-` and `_` in labels of 1 to 63, 253 in all: what a header may name, too.
fn is_name(name: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    };
    name.len() <= 253 && name.split('.').all(label)
}

fn parse_ports(text: &str) -> Result<Vec<RangeInclusive<u16>>, RuleError> {
    // `u16` would take a sign.
    let number = |text: &str| text.parse().ok().filter(|_| text.bytes().all(|b| b.is_ascii_digit()));
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(number(first)?..=number(last)?).filter(|range| !range.is_empty())
    };
    text.split(',').map(|part| range(part).ok_or_else(|| RuleError::Ports(text.to_owned()))).collect()
}

impl Rule {
    pub(crate) fn has_port(&self, port: u16) -> bool {
        self.ports.iter().any(|range| range.contains(&port))
    }

    pub(crate) fn has_address(&self, ip: IpAddr) -> bool {
        match &self.place {
            Place::Everywhere => true,
            Place::Net(net) => net.contains(&ip),
            Place::Name(_) => false,
        }
    }

    pub(crate) fn has_name(&self, name: &str) -> bool {
        matches!(&self.place, Place::Name(pattern) if pattern.matches(name))
    }
}

impl Pattern {
    /// `name` is in lower case without a dot at its end.
    fn matches(&self, name: &str) -> bool {
        match name.strip_suffix(self.name.as_str()) {
            Some("") => !self.below,
            Some(head) => self.below && head.len() > 1 && head.ends_with('.'),
            None => false,
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
