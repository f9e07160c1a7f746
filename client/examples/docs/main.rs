//! Writes what follows from the definition of the command line: the Markdown reference, the man pages and, for
//! packages, completions for shells. `cargo xtask docs` and `cargo xtask dist` run it.

mod reference;

use std::{fs, path::PathBuf};

use anyhow::{Context, bail};
use clap::CommandFactory;
use clap_complete::Shell;
use kubectl_relay::{cli::args::Args, completion};

/// Each shell's script under the name that the shell looks for it by.
const COMPLETIONS: [(Shell, &str); 4] = [
    (Shell::Bash, "kubectl-relay.bash"),
    (Shell::Zsh, "_kubectl-relay"),
    (Shell::Fish, "kubectl-relay.fish"),
    (Shell::PowerShell, "_kubectl-relay.ps1"),
];

fn main() -> anyhow::Result<()> {
    let paths: Vec<PathBuf> = std::env::args_os().skip(1).map(Into::into).collect();
    let [page, manual, rest @ ..] = paths.as_slice() else {
        bail!("usage: docs REFERENCE.md MAN-FOLDER [COMPLETIONS-FOLDER]")
    };
    fs::write(page, reference::page()).with_context(|| format!("write {}", page.display()))?;
    fs::create_dir_all(manual).with_context(|| format!("make {}", manual.display()))?;
    clap_mangen::generate_to(Args::command(), manual)
        .with_context(|| format!("write man pages to {}", manual.display()))?;
    if let Some(folder) = rest.first() {
        fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
        for (shell, name) in COMPLETIONS {
            let path = folder.join(name);
            fs::write(&path, completion::script(shell))
                .with_context(|| format!("write {}", path.display()))?;
        }
    }
    Ok(())
}
