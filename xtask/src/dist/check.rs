//! Whether a release is the same when somebody else builds it: from a copy of the source in another folder, into another.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use super::assemble::{Files, assemble};
use super::build::{self, Release};
use super::platform::Platform;
use super::toolchain::Zig;
use crate::image::sha256;
use crate::paths;
use crate::shell::{say, step};

/// Builds again from nothing, and compares with what was built.
pub(crate) fn again(first: &Files, zig: &Zig, release: &Release, platforms: &[Platform]) -> Result<()> {
    let folder = paths::target().join("dist-check");
    let source = folder.join("copy/of/the/source");
    step("copy the source", || {
        if folder.exists() {
            fs::remove_dir_all(&folder).with_context(|| format!("remove {}", folder.display()))?;
        }
        copy(paths::root(), &source)
    })?;
    let workspace = build::workspace(source, folder.join("build"), release)?;
    let second = assemble(&workspace, zig, release, platforms)?;
    let different = differences(first, &second);
    if !different.is_empty() {
        bail!(
            "not the same when built again: {}; what was built lies in {}",
            different.join(", "),
            folder.display()
        );
    }
    say(format!("  built twice, in different folders: {} files, all the same", first.len()));
    fs::remove_dir_all(&folder).with_context(|| format!("remove {}", folder.display()))
}

/// Names of files that only one of the two has, or that are not equal.
fn differences(first: &Files, second: &Files) -> Vec<String> {
    let list = |files: &Files| -> std::collections::BTreeMap<String, String> {
        files.iter().map(|(name, bytes)| (name.clone(), sha256(bytes))).collect()
    };
    let (first, second) = (list(first), list(second));
    let names: std::collections::BTreeSet<&String> = first.keys().chain(second.keys()).collect();
    names.into_iter().filter(|name| first.get(*name) != second.get(*name)).cloned().collect()
}

/// Copies what Git knows or would take.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let list = super::git(from, &["ls-files", "-z", "--cached", "--others", "--exclude-standard"]);
    let list = list.context("the source is no checkout of Git, so what belongs to it is unknown")?;
    for name in list.split('\0').filter(|name| !name.is_empty()) {
        let (from, to) = (from.join(name), to.join(name));
        // One that was deleted and is still in the index.
        if !from.exists() {
            continue;
        }
        if let Some(folder) = to.parent() {
            fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
        }
        fs::copy(&from, &to).with_context(|| format!("copy {}", from.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_differ_or_are_missing_on_one_side_are_named() {
        let file = |name: &str, bytes: &[u8]| (name.to_owned(), bytes.to_vec());
        let first = vec![file("a", b"1"), file("b", b"1"), file("c", b"1")];
        let second = vec![file("d", b"1"), file("b", b"2"), file("a", b"1")];
        assert_eq!(differences(&first, &second), ["b", "c", "d"]);
        assert!(differences(&first, &first).is_empty());
    }
}
