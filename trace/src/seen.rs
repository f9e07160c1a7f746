//! What is told of a connection.

use std::time::Duration;

/// Something worth telling.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// A request with what became of it.
    Exchange(Exchange),
    /// The connection is encrypted. Once, and nothing more.
    Tls(Hello),
    /// The connection does not speak HTTP. Once, and nothing more.
    NotHttp,
    /// It did, and what follows cannot be followed, for this reason. Once, and nothing more.
    Lost(&'static str),
    /// So many exchanges were not looked at: too many were under way at once.
    Skipped(u64),
}

/// A request with what became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exchange {
    /// How it was said.
    pub version: Version,
    /// The method; empty where an answer came to no request.
    pub method: String,
    /// The path as it may be shown: printable ASCII, of at most about 1 KiB.
    pub target: String,
    /// The final answer's status; `None`: there was none.
    pub status: Option<u16>,
    /// gRPC's own, where the answer ended with one.
    pub grpc_status: Option<u32>,
    /// When the request's first byte came, since the connection began.
    pub began: Duration,
    /// From then until the last byte of the answer, or until the end.
    pub took: Duration,
    /// Bytes of the request, head and framing among them.
    pub sent: u64,
    /// Bytes of the answer, head and framing among them.
    pub received: u64,
    /// How it ended.
    pub end: End,
}

/// The version of HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.0.
    Http10,
    /// HTTP/1.1.
    Http11,
    /// HTTP/2.
    Http2,
}

impl Version {
    /// As HTTP itself writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http10 => "HTTP/1.0",
            Self::Http11 => "HTTP/1.1",
            Self::Http2 => "HTTP/2",
        }
    }
}

/// How an exchange ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// With the answer's last byte.
    Complete,
    /// The connection goes on in another protocol: a WebSocket, or the tunnel of a CONNECT.
    Switched,
    /// The connection ended, or was lost track of, before the answer did.
    Cut,
    /// The stream was reset, with this code of HTTP/2.
    Reset(u32),
}

/// What a client said before it encrypted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hello {
    /// The name of the server it wants (SNI).
    pub server_name: Option<String>,
    /// The protocols that it offers inside (ALPN).
    pub protocols: Vec<String>,
}
