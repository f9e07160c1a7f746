//! Completion of command lines: scripts for shells, and the helper that kubectl asks when it is called by its own name.

mod cluster;
mod flags;
mod helper;
mod ports;
mod words;

use std::{ffi::OsStr, path::Path};

use clap::{Args as ArgGroup, CommandFactory};
use clap_complete::Shell;

pub use cluster::Cluster;
pub use helper::answer;

use crate::{cli::args::Args, output::Output};

/// The name under which kubectl looks for the plugin's helper.
const HELPER: &str = "kubectl_complete-relay";

/// Stands at the end of each script, as the first line may be the shell's. All four take it for a comment.
const INSTALLATION: &str = "\
# This script completes `kubectl-relay`. For `kubectl relay`, kubectl's own completion asks a helper on the PATH, which is
# this program under another name:
#   ln -s kubectl-relay \"$(dirname \"$(command -v kubectl-relay)\")/kubectl_complete-relay\"
# (where there are no links, a copy does). Names and ports then come from the cluster.";

/// What `kubectl relay completion` takes.
#[derive(Debug, Clone, ArgGroup)]
pub struct CompletionArgs {
    /// The shell that the script is for.
    #[arg(value_enum, value_name = "SHELL")]
    pub shell: Shell,
}

/// Prints a shell's script.
pub fn print(args: &CompletionArgs, output: &Output) {
    output.answer(script(args.shell).trim_end());
}

/// A shell's script.
pub fn script(shell: Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), "kubectl-relay", &mut script);
    format!("{}\n{INSTALLATION}\n", String::from_utf8_lossy(&script).trim_end())
}

/// Whether a program of this name is asked to complete instead of to run.
pub fn is_helper(program: &OsStr) -> bool {
    let name = Path::new(program).file_name().and_then(OsStr::to_str).unwrap_or_default();
    name.strip_suffix(".exe").unwrap_or(name) == HELPER
}

/// One way in which the word under the cursor may go on.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Candidate {
    /// The whole word.
    text: String,
    /// What it stands for; may be empty.
    about: String,
}

impl Candidate {
    fn new(text: impl Into<String>, about: impl Into<String>) -> Self {
        Self { text: text.into(), about: about.into() }
    }

    fn plain(text: impl Into<String>) -> Self {
        Self::new(text, "")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_helper_is_known_by_its_name_wherever_it_lies() {
        for helper in
            ["kubectl_complete-relay", "/usr/bin/kubectl_complete-relay", "kubectl_complete-relay.exe"]
        {
            assert!(is_helper(OsStr::new(helper)), "{helper}");
        }
        for other in ["kubectl-relay", "/usr/bin/kubectl-relay", "kubectl_complete-relay.d/kubectl-relay", ""]
        {
            assert!(!is_helper(OsStr::new(other)), "{other}");
        }
    }

    #[test]
    fn every_shells_script_knows_flags_and_verbs_and_tells_of_the_helper() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish, Shell::PowerShell, Shell::Elvish] {
            let (output, out, _) = crate::output::tests::captured(false);
            print(&CompletionArgs { shell }, &output);
            for word in ["agent-source", "version", HELPER] {
                assert!(out.text().contains(word), "{shell}: {word}");
            }
        }
    }
}
