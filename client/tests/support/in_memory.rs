//! Lanes to an agent in this process.

use bytes::BytesMut;
use relay_tunnel::{Agent, DialError, Dialer};
use tokio::io::{AsyncReadExt, DuplexStream};

/// Dials this agent.
pub(crate) struct InMemory(pub(crate) Agent);

impl Dialer for InMemory {
    type Io = DuplexStream;

    async fn dial(&self) -> Result<DuplexStream, DialError> {
        let (ours, mut theirs) = tokio::io::duplex(64 * 1024);
        let agent = self.0.clone();
        tokio::spawn(async move {
            let mut first = BytesMut::new();
            theirs.read_buf(&mut first).await.unwrap();
            let _ = agent.serve_lane(theirs, first).await;
        });
        Ok(ours)
    }
}
