//! The grammar of targets: what the positional arguments mean, without asking the cluster.
//! An argument with `/` starts a target, the ones after it are its ports; the very first may be a bare pod name.

use std::{collections::HashSet, fmt, net::IpAddr, str::FromStr};

use relay_protocol::header::{HostName, Protocol};

use crate::port::{LocalPort, PortError, PortSpec};

/// What a forward leads to, as typed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// `ip/ADDR`: dialled as it is.
    Ip(IpAddr),
    /// `host/NAME`: resolved by the agent, with its pod's search list.
    Host(HostName),
    /// `svc/NAME`.
    Service(String),
    /// `pod/NAME` or a bare name.
    Pod(String),
    /// `node/NAME`: its internal address.
    Node(String),
    /// Any other kind: an object with a pod selector.
    Workload(Kind, String),
}

/// A resource type as kubectl takes it: a plural, singular or short name, perhaps with a group (and a version).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Kind {
    /// `deploy`, `deployment`, `deployments`; lower case.
    pub name: String,
    /// What follows the first dot: `GROUP` or `VERSION.GROUP`.
    pub group: Option<String>,
}

/// A line of a targets file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The file as typed.
    pub file: String,
    /// Counted from 1.
    pub line: usize,
}

/// A target with the ports typed after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetSpec {
    /// Where it is typed, if not on the command line.
    pub place: Option<Place>,
    /// What was typed, for messages.
    pub typed: String,
    /// What it means.
    pub target: Target,
    /// What is typed after it. None where the cluster is to tell.
    pub ports: Vec<PortSpec>,
}

/// Why the arguments are no list of targets.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// No argument at all.
    #[error("no target given")]
    Nothing,
    /// A target without ports.
    #[error("target \"{0}\" has no port")]
    NoPorts(String),
    /// Ports come before any target.
    #[error("\"{0}\" is not a target")]
    NotFirst(String),
    /// Nothing before or after the slash, or characters a name cannot have.
    #[error("\"{typed}\" is not a target: {why}")]
    Malformed {
        /// The argument.
        typed: String,
        /// What is wrong with it.
        why: String,
    },
    /// A port argument is not one.
    #[error(transparent)]
    Port(#[from] PortError),
    /// The same local port is asked for twice.
    #[error("local port {port} is asked for twice: by \"{first}\" and by \"{second}\"")]
    Twice {
        /// The local port.
        port: u16,
        /// The argument that has it.
        first: String,
        /// The argument that wants it too.
        second: String,
    },
}

impl TargetError {
    /// What to type instead.
    pub fn hint(&self) -> String {
        match self {
            Self::Nothing | Self::Malformed { .. } => {
                "a target is svc/NAME, pod/NAME, deploy/NAME, sts/NAME, TYPE/NAME, ip/ADDR, host/NAME or node/NAME; \
                 for example: kubectl relay svc/web 8080:http"
                    .into()
            }
            Self::NoPorts(target) => format!("name at least one port: kubectl relay {target} 8080:80"),
            Self::NotFirst(_) => {
                "the target comes first, its ports after it: kubectl relay svc/web 8080:80".into()
            }
            Self::Port(port) => port.hint().into(),
            Self::Twice { .. } => "choose another local port for one of them, or a free one with :REMOTE".into(),
        }
    }
}

/// Reads the arguments of a line that says everything: each target has its ports.
///
/// # Errors
/// The first thing that is wrong with them.
pub fn parse_arguments<S: AsRef<str>>(arguments: &[S]) -> Result<Vec<TargetSpec>, TargetError> {
    let specs = parse_typed(arguments)?;
    match specs.iter().find(|spec| spec.ports.is_empty()) {
        Some(spec) => Err(TargetError::NoPorts(spec.typed.clone())),
        None => Ok(specs),
    }
}

/// Reads the arguments of the command line, where a target may stand without ports if the cluster knows some.
///
/// # Errors
/// The first thing that is wrong with them.
pub fn parse_typed<S: AsRef<str>>(arguments: &[S]) -> Result<Vec<TargetSpec>, TargetError> {
    let mut specs: Vec<TargetSpec> = Vec::new();
    for argument in arguments {
        let argument = argument.as_ref();
        if argument.contains('/') {
            let target = argument.parse()?;
            specs.push(TargetSpec { place: None, typed: argument.into(), target, ports: Vec::new() });
            continue;
        }
        let Some(current) = specs.last_mut() else {
            specs.push(bare_pod(argument)?);
            continue;
        };
        current.ports.push(argument.parse()?);
    }
    if specs.is_empty() {
        return Err(TargetError::Nothing);
    }
    if let Some(spec) = specs.iter().find(|spec| spec.ports.is_empty() && !spec.target.declares_ports()) {
        return Err(TargetError::NoPorts(spec.typed.clone()));
    }
    check_local_ports(&specs.iter().collect::<Vec<_>>()).map_err(|(_, error)| error)?;
    Ok(specs)
}

fn bare_pod(argument: &str) -> Result<TargetSpec, TargetError> {
    if argument.contains([':', '@']) {
        return Err(TargetError::NotFirst(argument.into()));
    }
    check_name(argument, argument)?;
    Ok(TargetSpec {
        place: None,
        typed: format!("pod/{argument}"),
        target: Target::Pod(argument.into()),
        ports: Vec::new(),
    })
}

/// Two forwards cannot listen on one port. Without a suffix the protocol is not known yet, so those are left to the
/// listeners, except for two that are typed alike.
///
/// # Errors
/// Which target comes second, and what is wrong with it.
pub fn check_local_ports(specs: &[&TargetSpec]) -> Result<(), (usize, TargetError)> {
    let mut seen: Vec<(u16, Option<Protocol>, String)> = Vec::new();
    for (index, spec) in specs.iter().enumerate() {
        for port in &spec.ports {
            let LocalPort::Number(number) = port.local else { continue };
            let typed = format!("{} {port}", spec.typed);
            let known = |other: &&(u16, Option<Protocol>, String)| {
                other.0 == number.get() && other.1 == port.protocol && port.protocol.is_some()
            };
            if let Some((_, _, first)) = seen.iter().find(known) {
                let first = first.clone();
                return Err((index, TargetError::Twice { port: number.get(), first, second: typed }));
            }
            seen.push((number.get(), port.protocol, typed));
        }
    }
    let mut exact = HashSet::new();
    for (index, spec) in specs.iter().enumerate() {
        for port in spec.ports.iter().filter(|port| matches!(port.local, LocalPort::Number(_))) {
            let LocalPort::Number(number) = port.local else { continue };
            let typed = format!("{} {port}", spec.typed);
            if !exact.insert(typed.clone()) {
                let first = typed.clone();
                return Err((index, TargetError::Twice { port: number.get(), first, second: typed }));
            }
        }
    }
    Ok(())
}

impl Target {
    /// Whether the cluster knows which ports it has.
    pub fn declares_ports(&self) -> bool {
        matches!(self, Self::Service(_) | Self::Pod(_) | Self::Workload(..))
    }
}

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(typed: &str) -> Result<Self, TargetError> {
        let malformed = |why: &str| TargetError::Malformed { typed: typed.into(), why: why.into() };
        let Some((kind, name)) = typed.split_once('/') else {
            check_name(typed, typed)?;
            return Ok(Self::Pod(typed.into()));
        };
        if name.is_empty() {
            return Err(malformed("there is no name after the slash"));
        }
        let kind = kind.to_ascii_lowercase();
        match kind.as_str() {
            "" => return Err(malformed("there is no type before the slash")),
            "ip" => {
                let literal = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(name);
                return literal.parse().map(Self::Ip).map_err(|_| malformed("that is no IP address"));
            }
            "host" => {
                if name.contains(['/', ':']) {
                    return Err(malformed("a host name has no slash, port or scheme"));
                }
                return HostName::new(name).map(Self::Host).map_err(|error| malformed(&error.to_string()));
            }
            _ => {}
        }
        check_name(typed, name)?;
        Ok(match kind.as_str() {
            "svc" | "service" | "services" => Self::Service(name.into()),
            "po" | "pod" | "pods" => Self::Pod(name.into()),
            "no" | "node" | "nodes" => Self::Node(name.into()),
            _ => Self::Workload(Kind::parse(typed, &kind)?, name.into()),
        })
    }
}

impl Kind {
    fn parse(typed: &str, kind: &str) -> Result<Self, TargetError> {
        let well_formed = kind.split('.').all(|label| {
            !label.is_empty()
                && label
                    .bytes()
                    .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        });
        if !well_formed {
            return Err(TargetError::Malformed {
                typed: typed.into(),
                why: format!("\"{kind}\" is no resource type"),
            });
        }
        Ok(match kind.split_once('.') {
            Some((name, group)) => Self { name: name.into(), group: Some(group.into()) },
            None => Self { name: kind.into(), group: None },
        })
    }
}

/// What can stand as one segment of an API path and in a label's value.
fn check_name(typed: &str, name: &str) -> Result<(), TargetError> {
    let fits = (1..=253).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._:".contains(&byte))
        && name.starts_with(|first: char| first.is_ascii_alphanumeric());
    if fits {
        return Ok(());
    }
    Err(TargetError::Malformed { typed: typed.into(), why: format!("\"{name}\" is no name of an object") })
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        match &self.group {
            Some(group) => write!(f, ".{group}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(ip) => write!(f, "ip/{ip}"),
            Self::Host(name) => write!(f, "host/{name}"),
            Self::Service(name) => write!(f, "svc/{name}"),
            Self::Pod(name) => write!(f, "pod/{name}"),
            Self::Node(name) => write!(f, "node/{name}"),
            Self::Workload(kind, name) => write!(f, "{kind}/{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn kind(name: &str, group: Option<&str>) -> Kind {
        Kind { name: name.into(), group: group.map(Into::into) }
    }

    #[test]
    fn every_form_of_target_is_understood() {
        let cases = [
            ("svc/web", Target::Service("web".into())),
            ("Service/web", Target::Service("web".into())),
            ("pod/web-0", Target::Pod("web-0".into())),
            ("pod/top", Target::Pod("top".into())),
            ("web-0", Target::Pod("web-0".into())),
            ("node/n1.example", Target::Node("n1.example".into())),
            ("deploy/web", Target::Workload(kind("deploy", None), "web".into())),
            ("deployments.apps/web", Target::Workload(kind("deployments", Some("apps")), "web".into())),
            (
                "rollouts.v1alpha1.argoproj.io/web",
                Target::Workload(kind("rollouts", Some("v1alpha1.argoproj.io")), "web".into()),
            ),
            ("ip/10.0.0.7", Target::Ip("10.0.0.7".parse().unwrap())),
            ("ip/fd00::1", Target::Ip("fd00::1".parse().unwrap())),
            ("ip/[fd00::1]", Target::Ip("fd00::1".parse().unwrap())),
            ("host/db.example.com", Target::Host(HostName::new("db.example.com").unwrap())),
        ];
        for (typed, expected) in cases {
            assert_eq!(typed.parse(), Ok(expected), "{typed}");
        }
    }

    #[test]
    fn ports_belong_to_the_target_before_them() {
        let specs = parse_arguments(&["svc/web", "8080:http", ":443", "ip/10.0.0.1", "5353:53@udp"]).unwrap();
        let summary: Vec<_> = specs
            .iter()
            .map(|spec| (spec.typed.as_str(), spec.ports.iter().map(ToString::to_string).collect::<Vec<_>>()))
            .collect();
        assert_eq!(
            summary,
            [
                ("svc/web", vec!["8080:http".to_owned(), ":443".to_owned()]),
                ("ip/10.0.0.1", vec!["5353:53@udp".to_owned()])
            ]
        );
    }

    #[test]
    fn a_bare_name_is_a_pod_only_in_first_place() {
        let specs = parse_arguments(&["web-0", "80", "svc/x", "http"]).unwrap();
        assert_eq!(specs[0].target, Target::Pod("web-0".into()));
        assert_eq!(specs[1].ports[0].to_string(), "http");
    }

    #[test]
    fn wrong_arguments_say_what_and_what_to_type() {
        let cases: &[(&[&str], &str)] = &[
            (&[], "no target given"),
            (&["svc/web"], "target \"svc/web\" has no port"),
            (&["host/web"], "target \"host/web\" has no port"),
            (&["web"], "target \"pod/web\" has no port"),
            (&["svc/web", "pod/x", "80"], "target \"svc/web\" has no port"),
            (&["8080:80", "svc/web"], "\"8080:80\" is not a target"),
            (&["svc/", "80"], "\"svc/\" is not a target: there is no name after the slash"),
            (&["/web", "80"], "\"/web\" is not a target: there is no type before the slash"),
            (&["ip/10.0.0", "80"], "\"ip/10.0.0\" is not a target: that is no IP address"),
            (&["svc/a/b", "80"], "\"svc/a/b\" is not a target: \"a/b\" is no name of an object"),
            (&["pod/..", "80"], "\"pod/..\" is not a target: \"..\" is no name of an object"),
            (
                &["host/http://x", "80"],
                "\"host/http://x\" is not a target: a host name has no slash, port or scheme",
            ),
            (&["a..b/x", "80"], "\"a..b/x\" is not a target: \"a..b\" is no resource type"),
            (&["svc/web", "x:80"], "port \"x:80\": the local port \"x\" is not a number from 1 to 65535"),
            (
                &["svc/a", "53:53@udp", "svc/b", "53:1@udp"],
                "local port 53 is asked for twice: by \"svc/a 53:53@udp\" and by \"svc/b 53:1@udp\"",
            ),
            (
                &["svc/a", "53:53", "53:53"],
                "local port 53 is asked for twice: by \"svc/a 53:53\" and by \"svc/a 53:53\"",
            ),
        ];
        for (arguments, message) in cases {
            let error = parse_arguments(arguments).unwrap_err();
            assert_eq!(error.to_string(), *message, "{arguments:?}");
            assert!(!error.hint().is_empty());
        }
    }

    #[test]
    fn on_the_command_line_only_what_the_cluster_knows_goes_without_ports() {
        let specs = parse_typed(&["svc/web", "deploy/api", "80", "pod/x"]).unwrap();
        assert_eq!(specs.iter().map(|spec| spec.ports.len()).collect::<Vec<_>>(), [0, 1, 0]);
        for typed in ["ip/10.0.0.1", "host/db", "node/n1"] {
            assert_eq!(parse_typed(&["svc/web", typed]), Err(TargetError::NoPorts(typed.into())));
        }
    }

    #[test]
    fn one_local_port_serves_tcp_and_udp() {
        assert!(parse_arguments(&["svc/dns", "5353:53@udp", "5353:53@tcp"]).is_ok());
    }

    proptest! {
        #[test]
        fn any_arguments_give_targets_or_an_error(arguments in prop::collection::vec(".{0,20}|[a-z.]{1,8}/[a-z0-9:.]{0,12}|[0-9:@a-z]{0,12}", 0..6)) {
            if let Ok(specs) = parse_arguments(&arguments) {
                prop_assert!(specs.iter().all(|spec| !spec.ports.is_empty()));
                let ports: usize = specs.iter().map(|spec| spec.ports.len()).sum();
                prop_assert_eq!(ports + specs.len(), arguments.len());
            }
        }

        #[test]
        fn what_is_printed_is_read_back_the_same(typed in "(svc|pod|node|deploy|widgets\\.example\\.org)/[a-z0-9][a-z0-9.-]{0,20}|ip/[0-9]{1,3}\\.1\\.2\\.3") {
            if let Ok(target) = typed.parse::<Target>() {
                prop_assert_eq!(target.to_string().parse(), Ok(target));
            }
        }
    }
}
