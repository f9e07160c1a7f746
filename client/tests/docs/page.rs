//! A page of Markdown: what of it is meant to be typed.

/// The lines of a page that a shell is meant to read, those that end with `\` together with the next; and the code spans
/// in sentences that begin with `kubectl relay`.
pub(crate) fn shell_lines(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut language = None;
    let mut unfinished: Option<String> = None;
    for line in text.lines() {
        if let Some(info) = line.trim_start().strip_prefix("```") {
            let word = info.split_whitespace().next().unwrap_or("text").to_owned();
            language = if language.is_some() { None } else { Some(word) };
            continue;
        }
        let Some(language) = language.as_deref() else {
            found.extend(spans(line));
            continue;
        };
        let typed = match (language, unfinished.take()) {
            (_, Some(before)) => Some(format!("{before} {}", line.trim_start_matches("> ").trim())),
            ("console", None) => line.strip_prefix("$ ").map(ToOwned::to_owned),
            ("sh" | "bash", None) => Some(line.to_owned()),
            // What is shown; usage and examples of --help are looked at for themselves.
            ("text", None) => None,
            // A step of a workflow, a line of a Makefile.
            _ => line.find("kubectl relay").map(|at| line[at..].to_owned()),
        };
        let Some(typed) = typed else { continue };
        match typed.trim_end().strip_suffix('\\') {
            Some(start) => unfinished = Some(start.trim_end().to_owned()),
            None => found.push(typed),
        }
    }
    found.extend(unfinished);
    found
}

/// Code spans that are command lines, and not parts of one.
fn spans(line: &str) -> Vec<String> {
    let inside = line.split('`').skip(1).step_by(2);
    inside
        .filter(|span| span.starts_with("kubectl relay") && !span.contains("..."))
        .map(ToOwned::to_owned)
        .collect()
}

/// Where the links of a page lead.
pub(crate) fn links(text: &str) -> Vec<&str> {
    text.split("](").skip(1).filter_map(|rest| rest.split(')').next()).collect()
}

#[test]
fn what_is_typed_is_told_from_what_is_shown() {
    let page = "See `kubectl relay --help` and `--lanes`, not `kubectl relay ...`.\n\
                ```console\n$ kubectl relay a \\\n>   1\nForwarding\n$ curl x\n```\n\
                ```sh\nkubectl relay b 2\n```\n```yaml\n- run: kubectl relay c 3\n- other\n```\n";
    assert_eq!(
        shell_lines(page),
        ["kubectl relay --help", "kubectl relay a 1", "curl x", "kubectl relay b 2", "kubectl relay c 3"]
    );
}
