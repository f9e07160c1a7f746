//! The ports of a target, in the forms in which they may be typed.

use super::Candidate;
use crate::cluster::ports::DeclaredPort;

/// The ports that `typed` may become: `REMOTE` by number and by name, behind `LOCAL:` or `:` if that is typed, with the
/// protocol where it matters or is being typed.
pub(super) fn candidates(known: &[DeclaredPort], typed: &str, taken: &[&str]) -> Vec<Candidate> {
    let (local, remote) = match typed.rfind(':') {
        Some(colon) => typed.split_at(colon + 1),
        None => ("", typed),
    };
    let is_taken = |port: &DeclaredPort| {
        taken.iter().any(|taken| {
            let (taken, protocol) = taken.rsplit_once('@').map_or((*taken, None), |(t, p)| (t, Some(p)));
            let taken = taken.rsplit_once(':').map_or(taken, |(_, remote)| remote);
            let same = taken == port.number.to_string() || (!port.name.is_empty() && taken == port.name);
            same && protocol
                .is_none_or(|asked| port.protocol.is_some_and(|protocol| protocol.to_string() == asked))
        })
    };
    let with_protocol = remote.contains('@');
    let mut candidates: Vec<Candidate> = Vec::new();
    for port in known.iter().filter(|port| !is_taken(port)) {
        let Some(protocol) = port.protocol else { continue };
        let number = port.number.to_string();
        let is_both = known.iter().any(|other| {
            other.number == port.number && other.protocol.is_some_and(|other| other != protocol)
        });
        let named = format!("{number}/{protocol}");
        let about = if port.name.is_empty() { protocol.to_string() } else { port.name.clone() };
        if !port.name.is_empty() {
            candidates.push(Candidate::new(suffixed(&port.name, protocol, with_protocol), named));
        }
        candidates.push(Candidate::new(suffixed(&number, protocol, with_protocol || is_both), about));
    }
    candidates.retain(|candidate| candidate.text.starts_with(remote));
    for candidate in &mut candidates {
        candidate.text.insert_str(0, local);
    }
    candidates
}

fn suffixed(port: &str, protocol: impl std::fmt::Display, wanted: bool) -> String {
    if wanted { format!("{port}@{protocol}") } else { port.to_owned() }
}

#[cfg(test)]
mod tests {
    use relay_protocol::header::Protocol;

    use super::*;

    fn texts(typed: &str, taken: &[&str]) -> Vec<String> {
        let port = |name: &str, number, protocol| DeclaredPort { name: name.into(), number, protocol };
        let known = [
            port("dns", 53, Some(Protocol::Udp)),
            port("dns-tcp", 53, Some(Protocol::Tcp)),
            port("", 8080, Some(Protocol::Tcp)),
            port("assoc", 36412, None),
        ];
        candidates(&known, typed, taken).into_iter().map(|candidate| candidate.text).collect()
    }

    #[test]
    fn names_and_numbers_are_offered_with_the_protocol_where_it_matters() {
        assert_eq!(texts("", &[]), ["dns", "53@udp", "dns-tcp", "53@tcp", "8080"]);
        assert_eq!(texts("5", &[]), ["53@udp", "53@tcp"]);
        assert_eq!(texts("80", &[]), ["8080"]);
        assert_eq!(texts("x", &[]), [""; 0]);
    }

    #[test]
    fn a_local_port_stays_before_the_remote_one() {
        assert_eq!(texts("5353:d", &[]), ["5353:dns", "5353:dns-tcp"]);
        assert_eq!(texts(":80", &[]), [":8080"]);
    }

    #[test]
    fn a_protocol_that_is_being_typed_is_completed() {
        assert_eq!(texts("8080@", &[]), ["8080@tcp"]);
        assert_eq!(texts("53@u", &[]), ["53@udp"]);
        assert_eq!(texts("1:dns@", &[]), ["1:dns@udp"]);
    }

    #[test]
    fn what_is_typed_already_is_not_offered_again() {
        assert_eq!(texts("", &["5353:53@udp", "8080"]), ["dns-tcp", "53@tcp"]);
        assert_eq!(texts("", &["dns"]), ["dns-tcp", "53@tcp", "8080"]);
    }
}
