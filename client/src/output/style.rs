//! Colours by role, for the first word of a line: whoever sees none misses nothing. Everything that is written is ASCII.

use std::{
    env,
    io::{self, IsTerminal},
};

/// What a line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Error,
    Warning,
    Note,
    Hint,
}

/// Whether there are colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Style {
    has_colours: bool,
}

impl Style {
    /// No colours.
    pub const PLAIN: Self = Self { has_colours: false };

    /// What this process's stderr is for: colours on a terminal that knows them, unless `NO_COLOR` is set.
    pub fn of_stderr() -> Self {
        let refused = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self { has_colours: io::stderr().is_terminal() && !is_dumb() && !refused }
    }

    /// Whether there are any.
    pub fn has_colours(self) -> bool {
        self.has_colours
    }

    /// `error: ` and the like.
    pub(super) fn label(self, role: Role) -> String {
        let (word, code) = match role {
            Role::Error => ("error", "1;31"),
            Role::Warning => ("warning", "33"),
            Role::Note => ("note", "1"),
            Role::Hint => ("hint", "36"),
        };
        if self.has_colours { format!("\x1b[{code}m{word}:\x1b[0m ") } else { format!("{word}: ") }
    }
}

/// A terminal that can do nothing but lines.
pub(super) fn is_dumb() -> bool {
    env::var_os("TERM").is_none_or(|kind| kind.is_empty() || kind == "dumb")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_colour_adds_nothing_but_itself() {
        let coloured = Style { has_colours: true };
        for role in [Role::Error, Role::Warning, Role::Note, Role::Hint] {
            let (plain, shown) = (Style::PLAIN.label(role), coloured.label(role));
            let without: String = shown
                .split("\x1b[")
                .enumerate()
                .map(|(index, part)| if index == 0 { part } else { part.split_once('m').unwrap().1 })
                .collect();
            assert_eq!(without, plain);
            assert!(shown.ends_with("\x1b[0m "));
        }
    }
}
