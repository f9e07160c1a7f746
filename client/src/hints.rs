//! What the cluster can tell of a command line that does not say everything: the ports of a target, the forward that its
//! owner suggests, the targets that there are. On a terminal it is asked for, elsewhere the error says what to type.

pub mod answer;
mod keyboard;
pub mod offer;
pub mod picker;

pub use keyboard::Keyboard;

use crate::{
    cluster::{ports::DeclaredPort, resolve::ResolveError},
    port::{PortError, PortSpec},
};

/// The annotation of a Service, a workload or a pod that says how it is best forwarded.
pub const ANNOTATION: &str = "kubectl-relay/forward";

/// A command line that the cluster cannot complete either.
#[derive(Debug, thiserror::Error)]
pub enum HintError {
    /// A target without ports, and nobody to ask which.
    #[error("target \"{target}\" has no port")]
    NoPorts {
        /// As typed.
        target: String,
        /// Those it has.
        known: Vec<DeclaredPort>,
        /// What is typed before the target: `kubectl relay`, perhaps with a namespace.
        command: String,
    },
    /// The annotation makes no sense.
    #[error("the annotation {ANNOTATION} of {object} is wrong: {why}")]
    Annotation {
        /// The object, as typed.
        object: String,
        /// What is wrong with it.
        why: AnnotationError,
    },
    /// Nothing to choose from.
    #[error("namespace \"{0}\" has no Service and no workload")]
    Empty(String),
    /// The question was left without an answer.
    #[error("nothing is chosen")]
    NoAnswer,
    /// The object cannot be looked at.
    #[error(transparent)]
    Resolve(#[from] ResolveError),
}

/// What is wrong with an annotation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AnnotationError {
    /// It holds nothing.
    #[error("it names no port")]
    Empty,
    /// It could do things to a terminal.
    #[error("it holds characters that no port has")]
    Characters,
    /// One of its words is no port.
    #[error(transparent)]
    Port(#[from] PortError),
}

impl HintError {
    /// What to type.
    pub fn hint(&self) -> String {
        match self {
            Self::NoPorts { target, known, command } => match offer::forwardable(known).next() {
                Some(first) => {
                    let example = offer::spec(first, known);
                    let all: Vec<_> = known.iter().map(ToString::to_string).collect();
                    format!("{target} has {}; type for example: {command} {target} {example}", all.join(", "))
                }
                None if known.is_empty() => {
                    format!("{target} declares none, so name it by its number: {command} {target} 8080:80")
                }
                None => "its ports speak neither TCP nor UDP, so they cannot be forwarded".into(),
            },
            Self::Annotation { object, .. } => format!(
                "name the ports yourself, or correct it: kubectl annotate {object} --overwrite {ANNOTATION}=8080:http"
            ),
            Self::Empty(_) => "-n names another namespace; ip/ADDR and host/NAME need no object".into(),
            Self::NoAnswer => "name a target and its ports: kubectl relay svc/web 8080:http".into(),
            Self::Resolve(error) => error.hint(),
        }
    }

    /// Whether it is the command line that is wrong.
    pub fn is_misuse(&self) -> bool {
        matches!(self, Self::NoPorts { .. } | Self::NoAnswer)
    }
}

/// Reads an annotation: ports as on the command line, with commas or blanks between.
///
/// # Errors
/// See [`AnnotationError`].
pub fn parse_annotation(text: &str) -> Result<Vec<PortSpec>, AnnotationError> {
    // It is anybody's text, and what is wrong with it is going to be shown.
    if text.chars().any(|letter| !letter.is_ascii_graphic() && !letter.is_whitespace()) {
        return Err(AnnotationError::Characters);
    }
    let ports: Vec<PortSpec> = words(text).map(str::parse).collect::<Result<_, _>>()?;
    if ports.is_empty() { Err(AnnotationError::Empty) } else { Ok(ports) }
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|letter: char| letter == ',' || letter.is_whitespace()).filter(|word| !word.is_empty())
}

#[cfg(test)]
mod tests {
    use relay_protocol::header::Protocol;

    use super::*;

    #[test]
    fn an_annotation_is_a_list_of_ports() {
        let read = |text| parse_annotation(text).map(|ports| ports.iter().map(ToString::to_string).collect());
        let ports = |ports: &[&str]| Ok(ports.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert_eq!(read("8080:http"), ports(&["8080:http"]));
        assert_eq!(read(" 8080:http, :9090\n53@udp,"), ports(&["8080:http", ":9090", "53@udp"]));
        assert_eq!(read(" , "), Err(AnnotationError::Empty));
        assert_eq!(read("80\x1b[2J"), Err(AnnotationError::Characters));
        assert_eq!(
            read("8080:http svc/other").unwrap_err().to_string(),
            "port \"svc/other\": \"svc/other\" is neither a port number nor a port name"
        );
    }

    #[test]
    fn the_ports_that_there_are_are_told_with_what_to_type() {
        let port = |name: &str, number, protocol| DeclaredPort { name: name.into(), number, protocol };
        let error = |known| HintError::NoPorts {
            target: "svc/web".into(),
            known,
            command: "kubectl relay -n dev".into(),
        };
        let two = error(vec![port("", 36412, None), port("http", 80, Some(Protocol::Tcp))]);
        assert_eq!(two.to_string(), "target \"svc/web\" has no port");
        assert_eq!(
            two.hint(),
            "svc/web has 36412/sctp, 80/tcp (http); type for example: kubectl relay -n dev svc/web 8080:http"
        );
        assert_eq!(
            error(vec![]).hint(),
            "svc/web declares none, so name it by its number: kubectl relay -n dev svc/web 8080:80"
        );
        assert!(error(vec![port("", 1, None)]).hint().contains("cannot be forwarded"));
    }
}
