//! What the word under the cursor may be, judged by the words before it and by the flags that there are.

use clap::{Arg, ArgAction, Command};

use super::flags::{self, Typed};

/// A command line that is being typed.
pub(super) struct Line<'a> {
    /// The verb's command, or the root.
    pub(super) command: &'a Command,
    /// The flags of kubectl's own that were typed, each in one word.
    pub(super) kubectl: Vec<String>,
    /// The ids of all flags that were typed.
    pub(super) used: Vec<&'a str>,
    /// What is asked for.
    pub(super) asked: Asked<'a>,
}

/// What the last word is going to be.
#[derive(Debug)]
pub(super) enum Asked<'a> {
    /// The words of another program: the shell knows better.
    Foreign,
    /// Nothing that could be guessed.
    Nothing,
    /// A flag.
    Flag(&'a str),
    /// The value of a flag, or of a verb's argument.
    Value {
        of: &'a Arg,
        /// The flag where it stands in the same word and the shell takes it for a part of it.
        glued: &'a str,
        typed: &'a str,
    },
    /// A target. The first word may also be a verb or a bare pod name.
    Target { typed: &'a str, first: bool },
    /// A port of a target, or the next target.
    Port {
        typed: &'a str,
        target: &'a str,
        /// The ports that it has already.
        taken: Vec<&'a str>,
    },
}

/// Reads the words after the program's name; the last one is under the cursor.
pub(super) fn read<'a>(root: &'a Command, words: &'a [String]) -> Line<'a> {
    let (last, before) = words.split_last().map_or(("", &[][..]), |(last, before)| (last.as_str(), before));
    let mut line = Line { command: root, kubectl: Vec::new(), used: Vec::new(), asked: Asked::Nothing };
    let mut positionals: Vec<&str> = Vec::new();
    let mut pending: Option<&Arg> = None;
    for word in before {
        if let Some(arg) = pending.take() {
            line.note(arg, Some(word));
            continue;
        }
        if word == "--" {
            line.asked = Asked::Foreign;
            return line;
        }
        match flags::find(line.command, word) {
            Some(Typed { arg, value: None, .. }) if flags::wants_next_word(arg) => pending = Some(arg),
            Some(Typed { arg, value, .. }) => line.note(arg, value),
            None if word.starts_with('-') && word.len() > 1 => {}
            None => match line.command.find_subcommand(word) {
                Some(verb) if positionals.is_empty() => line.command = verb,
                _ => positionals.push(word),
            },
        }
    }
    line.asked = match pending {
        Some(of) => Asked::Value { of, glued: "", typed: last },
        None => asked(line.command, &positionals, last),
    };
    line
}

impl<'a> Line<'a> {
    fn note(&mut self, arg: &'a Arg, value: Option<&str>) {
        self.used.push(arg.get_id().as_str());
        let Some(long) = arg.get_long().filter(|_| arg.is_global_set()) else { return };
        self.kubectl.push(match value {
            Some(value) => format!("--{long}={value}"),
            None => format!("--{long}"),
        });
    }

    /// Whether this flag may be typed once more.
    pub(super) fn allows(&self, arg: &Arg) -> bool {
        !self.used.contains(&arg.get_id().as_str()) || matches!(arg.get_action(), ArgAction::Append)
    }
}

fn asked<'a>(command: &'a Command, positionals: &[&'a str], last: &'a str) -> Asked<'a> {
    if last.starts_with('-') {
        return match flags::find(command, last) {
            Some(Typed { arg, value: Some(value), glued }) => Asked::Value { of: arg, glued, typed: value },
            _ => Asked::Flag(last),
        };
    }
    let arguments: Vec<&Arg> = command.get_positionals().filter(|arg| !arg.is_last_set()).collect();
    let many = |arg: &&&Arg| arg.get_num_args().is_some_and(|number| number.max_values() > 1);
    let argument = arguments.get(positionals.len()).or_else(|| arguments.last().filter(many));
    match argument {
        None if command.has_subcommands() && positionals.is_empty() => {
            Asked::Target { typed: last, first: true }
        }
        None => Asked::Nothing,
        Some(argument) if takes_targets(argument) => target_or_port(positionals, last),
        Some(&of) => Asked::Value { of, glued: "", typed: last },
    }
}

/// Whether an argument is read by the grammar of targets, as its name tells.
pub(super) fn takes_targets(argument: &Arg) -> bool {
    argument.get_value_names().is_some_and(|names| names.iter().any(|name| name.contains("TARGET")))
}

fn target_or_port<'a>(positionals: &[&'a str], last: &'a str) -> Asked<'a> {
    let mut target = None;
    let mut taken = Vec::new();
    for word in positionals {
        if word.contains('/') || target.is_none() {
            target = Some(*word);
            taken.clear();
        } else {
            taken.push(*word);
        }
    }
    match target {
        None => Asked::Target { typed: last, first: true },
        Some(_) if last.contains('/') => Asked::Target { typed: last, first: false },
        Some(target) => Asked::Port { typed: last, target, taken },
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::cli::args::Args;

    /// What is asked for, and kubectl's flags, in words.
    fn read_words(words: &[&str]) -> (String, Vec<String>) {
        let mut root = Args::command();
        root.build();
        let words: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
        let line = read(&root, &words);
        let asked = match &line.asked {
            Asked::Foreign => "foreign".into(),
            Asked::Nothing => "nothing".into(),
            Asked::Flag(typed) => format!("flag {typed} of {}", line.command.get_name()),
            Asked::Value { of, glued, typed } => format!("value {glued}|{typed} of {}", of.get_id()),
            Asked::Target { typed, first } => format!("target {typed} first={first}"),
            Asked::Port { typed, target, taken } => format!("port {typed} of {target} beside {taken:?}"),
        };
        (asked, line.kubectl.clone())
    }

    #[test]
    fn the_word_under_the_cursor_is_known_by_those_before_it() {
        let cases: &[(&[&str], &str)] = &[
            (&[], "target  first=true"),
            (&[""], "target  first=true"),
            (&["svc/w"], "target svc/w first=true"),
            (&["-n", "dev", "svc/w"], "target svc/w first=true"),
            (&["svc/web", ""], "port  of svc/web beside []"),
            (&["web-0", ""], "port  of web-0 beside []"),
            (&["svc/web", "80", "8080:"], "port 8080: of svc/web beside [\"80\"]"),
            (&["svc/web", "80", "deploy/"], "target deploy/ first=false"),
            (&["svc/web", "80", "deploy/api", ""], "port  of deploy/api beside []"),
            (&["-n", ""], "value | of namespace"),
            (&["-n=d"], "value |d of namespace"),
            (&["-nd"], "value -n|d of namespace"),
            (&["--namespace=d"], "value |d of namespace"),
            (&["--agent-source", "e"], "value |e of agent_source"),
            (&["--server.namespace="], "value | of server_namespace"),
            (&["-"], "flag - of kubectl-relay"),
            (&["svc/web", "--la"], "flag --la of kubectl-relay"),
            (&["version", "--"], "flag -- of version"),
            (&["version", "-o", "j"], "value |j of output"),
            (&["version", ""], "nothing"),
            (&["-n", "x", "version", "-"], "flag - of version"),
            (&["completion", "b"], "value |b of shell"),
            (&["svc/db", "5432", "--", "psql", "-"], "foreign"),
            (&["--insecure-skip-tls-verify", "svc/"], "target svc/ first=true"),
            (&["--log-connections", "svc/web", "h"], "port h of svc/web beside []"),
            (&["--no-such-flag", "svc/web", "h"], "port h of svc/web beside []"),
            (&["svc/a", "1", "version"], "port version of svc/a beside [\"1\"]"),
        ];
        for (words, expected) in cases {
            assert_eq!(read_words(words).0, *expected, "{words:?}");
        }
    }

    #[test]
    fn kubectls_flags_are_kept_however_they_are_written() {
        let words = [
            "-n",
            "dev",
            "--context=c",
            "--lanes",
            "2",
            "--kubeconfig",
            "/k",
            "--insecure-skip-tls-verify",
            "-v=4",
            "svc/w",
        ];
        assert_eq!(
            read_words(&words).1,
            ["--namespace=dev", "--context=c", "--kubeconfig=/k", "--insecure-skip-tls-verify", "--v=4"]
        );
    }
}
