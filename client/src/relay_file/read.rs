//! From a tree to what it means.

use serde_saphyr::Spanned;

use super::{
    Defaults, Listed, Mistake, RelayFile,
    tree::{self, Node, line},
};
use crate::{
    cli::{
        args::ClusterArgs,
        settings::{ListenAddress, UsageError, parse_addresses},
        wanted::{Wanted, check_each_address},
    },
    target::{Place, Target, TargetSpec, parse_arguments},
};

pub(super) const TOP: &[&str] = &["version", "defaults", "groups", "forwards"];
pub(super) const GROUP: &[&str] = &["context", "namespace", "address", "forwards"];
pub(super) const FORWARD: &[&str] = &["name", "target", "ports", "context", "namespace", "address"];

/// A map's entries.
type Entries<'a> = Vec<(&'a Spanned<String>, &'a Spanned<Node>)>;

/// Tells of mistakes with their place.
pub(super) struct Reader<'a> {
    file: &'a str,
}

/// What a forward, its group and the whole file may each say; the nearest word counts.
#[derive(Debug, Clone, Default)]
struct Around {
    context: Option<String>,
    namespace: Option<String>,
    addresses: Option<Vec<ListenAddress>>,
}

impl Reader<'_> {
    fn place(&self, line: usize) -> Place {
        Place { file: self.file.into(), line }
    }

    pub(super) fn wrong(&self, line: usize, what: impl Into<UsageError>) -> UsageError {
        what.into().at(Some(&self.place(line)))
    }

    /// A map with none but known keys. Nothing at all is an empty one.
    fn map<'n>(
        &self,
        what: &'static str,
        node: &'n Spanned<Node>,
        known: &[&'static str],
    ) -> Result<Entries<'n>, UsageError> {
        let entries = match &node.value {
            Node::Nothing => return Ok(Vec::new()),
            Node::Map(entries) => entries,
            other => {
                let mistake = Mistake::Kind { key: what.into(), wanted: "a map", found: other.kind() };
                return Err(self.wrong(line(node), mistake));
            }
        };
        for (key, _) in entries {
            if !known.is_empty() && !known.contains(&key.value.as_str()) {
                let (key, at) = (key.value.clone(), line(key));
                let mistake = Mistake::UnknownKey { key, within: what, known: known.to_vec() };
                return Err(self.wrong(at, mistake));
            }
        }
        Ok(entries.iter().map(|(key, value)| (key, value)).collect())
    }

    fn around(&self, entries: &Entries<'_>) -> Result<Around, UsageError> {
        let mut around = Around::default();
        for (key, value) in entries {
            match key.value.as_str() {
                "context" => around.context = Some(text(self, "context", value)?),
                "namespace" => around.namespace = Some(text(self, "namespace", value)?),
                "address" => {
                    let addresses = parse_addresses(&texts(self, "address", value)?);
                    around.addresses = Some(addresses.map_err(|error| self.wrong(line(key), error))?);
                }
                _ => {}
            }
        }
        Ok(around)
    }

    fn name(&self, typed: &str, at: usize) -> Result<String, UsageError> {
        let fits = (1..=63).contains(&typed.len())
            && typed.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
            && typed.starts_with(|first: char| first.is_ascii_alphanumeric())
            // Digits alone are an id.
            && !typed.bytes().all(|byte| byte.is_ascii_digit());
        if fits { Ok(typed.into()) } else { Err(self.wrong(at, Mistake::Name(typed.into()))) }
    }

    fn list(
        &self,
        node: &Spanned<Node>,
        group: Option<&str>,
        around: &Around,
    ) -> Result<Vec<(Listed, bool)>, UsageError> {
        match &node.value {
            Node::Nothing => Ok(Vec::new()),
            Node::List(forwards) => forwards.iter().map(|node| self.forward(node, group, around)).collect(),
            other => {
                let mistake = Mistake::Kind { key: "forwards".into(), wanted: "a list", found: other.kind() };
                Err(self.wrong(line(node), mistake))
            }
        }
    }

    /// A forward, and whether its name is its own.
    fn forward(
        &self,
        node: &Spanned<Node>,
        group: Option<&str>,
        around: &Around,
    ) -> Result<(Listed, bool), UsageError> {
        let at = line(node);
        let (words, name, own) = match &node.value {
            Node::Text(typed) => {
                (typed.split_whitespace().map(str::to_owned).collect(), None, Around::default())
            }
            _ => {
                let entries = self.map("a forward", node, FORWARD)?;
                let find = |wanted: &str| entries.iter().find(|(key, _)| key.value == wanted);
                let (_, target) = find("target").ok_or_else(|| self.wrong(at, Mistake::Missing("target")))?;
                let (_, ports) = find("ports").ok_or_else(|| self.wrong(at, Mistake::Missing("ports")))?;
                let mut words = vec![text(self, "target", target)?];
                for port in texts(self, "ports", ports)? {
                    words.extend(port.split_whitespace().map(str::to_owned));
                }
                let name = match find("name") {
                    Some((key, value)) => Some(self.name(&text(self, "name", value)?, line(key))?),
                    None => None,
                };
                (words, name, self.around(&entries)?)
            }
        };
        let spec = self.target(&words, at)?;
        let is_own = name.is_some();
        let wanted = Wanted {
            namespace: own.namespace.or_else(|| around.namespace.clone()),
            context: own.context.or_else(|| around.context.clone()),
            addresses: own.addresses.or_else(|| around.addresses.clone()).unwrap_or_default(),
            spec,
        };
        let name = name.unwrap_or_else(|| name_of(&wanted.spec.target));
        Ok((Listed { name, group: group.map(Into::into), wanted }, is_own))
    }

    /// Exactly one target with ports.
    fn target(&self, words: &[String], at: usize) -> Result<TargetSpec, UsageError> {
        let mut specs = parse_arguments(words).map_err(|error| self.wrong(at, UsageError::from(error)))?;
        if specs.len() != 1 {
            return Err(self.wrong(at, Mistake::ManyTargets(words.join(" "))));
        }
        Ok(TargetSpec { place: Some(self.place(at)), ..specs.remove(0) })
    }
}

/// A text or a number.
pub(super) fn text(reader: &Reader<'_>, key: &str, node: &Spanned<Node>) -> Result<String, UsageError> {
    match &node.value {
        Node::Text(text) if !text.is_empty() => Ok(text.clone()),
        other => {
            let found = if matches!(other, Node::Text(_)) { "an empty one" } else { other.kind() };
            let mistake = Mistake::Kind { key: key.into(), wanted: "a text", found };
            Err(reader.wrong(line(node), mistake))
        }
    }
}

/// One, or a list of them that has at least one.
pub(super) fn texts(reader: &Reader<'_>, key: &str, node: &Spanned<Node>) -> Result<Vec<String>, UsageError> {
    match &node.value {
        Node::List(all) if !all.is_empty() => all.iter().map(|node| text(reader, key, node)).collect(),
        Node::Text(_) => Ok(vec![text(reader, key, node)?]),
        other => {
            let found = if matches!(other, Node::List(_)) { "an empty one" } else { other.kind() };
            let mistake = Mistake::Kind { key: key.into(), wanted: "a text or a list of them", found };
            Err(reader.wrong(line(node), mistake))
        }
    }
}

fn name_of(target: &Target) -> String {
    let shown = target.to_string();
    shown.split_once('/').map_or(shown.clone(), |(_, name)| name.to_owned())
}

pub(super) fn whole(
    file: &str,
    text_of_file: &str,
    addresses: &[ListenAddress],
) -> Result<RelayFile, UsageError> {
    let reader = Reader { file };
    let tree = tree::parse(text_of_file).map_err(|(line, mistake)| reader.wrong(line, mistake))?;
    let entries = reader.map("the file", &tree, TOP)?;
    let find = |wanted: &str| entries.iter().find(|(key, _)| key.value == wanted).map(|(_, value)| *value);
    if let Some(version) = find("version") {
        let typed = text(&reader, "version", version)?;
        if typed != "1" {
            return Err(reader.wrong(line(version), Mistake::Version(typed)));
        }
    }
    let (mut defaults, mut around) = (Defaults::default(), Around::default());
    if let Some(node) = find("defaults") {
        let entries = reader.map("defaults", node, &Defaults::keys())?;
        around = reader.around(&entries)?;
        for (key, value) in entries {
            defaults.take(&reader, key, value)?;
        }
        let together = defaults.settings(ClusterArgs::default(), 0);
        together.map_err(|error| reader.wrong(line(node), error))?;
    }
    around.addresses.get_or_insert_with(|| addresses.to_vec());

    let mut forwards = match find("forwards") {
        Some(node) => reader.list(node, None, &around)?,
        None => Vec::new(),
    };
    let mut names: Vec<(String, usize)> = Vec::new();
    let mut groups = Vec::new();
    if let Some(node) = find("groups") {
        for (key, group) in reader.map("groups", node, &[])? {
            let name = reader.name(&key.value, line(key))?;
            let entries = reader.map("a group", group, GROUP)?;
            let own = reader.around(&entries)?;
            let around = Around {
                context: own.context.or_else(|| around.context.clone()),
                namespace: own.namespace.or_else(|| around.namespace.clone()),
                addresses: own.addresses.or_else(|| around.addresses.clone()),
            };
            if let Some((_, node)) = entries.iter().find(|(key, _)| key.value == "forwards") {
                forwards.extend(reader.list(node, Some(&name), &around)?);
            }
            names.push((name.clone(), line(key)));
            groups.push(name);
        }
    }
    for (listed, _) in forwards.iter().filter(|(_, is_own)| *is_own) {
        let at = listed.wanted.spec.place.as_ref().map_or(1, |place| place.line);
        if let Some((name, first)) = names.iter().find(|(name, _)| *name == listed.name) {
            let (name, first) = (name.clone(), *first);
            return Err(reader.wrong(at.max(first), Mistake::NameTwice { name, first: first.min(at) }));
        }
        names.push((listed.name.clone(), at));
    }
    let forwards: Vec<Listed> = forwards.into_iter().map(|(listed, _)| listed).collect();
    if forwards.is_empty() {
        return Err(UsageError::NoForwards(file.into()));
    }
    // Two groups may never run together.
    let of_no_group = std::iter::once(None);
    for group in of_no_group.chain(groups.iter().map(|name| Some(name.as_str()))) {
        let beside = |listed: &&Listed| listed.group.is_none() || listed.group.as_deref() == group;
        let wanted: Vec<Wanted> =
            forwards.iter().filter(beside).map(|listed| listed.wanted.clone()).collect();
        check_each_address(&wanted)?;
    }
    Ok(RelayFile { forwards, groups, defaults })
}
