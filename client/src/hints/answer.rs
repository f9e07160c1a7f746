//! The question for a target's ports, and what may be answered. Pure text.

use super::{offer, words};
use crate::{
    cluster::ports::DeclaredPort,
    port::{LocalPort, PortSpec, RemotePort},
};

/// A numbered list of the ports that can be forwarded, and the line to answer on.
pub fn question(target: &str, ports: &[DeclaredPort]) -> String {
    let mut text = format!("Ports of {target}:\n");
    for (index, port) in offer::forwardable(ports).enumerate() {
        text += &format!("{:>3}  {port}\n", index + 1);
    }
    text + "Number or name [1]: "
}

/// What an answer means: numbers of the list, names or numbers of ports, or whole port arguments; several with commas or
/// blanks between. Nothing typed is the first.
///
/// # Errors
/// The first word that is none of these, as it was typed.
pub fn understood(answer: &str, known: &[DeclaredPort]) -> Result<Vec<PortSpec>, String> {
    let ports: Vec<&DeclaredPort> = offer::forwardable(known).collect();
    let mut chosen = Vec::new();
    for word in words(if answer.is_empty() { "1" } else { answer }) {
        let of_the_list =
            word.parse::<usize>().ok().and_then(|number| ports.get(number.checked_sub(1)?)).copied();
        let meant = of_the_list.or_else(|| {
            ports.iter().copied().find(|port| port.name == word || port.number.to_string() == word)
        });
        let spec = match meant {
            Some(port) => offer::spec(port, known),
            None => typed(word, &ports).ok_or_else(|| word.to_owned())?,
        };
        if !chosen.contains(&spec) {
            chosen.push(spec);
        }
    }
    if chosen.is_empty() { Err(answer.to_owned()) } else { Ok(chosen) }
}

/// `9000:http` and the like, of a port that there is.
fn typed(word: &str, ports: &[&DeclaredPort]) -> Option<PortSpec> {
    let spec: PortSpec = word
        .parse()
        .ok()
        .filter(|spec: &PortSpec| spec.local != LocalPort::Same || spec.protocol.is_some())?;
    let is_there = |port: &&&DeclaredPort| match &spec.remote {
        RemotePort::Number(number) => port.number == number.get(),
        RemotePort::Name(name) => port.name == *name,
    };
    ports.iter().find(is_there)?;
    Some(spec)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use relay_protocol::header::Protocol;

    use super::*;

    fn known() -> Vec<DeclaredPort> {
        let port = |name: &str, number, protocol| DeclaredPort { name: name.into(), number, protocol };
        vec![
            port("http", 80, Some(Protocol::Tcp)),
            port("assoc", 36412, None),
            port("", 9153, Some(Protocol::Tcp)),
            port("dns", 53, Some(Protocol::Udp)),
        ]
    }

    fn meaning(answer: &str) -> Result<String, String> {
        let specs = understood(answer, &known())?;
        Ok(specs.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn the_question_lists_what_can_be_forwarded() {
        assert_eq!(
            question("svc/web", &known()),
            "Ports of svc/web:\n  1  80/tcp (http)\n  2  9153/tcp\n  3  53/udp (dns)\nNumber or name [1]: "
        );
    }

    #[test]
    fn an_answer_is_a_number_a_name_or_a_port() {
        for (answer, meant) in [
            ("", "8080:http"),
            ("1", "8080:http"),
            ("2", "9153"),
            ("80", "8080:http"),
            ("9153", "9153"),
            ("dns", "8053:dns"),
            ("1,3 1", "8080:http 8053:dns"),
            ("9000:http", "9000:http"),
            (":53@udp", ":53@udp"),
        ] {
            assert_eq!(meaning(answer), Ok(meant.into()), "{answer:?}");
        }
        for (answer, named) in
            [("0", "0"), ("4", "4"), ("1 httpd", "httpd"), ("9000:other", "9000:other"), (",", ",")]
        {
            assert_eq!(meaning(answer), Err(named.into()), "{answer:?}");
        }
    }

    proptest! {
        #[test]
        fn any_answer_gives_ports_or_a_word(answer in ".{0,20}|[0-9:@a-z, ]{0,12}") {
            if let Ok(specs) = understood(answer.trim(), &known()) {
                prop_assert!(!specs.is_empty());
            }
        }
    }
}
