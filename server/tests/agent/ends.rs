//! How a connection ends is the same for direct streams and for those of sessions: what either test does once it has its
//! client.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::*;

/// The client asks, ends its direction, and gets all of a long reply.
pub(crate) async fn half_close(mut client: impl AsyncRead + AsyncWrite + Unpin, listener: TcpListener) {
    let reply = pattern(4 << 20);
    let asks = async {
        client.write_all(b"question").await.unwrap();
        client.shutdown().await.unwrap();
        let mut got = Vec::new();
        client.read_to_end(&mut got).await.unwrap();
        got
    };
    let answers = async {
        let (mut socket, _) = listener.accept().await.unwrap();
        assert_eq!(rest(&mut socket).await, b"question");
        socket.write_all(&reply).await.unwrap();
    };
    let (got, ()) = tokio::join!(asks, answers);
    assert!(got == reply);
}

/// The target sends something and resets: the client gets both, and how it learns of the reset is returned.
pub(crate) async fn target_resets(mut client: impl AsyncRead + Unpin, mut server: TcpStream) -> io::Error {
    server.write_all(b"part").await.unwrap();
    server.set_zero_linger().unwrap();
    drop(server);
    let mut part = [0; 4];
    client.read_exact(&mut part).await.unwrap();
    assert_eq!(&part, b"part");
    client.read_u8().await.unwrap_err()
}
