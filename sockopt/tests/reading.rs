//! A reader of bulk gets everything, also what stays below the mark, and the end.

#![allow(clippy::unwrap_used, reason = "a test that fails here should panic")]

use std::future::poll_fn;
use std::io::Write as _;

use relay_sockopt::LowWater;
use tokio::io::{AsyncWriteExt as _, ReadBuf};
use tokio::net::{TcpListener, TcpStream};

struct Reader {
    socket: TcpStream,
    water: LowWater,
    bytes: Vec<u8>,
}

impl Reader {
    async fn read(&mut self) -> std::io::Result<usize> {
        let Self { socket, water, bytes } = self;
        poll_fn(|cx| {
            let mut buffer = ReadBuf::new(bytes);
            water.poll_read(socket, cx, &mut buffer).map_ok(|()| buffer.filled().len())
        })
        .await
    }

    /// Reads so many bytes; the number of reads.
    async fn read_all(&mut self, len: usize) -> usize {
        let (mut got, mut reads) = (0, 0);
        while got < len {
            let read = self.read().await.unwrap();
            assert_ne!(read, 0, "the end after {got} of {len} bytes");
            got += read;
            reads += 1;
        }
        assert_eq!(got, len);
        reads
    }
}

async fn pair() -> (Reader, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (writer, accepted) =
        tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    let reader =
        Reader { socket: accepted.unwrap().0, water: LowWater::default(), bytes: vec![0; 128 * 1024] };
    let writer = writer.unwrap();
    writer.set_nodelay(true).unwrap();
    (reader, writer)
}

const BULK: usize = 32 << 20;
const SMALL: usize = 4 * 1024;

#[tokio::test]
async fn a_rest_below_the_mark_comes_by_itself() {
    let (mut reader, mut writer) = pair().await;
    let sent = tokio::spawn(async move {
        writer.write_all(&vec![7; BULK + 3]).await.unwrap();
        writer
    });
    reader.read_all(BULK + 3).await;
    let mut writer = sent.await.unwrap();
    for len in [1, 100, 20_000] {
        writer.write_all(&vec![7; len]).await.unwrap();
        reader.read_all(len).await;
    }
    drop(writer);
    assert_eq!(reader.read().await.unwrap(), 0);
}

/// Reads that it took to get bulk from a thread that writes 4 KiB at a time.
async fn reads_of_small_writes() -> usize {
    let (mut reader, writer) = pair().await;
    let writer = writer.into_std().unwrap();
    // A thread of its own, or the reader would see only what lies ready.
    let sent = std::thread::spawn(move || {
        writer.set_nonblocking(false).unwrap();
        let piece = vec![7; SMALL];
        for _ in 0..BULK / SMALL {
            (&writer).write_all(&piece).unwrap();
        }
        writer
    });
    let reads = reader.read_all(BULK).await;
    drop(sent.join().unwrap());
    reads
}

#[tokio::test]
async fn bulk_in_small_writes_is_read_in_large_pieces() {
    // Where something else has the processor, bytes may come too slowly to be bulk.
    for _ in 0..10 {
        if reads_of_small_writes().await < BULK / (4 * SMALL) || !cfg!(target_os = "linux") {
            return;
        }
    }
    panic!("the reader was woken for small pieces");
}

#[tokio::test]
async fn a_reset_is_told_while_the_mark_is_set() {
    let (mut reader, mut writer) = pair().await;
    let sent = tokio::spawn(async move {
        writer.write_all(&vec![7; BULK]).await.unwrap();
        writer
    });
    reader.read_all(BULK).await;
    let writer = sent.await.unwrap();
    socket2::SockRef::from(&writer).set_linger(Some(std::time::Duration::ZERO)).unwrap();
    drop(writer);
    reader.read().await.unwrap_err();
}
