//! As much of a shell's grammar as documentation uses: words, quotes, comments, several commands on a line.

/// The words after each `kubectl relay` of a line.
pub(crate) fn relay_commands(line: &str) -> Vec<Vec<String>> {
    let after = |words: Vec<String>| {
        let at = words.windows(2).position(|pair| pair == ["kubectl", "relay"])?;
        Some(words[at + 2..].to_vec())
    };
    simple_commands(line).into_iter().filter_map(after).collect()
}

/// The commands of a line, without redirections.
fn simple_commands(line: &str) -> Vec<Vec<String>> {
    let mut commands = vec![Vec::<String>::new()];
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut letters = line.chars().peekable();
    while let Some(letter) = letters.next() {
        match (quote, letter) {
            (Some(open), _) if letter == open => quote = None,
            (Some('"') | None, '\\') => word.get_or_insert_default().extend(letters.next()),
            (Some(_), _) => word.get_or_insert_default().push(letter),
            (None, '\'' | '"') => {
                quote = Some(letter);
                word.get_or_insert_default();
            }
            (None, '#') if word.is_none() => break,
            (None, '|' | ';' | '&' | '(' | ')') if !joins_descriptors(letter, word.as_deref()) => {
                finish(&mut commands, &mut word);
                commands.push(Vec::new());
            }
            (None, _) if letter.is_whitespace() => finish(&mut commands, &mut word),
            (None, _) => word.get_or_insert_default().push(letter),
        }
    }
    finish(&mut commands, &mut word);
    commands.into_iter().map(without_redirections).collect()
}

/// The `&` of `2>&1`.
fn joins_descriptors(letter: char, word: Option<&str>) -> bool {
    letter == '&' && word.is_some_and(|word| word.ends_with(['>', '<']))
}

fn finish(commands: &mut [Vec<String>], word: &mut Option<String>) {
    if let (Some(command), Some(word)) = (commands.last_mut(), word.take()) {
        command.push(word);
    }
}

fn without_redirections(words: Vec<String>) -> Vec<String> {
    let mut kept = Vec::new();
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        let bare = word.trim_start_matches(|letter: char| letter.is_ascii_digit());
        match bare.strip_prefix(['>', '<']) {
            // The file's name is the next word.
            Some("" | ">") => _ = words.next(),
            Some(_) => {}
            None => kept.push(word),
        }
    }
    kept
}

#[test]
fn the_words_of_each_command_are_found() {
    let commands = |line| {
        let each = relay_commands(line).into_iter().map(|words| words.join("|"));
        each.collect::<Vec<_>>()
    };
    assert_eq!(commands("kubectl relay svc/web 80   # the shop"), ["svc/web|80"]);
    assert_eq!(commands("cat x | FOO=1 kubectl relay -f - 2>&1 > log && echo done"), ["-f|-"]);
    assert_eq!(commands("kubectl relay a 1 & kubectl relay b 2"), ["a|1", "b|2"]);
    assert_eq!(commands("kubectl relay a 1 -- sh -c 'x | \"$Y\" # no'"), ["a|1|--|sh|-c|x | \"$Y\" # no"]);
    assert_eq!(commands("kubectl get pods"), Vec::<String>::new());
}
