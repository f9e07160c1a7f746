//! What a command is told of its forwards: variables whose names follow from what was typed, so that a script can be
//! written before anything runs.

use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use relay_protocol::header::Protocol;

/// Names and values, in the order of the forwards.
pub type Variables = Vec<(String, String)>;

/// One forward, as its command sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forwarded {
    /// The target as typed.
    pub target: String,
    /// Its port as typed: a number or a name.
    pub port: String,
    /// The port that the agent dials.
    pub remote: u16,
    /// What is forwarded.
    pub protocol: Protocol,
    /// Where it listens: the first address if there are several.
    pub local: SocketAddr,
}

/// `RELAY_ADDR` and `RELAY_PORT` of the first forward, and `RELAY_<NAME>_<PORT>` of each: the target's name and port in
/// capitals, with `_` for whatever is no letter or digit, and `_UDP` at the end for UDP. Of several with the same name,
/// the second has `_2` at its end, the third `_3`.
pub fn variables(forwards: &[Forwarded]) -> Variables {
    let mut variables = Variables::new();
    if let Some(first) = forwards.first() {
        let local = reachable(first.local);
        variables.push(("RELAY_ADDR".into(), local.ip().to_string()));
        variables.push(("RELAY_PORT".into(), local.port().to_string()));
    }
    let mut taken = HashSet::new();
    for forward in forwards {
        let base = variable(forward);
        let mut name = base.clone();
        let mut number = 2;
        while !taken.insert(name.clone()) {
            name = format!("{base}_{number}");
            number += 1;
        }
        variables.push((name, reachable(forward.local).to_string()));
    }
    variables
}

fn variable(forward: &Forwarded) -> String {
    let name = forward.target.split_once('/').map_or(forward.target.as_str(), |(_, name)| name);
    let suffix = match forward.protocol {
        Protocol::Tcp => "",
        Protocol::Udp => "_UDP",
    };
    format!("RELAY_{}_{}{suffix}", word(name), word(&forward.port))
}

fn word(text: &str) -> String {
    let parts = text.split(|letter: char| !letter.is_ascii_alphanumeric()).filter(|part| !part.is_empty());
    parts.collect::<Vec<_>>().join("_").to_ascii_uppercase()
}

/// What listens everywhere is reached on this machine.
pub(crate) fn reachable(local: SocketAddr) -> SocketAddr {
    let ip = match local.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, local.port())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn forwarded(target: &str, port: &str, protocol: Protocol, local: &str) -> Forwarded {
        Forwarded {
            target: target.into(),
            port: port.into(),
            remote: 1,
            protocol,
            local: local.parse().unwrap(),
        }
    }

    fn told(forwards: &[Forwarded]) -> Vec<String> {
        variables(forwards).into_iter().map(|(name, value)| format!("{name}={value}")).collect()
    }

    #[test]
    fn the_first_forward_has_the_short_names_and_each_has_its_own() {
        let forwards = [
            forwarded("svc/db", "5432", Protocol::Tcp, "127.0.0.1:5432"),
            forwarded("deploy/my-api", "http", Protocol::Tcp, "127.0.0.1:40001"),
            forwarded("svc/kube-dns", "53", Protocol::Udp, "127.0.0.1:5353"),
            forwarded("host/db.example.com", "22", Protocol::Tcp, "[::1]:2222"),
            forwarded("ip/[fd00::1]", "80", Protocol::Tcp, "127.0.0.1:80"),
        ];
        assert_eq!(
            told(&forwards),
            [
                "RELAY_ADDR=127.0.0.1",
                "RELAY_PORT=5432",
                "RELAY_DB_5432=127.0.0.1:5432",
                "RELAY_MY_API_HTTP=127.0.0.1:40001",
                "RELAY_KUBE_DNS_53_UDP=127.0.0.1:5353",
                "RELAY_DB_EXAMPLE_COM_22=[::1]:2222",
                "RELAY_FD00_1_80=127.0.0.1:80",
            ]
        );
    }

    #[test]
    fn forwards_of_one_name_are_numbered() {
        let forward = |local| forwarded("svc/web", "80", Protocol::Tcp, local);
        let told = told(&[forward("127.0.0.1:1"), forward("127.0.0.1:2"), forward("127.0.0.1:3")]);
        assert_eq!(
            told[2..],
            ["RELAY_WEB_80=127.0.0.1:1", "RELAY_WEB_80_2=127.0.0.1:2", "RELAY_WEB_80_3=127.0.0.1:3"]
        );
    }

    #[test]
    fn what_listens_everywhere_is_given_as_an_address_to_connect_to() {
        let forwards = [
            forwarded("svc/a", "1", Protocol::Tcp, "0.0.0.0:1"),
            forwarded("svc/b", "2", Protocol::Tcp, "[::]:2"),
        ];
        assert_eq!(
            told(&forwards),
            ["RELAY_ADDR=127.0.0.1", "RELAY_PORT=1", "RELAY_A_1=127.0.0.1:1", "RELAY_B_2=[::1]:2"]
        );
    }

    proptest! {
        #[test]
        fn every_forward_has_a_name_of_its_own_that_a_shell_can_use(
            targets in prop::collection::vec(("(svc|ip|host)/[a-z0-9.:-]{1,8}", "[a-z0-9-]{1,4}", any::<bool>()), 1..12)
        ) {
            let forwards: Vec<_> = targets
                .iter()
                .map(|(target, port, udp)| {
                    forwarded(target, port, if *udp { Protocol::Udp } else { Protocol::Tcp }, "127.0.0.1:1")
                })
                .collect();
            let variables = variables(&forwards);
            let names: HashSet<_> = variables.iter().map(|(name, _)| name).collect();
            prop_assert_eq!(names.len(), forwards.len() + 2);
            let fits = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_';
            prop_assert!(names.iter().all(|name| name.bytes().all(fits)));
        }
    }
}
