//! The page for people.

use std::fmt::{self, Write};

use super::{
    About,
    snapshot::{Failed, Open, Snapshot},
};

/// Connections that are shown; a browser that draws thousands every two seconds does nothing else.
const SHOWN: usize = 200;

const HEAD: &str = r#"<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="refresh" content="2">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>kubectl relay proxy</title>
<style>
:root { color-scheme: light dark; --line: #8884; --soft: #888; }
body { font: 15px/1.45 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.3rem; display: flex; gap: .8rem; align-items: center; flex-wrap: wrap; }
h2 { font-size: 1rem; margin: 2rem 0 .5rem; }
.state { font-size: .85rem; padding: .1rem .6rem; border-radius: 1rem; border: 1px solid currentColor; }
.ready { color: #1a7f37; } .not { color: #b35900; }
dl { display: flex; flex-wrap: wrap; gap: .4rem 2.2rem; margin: 0; }
dt { color: var(--soft); font-size: .8rem; } dd { margin: 0; font-variant-numeric: tabular-nums; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th { text-align: left; font-weight: 600; color: var(--soft); font-size: .8rem; }
th, td { padding: .25rem .8rem .25rem 0; border-bottom: 1px solid var(--line); white-space: nowrap; }
td.wide { white-space: normal; overflow-wrap: anywhere; }
.number { text-align: right; }
pre { background: #8881; padding: .7rem; overflow-x: auto; margin: 0; }
p.none { color: var(--soft); margin: 0; }
</style>
</head>
<body>
"#;

pub(super) fn page(about: &About, now: &Snapshot) -> String {
    let mut page = HEAD.to_owned();
    // Writing to a string does not fail.
    let _ = body(&mut page, about, now);
    page
}

fn body(page: &mut String, about: &About, now: &Snapshot) -> fmt::Result {
    let class = if now.state == "ready" { "ready" } else { "not" };
    let state = if now.state == "agentLost" { "agent lost" } else { now.state };
    writeln!(page, "<h1>kubectl relay proxy <span class=\"state {class}\">{state}</span></h1>")?;
    if let Some(reason) = &now.reason {
        writeln!(page, "<p>{}</p>", Escaped(reason))?;
    }
    let totals = &now.totals;
    let rate = |rate: Option<u64>| rate.map_or("-".into(), |rate| format!("{}/s", Bytes(rate)));
    let numbers = [
        ("Open", now.connections.len().to_string()),
        ("Since the start", totals.asked.to_string()),
        ("Refused", totals.refused.to_string()),
        ("Sent", Bytes(totals.sent).to_string()),
        ("Received", Bytes(totals.received).to_string()),
        ("Sending", rate(totals.sent_per_second)),
        ("Receiving", rate(totals.received_per_second)),
    ];
    list(page, numbers.iter().map(|(name, value)| (*name, value.as_str())))?;

    writeln!(page, "<h2>Connections</h2>")?;
    connections(page, &now.connections)?;
    writeln!(page, "<h2>Last failures</h2>")?;
    failures(page, &now.failures)?;
    writeln!(page, "<h2>This proxy</h2>")?;
    list(page, about.facts.iter().map(|(name, value)| (name.as_str(), value.as_str())))?;
    writeln!(page, "<h2>To use it in a shell</h2>\n<pre>")?;
    for line in &about.lines {
        writeln!(page, "{}", Escaped(line))?;
    }
    writeln!(page, "</pre>\n</body>\n</html>")
}

fn list<'a>(page: &mut String, all: impl Iterator<Item = (&'a str, &'a str)>) -> fmt::Result {
    writeln!(page, "<dl>")?;
    for (name, value) in all {
        writeln!(page, "<div><dt>{}</dt><dd>{}</dd></div>", Escaped(name), Escaped(value))?;
    }
    writeln!(page, "</dl>")
}

fn connections(page: &mut String, open: &[Open]) -> fmt::Result {
    if open.is_empty() {
        return writeln!(page, "<p class=\"none\">None is open.</p>");
    }
    let number = "<th class=\"number\">";
    writeln!(
        page,
        "<div class=\"scroll\"><table><tr><th>Target<th>Protocol<th>Client{number}Sent{number}Received{number}Open for</tr>"
    )?;
    for Open { target, protocol, client, seconds, sent, received, .. } in open.iter().take(SHOWN) {
        writeln!(
            page,
            "<tr><td class=\"wide\">{}<td>{}<td>{}<td class=\"number\">{}<td class=\"number\">{}<td class=\"number\">{}</tr>",
            Escaped(target),
            Escaped(protocol),
            Escaped(client),
            Bytes(*sent),
            Bytes(*received),
            Lasted(*seconds)
        )?;
    }
    writeln!(page, "</table></div>")?;
    if let more @ 1.. = open.len().saturating_sub(SHOWN) {
        writeln!(page, "<p class=\"none\">And {more} more; <a href=\"/status.json\">all of them</a>.</p>")?;
    }
    Ok(())
}

fn failures(page: &mut String, failures: &[Failed]) -> fmt::Result {
    if failures.is_empty() {
        return writeln!(page, "<p class=\"none\">None so far.</p>");
    }
    writeln!(page, "<div class=\"scroll\"><table>")?;
    for Failed { time, message, times } in failures {
        let often = if *times > 1 { format!(" ({times} times)") } else { String::new() };
        writeln!(page, "<tr><td>{}<td class=\"wide\">{}{often}</tr>", Escaped(time), Escaped(message))?;
    }
    writeln!(page, "</table></div>")
}

/// Text that can't become markup.
struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for letter in self.0.chars() {
            match letter {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                letter if letter.is_control() && letter != '\n' => {
                    f.write_char(char::REPLACEMENT_CHARACTER)?;
                }
                letter => f.write_char(letter)?,
            }
        }
        Ok(())
    }
}

/// A number of bytes, with three digits.
struct Bytes(u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut value = self.0 as f64;
        for unit in ["B", "KiB", "MiB", "GiB"] {
            if value < 1000.0 {
                let digits = if unit == "B" || value >= 99.95 { 0 } else { 1 };
                return write!(f, "{value:.digits$} {unit}");
            }
            value /= 1024.0;
        }
        write!(f, "{value:.1} TiB")
    }
}

/// How long something has lasted, in seconds.
struct Lasted(f64);

impl fmt::Display for Lasted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = self.0 as u64;
        match whole {
            0..60 => write!(f, "{:.1} s", self.0),
            60..3600 => write!(f, "{}:{:02} min", whole / 60, whole % 60),
            _ => write!(f, "{}:{:02} h", whole / 3600, whole % 3600 / 60),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_are_short() {
        let cases = [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.0 KiB"),
            (102_400, "100 KiB"),
            (1 << 30, "1.0 GiB"),
            (u64::MAX, "16777216.0 TiB"),
        ];
        for (bytes, told) in cases {
            assert_eq!(Bytes(bytes).to_string(), told);
        }
        assert_eq!(
            [0.04, 59.9, 60.0, 3600.0 * 25.5].map(|time| Lasted(time).to_string()),
            ["0.0 s", "59.9 s", "1:00 min", "25:30 h"]
        );
    }

    proptest! {
        #[test]
        fn no_text_becomes_markup(text in any::<String>()) {
            let escaped = Escaped(&text).to_string();
            prop_assert!(!escaped.contains(['<', '>', '"', '\'']));
            let without = ["&amp;", "&lt;", "&gt;", "&quot;", "&#39;"].iter().fold(escaped, |text, entity| text.replace(entity, ""));
            prop_assert!(!without.contains('&'));
        }
    }
}
