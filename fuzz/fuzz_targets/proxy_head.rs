//! Heads of HTTP requests on their way through the proxy, targets, patterns and credentials: whatever is written in
//! them, nothing for the next hop goes on, there is one Host, and nothing panics.

#![no_main]

use libfuzzer_sys::fuzz_target;
use relay_proxy::{
    Credentials, Pattern, Rules, Target,
    web::head::{Asked, asked, own_host, to_target},
};

fuzz_target!(|text: &str| {
    let mut lines = text.split('\n');
    let mut first = lines.next().unwrap_or_default().splitn(2, ' ');
    let (method, uri) = (first.next().unwrap_or_default(), first.next().unwrap_or_default());
    if let Ok(target) = uri.parse::<Target>() {
        assert_eq!(target.to_string().parse(), Ok(target.clone()));
        if let Ok(pattern) = method.parse::<Pattern>() {
            assert_eq!(pattern.to_string().parse(), Ok(pattern.clone()));
            let denied =
                Rules { deny: vec![pattern.clone()], search: vec!["dev".into()], ..Rules::default() };
            let left = denied.ways(&target);
            assert!(left.iter().all(|(way, _)| !pattern.matches(way)), "{pattern} {target}");
        }
    }
    if let Ok(credentials) = Credentials::parse(uri) {
        let _ = credentials.accepts_header(method.as_bytes());
    }
    let mut request = http::Request::builder().method(method).uri(uri);
    for line in lines {
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        request = request.header(name, value.trim());
    }
    let Ok(request) = request.body(()) else { return };
    let (mut head, ()) = request.into_parts();
    let _ = own_host(&head.headers);
    let Ok(Asked::Forward(_)) = asked(&head) else { return };
    if to_target(&mut head).is_err() {
        return;
    }
    assert_eq!(head.headers.get_all("host").iter().count(), 1);
    for name in ["keep-alive", "proxy-connection", "proxy-authorization", "transfer-encoding"] {
        assert!(!head.headers.contains_key(name), "{name}");
    }
    let named = head.headers.get_all("connection").iter();
    for token in named.flat_map(|value| value.to_str().unwrap_or("?").split(',')) {
        assert!(["upgrade", "te"].contains(&token.trim()), "{token}");
    }
    assert!(head.uri.scheme().is_none() && head.uri.authority().is_none());
});
