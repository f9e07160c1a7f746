//! The typed file of many forwards, `relay.yaml`: what may stand in it, and what is wrong where. Targets and ports are in
//! the grammar of the command line; docs/relay.schema.json tells an editor the same.

mod defaults;
mod read;
mod tree;

use std::path::Path;

pub use self::defaults::Defaults;
use crate::{
    cli::{
        settings::{ListenAddress, UsageError},
        wanted::Wanted,
    },
    target::Place,
};

/// The schema that editors use.
pub const SCHEMA: &str = include_str!("../../docs/relay.schema.json");

/// What a file asks for.
#[derive(Debug, Clone)]
pub struct RelayFile {
    /// In the order of the file, first those without a group.
    pub forwards: Vec<Listed>,
    /// The names of the groups, in the order of the file.
    pub groups: Vec<String>,
    /// What goes for every forward.
    pub defaults: Defaults,
}

/// One entry of a list of forwards.
#[derive(Debug, Clone)]
pub struct Listed {
    /// Its `name`, or else the name of what it leads to: `web` for `svc/web`.
    pub name: String,
    /// The group that it stands in.
    pub group: Option<String>,
    /// The target with its ports.
    pub wanted: Wanted,
}

/// What is wrong at some place of a file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Mistake {
    /// It is no YAML.
    #[error("{0}")]
    Yaml(String),
    /// A key that means nothing.
    #[error("{within} has no \"{key}\"")]
    UnknownKey {
        /// As typed.
        key: String,
        /// What has keys there.
        within: &'static str,
        /// What may stand there.
        known: Vec<&'static str>,
    },
    /// Something of another kind.
    #[error("{key} must be {wanted}, not {found}")]
    Kind {
        /// Its key.
        key: String,
        /// What belongs there.
        wanted: &'static str,
        /// What is there.
        found: &'static str,
    },
    /// A forward without something that it needs.
    #[error("a forward has no {0}")]
    Missing(&'static str),
    /// A name that could not be typed.
    #[error("\"{0}\" is no name")]
    Name(String),
    /// A name of two forwards, or of a forward and a group.
    #[error("the name \"{name}\" is taken by line {first}")]
    NameTwice {
        /// The name.
        name: String,
        /// Where it is first.
        first: usize,
    },
    /// A text with more than a target and its ports.
    #[error("\"{0}\" is more than one target")]
    ManyTargets(String),
    /// `version`.
    #[error("version {0} is not known here")]
    Version(String),
    /// A value that its flag would not take.
    #[error("{key}: {message}")]
    Value {
        /// Its key.
        key: String,
        /// What is wrong.
        message: String,
    },
    /// What only `up` does.
    #[error("defaults has {0}, which is for kubectl relay up")]
    OnlyUp(String),
}

impl Mistake {
    /// What to write instead.
    pub fn hint(&self) -> String {
        match self {
            Self::Yaml(_) => {
                "the file is YAML: two spaces deeper for what belongs to a key, \"- \" before each of a list"
                    .into()
            }
            Self::UnknownKey { key, known, .. } => match nearest(key, known) {
                Some(near) => format!("did you mean {near}?"),
                None => format!("it may have {}", known.join(", ")),
            },
            Self::Kind { key, .. } if key == "ports" => "for example ports: [8080:http, 9000]".into(),
            Self::Kind { .. } => "docs/up.md shows a whole file".into(),
            Self::Missing("ports") => "for example ports: 8080:http".into(),
            Self::Missing(_) => "for example target: svc/web".into(),
            Self::Name(_) => {
                "a name has up to 63 letters, digits, dots, dashes and underscores, and not digits alone"
                    .into()
            }
            Self::NameTwice { .. } => "give each forward and each group a name of its own".into(),
            Self::ManyTargets(_) => {
                "write one target with its ports, and the next one on a line of its own".into()
            }
            Self::Version(_) => "write version: 1, or use a newer kubectl relay".into(),
            Self::Value { .. } => {
                "it is the value of the flag of the same name; kubectl relay --help has them all".into()
            }
            Self::OnlyUp(key) => {
                format!("use kubectl relay up, or leave {key} to a flag of the command line")
            }
        }
    }
}

/// The known word that was most likely meant.
pub(crate) fn nearest<'a>(typed: &str, known: &[&'a str]) -> Option<&'a str> {
    let typed = typed.to_lowercase().replace(['-', '_', '.'], "");
    let likeness = |word: &&str| strsim::jaro_winkler(&typed, &word.to_lowercase());
    known
        .iter()
        .copied()
        .filter(|word| likeness(word) > 0.8)
        .max_by(|one, other| likeness(one).total_cmp(&likeness(other)))
}

/// Whether a file of this name is of this kind.
pub fn is_named_so(path: &Path) -> bool {
    let is = |extension: &std::ffi::OsStr| {
        extension.eq_ignore_ascii_case("yaml") || extension.eq_ignore_ascii_case("yml")
    };
    path.extension().is_some_and(is)
}

impl RelayFile {
    /// Reads a text; `file` is how it is called in messages. What does not say where to listen listens on `addresses`.
    ///
    /// # Errors
    /// The first thing that is wrong, with its line.
    pub fn parse(file: &str, text: &str, addresses: &[ListenAddress]) -> Result<Self, UsageError> {
        read::whole(file, text, addresses)
    }

    /// All of it for a run of the command line, which has flags of its own for everything else.
    ///
    /// # Errors
    /// As [`RelayFile::parse`], and defaults that a run takes from its flags.
    pub(crate) fn parse_for_run(
        file: &str,
        text: &str,
        addresses: &[ListenAddress],
    ) -> Result<Vec<Wanted>, UsageError> {
        let whole = Self::parse(file, text, addresses)?;
        if let Some((key, line)) = whole.defaults.first() {
            let place = Place { file: file.into(), line };
            return Err(UsageError::from(Mistake::OnlyUp(key.into())).at(Some(&place)));
        }
        Ok(whole.forwards.into_iter().map(|listed| listed.wanted).collect())
    }
}

#[cfg(test)]
mod tests;
