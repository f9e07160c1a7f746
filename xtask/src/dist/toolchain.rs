//! The C compiler and linker for every platform: Zig, as PyPI has it, driven by cargo-zigbuild.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::paths;
use crate::shell::{self, step};

/// What Cargo is driven with.
const ZIGBUILD: &str = "0.24.0";
/// The compiler.
pub(crate) const ZIG: &str = "0.16.0";

/// Both, installed.
pub(crate) struct Zig {
    programs: PathBuf,
}

impl Zig {
    /// Installs what the cache lacks.
    pub(crate) fn ensure() -> Result<Self> {
        let folder = paths::cache()?.join("tools").join(format!("zigbuild-{ZIGBUILD}-{ZIG}"));
        let programs = folder.join("bin");
        // Written last: an installation that was cut off is done again.
        let complete = folder.join("complete");
        if !complete.is_file() {
            step(&format!("install cargo-zigbuild {ZIGBUILD} and Zig {ZIG}"), || {
                let mut python = Command::new("python3");
                shell::output(python.args(["-m", "venv", "--clear"]).arg(&folder))
                    .context("no virtual environment of Python; on Debian: apt-get install python3-venv")?;
                let mut pip = Command::new(programs.join("pip"));
                pip.args(["install", "--quiet", "--disable-pip-version-check"]);
                pip.arg(format!("cargo-zigbuild=={ZIGBUILD}")).arg(format!("ziglang=={ZIG}"));
                shell::output(&mut pip)?;
                fs::write(&complete, "").with_context(|| format!("write {}", complete.display()))
            })?;
        }
        Ok(Self { programs })
    }

    /// A text that comes with Zig.
    pub(crate) fn text(&self, path: &str) -> Result<String> {
        let libraries = self.programs.with_file_name("lib");
        for entry in fs::read_dir(&libraries).with_context(|| format!("read {}", libraries.display()))? {
            let file = entry?.path().join("site-packages/ziglang").join(path);
            if file.is_file() {
                return fs::read_to_string(&file).with_context(|| format!("read {}", file.display()));
            }
        }
        bail!("Zig {ZIG} has no {path} below {}", libraries.display())
    }

    /// cargo-zigbuild, which takes Cargo's own arguments after `zigbuild`.
    pub(crate) fn cargo(&self) -> Result<Command> {
        let mut folders = vec![self.programs.clone()];
        folders.extend(env::var_os("PATH").iter().flat_map(env::split_paths));
        let path: OsString = env::join_paths(folders).context("PATH holds a colon")?;
        let mut command = Command::new(self.programs.join("cargo-zigbuild"));
        command.env("PATH", path);
        Ok(command)
    }
}
