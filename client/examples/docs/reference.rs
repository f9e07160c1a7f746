//! The reference of the command line in Markdown, made from the definition that reads it.

use std::fmt::Write;

use clap::{Arg, Command, CommandFactory};
use kubectl_relay::cli::args::Args;

const HEAD: &str = "# Command line reference

Every flag with its default. This page is written by `cargo xtask docs` from the definition of the command line: change that,
not this. The same is in `--help` and in the man pages, which that command puts into `target/man`.
";

/// The whole page.
pub(crate) fn page() -> String {
    let mut command = Args::command();
    command.build();
    let mut page = HEAD.to_owned();
    describe(&command, "kubectl relay", &mut page);
    page
}

/// A command, then those below it.
fn describe(command: &Command, name: &str, page: &mut String) {
    let about = command.get_long_about().or(command.get_about()).map(ToString::to_string);
    let usage = command.clone().render_usage().to_string();
    let usage = usage.strip_prefix("Usage: ").unwrap_or(&usage).replace("\n       ", "\n");
    // Writing to a string cannot fail.
    let _ = write!(page, "\n## {name}\n\n{}\n\n```text\n{usage}\n```\n", about.unwrap_or_default());

    let is_first = name == "kubectl relay";
    let shown = |arg: &&Arg| !arg.is_hide_set() && (is_first || !arg.is_global_set()) && !is_builtin(arg);
    let mut headings: Vec<Option<&str>> = Vec::new();
    for arg in command.get_arguments().filter(shown) {
        if !headings.contains(&arg.get_help_heading()) {
            headings.push(arg.get_help_heading());
        }
    }
    for heading in headings {
        if let Some(heading) = heading {
            let _ = write!(page, "\n### {heading}\n");
        }
        page.push_str("\n| | default | |\n| --- | --- | --- |\n");
        for arg in command.get_arguments().filter(shown).filter(|arg| arg.get_help_heading() == heading) {
            let _ = writeln!(page, "| {} | {} | {} |", typed(arg), default(arg), meaning(arg));
        }
    }
    if !is_first {
        page.push_str("\nkubectl's flags and `-v` may be given too.\n");
    }
    if let Some(more) = command.get_after_long_help().or(command.get_after_help()) {
        let _ = write!(page, "\n```text\n{}\n```\n", more.to_string().trim_end());
    }
    for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set() && verb.get_name() != "help") {
        describe(verb, &format!("{name} {}", verb.get_name()), page);
    }
}

/// `--help` and `--version` need no words.
fn is_builtin(arg: &Arg) -> bool {
    ["help", "version"].contains(&arg.get_id().as_str())
}

fn typed(arg: &Arg) -> String {
    let value = arg.get_value_names().unwrap_or_default().join(" ");
    let takes_value = arg.get_action().takes_values() && !value.is_empty();
    let value = if takes_value { value } else { String::new() };
    if arg.is_positional() {
        return if arg.is_last_set() { format!("`-- {value}`") } else { format!("`{value}`") };
    }
    let short = arg.get_short().map(|short| format!("`-{short}`"));
    let long = arg.get_long().map(|long| format!("`{}`", format!("--{long} {value}").trim_end()));
    short.into_iter().chain(long).collect::<Vec<_>>().join(", ")
}

fn default(arg: &Arg) -> String {
    let values: Vec<_> = arg.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
    match values.join(",") {
        none if none.is_empty() || !arg.get_action().takes_values() => String::new(),
        value => format!("`{value}`"),
    }
}

fn meaning(arg: &Arg) -> String {
    let help = arg.get_long_help().or(arg.get_help()).map(ToString::to_string).unwrap_or_default();
    let mut text = cell(&help);
    let values = if arg.is_hide_possible_values_set() { Vec::new() } else { arg.get_possible_values() };
    let is_choice = arg.get_action().takes_values() && values.iter().any(|value| value.get_help().is_some());
    if is_choice {
        let each = values.iter().filter(|value| !value.is_hide_set()).map(|value| {
            let help =
                value.get_help().map(|help| format!(": {}", cell(&help.to_string()))).unwrap_or_default();
            format!("`{}`{help}", value.get_name())
        });
        text += &format!("<br>{}", each.collect::<Vec<_>>().join("<br>"));
    }
    match arg.get_env() {
        Some(variable) => format!("{text}<br>Environment: `{}`", variable.to_string_lossy()),
        None => text,
    }
}

/// Text that stays within its cell, and is text.
fn cell(text: &str) -> String {
    let joined = text.split_whitespace().collect::<Vec<_>>().join(" ");
    joined.replace('|', "\\|").replace('<', "&lt;")
}
