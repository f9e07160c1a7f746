//! The server's end of a WebSocket port-forward (`v4.channel.k8s.io`): just enough for one lane.

use bytes::BytesMut;
use relay_transport::websocket::accept_for;
use relay_tunnel::Agent;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream},
    net::TcpStream,
};

const BINARY: u8 = 2;
const CLOSE: u8 = 8;

/// Accepts the upgrade and carries one lane to the agent until either ends.
pub(crate) async fn serve(mut stream: TcpStream, head: &str, agent: Agent) {
    let key = head.lines().find_map(|line| line.strip_prefix("sec-websocket-key: ")).unwrap();
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {}\r\nSec-WebSocket-Protocol: v4.channel.k8s.io\r\n\r\n",
        accept_for(key)
    );
    // Each channel begins with the port, 9527, little-endian.
    let opening = [0x82, 3, 0, 0x37, 0x25, 0x82, 3, 1, 0x37, 0x25];
    if stream.write_all(&[answer.as_bytes(), &opening].concat()).await.is_err() {
        return;
    }
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    tokio::spawn(async move { agent.serve_lane(theirs, BytesMut::new()).await });
    let (read, write) = stream.split();
    let (from_agent, to_agent) = tokio::io::split(ours);
    tokio::select! {
        _ = upward(read, to_agent) => {}
        _ = downward(from_agent, write) => {}
    }
}

/// Frames of the client, which are masked.
async fn upward(
    mut read: impl AsyncRead + Unpin,
    mut agent: tokio::io::WriteHalf<DuplexStream>,
) -> std::io::Result<()> {
    loop {
        let (first, second) = (read.read_u8().await?, read.read_u8().await?);
        let length = match second & 0x7f {
            126 => u64::from(read.read_u16().await?),
            127 => read.read_u64().await?,
            short => u64::from(short),
        };
        let mut mask = [0; 4];
        read.read_exact(&mut mask).await?;
        let mut payload = vec![0; usize::try_from(length).unwrap()];
        read.read_exact(&mut payload).await?;
        for (index, byte) in payload.iter_mut().enumerate() {
            *byte ^= mask[index % 4];
        }
        match first & 0x0f {
            BINARY if payload.first() == Some(&0) => agent.write_all(&payload[1..]).await?,
            CLOSE => return Ok(()),
            _ => {}
        }
    }
}

async fn downward(
    mut agent: tokio::io::ReadHalf<DuplexStream>,
    mut write: impl AsyncWrite + Unpin,
) -> std::io::Result<()> {
    let mut bytes = vec![0; 16 * 1024];
    loop {
        let length = agent.read(&mut bytes).await?;
        if length == 0 {
            return Ok(());
        }
        let total = u16::try_from(length + 1).unwrap().to_be_bytes();
        let header = [0x82, 126, total[0], total[1], 0];
        write.write_all(&[&header, &bytes[..length]].concat()).await?;
    }
}
