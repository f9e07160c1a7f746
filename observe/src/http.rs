//! As much of HTTP/1.1 as a scraper needs: one GET, one answer, the end.

/// The longest request that is read, in bytes.
pub const MOST: usize = 8 << 10;
/// Where the metrics are.
pub const PATH: &str = "/metrics";

/// The answer to what was read so far; `None` where the request goes on. `page` is made only where it is asked for.
pub fn answer(request: &[u8], page: impl FnOnce() -> String) -> Option<Vec<u8>> {
    if !request.windows(4).any(|end| end == b"\r\n\r\n") {
        return (request.len() >= MOST).then(|| plain("431 Request Header Fields Too Large", "", false));
    }
    let line = request.split(|&byte| byte == b'\r').next().unwrap_or_default();
    let mut words = line.split(|&byte| byte == b' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let is_http =
        words.next().is_some_and(|version| version.starts_with(b"HTTP/1.")) && words.next().is_none();
    let path = target.split(|&byte| byte == b'?').next().unwrap_or_default();
    Some(match method {
        _ if !is_http => plain("400 Bad Request", "", false),
        b"GET" | b"HEAD" if path == PATH.as_bytes() => plain("200 OK", &page(), method == b"HEAD"),
        b"GET" | b"HEAD" => plain("404 Not Found", "the metrics are at /metrics\n", method == b"HEAD"),
        _ => plain("405 Method Not Allowed", "", false),
    })
}

fn plain(status: &str, body: &str, head_only: bool) -> Vec<u8> {
    let allow = if status.starts_with("405") { "Allow: GET, HEAD\r\n" } else { "" };
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\nContent-Length: {}\r\n\
         {allow}Connection: close\r\n\r\n{}",
        body.len(),
        if head_only { "" } else { body }
    )
    .into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ask(request: &str) -> Option<String> {
        answer(request.as_bytes(), || "page\n".to_owned()).map(|answer| String::from_utf8(answer).unwrap())
    }

    #[test]
    fn each_question_has_its_answer() {
        let status = |request: &str| ask(&format!("{request}\r\nHost: x\r\n\r\n")).unwrap()[9..12].to_owned();
        assert_eq!(status("GET /metrics HTTP/1.1"), "200");
        assert_eq!(status("GET /metrics?x=1 HTTP/1.0"), "200");
        assert_eq!(status("HEAD /metrics HTTP/1.1"), "200");
        assert_eq!(status("GET / HTTP/1.1"), "404");
        assert_eq!(status("POST /metrics HTTP/1.1"), "405");
        assert_eq!(status("GET /metrics"), "400");
        assert_eq!(status("\x16\x03\x01"), "400");
        let get = ask("GET /metrics HTTP/1.1\r\n\r\n").unwrap();
        assert!(get.contains("\r\nContent-Length: 5\r\n") && get.ends_with("\r\n\r\npage\n"), "{get}");
        let head = ask("HEAD /metrics HTTP/1.1\r\n\r\n").unwrap();
        assert!(head.contains("\r\nContent-Length: 5\r\n") && head.ends_with("\r\n\r\n"), "{head}");
    }

    proptest! {
        #[test]
        fn no_bytes_do_harm_and_enough_of_them_are_answered(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = answer(&bytes, String::new);
            let long: Vec<u8> = bytes.iter().copied().cycle().take(if bytes.is_empty() { 0 } else { MOST }).collect();
            prop_assert!(bytes.is_empty() || answer(&long, String::new).is_some());
        }
    }
}
