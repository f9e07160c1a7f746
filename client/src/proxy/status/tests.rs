use std::net::{Ipv4Addr, SocketAddr};

use http::Method;
use serde_json::Value;

use super::*;

struct Nobody;

impl Observer for Nobody {
    fn ended(&self, _: &Ended<'_>) {}
    fn trouble(&self, _: &str) {}
}

fn status(facts: &[(&str, &str)]) -> Arc<Status> {
    let facts = facts.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let about = About { facts, lines: vec!["export ALL_PROXY=socks5h://127.0.0.1:1080".into()] };
    // The sender may go: what was sent last can still be seen.
    let (_, current) = watch::channel(Current::Starting);
    Status::new(about, Pac::default(), current, Arc::new(Nobody))
}

fn get(status: &Status, path: &str, is_authorized: bool) -> Option<Response<Bytes>> {
    let here = SocketAddr::from((Ipv4Addr::LOCALHOST, 1080));
    status.page(&PageRequest {
        method: &Method::GET,
        path,
        query: None,
        host: "127.0.0.1:1080",
        local: here,
        peer: here,
        is_authorized,
    })
}

fn text(page: &Response<Bytes>) -> String {
    String::from_utf8(page.body().to_vec()).unwrap()
}

#[test]
fn each_page_has_its_kind_and_belongs_to_nobody_else() {
    let status = status(&[]);
    let kinds = [
        ("/", "text/html; charset=utf-8"),
        ("/status.json", "application/json"),
        ("/proxy.pac", "application/x-ns-proxy-autoconfig"),
    ];
    for (path, kind) in kinds {
        let page = get(&status, path, true).unwrap();
        let header = |name: &str| page.headers().get(name).map(|value| value.to_str().unwrap());
        assert_eq!((page.status(), header("content-type")), (StatusCode::OK, Some(kind)));
        assert_eq!(header("x-content-type-options"), Some("nosniff"));
        assert_eq!(header("cross-origin-resource-policy"), Some("same-origin"));
        assert_eq!(header("access-control-allow-origin"), None);
        assert!(header("content-security-policy").unwrap().contains("default-src 'none'"));
    }
    for path in ["/index.html", "//", "/status.json/", "/proxy.pac/../"] {
        assert!(get(&status, path, true).is_none(), "{path}");
    }
}

#[test]
fn whoever_has_not_logged_in_sees_the_pac_file_only() {
    let status = status(&[]);
    for path in ["/", "/status.json"] {
        let page = get(&status, path, false).unwrap();
        assert_eq!(page.status(), StatusCode::UNAUTHORIZED);
        assert!(page.headers().contains_key(header::WWW_AUTHENTICATE));
        assert!(!text(&page).contains("ALL_PROXY"));
    }
    assert_eq!(get(&status, "/proxy.pac", false).unwrap().status(), StatusCode::OK);
}

#[test]
fn the_page_says_what_is_known_and_nothing_in_it_is_markup() {
    let status = status(&[("Context", "<script>alert(1)</script>")]);
    status.trouble("no <b>way</b> to \"it\"");
    status.trouble("no <b>way</b> to \"it\"");
    let page = text(&get(&status, "/", true).unwrap());
    assert!(page.contains("&lt;script&gt;alert(1)&lt;/script&gt;") && !page.contains("<script"));
    assert!(page.contains("no &lt;b&gt;way&lt;/b&gt; to &quot;it&quot; (2 times)"), "{page}");
    assert!(page.contains("connecting") && page.contains("None is open."));
    assert!(page.contains("<meta http-equiv=\"refresh\""));
}

#[test]
fn programs_read_the_same() {
    let status = status(&[]);
    for number in 0..FAILURES + 5 {
        status.trouble(&format!("trouble {number}"));
    }
    let told: Value = serde_json::from_str(&text(&get(&status, "/status.json", true).unwrap())).unwrap();
    assert_eq!(told["state"], "connecting");
    assert_eq!(told["totals"]["asked"], 0);
    assert_eq!(told["totals"]["sentPerSecond"], Value::Null);
    assert_eq!(told["connections"], serde_json::json!([]));
    let failures = told["failures"].as_array().unwrap();
    assert_eq!(failures.len(), FAILURES);
    assert_eq!(failures[0]["message"], format!("trouble {}", FAILURES + 4));
}

#[test]
fn a_rate_is_that_of_the_last_seconds() {
    let status = status(&[]);
    let begin = Instant::now();
    let moved = |sent, received| Totals { asked: 0, refused: 0, sent, received };
    let at = |milliseconds| begin + Duration::from_millis(milliseconds);
    assert_eq!(status.rate(moved(500, 0), at(0)), None);
    assert_eq!(status.rate(moved(500, 0), at(100)), None, "too soon to tell");
    assert_eq!(status.rate(moved(1500, 4000), at(2000)), Some((500.0, 2000.0)));
    assert_eq!(status.rate(moved(1500, 4000), at(4000)), Some((250.0, 1000.0)));
    for later in [6000, 8000, 10_000, 12_000, 14_000] {
        status.rate(moved(1500, 4000), at(later));
    }
    assert_eq!(status.rate(moved(1500, 4000), at(16_000)), Some((0.0, 0.0)));
}
