//! What the documentation tells people to type: every `kubectl relay` line of it is one that the plugin takes.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod page;
#[path = "../../examples/docs/reference.rs"]
mod reference;
mod shell;

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
};

use clap::{CommandFactory, error::ErrorKind};
use kubectl_relay::{
    cli::{args::Args, help::EXAMPLES},
    target::parse_typed,
};

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// README.md and every page of docs/: name and text.
fn pages() -> Vec<(String, String)> {
    let folder = fs::read_dir(repository().join("docs")).unwrap();
    let mut files: Vec<PathBuf> = folder.map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "md"));
    files.sort();
    files.insert(0, repository().join("README.md"));
    let read =
        |file: PathBuf| (file.file_name().unwrap().display().to_string(), fs::read_to_string(&file).unwrap());
    files.into_iter().map(read).collect()
}

/// What is wrong with the words after `kubectl relay`, if anything.
fn refused(words: &[String]) -> Option<String> {
    let typed = ["kubectl-relay".into()].into_iter().chain(words.iter().map(OsString::from));
    match Args::read(typed) {
        Ok(args) if args.verb.is_none() && !args.arguments.is_empty() => {
            parse_typed(&args.arguments).err().map(|error| error.to_string())
        }
        Ok(_) => None,
        Err(error) if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => None,
        Err(error) => Some(error.to_string()),
    }
}

#[test]
fn every_command_line_of_the_documentation_is_taken() {
    let (mut seen, mut wrong) = (0, Vec::new());
    for (name, text) in pages() {
        for line in page::shell_lines(&text) {
            for words in shell::relay_commands(&line) {
                seen += 1;
                wrong.extend(refused(&words).map(|why| format!("{name}: {line}\n    {why}")));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(seen > 20, "only {seen} command lines are found: the test has lost them");
}

#[test]
fn every_example_of_the_help_is_taken() {
    let command = Args::command();
    let of_verbs = command.get_subcommands().flat_map(|verb| {
        [verb.get_after_help(), verb.get_after_long_help()].into_iter().flatten().map(ToString::to_string)
    });
    let texts: Vec<String> = [EXAMPLES.to_owned()].into_iter().chain(of_verbs).collect();
    let lines = texts.iter().flat_map(|text| text.lines().filter(|line| line.starts_with("  kubectl relay")));
    let commands: Vec<Vec<String>> = lines.flat_map(shell::relay_commands).collect();
    assert!(commands.len() > 5, "{commands:?}");
    let wrong: Vec<_> =
        commands.iter().filter_map(|words| Some(format!("{words:?}: {}", refused(words)?))).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_reference_is_that_of_this_command_line() {
    let written = fs::read_to_string(repository().join("docs/reference.md")).unwrap();
    assert!(written == reference::page(), "docs/reference.md is not up to date: run `cargo xtask docs`");
}

#[test]
fn every_link_within_the_documentation_leads_somewhere() {
    let mut dead = Vec::new();
    for (name, text) in pages() {
        let folder = if name == "README.md" { repository() } else { repository().join("docs") };
        for target in page::links(&text) {
            let path = target.split('#').next().unwrap_or_default();
            if !path.is_empty() && !path.contains("://") && !folder.join(path).exists() {
                dead.push(format!("{name}: {target}"));
            }
        }
    }
    assert!(dead.is_empty(), "{dead:?}");
}
