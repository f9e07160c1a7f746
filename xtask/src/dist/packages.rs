//! What is linked into the product: packages of `cargo metadata`, from the programs down.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::shell;
use crate::workspace::{Workspace, cargo};

/// One package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) version: String,
    /// An SPDX expression; `/` means OR in old ones.
    pub(crate) licence: String,
    /// Where its source lies.
    pub(crate) folder: PathBuf,
    /// Whether it comes from a registry, and is not ours.
    pub(crate) foreign: bool,
    pub(crate) description: Option<String>,
    pub(crate) repository: Option<String>,
    /// Positions in the list of what it links.
    pub(crate) links: Vec<usize>,
}

/// Everything that these packages of the workspace link on `target`, themselves included, sorted by name and version.
/// Features are those of the whole workspace, so it may be a little more than what is really linked.
pub(crate) fn linked(workspace: &Workspace, programs: &[&str], target: &str) -> Result<Vec<Package>> {
    let mut metadata = cargo();
    metadata.current_dir(&workspace.source).args(["metadata", "--format-version", "1", "--locked"]);
    let text = shell::output(metadata.args(["--filter-platform", target]))?;
    from_metadata(&serde_json::from_str(&text).context("cargo metadata gave no JSON")?, programs)
}

fn from_metadata(metadata: &Value, programs: &[&str]) -> Result<Vec<Package>> {
    let packages: BTreeMap<&str, &Value> = objects(&metadata["packages"], "id");
    let nodes: BTreeMap<&str, &Value> = objects(&metadata["resolve"]["nodes"], "id");

    let mut wanted = Vec::new();
    for program in programs {
        let is_it = |package: &&Value| package["name"] == *program && package["source"].is_null();
        let package = packages.values().copied().find(is_it);
        let package = package.with_context(|| format!("no package {program} in this workspace"))?;
        wanted.extend(package["id"].as_str());
    }
    let mut reached = BTreeSet::new();
    while let Some(id) = wanted.pop() {
        let links = links(packages.get(id).copied(), nodes.get(id).copied());
        if reached.insert(id) {
            wanted.extend(links);
        }
    }

    let mut ids: Vec<&str> = reached.into_iter().collect();
    let key = |id: &&str| {
        packages.get(id).map(|package| (package["name"].to_string(), package["version"].to_string()))
    };
    ids.sort_by_key(key);
    let place: BTreeMap<&str, usize> = ids.iter().enumerate().map(|(place, id)| (*id, place)).collect();
    ids.iter()
        .map(|id| {
            let package = packages.get(id).copied().context("a package without description")?;
            let links = links(Some(package), nodes.get(id).copied());
            let mut links: Vec<_> = links.iter().filter_map(|id| place.get(id).copied()).collect();
            links.sort_unstable();
            read(package, links).with_context(|| format!("what Cargo says about {id}"))
        })
        .collect()
}

fn read(package: &Value, links: Vec<usize>) -> Result<Package> {
    let text = |name: &str| package[name].as_str().map(str::to_owned);
    let mut folder = PathBuf::from(text("manifest_path").context("no manifest")?);
    folder.pop();
    Ok(Package {
        name: text("name").context("no name")?,
        version: text("version").context("no version")?,
        licence: text("license").context("no licence")?.replace('/', " OR "),
        folder,
        foreign: !package["source"].is_null(),
        description: text("description").map(|text| text.split_whitespace().collect::<Vec<_>>().join(" ")),
        repository: text("repository"),
        links,
    })
}

fn objects<'a>(list: &'a Value, key: &str) -> BTreeMap<&'a str, &'a Value> {
    list.as_array().into_iter().flatten().filter_map(|item| Some((item[key].as_str()?, item))).collect()
}

/// What a package brings into a program. A macro's own libraries stay in the compiler.
fn links<'a>(package: Option<&'a Value>, node: Option<&'a Value>) -> Vec<&'a str> {
    let kinds = package.into_iter().flat_map(|package| package["targets"].as_array().into_iter().flatten());
    let is_macro =
        |target: &Value| target["kind"].as_array().is_some_and(|kinds| kinds.contains(&"proc-macro".into()));
    if kinds.into_iter().any(is_macro) {
        return Vec::new();
    }
    let dependencies = node.into_iter().flat_map(|node| node["deps"].as_array().into_iter().flatten());
    let is_linked = |dependency: &&Value| {
        dependency["dep_kinds"]
            .as_array()
            .is_some_and(|kinds| kinds.iter().any(|kind| kind["kind"].is_null()))
    };
    dependencies.filter(is_linked).filter_map(|dependency| dependency["pkg"].as_str()).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn package(name: &str, source: Option<&str>, kind: &str) -> Value {
        json!({
            "id": name, "name": name, "version": "1.0.0", "license": "MIT/Apache-2.0", "source": source,
            "manifest_path": format!("/source/{name}/Cargo.toml"), "description": "two\n  words",
            "targets": [{ "kind": [kind] }],
        })
    }

    fn needs(name: &str, deps: &[(&str, Option<&str>)]) -> Value {
        let deps: Vec<_> =
            deps.iter().map(|(name, kind)| json!({"pkg": name, "dep_kinds": [{"kind": kind}]})).collect();
        json!({ "id": name, "deps": deps })
    }

    #[test]
    fn what_only_builds_and_tests_need_is_not_linked() {
        let metadata = json!({
            "packages": [
                package("program", None, "bin"),
                package("library", Some("registry"), "lib"),
                package("macro", Some("registry"), "proc-macro"),
                package("parser", Some("registry"), "lib"),
                package("cc", Some("registry"), "lib"),
                package("proptest", Some("registry"), "lib"),
            ],
            "resolve": { "nodes": [
                needs("program", &[("library", None), ("proptest", Some("dev"))]),
                needs("library", &[("macro", None), ("cc", Some("build"))]),
                needs("macro", &[("parser", None)]),
            ] },
        });
        let linked = from_metadata(&metadata, &["program"]).unwrap();
        let names: Vec<_> = linked.iter().map(|package| package.name.as_str()).collect();
        assert_eq!(names, ["library", "macro", "program"]);
        assert_eq!(linked[2].links, [0]);
        assert_eq!(linked[0].licence, "MIT OR Apache-2.0");
        assert_eq!(linked[0].description.as_deref(), Some("two words"));
        assert!(linked[0].foreign && !linked[2].foreign);
        assert!(from_metadata(&metadata, &["library"]).is_err());
    }
}
