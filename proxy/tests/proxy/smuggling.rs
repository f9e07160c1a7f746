//! Every byte beside and within the header that says how a body is coded: none of them makes a message that two readers
//! could take for different ones.

use crate::support::{Client, Origin, Rig};

/// As a coding it is five bytes, as a length all of it.
const BODY: &str = "5\r\nhello\r\n0\r\n\r\n";

#[tokio::test]
async fn no_byte_hides_a_coding_from_one_reader_only() {
    let rig = Rig::start().await;
    let origin = Origin::new(&rig, "web:80").await;
    let (mut refused, mut passed) = (0, 0);
    for byte in 1..=255_u8 {
        let shapes = [
            [b"Transfer-Encoding:", &[byte][..], b"chunked"].concat(),
            [b"Transfer-Encoding", &[byte][..], b": chunked"].concat(),
            [&[byte][..], b"Transfer-Encoding: chunked"].concat(),
            [b"Transfer-Encoding: chunked", &[byte][..]].concat(),
            [b"Transfer", &[byte][..], b"Encoding: chunked"].concat(),
            [b"X: y", &[byte][..], b"Transfer-Encoding: chunked"].concat(),
        ];
        for shape in shapes {
            let length = format!("\r\nContent-Length: {}\r\n\r\n{BODY}", BODY.len());
            let head = b"POST http://web/ HTTP/1.1\r\nHost: web\r\n";
            let mut client = rig.says([head, &shape[..], length.as_bytes()].concat()).await;
            tokio::select! {
                answer = client.head() => {
                    let known = ["HTTP/1.1 400 ", "HTTP/1.1 501 "].iter().any(|known| answer.starts_with(known));
                    assert!(known, "{}: {answer}", shape.escape_ascii());
                    refused += 1;
                }
                // The head ends here, coded; the length then is no chunk, so nobody sees an end of the body.
                mut target = origin.accept(), if shape.ends_with(b"\n") => {
                    assert!(!target.until_reset().await.ends_with(b"0\r\n\r\n"));
                }
                target = origin.accept(), if !shape.ends_with(b"\n") => {
                    has_one_meaning(target, &shape.escape_ascii().to_string()).await;
                    assert!(client.head().await.starts_with("HTTP/1.1 204 "));
                    passed += 1;
                }
            }
        }
    }
    assert!(refused > 0 && passed > 0, "{refused} refused, {passed} passed on");
}

async fn has_one_meaning(mut target: Client, shape: &str) {
    let head = target.head().await.to_ascii_lowercase();
    let lengths = head.matches("\r\ncontent-length: 15\r\n").count();
    let codings = head.matches("\r\ntransfer-encoding: chunked\r\n").count();
    // A line that holds nothing but a line feed ends the head, and what follows is no request.
    let has_body = !shape.starts_with("\\n");
    assert_eq!(lengths + codings, usize::from(has_body), "{shape}: {head}");
    let has_control =
        head.split("\r\n").any(|line| line.contains(|c: char| c.is_ascii_control() && c != '\t'));
    assert!(!has_control, "{shape}: {head}");
    // Written anew it is the same for both readers.
    if has_body {
        assert_eq!(target.read(BODY.len()).await, BODY.as_bytes(), "{shape}");
    }
    target.write("HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n").await;
}
