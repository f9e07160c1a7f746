//! SKELETON, replaced soon: the API that server and client code against.
#![allow(missing_docs, clippy::todo, unused_variables, dead_code, clippy::unused_async)]
use bytes::{Bytes, BytesMut};
use relay_protocol::{Header, Status};
use std::{future::Future, io, pin::Pin, task::{Context, Poll}, time::Duration};
use tokio::{io::{AsyncRead, AsyncWrite, ReadBuf}, net::TcpStream, sync::{mpsc, watch}, time::Instant};

/// Two independent halves of a byte stream.
pub trait LaneIo: Send + 'static {
    type Read: AsyncRead + Unpin + Send + 'static;
    type Write: AsyncWrite + Unpin + Send + 'static;
    fn into_halves(self) -> (Self::Read, Self::Write);
}
impl LaneIo for TcpStream {
    type Read = tokio::net::tcp::OwnedReadHalf;
    type Write = tokio::net::tcp::OwnedWriteHalf;
    fn into_halves(self) -> (Self::Read, Self::Write) { self.into_split() }
}
impl LaneIo for tokio::io::DuplexStream {
    type Read = tokio::io::ReadHalf<Self>;
    type Write = tokio::io::WriteHalf<Self>;
    fn into_halves(self) -> (Self::Read, Self::Write) { tokio::io::split(self) }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("stream reset: {status}")]
pub struct StreamReset { pub status: Status }

pub struct TunnelStream { header: Header }
impl TunnelStream {
    pub fn header(&self) -> &Header { &self.header }
    pub fn accept(&mut self) { todo!() }
    pub fn reset(&mut self, status: Status) { todo!() }
    pub async fn opened(&mut self) -> Result<(), Status> { todo!() }
}
impl AsyncRead for TunnelStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> { todo!() }
}
impl AsyncWrite for TunnelStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> { todo!() }
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> { todo!() }
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> { todo!() }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("flow closed: {status}")]
pub struct FlowClosed { pub status: Status }

pub struct TunnelFlow { header: Header }
impl TunnelFlow {
    pub fn header(&self) -> &Header { &self.header }
    pub fn send(&self, datagram: Bytes) -> Result<(), FlowClosed> { todo!() }
    pub async fn recv(&mut self) -> Result<Bytes, FlowClosed> { todo!() }
    pub fn close(self, status: Status) { todo!() }
}

#[derive(Debug)]
pub struct SpliceReport { pub sent: u64, pub received: u64, pub end: SpliceEnd }
#[derive(Debug)]
pub enum SpliceEnd { Finished, ResetByTunnel(Status), ResetBySocket(io::Error) }
/// `sent`: bytes from the socket into the stream.
pub async fn splice(socket: TcpStream, stream: TunnelStream) -> SpliceReport { todo!() }
/// Ends a socket with RST instead of FIN.
pub fn abort(socket: TcpStream) { todo!() }

pub struct DialError { pub message: String, pub fatal: bool, pub gone: bool }
pub trait Dialer: Send + 'static {
    type Io: LaneIo;
    fn dial(&mut self) -> impl Future<Output = Result<Self::Io, DialError>> + Send;
}
#[derive(Clone, Debug)]
pub struct ClientConfig {
    pub lanes: usize, pub ping: Duration, pub dead_after: Duration, pub session_life: Duration,
    pub receive_pool: usize, pub send_pool: usize,
}
impl Default for ClientConfig { fn default() -> Self { todo!() } }
#[derive(Clone, Debug)]
pub enum State {
    Connecting,
    Ready,
    Reconnecting { since: Instant, reason: String },
    Draining { grace: Duration },
    /// No way back: a new session (and perhaps a new agent) is needed.
    Lost { reason: String, gone: bool },
}
#[derive(Clone)]
pub struct Session;
impl Session {
    /// Must be called within a tokio runtime.
    pub fn start<D: Dialer>(config: ClientConfig, dialer: D) -> (Self, watch::Receiver<State>) { todo!() }
    /// Waits while the session isn't ready or the agent's stream limit is met; the caller sets the time limit (cancel-safe).
    pub async fn open(&self, header: Header) -> Result<TunnelStream, Status> { todo!() }
    pub async fn open_flow(&self, header: Header) -> Result<TunnelFlow, Status> { todo!() }
    pub async fn close(&self, grace: Duration) { todo!() }
}

#[derive(Clone, Debug)]
pub struct AgentConfig {
    pub session_life: Duration, pub max_streams: usize, pub max_flows: usize, pub receive_pool: usize, pub send_pool: usize,
    pub ping: Duration, pub dead_after: Duration,
}
impl Default for AgentConfig { fn default() -> Self { todo!() } }
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Activity { pub sessions: usize, pub streams: usize, pub flows: usize, /** sessions ended by the client's GOODBYE, ever */ pub goodbyes: usize }
pub enum Incoming { Stream(TunnelStream), Flow(TunnelFlow) }
#[derive(Debug, thiserror::Error)]
pub enum LaneError {
    #[error("no hello in time")] HelloTimedOut,
    #[error("refused: {0}")] Refused(Status),
    #[error(transparent)] Io(#[from] io::Error),
    #[error("malformed: {0}")] Malformed(String),
}
#[derive(Clone)]
pub struct Agent;
impl Agent {
    pub fn new(config: AgentConfig) -> (Self, mpsc::Receiver<Incoming>) { todo!() }
    /// `already_read`: what was read from `io` so far (at least the first byte, `R`).
    pub async fn serve_lane<I: LaneIo>(&self, io: I, already_read: BytesMut) -> Result<(), LaneError> { todo!() }
    pub fn activity(&self) -> watch::Receiver<Activity> { todo!() }
    pub async fn drain(&self, grace: Duration) { todo!() }
}
