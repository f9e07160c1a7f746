//! Writes what follows from the definition of the command line: the Markdown reference and the man pages.
//! `cargo xtask docs` runs it.

mod reference;

use std::{fs, path::PathBuf};

use anyhow::{Context, bail};
use clap::CommandFactory;
use kubectl_relay::cli::args::Args;

fn main() -> anyhow::Result<()> {
    let paths: Vec<PathBuf> = std::env::args_os().skip(1).map(Into::into).collect();
    let [page, manual] = paths.as_slice() else { bail!("usage: docs REFERENCE.md MAN-FOLDER") };
    fs::write(page, reference::page()).with_context(|| format!("write {}", page.display()))?;
    fs::create_dir_all(manual).with_context(|| format!("make {}", manual.display()))?;
    clap_mangen::generate_to(Args::command(), manual)
        .with_context(|| format!("write man pages to {}", manual.display()))?;
    Ok(())
}
