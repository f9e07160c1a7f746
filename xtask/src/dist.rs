//! `cargo xtask dist`: everything that a release consists of, built on one plain machine, the same on each.

mod assemble;
mod build;
mod check;
mod deb;
mod elf;
mod licences;
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
    /// Where the release goes; `target/dist` if not given. What was there is replaced.
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
    let wanted = |platform: &Platform| options.only.is_empty() || options.only.contains(platform);
    let platforms: Vec<Platform> = Platform::ALL.into_iter().filter(wanted).collect();
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
