//! Copies both ways between a client's socket and any stream, each direction with its own end.

use bytes::Bytes;
use relay_protocol::Status;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    dial::{End, Moved},
    socket,
};

/// Bytes that one direction holds at most.
const BUFFER: usize = 16 * 1024;

/// Copies until both directions have ended or either side was reset, and lets the socket go: with a reset where there
/// was one. For streams that know no better way; the target's reset is what an error of `stream` is taken for.
pub async fn carry<S>(mut socket: TcpStream, stream: &mut S, early: Bytes, moved: &Moved) -> End
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    socket::prepare(&socket);
    let end = {
        let (mut from_client, mut to_client) = socket.split();
        let (mut from_target, mut to_target) = tokio::io::split(stream);
        let up = async {
            // A target that takes nothing more may still have something to say: that direction sees its end.
            let mut takes = write(&mut to_target, &early).await;
            if takes {
                moved.add_sent(early.len());
            }
            drop(early);
            let mut buffer = vec![0; BUFFER];
            while takes {
                let len = from_client.read(&mut buffer).await.map_err(|_| End::ResetByClient)?;
                if len == 0 {
                    takes = to_target.shutdown().await.is_ok();
                    return Ok(takes);
                }
                takes = write(&mut to_target, &buffer[..len]).await;
                moved.add_sent(len);
            }
            Ok(false)
        };
        let down = async {
            let mut buffer = vec![0; BUFFER];
            loop {
                let len = from_target.read(&mut buffer).await.map_err(|_| End::Reset(Status::ResetByPeer))?;
                if len == 0 {
                    return to_client.shutdown().await.map_err(|_| End::ResetByClient);
                }
                to_client.write_all(&buffer[..len]).await.map_err(|_| End::ResetByClient)?;
                moved.add_received(len);
            }
        };
        match tokio::try_join!(up, down) {
            Ok((true, ())) => End::Finished,
            Ok((false, ())) => End::Reset(Status::ResetByPeer),
            Err(end) => end,
        }
    };
    if end == End::Finished {
        socket::finish(&socket);
    }
    end
}

async fn write(to: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> bool {
    to.write_all(bytes).await.is_ok() && to.flush().await.is_ok()
}
