//! Where a client of the proxy wants to go.

use std::{fmt, net::SocketAddr, str::FromStr};

use relay_protocol::header::{Address, HeaderError};

/// A host and a port. A name is resolved by whoever dials.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Target {
    /// An address, or a checked name.
    pub address: Address,
    /// The port.
    pub port: u16,
}

/// Text that is no `HOST:PORT`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// There is no port, or none from 0 to 65535.
    #[error("a port is missing")]
    NoPort,
    /// The host is neither an address nor a name.
    #[error("the host is neither an address nor a name")]
    BadHost(#[from] HeaderError),
}

impl Target {
    /// From a host as it is written in a URL (an IPv6 address in brackets), and its port.
    ///
    /// # Errors
    /// [`TargetError::BadHost`].
    pub fn new(host: &str, port: u16) -> Result<Self, TargetError> {
        let bracketed = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        let address = match bracketed {
            Some(literal) => match literal.parse() {
                Ok(v6) => Address::Ip(std::net::IpAddr::V6(v6)),
                Err(_) => return Err(HeaderError::BadHostName.into()),
            },
            None => host.parse()?,
        };
        Ok(Self { address, port })
    }
}

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        let (host, port) = text.rsplit_once(':').ok_or(TargetError::NoPort)?;
        if port.is_empty() || !port.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(TargetError::NoPort);
        }
        if host.contains(':') && !host.starts_with('[') {
            return Err(HeaderError::BadHostName.into());
        }
        Self::new(host, port.parse().map_err(|_| TargetError::NoPort)?)
    }
}

impl From<SocketAddr> for Target {
    fn from(address: SocketAddr) -> Self {
        Self { address: Address::Ip(address.ip()), port: address.port() }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.address {
            Address::Ip(ip) => SocketAddr::new(*ip, self.port).fmt(f),
            Address::Host(name) => write!(f, "{name}:{}", self.port),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_ports_come_back_as_they_were_written() {
        for text in
            ["web:80", "web.default.svc.cluster.local.:8080", "10.0.0.7:1", "[fd00::7]:65535", "a_b:0"]
        {
            assert_eq!(text.parse::<Target>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_no_host_and_port_is_refused() {
        for text in [
            "",
            ":",
            "web",
            "web:",
            "web:65536",
            "web:+1",
            "web: 1",
            "fd00::7:80",
            "[fd00::7]",
            "[web]:80",
            "a b:1",
            ":80",
            "a..b:1",
        ] {
            assert!(text.parse::<Target>().is_err(), "{text}");
        }
    }
}
