//! The grammar of a port argument: `REMOTE`, `LOCAL:REMOTE` or `:REMOTE`, each with an optional `@tcp` or `@udp`.
//! Pure text: what a name means, and which protocol is used without a suffix, is decided where the target is known.

use std::{fmt, num::NonZeroU16, str::FromStr};

use relay_protocol::header::Protocol;

/// The local side of a forward, as typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LocalPort {
    /// Nothing typed: the same number as the remote port.
    Same,
    /// `:REMOTE`: a free port, chosen by the system.
    Free,
    /// This number.
    Number(NonZeroU16),
}

/// The remote side of a forward, as typed.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum RemotePort {
    /// A port number.
    Number(NonZeroU16),
    /// The name of a Service's or a container's port.
    Name(String),
}

/// One port argument.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PortSpec {
    /// Where the plugin listens.
    pub local: LocalPort,
    /// Where the agent dials.
    pub remote: RemotePort,
    /// What the suffix says; `None` leaves it to the target.
    pub protocol: Option<Protocol>,
}

/// Why a port argument is not one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PortError {
    /// Nothing where the remote port belongs.
    #[error("port \"{0}\" has no remote port")]
    NoRemote(String),
    /// More than one colon.
    #[error("port \"{0}\" has more than one colon")]
    ManyColons(String),
    /// The local side is not a number from 1 to 65535.
    #[error("port \"{spec}\": the local port \"{local}\" is not a number from 1 to 65535")]
    Local {
        /// The whole argument.
        spec: String,
        /// Its local side.
        local: String,
    },
    /// A number outside 1 to 65535.
    #[error("port \"{spec}\": the remote port {remote} is not in 1 to 65535")]
    Range {
        /// The whole argument.
        spec: String,
        /// Its remote side.
        remote: String,
    },
    /// Neither a number nor a port name.
    #[error("port \"{spec}\": \"{remote}\" is neither a port number nor a port name")]
    Name {
        /// The whole argument.
        spec: String,
        /// Its remote side.
        remote: String,
    },
    /// Something else than tcp or udp after `@`.
    #[error("port \"{spec}\": unknown protocol \"{protocol}\"")]
    Protocol {
        /// The whole argument.
        spec: String,
        /// What follows `@`.
        protocol: String,
    },
}

impl PortError {
    /// What to type instead.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Protocol { .. } => "end the port with @tcp or @udp, for example 5353:53@udp",
            _ => {
                "write REMOTE, LOCAL:REMOTE or :REMOTE (a free local port), for example 8080:80, 8080:http or :http"
            }
        }
    }
}

impl FromStr for PortSpec {
    type Err = PortError;

    fn from_str(spec: &str) -> Result<Self, PortError> {
        let (ports, protocol) = match spec.split_once('@') {
            Some((ports, protocol)) => (ports, Some(parse_protocol(spec, protocol)?)),
            None => (spec, None),
        };
        let (local, remote) = match ports.split_once(':') {
            Some((_, rest)) if rest.contains(':') => return Err(PortError::ManyColons(spec.into())),
            Some(("", remote)) => (LocalPort::Free, remote),
            Some((local, remote)) => (parse_local(spec, local)?, remote),
            None => (LocalPort::Same, ports),
        };
        Ok(Self { local, remote: parse_remote(spec, remote)?, protocol })
    }
}

fn parse_protocol(spec: &str, protocol: &str) -> Result<Protocol, PortError> {
    match protocol {
        "tcp" => Ok(Protocol::Tcp),
        "udp" => Ok(Protocol::Udp),
        other => Err(PortError::Protocol { spec: spec.into(), protocol: other.into() }),
    }
}

fn parse_local(spec: &str, local: &str) -> Result<LocalPort, PortError> {
    // `0` is what other tools call "a free port".
    if local == "0" {
        return Ok(LocalPort::Free);
    }
    parse_number(local)
        .map(LocalPort::Number)
        .ok_or_else(|| PortError::Local { spec: spec.into(), local: local.into() })
}

fn parse_remote(spec: &str, remote: &str) -> Result<RemotePort, PortError> {
    if remote.is_empty() {
        return Err(PortError::NoRemote(spec.into()));
    }
    if remote.bytes().all(|byte| byte.is_ascii_digit()) {
        return parse_number(remote)
            .map(RemotePort::Number)
            .ok_or_else(|| PortError::Range { spec: spec.into(), remote: remote.into() });
    }
    if is_port_name(remote) {
        Ok(RemotePort::Name(remote.into()))
    } else {
        Err(PortError::Name { spec: spec.into(), remote: remote.into() })
    }
}

/// Digits only: `+80`, which the standard parser takes, is not a port.
fn parse_number(text: &str) -> Option<NonZeroU16> {
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

/// A DNS label: what Service ports allow, and more than what container ports do.
fn is_port_name(name: &str) -> bool {
    (1..=63).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        && !name.starts_with('-')
        && !name.ends_with('-')
}

impl fmt::Display for RemotePort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Name(name) => f.write_str(name),
        }
    }
}

impl fmt::Display for PortSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.local {
            LocalPort::Same => {}
            LocalPort::Free => f.write_str(":")?,
            LocalPort::Number(number) => write!(f, "{number}:")?,
        }
        self.remote.fmt(f)?;
        match self.protocol {
            Some(protocol) => write!(f, "@{protocol}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn number(n: u16) -> NonZeroU16 {
        NonZeroU16::new(n).unwrap()
    }

    fn spec(local: LocalPort, remote: RemotePort, protocol: Option<Protocol>) -> PortSpec {
        PortSpec { local, remote, protocol }
    }

    #[test]
    fn every_form_of_the_grammar_is_understood() {
        let cases = [
            ("80", spec(LocalPort::Same, RemotePort::Number(number(80)), None)),
            ("8080:80", spec(LocalPort::Number(number(8080)), RemotePort::Number(number(80)), None)),
            (":80", spec(LocalPort::Free, RemotePort::Number(number(80)), None)),
            ("0:80", spec(LocalPort::Free, RemotePort::Number(number(80)), None)),
            ("http", spec(LocalPort::Same, RemotePort::Name("http".into()), None)),
            (":http", spec(LocalPort::Free, RemotePort::Name("http".into()), None)),
            (
                "5353:53@udp",
                spec(LocalPort::Number(number(5353)), RemotePort::Number(number(53)), Some(Protocol::Udp)),
            ),
            (":dns-tcp@tcp", spec(LocalPort::Free, RemotePort::Name("dns-tcp".into()), Some(Protocol::Tcp))),
            ("8080-tcp", spec(LocalPort::Same, RemotePort::Name("8080-tcp".into()), None)),
        ];
        for (text, expected) in cases {
            assert_eq!(text.parse(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_not_a_port_is_refused_with_its_reason() {
        let cases = [
            ("", "port \"\" has no remote port"),
            (":", "port \":\" has no remote port"),
            ("8080:", "port \"8080:\" has no remote port"),
            ("1:2:3", "port \"1:2:3\" has more than one colon"),
            ("http:80", "port \"http:80\": the local port \"http\" is not a number from 1 to 65535"),
            ("+1:80", "port \"+1:80\": the local port \"+1\" is not a number from 1 to 65535"),
            ("65536:80", "port \"65536:80\": the local port \"65536\" is not a number from 1 to 65535"),
            ("80:0", "port \"80:0\": the remote port 0 is not in 1 to 65535"),
            ("70000", "port \"70000\": the remote port 70000 is not in 1 to 65535"),
            ("HTTP", "port \"HTTP\": \"HTTP\" is neither a port number nor a port name"),
            ("-a", "port \"-a\": \"-a\" is neither a port number nor a port name"),
            ("53@sctp", "port \"53@sctp\": unknown protocol \"sctp\""),
            ("53@", "port \"53@\": unknown protocol \"\""),
            ("53@udp@tcp", "port \"53@udp@tcp\": unknown protocol \"udp@tcp\""),
        ];
        for (text, message) in cases {
            assert_eq!(text.parse::<PortSpec>().unwrap_err().to_string(), message, "{text}");
        }
    }

    fn any_port() -> impl Strategy<Value = NonZeroU16> {
        (1..=u16::MAX).prop_map(number)
    }

    fn any_spec() -> impl Strategy<Value = PortSpec> {
        let local =
            prop_oneof![Just(LocalPort::Same), Just(LocalPort::Free), any_port().prop_map(LocalPort::Number)];
        let remote = prop_oneof![
            any_port().prop_map(RemotePort::Number),
            "[a-z][a-z0-9-]{0,10}[a-z0-9]".prop_map(RemotePort::Name)
        ];
        let protocol = prop_oneof![Just(None), Just(Some(Protocol::Tcp)), Just(Some(Protocol::Udp))];
        (local, remote, protocol).prop_map(|(local, remote, protocol)| PortSpec { local, remote, protocol })
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read_back_the_same(spec in any_spec()) {
            prop_assert_eq!(spec.to_string().parse(), Ok(spec));
        }

        #[test]
        fn any_text_gives_a_port_or_an_error(text in ".{0,40}") {
            if let Ok(spec) = text.parse::<PortSpec>() {
                prop_assert_eq!(spec.to_string().parse(), Ok(spec));
            }
        }
    }
}
