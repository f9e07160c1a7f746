use proptest::prelude::*;

use super::*;

fn request(method: &str, uri: &str, headers: &[(&str, &str)]) -> request::Parts {
    let mut builder = http::Request::builder().method(method).uri(uri);
    for (name, value) in headers {
        builder = builder.header(*name, *value);
    }
    builder.body(()).unwrap().into_parts().0
}

fn sent(method: &str, uri: &str, headers: &[(&str, &str)]) -> Vec<String> {
    let mut head = request(method, uri, headers);
    to_target(&mut head).unwrap();
    let mut lines = vec![format!("{} {}", head.method, head.uri)];
    let header = |(name, value): (&HeaderName, &HeaderValue)| format!("{name}: {}", value.to_str().unwrap());
    lines.extend(head.headers.iter().map(header));
    lines[1..].sort();
    lines
}

#[test]
fn targets_are_read_from_whole_urls_and_from_connect() {
    let cases = [
        ("GET", "http://web/x", Asked::Forward("web:80".parse().unwrap())),
        ("GET", "HTTP://web:8080", Asked::Forward("web:8080".parse().unwrap())),
        ("GET", "http://me:secret@web:81/", Asked::Forward("web:81".parse().unwrap())),
        ("GET", "http://[fd00::7]:80/", Asked::Forward("[fd00::7]:80".parse().unwrap())),
        ("GET", "http://web:/", Asked::Forward("web:80".parse().unwrap())),
        ("CONNECT", "web:443", Asked::Tunnel("web:443".parse().unwrap())),
        ("CONNECT", "[fd00::7]:443", Asked::Tunnel("[fd00::7]:443".parse().unwrap())),
        ("GET", "/proxy.pac", Asked::Page),
        ("OPTIONS", "*", Asked::Page),
    ];
    for (method, uri, expected) in cases {
        assert_eq!(asked(&request(method, uri, &[("host", "h")])), Ok(expected), "{method} {uri}");
    }
}

#[test]
fn what_is_ambiguous_is_refused() {
    const ONE: (&str, &str) = ("host", "h");
    type Case = (&'static str, &'static str, &'static [(&'static str, &'static str)], BadHead);
    let cases: [Case; 10] = [
        ("CONNECT", "web", &[ONE], BadHead::Target),
        ("CONNECT", "me@web:1", &[ONE], BadHead::Target),
        ("GET", "https://web/", &[ONE], BadHead::Scheme),
        ("GET", "ftp://web/", &[ONE], BadHead::Scheme),
        ("GET", "http://web:99999/", &[ONE], BadHead::Target),
        ("GET", "http://we%20b/", &[ONE], BadHead::Target),
        ("GET", "http://web/", &[], BadHead::Host),
        ("GET", "http://web/", &[ONE, ONE], BadHead::Host),
        ("POST", "http://web/", &[ONE, ("transfer-encoding", "gzip, chunked")], BadHead::Coding),
        (
            "POST",
            "http://web/",
            &[ONE, ("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")],
            BadHead::Coding,
        ),
    ];
    for (method, uri, headers, error) in cases {
        let Ok(uri) = uri.parse::<Uri>() else { continue };
        assert_eq!(asked(&request(method, &uri.to_string(), headers)), Err(error), "{method} {uri}");
    }
}

#[test]
fn what_is_for_the_next_hop_goes_no_further() {
    let headers = [
        ("host", "somebody.else"),
        ("connection", "keep-alive, X-Private"),
        ("proxy-connection", "keep-alive"),
        ("keep-alive", "timeout=5"),
        ("x-private", "1"),
        ("proxy-authorization", "Basic xyz"),
        ("te", "gzip;q=0.5"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "h2c"),
        ("x-kept", "2"),
        ("trailer", "x-sum"),
    ];
    assert_eq!(
        sent("POST", "http://me:secret@web:8080/a?b", &headers),
        ["POST /a?b", "host: web:8080", "trailer: x-sum", "via: 1.1 kubectl-relay", "x-kept: 2"]
    );
}

#[test]
fn length_and_host_cannot_be_taken_away() {
    let headers =
        [("host", "h"), ("connection", "content-length, host, x"), ("content-length", "3"), ("x", "y")];
    assert_eq!(
        sent("POST", "http://web/", &headers),
        ["POST /", "content-length: 3", "host: web", "via: 1.1 kubectl-relay"]
    );
}

#[test]
fn a_request_to_switch_stays_one_and_trailers_stay_wanted() {
    let upgrade = [("host", "h"), ("connection", "Upgrade"), ("upgrade", "websocket")];
    assert_eq!(
        sent("GET", "http://web/", &upgrade),
        ["GET /", "connection: upgrade", "host: web", "upgrade: websocket", "via: 1.1 kubectl-relay"]
    );
    let trailers = [("host", "h"), ("te", "deflate, trailers;q=1")];
    assert_eq!(
        sent("GET", "http://web/", &trailers),
        ["GET /", "connection: te", "host: web", "te: trailers", "via: 1.1 kubectl-relay"]
    );
}

#[test]
fn the_path_is_what_the_target_would_have_been_asked_for() {
    let path = |method, uri| sent(method, uri, &[("host", "h")])[0].clone();
    assert_eq!(path("GET", "http://web"), "GET /");
    assert_eq!(path("GET", "http://web?q"), "GET /?q");
    assert_eq!(path("OPTIONS", "http://web"), "OPTIONS *");
    assert_eq!(path("OPTIONS", "http://web/x"), "OPTIONS /x");
}

#[test]
fn pages_are_only_for_addresses_and_localhost() {
    let own = |host: &str| own_host(&request("GET", "/", &[("host", host)]).headers).map(str::to_owned);
    for host in ["127.0.0.1:1080", "localhost", "LocalHost:1", "[::1]:1080", "10.0.0.7"] {
        assert_eq!(own(host).as_deref(), Some(host));
    }
    for host in ["evil.example:1080", "127.0.0.1.evil.example", "localhost.evil", "", ":1080", "127.0.0.1:"] {
        assert_eq!(own(host), None, "{host}");
    }
}

proptest! {
    #[test]
    fn nothing_for_the_next_hop_survives_whatever_connection_names(
        named in prop::collection::vec("[a-zA-Z-]{1,12}", 0..6),
        uri in "http://[a-z.:@/?%\\[\\]0-9]{1,20}",
        separator in prop_oneof![Just(","), Just(", "), Just(" ,\t")],
    ) {
        let Ok(uri) = uri.parse::<Uri>() else { return Ok(()) };
        let mut builder = http::Request::builder().uri(uri).header("host", "h").header("connection", named.join(separator));
        for name in &named {
            builder = builder.header(name.as_str(), "1");
        }
        let Ok(request) = builder.body(()) else { return Ok(()) };
        let (mut head, ()) = request.into_parts();
        if asked(&head).is_ok() && to_target(&mut head).is_ok() {
            for name in named.iter().filter(|name| !["content-length", "host", "via"].contains(&name.to_ascii_lowercase().as_str())) {
                let left = head.headers.get(name.as_str());
                prop_assert!(left.is_none() || name.eq_ignore_ascii_case("te") || name.eq_ignore_ascii_case("connection") || name.eq_ignore_ascii_case("upgrade"), "{name}");
            }
            prop_assert_eq!(head.headers.get_all(HOST).iter().count(), 1);
            prop_assert!(head.uri.scheme().is_none());
        }
    }
}
