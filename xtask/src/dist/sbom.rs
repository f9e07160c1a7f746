//! What a program is made of, for machines: CycloneDX 1.6 in JSON.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::build::Release;
use super::packages::Package;
use super::toolchain::ZIG;

/// The bill of one archive. No serial number and no time: equal programs have equal bills.
pub(crate) fn bill(
    packages: &[Package],
    checksums: &BTreeMap<(String, String), String>,
    release: &Release,
    rustc: &str,
    target: &str,
) -> Result<String> {
    let program = packages.iter().find(|package| package.name == "kubectl-relay").context("no plugin")?;
    let components = packages.iter().filter(|package| package.name != program.name);
    let components: Vec<Value> = components.map(|package| component(package, "library", checksums)).collect();
    let mut dependencies = Vec::new();
    for package in packages {
        let mut on: Vec<String> =
            package.links.iter().filter_map(|place| packages.get(*place)).map(purl).collect();
        if package.name == program.name {
            // It carries these: built apart, and taken in as files.
            on.extend(packages.iter().filter(|package| is_carried(package)).map(purl));
        }
        dependencies.push(json!({ "ref": purl(package), "dependsOn": on }));
    }
    let mut properties = vec![
        json!({ "name": "kubectl-relay:rustc", "value": rustc }),
        json!({ "name": "kubectl-relay:zig", "value": ZIG }),
        json!({ "name": "kubectl-relay:target", "value": target }),
    ];
    if let Some(commit) = &release.commit {
        properties.push(json!({ "name": "kubectl-relay:commit", "value": commit }));
    }
    let bill = json!({
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": { "component": component(program, "application", checksums), "properties": properties },
        "components": components,
        "dependencies": dependencies,
    });
    Ok(format!("{bill:#}\n"))
}

fn is_carried(package: &Package) -> bool {
    ["relay-server", "relay-launcher"].contains(&package.name.as_str())
}

fn component(package: &Package, kind: &str, checksums: &BTreeMap<(String, String), String>) -> Value {
    let kind = if is_carried(package) { "application" } else { kind };
    let mut component = json!({
        "type": kind,
        "bom-ref": purl(package),
        "name": package.name,
        "version": package.version,
        "purl": purl(package),
        "licenses": [{ "expression": package.licence }],
    });
    if let Some(description) = &package.description {
        component["description"] = description.as_str().into();
    }
    if let Some(repository) = &package.repository {
        component["externalReferences"] = json!([{ "type": "vcs", "url": repository }]);
    }
    if let Some(checksum) = checksums.get(&(package.name.clone(), package.version.clone())) {
        component["hashes"] = json!([{ "alg": "SHA-256", "content": checksum }]);
    }
    component
}

/// The package's address, for every tool that looks for known faults.
fn purl(package: &Package) -> String {
    format!("pkg:cargo/{}@{}", package.name, package.version.replace('+', "%2B"))
}

/// The registry's checksums, by name and version, as the lock file has them.
pub(crate) fn checksums(lock: &str) -> BTreeMap<(String, String), String> {
    let mut checksums = BTreeMap::new();
    for package in lock.split("[[package]]") {
        let field = |name: &str| {
            let line = package.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(" = "));
            line.map(|value| value.trim_matches('"').to_owned())
        };
        if let (Some(name), Some(version), Some(checksum)) =
            (field("name"), field("version"), field("checksum"))
        {
            checksums.insert((name, version), checksum);
        }
    }
    checksums
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, foreign: bool, links: &[usize]) -> Package {
        Package {
            name: name.into(),
            version: "1.0.0+2".into(),
            licence: "MIT OR Apache-2.0".into(),
            folder: "/".into(),
            foreign,
            description: None,
            repository: None,
            links: links.into(),
        }
    }

    #[test]
    fn a_bill_names_every_package_once_with_its_checksum_and_what_it_links() {
        let lock = "version = 4\n\n[[package]]\nname = \"bytes\"\nversion = \"1.0.0+2\"\nsource = \"registry\"\n\
                    checksum = \"abc\"\n\n[[package]]\nname = \"kubectl-relay\"\nversion = \"1.0.0+2\"\n";
        let packages = [
            package("bytes", true, &[]),
            package("kubectl-relay", false, &[0]),
            package("relay-server", false, &[0]),
        ];
        let release =
            Release { version: "1.0.0".into(), commit: Some("c0ffee".into()), time: 1, changed: false };
        let bill = bill(&packages, &checksums(lock), &release, "rustc 1", "target").unwrap();
        let bill: Value = serde_json::from_str(&bill).unwrap();
        assert_eq!(bill["metadata"]["component"]["purl"], "pkg:cargo/kubectl-relay@1.0.0%2B2");
        assert_eq!(bill["components"].as_array().unwrap().len(), 2);
        assert_eq!(bill["components"][0]["hashes"][0]["content"], "abc");
        assert_eq!(bill["components"][1]["type"], "application");
        let plugin = &bill["dependencies"][1];
        assert_eq!(
            plugin["dependsOn"],
            json!(["pkg:cargo/bytes@1.0.0%2B2", "pkg:cargo/relay-server@1.0.0%2B2"])
        );
    }
}
