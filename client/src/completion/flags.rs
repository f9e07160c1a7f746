//! Flags as they are typed, and what clap knows about their values.

use clap::{Arg, Command, ValueHint};

use super::{Candidate, words::Line};

/// A word that is a flag.
pub(super) struct Typed<'a, 'w> {
    pub(super) arg: &'a Arg,
    /// What stands in the same word as its value.
    pub(super) value: Option<&'w str>,
    /// What shells take for a part of the value: a short flag without `=`.
    pub(super) glued: &'w str,
}

/// The flag that a word is, with what is written in the same word.
pub(super) fn find<'a, 'w>(command: &'a Command, word: &'w str) -> Option<Typed<'a, 'w>> {
    if let Some(long) = word.strip_prefix("--").filter(|long| !long.is_empty()) {
        let (name, value) = match long.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (long, None),
        };
        let arg = command.get_arguments().find(|arg| {
            arg.get_long() == Some(name)
                || arg.get_all_aliases().is_some_and(|aliases| aliases.contains(&name))
        })?;
        return Some(Typed { arg, value, glued: "" });
    }
    let letters = word.strip_prefix('-')?;
    for (at, letter) in letters.char_indices() {
        let arg = command.get_arguments().find(|arg| arg.get_short() == Some(letter))?;
        let (before, rest) = word.split_at(1 + at + letter.len_utf8());
        if !arg.get_action().takes_values() && !rest.is_empty() {
            continue;
        }
        return Some(match rest.strip_prefix('=') {
            Some(value) => Typed { arg, value: Some(value), glued: "" },
            None if rest.is_empty() => Typed { arg, value: None, glued: "" },
            None => Typed { arg, value: Some(rest), glued: before },
        });
    }
    None
}

/// Whether a flag that stands alone has its value in the next word.
pub(super) fn wants_next_word(arg: &Arg) -> bool {
    let optional = arg.get_num_args().is_some_and(|number| number.min_values() == 0);
    arg.get_action().takes_values() && !optional && !arg.is_require_equals_set()
}

/// Whether a value is a file, which shells complete themselves.
pub(super) fn is_file(arg: &Arg) -> bool {
    !matches!(arg.get_value_hint(), ValueHint::Unknown | ValueHint::Other)
}

/// The flags that may be typed next.
pub(super) fn candidates(line: &Line<'_>, typed: &str) -> Vec<Candidate> {
    let mut candidates = Vec::new();
    for arg in line.command.get_arguments().filter(|arg| !arg.is_hide_set() && line.allows(arg)) {
        let about = arg.get_help().map(ToString::to_string).unwrap_or_default();
        let long = arg.get_long().map(|long| format!("--{long}"));
        let short = arg.get_short().map(|short| format!("-{short}"));
        candidates.extend(long.into_iter().chain(short).map(|text| Candidate::new(text, about.clone())));
    }
    candidates.retain(|candidate| candidate.text.starts_with(typed));
    candidates
}

/// The values that a flag is limited to.
pub(super) fn values(arg: &Arg) -> Vec<Candidate> {
    let values = arg.get_possible_values();
    let shown = values.iter().filter(|value| !value.is_hide_set());
    let about =
        |value: &clap::builder::PossibleValue| value.get_help().map(ToString::to_string).unwrap_or_default();
    shown.map(|value| Candidate::new(value.get_name(), about(value))).collect()
}
