//! The licences of everything that is linked, with their whole texts.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use super::packages::Package;

/// How files with licences begin, in capitals.
const BEGINNINGS: [&str; 5] = ["LICENSE", "LICENCE", "COPYING", "COPYRIGHT", "NOTICE"];
const RULE: &str = "--------------------------------------------------------------------------------";

/// Something linked that Cargo does not know of: a name and its licence.
pub(crate) struct Part {
    pub(crate) name: String,
    pub(crate) text: String,
}

/// One text about all of them: each package with its licence, then each licence's text once, with those that it is for.
///
/// # Errors
/// A package brings no text, and does not offer `ours`, which is Apache-2.0.
pub(crate) fn texts(packages: &[Package], parts: &[Part], ours: &str) -> Result<String> {
    let mut text = String::from("Software of others that is part of this program, and its licences.\n\n");
    let mut users: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for package in packages.iter().filter(|package| package.foreign) {
        let name = format!("{} {}", package.name, package.version);
        writeln!(text, "{name}: {}", package.licence)?;
        let mut found = files(&package.folder).with_context(|| format!("licences of {name}"))?;
        if found.is_empty() {
            if !package.licence.contains("Apache-2.0") {
                bail!("{name} brings no text of its licence, {}", package.licence);
            }
            found.push(ours.to_owned());
        }
        for licence in found {
            users.entry(licence).or_default().push(name.clone());
        }
    }
    for part in parts {
        writeln!(text, "{}", part.name)?;
        users.entry(part.text.clone()).or_default().push(part.name.clone());
    }
    let mut by_user: Vec<_> = users.into_iter().map(|(licence, names)| (names, licence)).collect();
    by_user.sort();
    for (names, licence) in by_user {
        write!(text, "\n{RULE}\n{}\n{RULE}\n\n{licence}\n", names.join(", "))?;
    }
    Ok(text)
}

/// The texts in a package's folder.
fn files(folder: &Path) -> Result<Vec<String>> {
    let mut texts = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().to_uppercase();
        let is_licence =
            name.starts_with("UNLICENSE") || BEGINNINGS.iter().any(|word| name.starts_with(word));
        if is_licence && entry.metadata()?.is_file() {
            let bytes = fs::read(entry.path()).with_context(|| format!("read {}", entry.path().display()))?;
            texts.push(String::from_utf8_lossy(&bytes).replace("\r\n", "\n").trim_matches('\n').to_owned());
        }
    }
    texts.sort();
    Ok(texts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, licence: &str, folder: &Path) -> Package {
        Package {
            name: name.into(),
            version: "1.0.0".into(),
            licence: licence.into(),
            folder: folder.into(),
            foreign: true,
            description: None,
            repository: None,
            links: Vec::new(),
        }
    }

    #[test]
    fn each_text_is_there_once_with_all_that_it_is_for() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(one.path().join("LICENSE-MIT"), "do what you like\r\n").unwrap();
        fs::write(two.path().join("license.md"), "do what you like").unwrap();
        fs::write(two.path().join("NOTICE"), "made by somebody").unwrap();
        fs::write(two.path().join("README.md"), "no licence").unwrap();
        let packages = [package("one", "MIT", one.path()), package("two", "MIT", two.path())];
        let parts = [Part { name: "a C library".into(), text: "C's licence".into() }];
        let text = texts(&packages, &parts, "Apache").unwrap();
        assert_eq!(text.matches("do what you like").count(), 1);
        assert!(text.contains("\none 1.0.0, two 1.0.0\n"));
        assert!(text.contains("made by somebody") && text.contains("C's licence"));
        assert!(!text.contains("no licence"));
    }

    #[test]
    fn without_a_text_only_the_licence_that_we_have_ourselves_will_do() {
        let folder = tempfile::tempdir().unwrap();
        let text =
            texts(&[package("one", "MIT OR Apache-2.0", folder.path())], &[], "Apache's text").unwrap();
        assert!(text.contains("Apache's text"));
        let error = texts(&[package("one", "MIT", folder.path())], &[], "Apache's text").unwrap_err();
        assert!(error.to_string().contains("one 1.0.0"));
    }
}
