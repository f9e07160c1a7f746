//! The window of a connection that was made with a small buffer. How many bytes a peer then sends at a time is seen from
//! outside only: see the bench's rows of many streams.

#![cfg(any(target_os = "linux", target_os = "android"))]
#![allow(clippy::unwrap_used, reason = "a test that fails here should panic")]

use std::io::ErrorKind;

use relay_sockopt::set_window_clamp;
use socket2::SockRef;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket};

/// The kernel makes twice as much of it, for its own records.
const SMALL: u32 = 8 << 10;
const LARGE: usize = 64 << 10;

#[tokio::test]
async fn it_can_be_widened_while_bytes_come() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(SMALL).unwrap();
    let (reader, accepted) = tokio::join!(socket.connect(listener.local_addr().unwrap()), listener.accept());
    let (mut writer, _) = accepted.unwrap();
    let mut reader = reader.unwrap();
    let sent: Vec<u8> = (0..1 << 20).map(|n: u32| (n / 251) as u8).collect();
    let expected = sent.clone();
    tokio::spawn(async move { writer.write_all(&sent).await });

    let mut received = vec![0; 4_096];
    reader.read_exact(&mut received).await.unwrap();
    let socket = SockRef::from(&reader);
    socket.set_recv_buffer_size(LARGE).unwrap();
    set_window_clamp(&socket, 2 * LARGE).unwrap();
    // None at all is for sockets that are not connected.
    assert_eq!(set_window_clamp(&socket, 0).unwrap_err().kind(), ErrorKind::InvalidInput);
    reader.read_to_end(&mut received).await.unwrap();
    assert!(received == expected, "{} of {} bytes, or others", received.len(), expected.len());
}
