//! A copy of the source, where its build goes, and what the compiler is told: here, or anywhere for a release.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use crate::paths;
use crate::shell::{self, step};

/// Relocations of a program that may lie anywhere take 24 bytes each; packed (RELR, musl 1.2.4) it is a bit or two.
const PACKED_RELOCATIONS: &str = "-Clink-arg=-zpack-relative-relocs";

/// Where a build finds its source and leaves its result.
pub(crate) struct Workspace {
    /// The root of the checkout, or of a copy.
    pub(crate) source: PathBuf,
    /// Cargo's output folder.
    pub(crate) target: PathBuf,
    /// Additional environment of every build.
    pub(crate) environment: Vec<(String, OsString)>,
}

impl Workspace {
    /// This checkout, as everybody builds it.
    pub(crate) fn here() -> Self {
        Self { source: paths::root().into(), target: paths::target(), environment: Vec::new() }
    }

    /// A build in it, by Cargo itself or by a program that calls Cargo.
    pub(crate) fn build(&self, mut program: Command, verb: &str, package: &str, profile: &str) -> Command {
        program.current_dir(&self.source).arg(verb);
        program.args(["--quiet", "--package", package, "--profile", profile]);
        program.env("CARGO_TARGET_DIR", &self.target);
        // The toolchain's own linker, not this machine's: it links for any processor what brings no C of its own.
        for processor in ["AARCH64", "X86_64"] {
            program.env(format!("CARGO_TARGET_{processor}_UNKNOWN_LINUX_MUSL_LINKER"), "rust-lld");
        }
        program.envs(self.environment.iter().map(|(name, value)| (name, value)));
        program
    }

    /// Builds a package as a static program; gives its path.
    pub(crate) fn build_static(&self, target: &str, package: &str, profile: &str) -> Result<PathBuf> {
        add_target(target)?;
        step(&format!("build {package} ({target}, profile {profile})"), || {
            let mut build = self.build(cargo(), "rustc", package, profile);
            shell::run(build.args(["--target", target, "--bin", package, "--", PACKED_RELOCATIONS]))
        })?;
        Ok(self.built(target, package, profile))
    }

    /// Where a build for `target` leaves the program of this package, without a suffix.
    pub(crate) fn built(&self, target: &str, package: &str, profile: &str) -> PathBuf {
        let folder = if profile == "dev" { "debug" } else { profile };
        self.target.join(target).join(folder).join(package)
    }
}

/// The Cargo that runs us.
pub(crate) fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// Makes sure that the toolchain has the library for this target.
pub(crate) fn add_target(target: &str) -> Result<()> {
    let installed = shell::output(Command::new("rustup").args(["target", "list", "--installed"]))?;
    if !installed.lines().any(|line| line == target) {
        shell::run(Command::new("rustup").args(["target", "add", target]))?;
    }
    Ok(())
}
