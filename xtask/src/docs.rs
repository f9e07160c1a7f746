//! What is written from the definition of the command line. The plugin's own package does it, so that this one need not
//! hold all of the plugin.

use std::process::Command;

use anyhow::Result;

use crate::paths;
use crate::shell::{self, say};

/// Writes the reference and the man pages.
pub(crate) fn run() -> Result<()> {
    let (reference, manual) = (paths::root().join("docs/reference.md"), paths::target().join("man"));
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(paths::root());
    cargo.args(["run", "--quiet", "--package", "kubectl-relay", "--example", "docs", "--"]);
    shell::run(cargo.arg(&reference).arg(&manual))?;
    say(format!("{}\n{}/*.1", reference.display(), manual.display()));
    Ok(())
}
