//! What to say when the agent could not reach a target: one sentence and a hint for every status.

use relay_protocol::{Status, header::Address};

use crate::cluster::ready::Destination;

/// The sentence and the hint.
pub fn sentence(target: &str, destination: &Destination, status: Status) -> (String, String) {
    let (what, hint) = both(destination, status);
    (format!("{target}: {what}"), hint.to_owned())
}

/// The sentence alone, for whoever knows what was asked for.
pub fn what(destination: &Destination, status: Status) -> String {
    both(destination, status).0
}

fn both(destination: &Destination, status: Status) -> (String, &'static str) {
    let host = match &destination.address {
        Address::Ip(ip) => ip.to_string(),
        Address::Host(name) => name.to_string(),
    };
    let place = match &destination.address {
        Address::Ip(ip) => std::net::SocketAddr::new(*ip, destination.port).to_string(),
        Address::Host(name) => format!("{name}:{}", destination.port),
    };
    match status {
        Status::NoSuchHost => (
            format!("the cluster knows no host \"{host}\""),
            "check the name; a Service of another namespace is NAME.NAMESPACE",
        ),
        Status::ResolveTimedOut => (
            format!("the cluster's DNS gives no answer about \"{host}\""),
            "check that kube-dns runs, and that a NetworkPolicy lets the agent reach it",
        ),
        Status::ConnectTimedOut => (
            format!("no answer from {place}"),
            "a firewall or a NetworkPolicy may drop the agent's packets, or the address is wrong",
        ),
        Status::Refused => (
            format!("{place} refuses the connection"),
            "nothing listens on this port there, or the target is not ready yet",
        ),
        Status::Unreachable => {
            (format!("there is no way to {place} from the cluster"), "check the address and the pod network")
        }
        Status::Denied => (
            format!("the agent is not allowed to dial {place}"),
            "ask who runs the agent for the right to it",
        ),
        Status::TooManyStreams => (
            "the agent has too many connections open".to_owned(),
            "close some connections, or use a second relay",
        ),
        Status::ShuttingDown => ("the agent is ending".to_owned(), "try again: another one is being started"),
        Status::AgentLost => ("the agent is gone".to_owned(), "try again: another one is being started"),
        other => (format!("{place} cannot be reached: {other}"), "run with -v=4 to see more"),
    }
}

/// Whether a status can be the answer to a dial that failed, rather than the end of a connection that worked.
pub fn is_about_dialling(status: Status) -> bool {
    !matches!(status, Status::Ok | Status::ResetByPeer | Status::Aborted)
}

#[cfg(test)]
mod tests {
    use relay_protocol::header::HostName;

    use super::*;

    #[test]
    fn the_common_failures_have_their_own_sentences() {
        let ip = Destination { address: Address::Ip("fd00::7".parse().unwrap()), port: 80 };
        let host = Destination { address: Address::Host(HostName::new("db.example").unwrap()), port: 5432 };
        let cases = [
            (&ip, Status::Refused, "svc/x: [fd00::7]:80 refuses the connection"),
            (&ip, Status::ConnectTimedOut, "svc/x: no answer from [fd00::7]:80"),
            (&host, Status::NoSuchHost, "svc/x: the cluster knows no host \"db.example\""),
            (&host, Status::Refused, "svc/x: db.example:5432 refuses the connection"),
        ];
        for (destination, status, expected) in cases {
            let (message, hint) = sentence("svc/x", destination, status);
            assert_eq!(message, expected);
            assert!(!hint.is_empty());
        }
    }
}
