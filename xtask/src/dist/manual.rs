//! Man pages and completions for shells, from the definition of the command line.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::archive::{Content, Entry, gzip};
use crate::shell::{self, step};
use crate::workspace::{Workspace, cargo};

/// Folders in an archive.
const MAN: &str = "man";
const COMPLETIONS: &str = "completions";
/// Where Debian has them: a part of the name in an archive, and the folder and name that take its place.
const PACKAGED: [(&str, &str); 3] = [
    ("completions/kubectl-relay.bash", "./usr/share/bash-completion/completions/kubectl-relay"),
    ("completions/_kubectl-relay", "./usr/share/zsh/vendor-completions/_kubectl-relay"),
    ("completions/kubectl-relay.fish", "./usr/share/fish/vendor_completions.d/kubectl-relay.fish"),
];

/// Both, as an archive has them: `man/*.1` and `completions/*`. They are the same for all platforms.
pub(crate) fn entries(workspace: &Workspace) -> Result<Vec<Entry>> {
    let folder = workspace.target.join("documents");
    // A verb that was there once has left its page.
    if folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| format!("remove {}", folder.display()))?;
    }
    fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
    step("man pages and completions", || {
        let mut docs = workspace.build(cargo(), "run", "kubectl-relay", "dev");
        docs.args(["--locked", "--example", "docs", "--"]);
        docs.args([folder.join("reference.md"), folder.join(MAN), folder.join(COMPLETIONS)]);
        shell::run(&mut docs)
    })?;
    let mut entries = Vec::new();
    for name in [MAN, COMPLETIONS] {
        let before = entries.len();
        add(&folder.join(name), name, &mut entries)?;
        if entries.len() == before {
            bail!("nothing was written to {}", folder.join(name).display());
        }
    }
    Ok(entries)
}

fn add(folder: &Path, name: &str, entries: &mut Vec<Entry>) -> Result<()> {
    let list = fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))?;
    for file in list {
        let file = file?;
        let path = file.path();
        let bytes = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        entries.push(Entry::file(format!("{name}/{}", file.file_name().display()), bytes));
    }
    Ok(())
}

/// The same where Debian looks for them. What is for other systems is left out.
pub(crate) fn packaged(entries: &[Entry]) -> Result<Vec<Entry>> {
    let mut files = Vec::new();
    for entry in entries {
        if let Some(page) = entry.path.strip_prefix("man/") {
            let Content::File(text) = &entry.content else { continue };
            files.push(Entry::file(format!("./usr/share/man/man1/{page}.gz"), gzip(text)?));
        } else if let Some((_, place)) = PACKAGED.iter().find(|(path, _)| *path == entry.path) {
            files.push(Entry { path: (*place).into(), content: entry.content.clone() });
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debian_has_pages_packed_and_scripts_by_the_names_that_shells_look_for() {
        let entries = [
            Entry::file("man/kubectl-relay.1", *b".TH"),
            Entry::file("completions/kubectl-relay.bash", *b"complete"),
            Entry::file("completions/_kubectl-relay.ps1", *b"Register"),
        ];
        let packaged = packaged(&entries).unwrap();
        let paths: Vec<_> = packaged.iter().map(|entry| entry.path.as_str()).collect();
        assert_eq!(
            paths,
            [
                "./usr/share/man/man1/kubectl-relay.1.gz",
                "./usr/share/bash-completion/completions/kubectl-relay"
            ]
        );
        assert_eq!(packaged[0].content, Content::File(gzip(b".TH").unwrap()));
    }
}
