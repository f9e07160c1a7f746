//! What clap says about a command line, in the form of all other errors: one sentence, and a hint.

/// Where no better hint is known.
const HELP: &str = "kubectl relay --help has every flag, and examples";

/// The sentence and the hint of an error.
pub fn told(error: &clap::Error) -> (String, String) {
    let text = error.to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    // The first paragraph is the error; usage and a word about --help follow.
    let sentence = text.split("\n\n").next().unwrap_or_default();
    let sentence = sentence.split_whitespace().collect::<Vec<_>>().join(" ");
    // What looks like a flag is no value that somebody wanted to pass: `--` begins a command here.
    let tips = text.lines().filter_map(|line| line.trim_start().strip_prefix("tip: "));
    let tip = tips.filter(|tip| !tip.starts_with("to pass ")).collect::<Vec<_>>().join("; ");
    (sentence, if tip.is_empty() { HELP.to_owned() } else { tip })
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::*;
    use crate::cli::args::Args;

    fn told_of(words: &[&str]) -> (String, String) {
        let typed = ["kubectl-relay"].iter().chain(words).map(OsString::from);
        told(&Args::read(typed).unwrap_err())
    }

    #[test]
    fn an_error_is_a_sentence_and_a_hint() {
        let (sentence, hint) = told_of(&["svc/web", "80", "--laness", "2"]);
        assert_eq!(sentence, "unexpected argument '--laness' found");
        assert_eq!(hint, "a similar argument exists: '--lanes'");
        let (sentence, hint) = told_of(&["svc/web", "80", "-o", "yaml"]);
        assert_eq!(sentence, "invalid value 'yaml' for '--output <FORMAT>' [possible values: text, json]");
        assert_eq!(hint, HELP);
        assert_eq!(told_of(&["svc/web", "-80"]), ("unexpected argument '-8' found".into(), HELP.into()));
        assert_eq!(told_of(&["svc/web", "80", "--"]).0, "a command is missing after --");
    }
}
