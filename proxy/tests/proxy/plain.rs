//! Plain HTTP: what goes on to the target, and what comes back.

use relay_protocol::Status;
use relay_proxy::Limits;

use crate::support::{Origin, Rig, Wanted};

fn get(url: &str) -> String {
    format!("GET {url} HTTP/1.1\r\nHost: ignored\r\n\r\n")
}

#[tokio::test]
async fn requests_of_one_client_share_a_connection_and_another_target_gets_its_own() {
    let rig = Rig::start().await;
    let (web, db) = (Origin::new(&rig, "web:80").await, Origin::new(&rig, "db:81").await);
    let mut client = rig.says(get("http://web/1?a=b")).await;
    let mut target = web.accept().await;
    for page in ["/1?a=b", "/2"] {
        let head = target.head().await;
        assert_eq!(head, format!("GET {page} HTTP/1.1\r\nHost: web\r\nvia: 1.1 kubectl-relay\r\n\r\n"));
        target.write("HTTP/1.1 200 OK\r\nContent-Length: 4\r\nX-Odd-Case: 1\r\n\r\npage").await;
        let reply = client.until("page").await;
        assert_eq!(
            reply,
            "HTTP/1.1 200 OK\r\nContent-Length: 4\r\nX-Odd-Case: 1\r\nvia: 1.1 kubectl-relay\r\n\r\npage"
        );
        client.write(get(if page == "/2" { "http://db:81/3" } else { "http://web/2" })).await;
    }
    let mut other = db.accept().await;
    assert!(other.head().await.starts_with("GET /3 HTTP/1.1\r\nHost: db:81\r\n"));
    other.write("HTTP/1.1 204 No Content\r\n\r\n").await;
    assert!(client.head().await.starts_with("HTTP/1.1 204 "));
    client.half_close().await;
    assert!(client.rest().await.is_empty());
    assert_eq!(rig.mock.dialled(), ["web:80", "db:81"]);
    for (target, status) in [("web:80", Status::Ok), ("db:81", Status::Ok)] {
        let told = rig.told().await;
        assert_eq!((told.target.as_str(), told.status), (target, status));
    }
}

#[tokio::test]
async fn bodies_stream_both_ways_and_trailers_pass() {
    let rig = Rig::start().await;
    let origin = Origin::new(&rig, "web:80").await;
    let mut client = rig
        .says("POST http://web/ HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\nTE: trailers\r\n\r\n")
        .await;
    client.write("3;quality=0.5\r\none\r\n").await;
    let mut target = origin.accept().await;
    let head = target.head().await.to_ascii_lowercase();
    assert!(
        head.contains("\r\ntransfer-encoding: chunked\r\n") && head.contains("\r\nte: trailers\r\n"),
        "{head}"
    );
    assert!(!head.contains("content-length"), "{head}");
    // The first chunk is there although the second has not been written, and without its extension.
    assert_eq!(target.until("one\r\n").await, "3\r\none\r\n");
    client.write("3\r\ntwo\r\n0\r\nX-Sum: 6\r\n\r\n").await;
    assert_eq!(target.head().await.to_ascii_lowercase(), "3\r\ntwo\r\n0\r\nx-sum: 6\r\n\r\n");
    target
        .write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n4\r\nfour\r\n")
        .await;
    assert!(client.until("four\r\n").await.ends_with("\r\n\r\n4\r\nfour\r\n"));
    target.write("0\r\nX-Sum: 4\r\n\r\n").await;
    assert_eq!(client.head().await.to_ascii_lowercase(), "0\r\nx-sum: 4\r\n\r\n");
}

#[tokio::test]
async fn a_reply_that_breaks_off_does_not_look_whole() {
    let rig = Rig::start().await;
    let origin = Origin::new(&rig, "web:80").await;
    let replies = [
        "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
    ];
    for reply in replies {
        let mut client = rig.says(get("http://web/")).await;
        let mut target = origin.accept().await;
        target.head().await;
        target.write(reply).await;
        assert!(client.until("half").await.starts_with("HTTP/1.1 200"));
        drop(target);
        client.until_reset().await;
        assert_ne!(rig.told().await.status, Status::Ok);
    }
}

#[tokio::test]
async fn a_target_that_does_not_answer_in_http_is_told_of() {
    let rig = Rig::start().await;
    let origin = Origin::new(&rig, "web:80").await;
    for (reply, why) in
        [("", "web:80 ended the connection"), ("SSH-2.0-OpenSSH\r\n", "web:80 does not answer in HTTP")]
    {
        let mut client = rig.says(get("http://web/")).await;
        let mut target = origin.accept().await;
        target.head().await;
        target.write(reply).await;
        drop(target);
        client.half_close().await;
        let answer = client.rest_as_text().await;
        assert!(answer.starts_with("HTTP/1.1 502 ") && answer.contains(why), "{answer}");
    }
}

#[tokio::test]
async fn a_client_that_gives_up_is_seen_by_the_target() {
    let rig = Rig::start().await;
    let origin = Origin::new(&rig, "web:80").await;
    let client = rig.says(get("http://web/")).await;
    let mut target = origin.accept().await;
    target.head().await;
    client.reset();
    target.until_reset().await;
}

#[tokio::test]
async fn a_client_that_half_closes_gets_its_reply() {
    let rig = Rig::start().await;
    let origin = Origin::new(&rig, "web:80").await;
    let mut client = rig.says(get("http://web/")).await;
    client.half_close().await;
    let mut target = origin.accept().await;
    target.head().await;
    target.write("HTTP/1.1 200 OK\r\n\r\nuntil the end").await;
    drop(target);
    assert!(client.rest_as_text().await.contains("until the end"));
}

#[tokio::test]
async fn a_head_has_a_length_without_a_body_and_old_clients_get_no_chunks() {
    let rig = Rig::start().await;
    let origin = Origin::new(&rig, "web:80").await;
    let mut client = rig.says("HEAD http://web/ HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n").await;
    let mut target = origin.accept().await;
    target.head().await;
    target.write("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n").await;
    let reply = client.rest_as_text().await.to_ascii_lowercase();
    assert!(reply.contains("content-length: 1000\r\n") && reply.ends_with("\r\n\r\n"), "{reply}");

    let mut old = rig.says("GET http://web/ HTTP/1.0\r\n\r\n").await;
    let mut target = origin.accept().await;
    assert!(target.head().await.starts_with("GET / HTTP/1.1\r\nhost: web\r\n"));
    target.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n").await;
    let reply = old.rest_as_text().await;
    assert!(reply.starts_with("HTTP/1.0 200 ") && reply.ends_with("\r\n\r\nabc"), "{reply}");
}

/// Shapes that two readers could take for different things. Each is refused, or goes on as what one reader says and in
/// a form that nobody can doubt.
#[tokio::test]
async fn nothing_ambiguous_goes_on() {
    let post =
        |headers: &str, body: &str| format!("POST http://web/ HTTP/1.1\r\nHost: web\r\n{headers}\r\n{body}");
    let many: String = (0..200).map(|number| format!("X-{number}: 1\r\n")).collect();
    let long = format!("X: {}\r\n", "x".repeat(70_000));
    let refused = [
        ("two lengths", post("Content-Length: 3\r\nContent-Length: 4\r\n", "abcd"), "400"),
        ("a list of lengths", post("Content-Length: 3, 4\r\n", "abcd"), "400"),
        ("a signed length", post("Content-Length: +3\r\n", "abc"), "400"),
        ("a hexadecimal length", post("Content-Length: 0x3\r\n", "abc"), "400"),
        ("another coding", post("Transfer-Encoding: gzip, chunked\r\n", "0\r\n\r\n"), "501"),
        (
            "chunked twice",
            post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"),
            "501",
        ),
        ("a coding that hides chunked", post("Transfer-Encoding: xchunked\r\n", "0\r\n\r\n"), "400"),
        ("a folded header", post("X: a\r\n b\r\nContent-Length: 0\r\n", ""), "400"),
        ("a folded length", post("Content-Length:\r\n 3\r\n", "abc"), "400"),
        ("a space before the colon", post("Content-Length : 3\r\n", "abc"), "400"),
        ("a bare carriage return", post("X: a\rContent-Length: 3\r\n", "abc"), "400"),
        ("a zero byte", post("X: a\0b\r\n", ""), "400"),
        ("no Host", "GET http://web/ HTTP/1.1\r\n\r\n".into(), "400"),
        ("two Hosts", post("Host: other\r\n", ""), "400"),
        (
            "chunks in HTTP/1.0",
            "POST http://web/ HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".into(),
            "400",
        ),
        ("two spaces", "GET  http://web/ HTTP/1.1\r\nHost: web\r\n\r\n".into(), "400"),
        ("another version", "GET http://web/ HTTP/1.2\r\nHost: web\r\n\r\n".into(), "400"),
        ("too many headers", post(&many, ""), "431"),
        ("a header that is too long", post(&long, ""), "431"),
        ("https", "GET https://web/ HTTP/1.1\r\nHost: web\r\n\r\n".into(), "400"),
    ];
    let rig = Rig::start().await;
    for (what, request, status) in refused {
        let mut client = rig.connect().await;
        // The proxy may stop reading in the middle.
        let _ = tokio::io::AsyncWriteExt::write_all(&mut client.0, request.as_bytes()).await;
        let head = client.head().await;
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{what}: {head}");
        assert!(rig.mock.dialled().is_empty(), "{what}");
        // What follows belongs to nobody: the connection ends.
        client.rest().await;
    }
}

#[tokio::test]
async fn what_goes_on_has_one_meaning() {
    let rig = Rig::start().await;
    let origin = Origin::new(&rig, "web:80").await;
    let chunked = "Transfer-Encoding: chunked\r\n";
    let both = "4\r\nabcd\r\n0\r\n\r\n";
    let cases = [
        ("both lengths", format!("Content-Length: 3\r\n{chunked}"), both, "4\r\nabcd\r\n0\r\n\r\n", true),
        (
            "both, the other way round",
            format!("{chunked}Content-Length: 3\r\n"),
            both,
            "4\r\nabcd\r\n0\r\n\r\n",
            true,
        ),
        ("an extension", chunked.into(), "4;a=\"b\"\r\nabcd\r\n0;x\r\n\r\n", "4\r\nabcd\r\n0\r\n\r\n", false),
        ("bare line feeds", "X: y\nContent-Length: 3\n".into(), "abc", "abc", false),
        ("the same length twice", "Content-Length: 3\r\nContent-Length: 3\r\n".into(), "abc", "abc", false),
    ];
    for (what, headers, body, expected, ends) in cases {
        let mut client =
            rig.says(format!("POST http://web/ HTTP/1.1\r\nHost: web\r\n{headers}\r\n{body}")).await;
        let mut target = origin.accept().await;
        let head = target.head().await.to_ascii_lowercase();
        assert_eq!(target.read(expected.len()).await, expected.as_bytes(), "{what}");
        let lengths = head.matches("content-length: 3\r\n").count();
        let codings = head.matches("transfer-encoding: chunked\r\n").count();
        assert_eq!(lengths + codings, 1, "{what}: {head}");
        assert!(!head.replace("\r\n", "").contains(['\r', '\n']), "{what}: {head}");
        target.write("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
        assert!(client.head().await.starts_with("HTTP/1.1 200"), "{what}");
        if ends {
            client.rest().await;
        }
    }
}

#[tokio::test]
async fn chunks_that_are_none_end_the_request() {
    let rig = Rig::start().await;
    let origin = Origin::new(&rig, "web:80").await;
    for body in [
        "4\nabcd\r\n0\r\n\r\n",
        "-1\r\n",
        "4\r\nabcde\r\n0\r\n\r\n",
        "fffffffffffffffff\r\n",
        "4;a\nb\r\nabcd\r\n",
    ] {
        let mut client =
            rig.says("POST http://web/ HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: chunked\r\n\r\n").await;
        client.write(body).await;
        let mut target = origin.accept().await;
        // The target never sees an end of the body, and so no request.
        assert!(!String::from_utf8_lossy(&target.until_reset().await).contains("0\r\n\r\n"), "{body:?}");
        assert_ne!(rig.told().await.status, Status::Ok);
    }
}

#[tokio::test]
async fn responses_that_are_ambiguous_are_not_passed_on() {
    let rig = Rig::start().await;
    let origin = Origin::new(&rig, "web:80").await;
    for headers in [
        "Content-Length: 3\r\nContent-Length: 4\r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
        "X: a\r\n b\r\n",
        "Content-Length : 3\r\n",
    ] {
        let mut client = rig.says(get("http://web/")).await;
        let mut target = origin.accept().await;
        target.head().await;
        target.write(format!("HTTP/1.1 200 OK\r\n{headers}\r\nabcd")).await;
        let head = client.head().await;
        assert!(head.starts_with("HTTP/1.1 502 "), "{headers}: {head}");
    }
}

#[tokio::test]
async fn the_limit_of_a_head_can_be_set() {
    let limits = Limits { header_size: 8192, ..Limits::default() };
    let rig = Rig::with(Wanted { limits, ..Wanted::default() }).await;
    let mut client = rig.says(format!("GET http://web/ HTTP/1.1\r\nX: {}\r\n", "x".repeat(9000))).await;
    assert!(client.head().await.starts_with("HTTP/1.1 431 "));
}

#[tokio::test]
async fn pages_of_the_proxy_are_for_its_own_address_alone() {
    let rig = Rig::with(Wanted { pages: true, credentials: Some("me:secret"), ..Wanted::default() }).await;
    let page = async |head: &str| {
        let mut client = rig.says(format!("{head}Connection: close\r\n\r\n")).await;
        client.rest_as_text().await
    };
    let own = page("GET / HTTP/1.1\r\nHost: 127.0.0.1:1080\r\n").await;
    assert!(own.ends_with("\r\n\r\nfor / at 127.0.0.1:1080, authorized: false"), "{own}");
    let known = page("GET /?x HTTP/1.1\r\nHost: localhost\r\nAuthorization: Basic bWU6c2VjcmV0\r\n").await;
    assert!(known.ends_with("for / at localhost, authorized: true"), "{known}");
    assert!(page("GET /nothing HTTP/1.1\r\nHost: localhost\r\n").await.starts_with("HTTP/1.1 404 "));
    assert!(page("POST / HTTP/1.1\r\nHost: localhost\r\n").await.starts_with("HTTP/1.1 405 "));
    assert!(page("GET / HTTP/1.1\r\nHost: evil.example\r\n").await.starts_with("HTTP/1.1 421 "));
}
