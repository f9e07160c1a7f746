//! Text of the traffic, made fit to be shown: no byte of it can steer a terminal, and what tends to hold secrets is left
//! out.

/// The longest text that is shown, before it is escaped.
const LONGEST: usize = 512;

/// Printable ASCII as it is, all else escaped; cut where it is long.
pub(crate) fn shown(bytes: &[u8], is_cut: bool) -> String {
    let mut text = String::new();
    for byte in &bytes[..bytes.len().min(LONGEST)] {
        match byte {
            b'\\' => text.push_str("\\\\"),
            0x21..=0x7e => text.push(char::from(*byte)),
            other => text.push_str(&format!("\\x{other:02x}")),
        }
    }
    if is_cut || bytes.len() > LONGEST {
        text.push_str("...");
    }
    text
}

/// A request's target: without the credentials that may stand in a URL, and unless asked for without its query and the
/// parameters of its segments.
pub(crate) fn target(bytes: &[u8], is_cut: bool, with_query: bool) -> String {
    let (scheme, rest) = match bytes.windows(3).position(|part| part == b"://") {
        Some(at) if !bytes[..at].contains(&b'/') => bytes.split_at(at + 3),
        _ => (&[][..], bytes),
    };
    let path = rest.iter().position(|byte| matches!(byte, b'/' | b'?' | b'#')).unwrap_or(rest.len());
    // Only an authority has credentials; a path begins with a slash.
    let host = rest[..path].iter().rposition(|byte| *byte == b'@').map_or(0, |at| at + 1);
    let mut kept = [scheme, &rest[host..path]].concat();
    kept.extend(if with_query { rest[path..].to_vec() } else { without_values(&rest[path..]) });
    shown(&kept, is_cut)
}

/// A path with `?...` for its query, and `;...` for what a segment has behind a semicolon, like a session's id.
fn without_values(path: &[u8]) -> Vec<u8> {
    let end = path.iter().position(|byte| matches!(byte, b'?' | b'#'));
    let (path, query) = path.split_at(end.unwrap_or(path.len()));
    let mut kept = Vec::with_capacity(path.len());
    for (index, segment) in path.split(|byte| *byte == b'/').enumerate() {
        if index > 0 {
            kept.push(b'/');
        }
        match segment.iter().position(|byte| *byte == b';') {
            Some(at) => kept.extend([&segment[..at], b";..."].concat()),
            None => kept.extend(segment),
        }
    }
    if let Some(mark) = query.first() {
        kept.extend([&[*mark][..], b"..."].concat());
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_tends_to_hold_secrets_is_left_out() {
        for (raw, kept) in [
            ("/a/b", "/a/b"),
            ("/a?token=x", "/a?..."),
            ("/a#x?y", "/a#..."),
            ("/a;jsessionid=7/b;v=1?q", "/a;.../b;...?..."),
            ("http://me:secret@web/a?b", "http://web/a?..."),
            ("me:secret@web:443", "web:443"),
            ("http://web?u=me@home", "http://web?..."),
            ("/to/http://me:x@y", "/to/http://me:x@y"),
            ("/mail/me@home", "/mail/me@home"),
            ("*", "*"),
            ("", ""),
        ] {
            assert_eq!(target(raw.as_bytes(), false, false), kept, "{raw}");
        }
        assert_eq!(target(b"http://me:x@web/a;b?c=d", false, true), "http://web/a;b?c=d");
    }

    #[test]
    fn nothing_steers_a_terminal() {
        assert_eq!(shown(b"/\x1b[2J\r\n\xff\\x", false), "/\\x1b[2J\\x0d\\x0a\\xff\\\\x");
        assert_eq!(shown(&[b'a'; 600], false), "a".repeat(512) + "...");
        assert_eq!(shown(b"a", true), "a...");
    }
}
