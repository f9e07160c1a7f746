//! Which of a Service's or a pod's ports a port argument means.

use std::{fmt, num::NonZeroU16};

use k8s_openapi::{
    api::{
        core::v1::{PodSpec, ServicePort},
        discovery::v1::EndpointPort,
    },
    apimachinery::pkg::util::intstr::IntOrString,
};
use relay_protocol::header::Protocol;

use super::ready::EndpointPort as TargetPort;
use crate::port::{PortSpec, RemotePort};

/// One declared port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeclaredPort {
    /// Empty when it has none.
    pub name: String,
    /// Its number.
    pub number: u16,
    /// `None`: a protocol that cannot be forwarded (SCTP).
    pub protocol: Option<Protocol>,
}

/// What a port argument means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selected {
    /// The port's name, where it is a declared one and has one.
    pub name: String,
    /// Its number.
    pub number: u16,
    /// How to talk to it.
    pub protocol: Protocol,
    /// The same number exists with this protocol too.
    pub also: Option<Protocol>,
    /// Whether the object declares it.
    pub declared: bool,
}

/// A port argument that means none of the ports.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PortLookupError {
    /// No such port; `known` lists those there are.
    #[error("{target} has no port {port}{}", listed(known))]
    Unknown {
        /// The target as typed.
        target: String,
        /// The remote port as typed.
        port: String,
        /// The ports there are.
        known: Vec<DeclaredPort>,
    },
    /// The port exists with another protocol.
    #[error("{target} has port {port}, but not with {asked}{}", listed(known))]
    OtherProtocol {
        /// The target as typed.
        target: String,
        /// The remote port as typed.
        port: String,
        /// The suffix.
        asked: Protocol,
        /// The ports there are.
        known: Vec<DeclaredPort>,
    },
    /// The port speaks something else than TCP or UDP.
    #[error("{target}'s port {port} speaks SCTP, which cannot be forwarded")]
    Sctp {
        /// The target as typed.
        target: String,
        /// The remote port as typed.
        port: String,
    },
    /// A target that declares no ports was asked for one by name.
    #[error("{target} has no port names, so \"{port}\" means nothing there")]
    NoNames {
        /// The target as typed.
        target: String,
        /// The remote port as typed.
        port: String,
    },
}

impl PortLookupError {
    /// What to type instead.
    pub fn hint(&self) -> String {
        match self {
            Self::Unknown { known, target, .. } | Self::OtherProtocol { known, target, .. } => {
                match known.iter().find(|port| port.protocol.is_some()) {
                    Some(port) => format!("for example: kubectl relay {target} :{}", port.number),
                    None => "give the port as a number".into(),
                }
            }
            Self::Sctp { .. } => "choose a TCP or UDP port".into(),
            Self::NoNames { .. } => "give the port as a number".into(),
        }
    }
}

fn listed(known: &[DeclaredPort]) -> String {
    if known.is_empty() {
        return String::new();
    }
    let ports: Vec<_> = known.iter().map(ToString::to_string).collect();
    format!("; it has {}", ports.join(", "))
}

impl fmt::Display for DeclaredPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/", self.number)?;
        match self.protocol {
            Some(protocol) => protocol.fmt(f)?,
            None => f.write_str("sctp")?,
        }
        if self.name.is_empty() { Ok(()) } else { write!(f, " ({})", self.name) }
    }
}

/// Finds what `spec` means among `known`. With `strict` a number must be declared; otherwise any number goes, as TCP.
///
/// # Errors
/// See [`PortLookupError`].
pub fn select(
    target: &str,
    spec: &PortSpec,
    known: &[DeclaredPort],
    strict: bool,
) -> Result<Selected, PortLookupError> {
    let (target_name, port) = (target.to_owned(), spec.remote.to_string());
    let matching: Vec<_> = known
        .iter()
        .filter(|candidate| match &spec.remote {
            RemotePort::Number(number) => candidate.number == number.get(),
            RemotePort::Name(name) => candidate.name == *name,
        })
        .collect();

    if matching.is_empty() {
        return match &spec.remote {
            RemotePort::Number(number) if !strict => Ok(undeclared(*number, spec.protocol)),
            _ => Err(PortLookupError::Unknown { target: target_name, port, known: known.to_vec() }),
        };
    }
    if let Some(asked) = spec.protocol {
        return match matching.iter().find(|candidate| candidate.protocol == Some(asked)) {
            Some(found) => Ok(declared(found, asked, None)),
            None => match &spec.remote {
                RemotePort::Number(number) if !strict => Ok(undeclared(*number, Some(asked))),
                _ => Err(PortLookupError::OtherProtocol {
                    target: target_name,
                    port,
                    asked,
                    known: known.to_vec(),
                }),
            },
        };
    }
    let with = |protocol| matching.iter().find(|candidate| candidate.protocol == Some(protocol));
    match (with(Protocol::Tcp), with(Protocol::Udp)) {
        (Some(tcp), Some(_)) => Ok(declared(tcp, Protocol::Tcp, Some(Protocol::Udp))),
        (Some(tcp), None) => Ok(declared(tcp, Protocol::Tcp, None)),
        (None, Some(udp)) => Ok(declared(udp, Protocol::Udp, None)),
        (None, None) => Err(PortLookupError::Sctp { target: target_name, port }),
    }
}

/// What `spec` means for a target that declares no ports: an address or a host.
///
/// # Errors
/// [`PortLookupError::NoNames`].
pub fn plain(target: &str, spec: &PortSpec) -> Result<Selected, PortLookupError> {
    match &spec.remote {
        RemotePort::Number(number) => Ok(undeclared(*number, spec.protocol)),
        RemotePort::Name(name) => Err(PortLookupError::NoNames { target: target.into(), port: name.clone() }),
    }
}

fn undeclared(number: NonZeroU16, protocol: Option<Protocol>) -> Selected {
    Selected {
        name: String::new(),
        number: number.get(),
        protocol: protocol.unwrap_or(Protocol::Tcp),
        also: None,
        declared: false,
    }
}

fn declared(port: &DeclaredPort, protocol: Protocol, also: Option<Protocol>) -> Selected {
    Selected { name: port.name.clone(), number: port.number, protocol, also, declared: true }
}

fn protocol_named(name: Option<&str>) -> Option<Protocol> {
    match name {
        None | Some("" | "TCP") => Some(Protocol::Tcp),
        Some("UDP") => Some(Protocol::Udp),
        Some(_) => None,
    }
}

/// The ports of a Service.
pub fn of_service(ports: Option<&Vec<ServicePort>>) -> Vec<DeclaredPort> {
    let port = |port: &ServicePort| {
        Some(DeclaredPort {
            name: port.name.clone().unwrap_or_default(),
            number: u16::try_from(port.port).ok()?,
            protocol: protocol_named(port.protocol.as_deref()),
        })
    };
    ports.into_iter().flatten().filter_map(port).collect()
}

/// The port of a Service's pods that one of its ports stands for. What it does not declare is the pods' own.
pub fn target_port(ports: Option<&Vec<ServicePort>>, selected: &Selected) -> TargetPort {
    let same = |port: &&ServicePort| {
        port.port == i32::from(selected.number)
            && protocol_named(port.protocol.as_deref()) == Some(selected.protocol)
    };
    let declared = ports.into_iter().flatten().find(same).filter(|_| selected.declared);
    match declared.and_then(|port| port.target_port.as_ref()) {
        Some(IntOrString::String(name)) => TargetPort::Named(name.clone(), selected.protocol),
        Some(IntOrString::Int(number)) if *number > 0 => {
            TargetPort::Number(u16::try_from(*number).unwrap_or(selected.number))
        }
        _ => TargetPort::Number(selected.number),
    }
}

/// The ports of a pod's containers; those init containers that go on running have ports too.
pub fn of_pod(spec: Option<&PodSpec>) -> Vec<DeclaredPort> {
    let Some(spec) = spec else { return Vec::new() };
    let sidecars = spec
        .init_containers
        .iter()
        .flatten()
        .filter(|container| container.restart_policy.as_deref() == Some("Always"));
    spec.containers
        .iter()
        .chain(sidecars)
        .flat_map(|container| container.ports.iter().flatten())
        .filter_map(|port| {
            Some(DeclaredPort {
                name: port.name.clone().unwrap_or_default(),
                number: u16::try_from(port.container_port).ok()?,
                protocol: protocol_named(port.protocol.as_deref()),
            })
        })
        .collect()
}

/// The ports of an EndpointSlice.
pub fn of_slice(ports: Option<&Vec<EndpointPort>>) -> Vec<DeclaredPort> {
    let port = |port: &EndpointPort| {
        Some(DeclaredPort {
            name: port.name.clone().unwrap_or_default(),
            number: u16::try_from(port.port?).ok()?,
            protocol: protocol_named(port.protocol.as_deref()),
        })
    };
    ports.into_iter().flatten().filter_map(port).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn port(name: &str, number: u16, protocol: Option<Protocol>) -> DeclaredPort {
        DeclaredPort { name: name.into(), number, protocol }
    }

    fn dns() -> Vec<DeclaredPort> {
        vec![
            port("dns", 53, Some(Protocol::Udp)),
            port("dns-tcp", 53, Some(Protocol::Tcp)),
            port("metrics", 9153, Some(Protocol::Tcp)),
            port("gossip", 7946, Some(Protocol::Udp)),
            port("assoc", 36412, None),
        ]
    }

    fn find(text: &str, strict: bool) -> Result<Selected, PortLookupError> {
        select("svc/dns", &text.parse().unwrap(), &dns(), strict)
    }

    #[test]
    fn the_ports_own_protocol_is_used_without_a_suffix() {
        assert_eq!(find("gossip", true).unwrap().protocol, Protocol::Udp);
        assert_eq!(find("7946", true).unwrap().protocol, Protocol::Udp);
        assert_eq!(find("dns", true).unwrap().protocol, Protocol::Udp);
        assert_eq!(find("metrics", true).unwrap().number, 9153);
    }

    #[test]
    fn a_number_that_exists_as_both_is_tcp_and_the_other_is_named() {
        let selected = find("53", true).unwrap();
        assert_eq!((selected.protocol, selected.also), (Protocol::Tcp, Some(Protocol::Udp)));
        assert_eq!(selected.name, "dns-tcp");
    }

    #[test]
    fn a_suffix_picks_the_protocol() {
        let selected = find("53@udp", true).unwrap();
        assert_eq!((selected.name.as_str(), selected.also), ("dns", None));
    }

    #[test]
    fn what_does_not_exist_is_refused_with_what_does() {
        let known = "; it has 53/udp (dns), 53/tcp (dns-tcp), 9153/tcp (metrics), 7946/udp (gossip), 36412/sctp (assoc)";
        let cases = [
            ("80", format!("svc/dns has no port 80{known}")),
            ("http", format!("svc/dns has no port http{known}")),
            ("dns@tcp", format!("svc/dns has port dns, but not with tcp{known}")),
            ("9153@udp", format!("svc/dns has port 9153, but not with udp{known}")),
            ("assoc", "svc/dns's port assoc speaks SCTP, which cannot be forwarded".to_owned()),
        ];
        for (text, message) in cases {
            assert_eq!(find(text, true).unwrap_err().to_string(), message);
        }
    }

    #[test]
    fn a_pods_numbers_need_not_be_declared() {
        let selected = find("8080", false).unwrap();
        assert_eq!((selected.number, selected.protocol, selected.declared), (8080, Protocol::Tcp, false));
        assert_eq!(find("9153@udp", false).unwrap().protocol, Protocol::Udp);
        assert!(find("http", false).is_err());
    }

    #[test]
    fn an_address_has_no_port_names() {
        let error = plain("ip/10.0.0.1", &"http".parse().unwrap()).unwrap_err();
        assert_eq!(error.to_string(), "ip/10.0.0.1 has no port names, so \"http\" means nothing there");
        assert_eq!(error.hint(), "give the port as a number");
    }

    #[test]
    fn a_services_port_stands_for_a_port_of_its_pods() {
        let ports: Vec<ServicePort> = serde_json::from_value(serde_json::json!([
            {"name": "page", "port": 80, "targetPort": "http"},
            {"name": "echo", "port": 7, "targetPort": 7007},
            {"name": "plain", "port": 9},
            {"name": "both", "port": 53, "targetPort": 1053, "protocol": "UDP"},
            {"name": "both-tcp", "port": 53, "targetPort": 2053},
        ]))
        .unwrap();
        let known = of_service(Some(&ports));
        let target = |text: &str| {
            let selected = select("svc/x", &text.parse().unwrap(), &known, false).unwrap();
            target_port(Some(&ports), &selected)
        };
        assert_eq!(target("80"), TargetPort::Named("http".into(), Protocol::Tcp));
        assert_eq!(target("page"), TargetPort::Named("http".into(), Protocol::Tcp));
        assert_eq!(target("echo"), TargetPort::Number(7007));
        assert_eq!(target("plain"), TargetPort::Number(9));
        assert_eq!(target("53@udp"), TargetPort::Number(1053));
        assert_eq!(target("53"), TargetPort::Number(2053));
        assert_eq!(target("4711"), TargetPort::Number(4711), "a headless Service's pods may have more");
    }

    proptest! {
        #[test]
        fn a_selected_port_is_what_was_asked_for(
            numbers in prop::collection::vec((1u16..20, prop::option::of(any::<bool>())), 0..6), number in 1u16..20, suffix in prop::option::of(any::<bool>())
        ) {
            let as_protocol = |udp| if udp { Protocol::Udp } else { Protocol::Tcp };
            let known: Vec<_> = numbers.into_iter().map(|(n, udp)| port("", n, udp.map(as_protocol))).collect();
            let suffix = suffix.map(as_protocol);
            let mut spec: PortSpec = number.to_string().parse().unwrap();
            spec.protocol = suffix;
            if let Ok(selected) = select("svc/x", &spec, &known, true) {
                prop_assert_eq!(selected.number, number);
                prop_assert!(suffix.is_none_or(|asked| asked == selected.protocol));
                prop_assert!(known.contains(&port("", number, Some(selected.protocol))));
            }
            prop_assert!(select("pod/x", &spec, &known, false).is_ok_and(|s| s.number == number)
                || known.iter().filter(|k| k.number == number).all(|k| k.protocol.is_none()));
        }
    }
}
