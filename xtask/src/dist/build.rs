//! Programs that are the same wherever they are built: no path of this machine, no clock, no identity of a build.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::platform::Platform;
use super::toolchain::Zig;
use super::{apple, packages};
use crate::plugin::{self, Processor};
use crate::shell::{self, step};
use crate::workspace::{Workspace, add_target};

/// Between flags in `CARGO_ENCODED_RUSTFLAGS`.
const SEPARATOR: char = '\x1f';

/// Flags for the compiler, in a form that lets them hold spaces.
const FLAGS: &str = "CARGO_ENCODED_RUSTFLAGS";
/// A panic ends the program at once, so nothing reads the tables that tell how to unwind: half a megabyte.
const NO_TABLES: &str = "-Cforce-unwind-tables=no";

/// The linker names a program for macOS by its content, paths of what it was linked from included, unless it leaves those away.
const STRIPPED: &str = "-Clink-arg=-s";

/// Names the folder of Apple's SDK, as Apple's own tools have it.
const SDK: &str = "SDKROOT";

/// Where the plugin takes the commit from that `version` tells.
const COMMIT: &str = "RELAY_COMMIT";

/// What all archives of a release have in common.
pub(crate) struct Release {
    /// As in the workspace's manifest.
    pub(crate) version: String,
    /// The commit, or nothing where the source is no checkout.
    pub(crate) commit: Option<String>,
    /// When that commit was made, in seconds since 1970: the age of everything in the archives.
    pub(crate) time: u64,
    /// Whether the source is not what that commit has.
    pub(crate) changed: bool,
}

impl Release {
    /// Of this checkout. `SOURCE_DATE_EPOCH` has the last word on the time.
    pub(crate) fn of(source: &Path) -> Result<Self> {
        let git = |arguments: &[&str]| super::git(source, arguments).map(|text| text.trim().to_owned());
        let time = match env::var("SOURCE_DATE_EPOCH") {
            Ok(time) => Some(time),
            Err(_) => git(&["log", "-1", "--format=%ct"]),
        };
        let time = time.map(|time| time.parse().context("SOURCE_DATE_EPOCH is no number of seconds"));
        Ok(Self {
            version: env!("CARGO_PKG_VERSION").into(),
            commit: git(&["rev-parse", "HEAD"]),
            changed: git(&["status", "--porcelain"]).is_some_and(|changes| !changes.is_empty()),
            time: time.transpose()?.unwrap_or_default(),
        })
    }
}

/// A workspace whose results depend on its source and the toolchain only.
pub(crate) fn workspace(source: PathBuf, target: PathBuf, release: &Release) -> Result<Workspace> {
    let flags = flags(&source, &target)?;
    let mut environment = vec![
        (FLAGS.to_owned(), flags),
        ("SOURCE_DATE_EPOCH".into(), release.time.to_string().into()),
        ("CARGO_INCREMENTAL".into(), "0".into()),
    ];
    if let Some(commit) = &release.commit {
        environment.push((COMMIT.into(), commit.into()));
    }
    Ok(Workspace { source, target, environment })
}

/// Builds the agents for every processor of nodes; gives the folder for the plugin's build.
pub(crate) fn agents(workspace: &Workspace) -> Result<PathBuf> {
    plugin::pack_agents(workspace, &Processor::ALL)
}

/// Builds the plugin with these agents inside; gives its path.
pub(crate) fn plugin(workspace: &Workspace, zig: &Zig, platform: Platform, agents: &Path) -> Result<PathBuf> {
    let target = platform.target();
    add_target(target)?;
    step(&format!("build kubectl-relay ({target}, profile dist)"), || {
        let mut build = workspace.build(zig.cargo()?, "rustc", "kubectl-relay", "dist");
        let mut flags = flags(&workspace.source, &workspace.target)?;
        match platform.os() {
            // Other systems want the tables for themselves.
            "linux" => flags.push(format!("{SEPARATOR}{NO_TABLES}")),
            // cargo-zigbuild looks into a whole SDK where there is one.
            "darwin" if env::var_os(SDK).is_none() => {
                let frameworks = workspace.target.join("apple");
                let packages = packages::linked(workspace, &["kubectl-relay"], target)?;
                apple::write_frameworks(&packages, &frameworks)?;
                flags.push(format!("{SEPARATOR}-Clink-arg=-F"));
                flags.push(frameworks);
            }
            _ => {}
        }
        build.env(FLAGS, flags);
        // cargo-zigbuild brings the linker.
        build.env_remove("CARGO_TARGET_X86_64_UNKNOWN_LINUX_MUSL_LINKER");
        build.env_remove("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_MUSL_LINKER");
        build.args(["--locked", "--bin", "kubectl-relay", "--target", target]).env(plugin::AGENTS, agents);
        if platform.os() == "darwin" {
            build.args(["--", STRIPPED]);
        }
        shell::run(&mut build)
    })?;
    let mut plugin = workspace.built(target, "kubectl-relay", "dist").into_os_string();
    plugin.push(platform.suffix());
    Ok(plugin.into())
}

/// Flags that name every folder of this machine by a name that all machines share. Of several that fit, the last wins.
fn flags(source: &Path, target: &Path) -> Result<OsString> {
    let mut folders = vec![(PathBuf::from(sysroot()?).join("lib/rustlib/src/rust"), "/rust")];
    for registry in registries()? {
        folders.push((registry, "/registry"));
    }
    folders.push((source.to_owned(), "/source"));
    folders.push((target.to_owned(), "/target"));
    let mut flags = OsString::new();
    for (folder, name) in folders {
        if !flags.is_empty() {
            flags.push(SEPARATOR.to_string());
        }
        flags.push("--remap-path-prefix=");
        flags.push(&folder);
        flags.push(format!("={name}"));
    }
    Ok(flags)
}

/// The compiler's own folder.
pub(crate) fn sysroot() -> Result<String> {
    ask_rustc(&["--print", "sysroot"])
}

/// The compiler's version.
pub(crate) fn rustc() -> Result<String> {
    ask_rustc(&["--version"])
}

fn ask_rustc(arguments: &[&str]) -> Result<String> {
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    Ok(shell::output(Command::new(rustc).args(arguments))?.trim().to_owned())
}

/// Where Cargo has unpacked packages: one folder for each registry, whose name depends on its address.
fn registries() -> Result<Vec<PathBuf>> {
    let home = match env::var_os("CARGO_HOME") {
        Some(home) => PathBuf::from(home),
        None => {
            PathBuf::from(env::var_os("HOME").context("neither CARGO_HOME nor HOME is set")?).join(".cargo")
        }
    };
    let folder = home.join("registry/src");
    let list = fs::read_dir(&folder)
        .with_context(|| format!("read {}; run `cargo fetch --locked` first", folder.display()))?;
    let mut registries = Vec::new();
    for entry in list {
        registries.push(entry?.path());
    }
    registries.sort();
    Ok(registries)
}
