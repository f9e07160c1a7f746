//! `cargo xtask dist`: everything that a release consists of, built on one plain machine, the same on each.

mod apple;
mod assemble;
mod build;
mod check;
mod deb;
mod elf;
#[cfg(test)]
mod install_page;
mod licences;
mod macho;
mod manual;
mod oci;
mod packages;
mod platform;
mod sbom;
mod template;
mod toolchain;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use clap::Args;

use crate::paths;
use crate::shell::{self, say};
use crate::workspace::cargo;
use assemble::{Files, assemble};
use build::Release;
use platform::Platform;
use toolchain::Zig;

/// Options of `cargo xtask dist`.
#[derive(Args)]
pub(crate) struct Options {
    /// Where the release goes; `target/dist` if not given. Files of the same names are replaced.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Build for these only.
    #[arg(long, value_enum, value_delimiter = ',', value_name = "PLATFORM")]
    only: Vec<Platform>,
    /// Build again from a copy of the source in another folder, and compare.
    #[arg(long)]
    check: bool,
}

/// Builds the release.
pub(crate) fn run(options: &Options) -> Result<()> {
    let source = paths::root();
    let platforms = platforms(&options.only);
    // Here already, because paths of what is fetched become part of the flags of every build.
    shell::run(cargo().current_dir(source).args(["fetch", "--locked", "--quiet"]))?;
    let release = Release::of(source)?;
    if release.changed {
        say("warning: the checkout has changes that no commit has; a release is built without");
    }
    let zig = Zig::ensure()?;
    let workspace = build::workspace(source.into(), paths::target().join("dist-build"), &release)?;
    let files = assemble(&workspace, &zig, &release, &platforms)?;
    let out = options.out.clone().unwrap_or_else(|| paths::target().join("dist"));
    write(&files, &out)?;
    if options.check {
        check::again(&files, &zig, &release, &platforms)?;
    }
    println!("{}", out.display());
    Ok(())
}

/// Those asked for, or all; in the order in which they are built.
fn platforms(only: &[Platform]) -> Vec<Platform> {
    Platform::ALL.into_iter().filter(|platform| only.is_empty() || only.contains(platform)).collect()
}

fn write(files: &Files, out: &Path) -> Result<()> {
    fs::create_dir_all(out).with_context(|| format!("make {}", out.display()))?;
    for (name, bytes) in files {
        let path = out.join(name);
        fs::write(&path, bytes).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

/// Git, about a checkout; nothing where there is none.
fn git(source: &Path, arguments: &[&str]) -> Option<String> {
    shell::output(Command::new("git").arg("-C").arg(source).args(arguments)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_platforms_are_built_or_those_asked_for() {
        assert_eq!(platforms(&[]), Platform::ALL);
        let asked = [Platform::DarwinArm64, Platform::LinuxArm64];
        assert_eq!(platforms(&asked), [Platform::LinuxArm64, Platform::DarwinArm64]);
    }

    #[test]
    fn a_release_replaces_what_was_there() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out");
        write(&vec![("a".into(), b"1".to_vec())], &out).unwrap();
        fs::write(out.join("SHA256SUMS"), "old").unwrap();
        write(&vec![("a".into(), b"2".to_vec()), ("SHA256SUMS".into(), b"new".to_vec())], &out).unwrap();
        assert_eq!(fs::read(out.join("a")).unwrap(), b"2");
        assert_eq!(fs::read(out.join("SHA256SUMS")).unwrap(), b"new");
    }
}
