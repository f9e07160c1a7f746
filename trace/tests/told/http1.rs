//! HTTP/1 as it passes: what is told of it, in whatever pieces it comes.

use super::support::{self, Said, Said::Client as C, Said::Server as S, told, whole};
use proptest::prelude::*;
use relay_trace::Seen;

/// Conversations, and what is told of each: method, target, status, bytes each way, how it ended.
fn conversations() -> Vec<(Vec<Said<'static>>, Vec<&'static str>)> {
    vec![
        (
            vec![C(b"GET /a?b=c HTTP/1.1\r\nHost: x\r\n\r\n"), S(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")],
            vec!["HTTP/1.1 GET /a?... 200 sent=32 received=40 Complete"],
        ),
        // Kept, and pipelined; a line end of LF alone; blank lines between.
        (
            vec![
                C(b"GET /1 HTTP/1.1\r\n\r\nHEAD /2 HTTP/1.1\n\n\r\nPUT /3 HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc"),
                S(b"HTTP/1.1 204 No\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 9000\r\n\r\nHTTP/1.1 304 Not Modified\r\n\r\n"),
            ],
            vec![
                "HTTP/1.1 GET /1 204 sent=19 received=19 Complete",
                "HTTP/1.1 HEAD /2 200 sent=18 received=41 Complete",
                "HTTP/1.1 PUT /3 304 sent=41 received=29 Complete",
            ],
        ),
        // Chunks with extensions and trailers, both ways.
        (
            vec![
                C(b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip, Chunked\r\n\r\n3;a=\"b\"\r\nabc\r\n0\r\nX: y\r\n\r\n"),
                S(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0000a\r\n0123456789\r\n0\r\n\r\n"),
                C(b"GET /next HTTP/1.1\r\n\r\n"),
                S(b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n"),
            ],
            vec![
                "HTTP/1.1 POST / 200 sent=78 received=71 Complete",
                "HTTP/1.1 GET /next 500 sent=22 received=38 Complete",
            ],
        ),
        // Until the server closes; without a word about the length.
        (
            vec![C(b"GET / HTTP/1.0\r\n\r\n"), S(b"HTTP/1.0 200 OK\r\n\r\nhello"), Said::ServerEnd],
            vec!["HTTP/1.0 GET / 200 sent=18 received=24 Complete"],
        ),
        (
            vec![C(b"GET / HTTP/1.0\r\n\r\n"), S(b"HTTP/1.0 200 OK\r\n\r\nhello")],
            vec!["HTTP/1.0 GET / 200 sent=18 received=24 Cut"],
        ),
        // 100-continue and other interim answers.
        (
            vec![
                C(b"POST / HTTP/1.1\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n"),
                S(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n"),
                C(b"hi"),
                S(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n"),
            ],
            vec!["HTTP/1.1 POST / 201 sent=62 received=105 Complete"],
        ),
        // The answer comes before the request's end.
        (
            vec![
                C(b"POST /big HTTP/1.1\r\nContent-Length: 10\r\n\r\n12345"),
                S(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n"),
                C(b"67890GET / HTTP/1.1\r\n\r\n"),
            ],
            vec!["HTTP/1.1 POST /big 413 sent=52 received=45 Complete", "HTTP/1.1 GET / - sent=18 received=0 Cut"],
        ),
        // A WebSocket, and what follows is not looked at.
        (
            vec![
                C(b"GET /ws HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"),
                S(b"HTTP/1.1 101 Switching Protocols\r\n\r\n\x81\x02hi"),
                C(b"\x81\x80GET / HTTP/1.1\r\n\r\n"),
            ],
            vec!["HTTP/1.1 GET /ws 101 sent=61 received=36 Switched"],
        ),
        // The server would rather not; what the client said meanwhile is the next request.
        (
            vec![
                C(b"GET /ws HTTP/1.1\r\nUpgrade: h2c\r\n\r\nGET /next HTTP/1.1\r\n\r\n"),
                S(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n.HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n"),
            ],
            vec![
                "HTTP/1.1 GET /ws 200 sent=34 received=39 Complete",
                "HTTP/1.1 GET /next 404 sent=22 received=38 Complete",
            ],
        ),
        (
            vec![
                C(b"CONNECT me:secret@db:5432 HTTP/1.1\r\n\r\n"),
                S(b"HTTP/1.1 200 Connection established\r\n\r\n"),
                C(b"\x00\x01"),
                S(b"\x00"),
            ],
            vec!["HTTP/1.1 CONNECT db:5432 200 sent=38 received=39 Switched"],
        ),
        (
            vec![
                C(b"CONNECT db:5432 HTTP/1.1\r\n\r\n"),
                S(b"HTTP/1.1 407 Who\r\nContent-Length: 2\r\n\r\nno"),
                C(b"CONNECT db:5432 HTTP/1.1\r\n\r\n"),
                S(b"HTTP/1.1 200 OK\r\n\r\n"),
            ],
            vec![
                "HTTP/1.1 CONNECT db:5432 407 sent=28 received=41 Complete",
                "HTTP/1.1 CONNECT db:5432 200 sent=28 received=19 Switched",
            ],
        ),
        // No answer at all, and a request that is not whole.
        (vec![C(b"GET /x HTTP/1.1\r\n\r\n")], vec!["HTTP/1.1 GET /x - sent=19 received=0 Cut"]),
        (vec![C(b"GET /x HTTP/1.1\r\nHost:")], vec!["HTTP/1.1 GET /x - sent=22 received=0 Cut"]),
        // An answer to nobody.
        (
            vec![S(b"HTTP/1.1 408 Slow\r\nContent-Length: 0\r\n\r\n")],
            vec!["HTTP/1.1   408 sent=0 received=40 Complete"],
        ),
        // What two could read in two ways.
        (
            vec![
                C(b"POST / HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd"),
                S(b"HTTP/1.1 200 OK\r\n\r\n"),
            ],
            vec!["HTTP/1.1 POST / - sent=55 received=0 Cut", "lost: two values of Content-Length"],
        ),
        (
            vec![C(b"GET / HTTP/1.1\r\nContent-Length: 3, 3\r\n\r\nabc"), S(b"HTTP/1.1 200 OK\r\nContent-Length: +1\r\n\r\n")],
            vec!["HTTP/1.1 GET / - sent=43 received=0 Cut", "lost: a Content-Length that is none"],
        ),
        // As far as it was read, whatever the pieces.
        (
            vec![
                C(b"GET / HTTP/1.1\r\n\r\n"),
                S(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n"),
            ],
            vec!["HTTP/1.1 GET / 200 sent=18 received=58 Cut", "lost: an answer's chunks are broken"],
        ),
        (
            vec![C(b"GET / HTTP/1.1\r\n\r\n"), S(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n")],
            vec!["HTTP/1.1 GET / 200 sent=18 received=48 Cut", "lost: an answer's chunks are broken"],
        ),
        (
            vec![C(b"GET / HTTP/1.1\r\n\r\n"), S(b"HTTP/1.1 101 Surprise\r\n\r\n")],
            vec!["HTTP/1.1 GET / 101 sent=18 received=25 Cut", "lost: another protocol that was not asked for"],
        ),
        // No HTTP.
        (vec![C(b"\x00\x00\x00\x08\x04\xd2\x16\x2f"), S(b"S")], vec!["not HTTP"]),
        (vec![S(b"SSH-2.0-OpenSSH\r\n"), C(b"SSH-2.0-x\r\n")], vec!["not HTTP"]),
        (vec![C(b"hello\n"), S(b"hello\n")], vec!["not HTTP"]),
        (vec![C(b"PING\r\n"), S(b"+PONG\r\n")], vec!["not HTTP"]),
        (vec![C(b"P")], vec!["not HTTP"]),
        (vec![], vec![]),
    ]
}

#[test]
fn every_conversation_is_told() {
    for (said, expected) in conversations() {
        assert_eq!(told(&said, usize::MAX), expected, "{said:?}");
    }
}

#[test]
fn heads_of_any_size_are_followed_in_little_memory() {
    let cookie = format!("Cookie: {}\r\n", "x".repeat(1 << 20));
    let request =
        format!("GET / HTTP/1.1\r\n{cookie}{}Content-Length: 2\r\n\r\nhi", "A: b\r\n".repeat(10_000));
    let answer = format!("HTTP/1.1 200 {}\r\nContent-Length: 0\r\n\r\n", "fine ".repeat(1000));
    let said = [C(request.as_bytes()), S(answer.as_bytes())];
    let expected = format!("HTTP/1.1 GET / 200 sent={} received={} Complete", request.len(), answer.len());
    assert_eq!(told(&said, usize::MAX), [expected]);

    let endless = [b"GET /".repeat(4 << 10).as_slice(), b"x".repeat(100_000).as_slice()].concat();
    assert_eq!(told(&[C(&endless)], 1000), ["lost: a first line of more than 16 KiB"]);
}

proptest! {
    #[test]
    fn the_pieces_do_not_matter(index in 0..conversations().len(), cuts in prop::collection::vec(1..30usize, 1..8)) {
        let (said, expected) = &conversations()[index];
        prop_assert_eq!(&support::told_in(said, &cuts), expected);
    }

    #[test]
    fn noise_is_told_alike_in_any_pieces(
        client in "(GET|PUT|X)? ?/?.{0,12}(HTTP/1.1\r\n)?(Content-Length: [0-9]{1,2}\r\n|Transfer-Encoding: chunked\r\n)?(\r\n)?.{0,40}",
        server in "(HTTP/1\\.1 [1-5][0-9]{2} .{0,5}\r\n){0,2}(Content-Length: [0-9]\r\n)?(\r\n)?.{0,40}",
        cuts in prop::collection::vec(1..9usize, 1..5),
    ) {
        let said = [C(client.as_bytes()), S(server.as_bytes()), Said::ServerEnd, C(client.as_bytes())];
        prop_assert_eq!(support::told_in(&said, &cuts), whole(&said));
    }
}

#[test]
fn times_are_from_the_first_byte_to_the_last() {
    let said =
        [C(b"GET / HTTP/1.1\r\n"), C(b"\r\n"), S(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no"), S(b"k")];
    let Seen::Exchange(exchange) = support::seen(&said, &[usize::MAX]).remove(0) else {
        panic!("no exchange")
    };
    // Each piece comes a second after the one before.
    assert_eq!((exchange.began.as_secs(), exchange.took.as_secs()), (1, 3));
}
