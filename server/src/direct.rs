//! Direct streams: one header, one status byte, then one TCP connection or the datagrams of one UDP flow. Clients of
//! krelay's port-forward generation speak the same with a header of their own.

use std::io;
use std::net::Shutdown;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use relay_protocol::header::{MAX_HEADER, v0};
use relay_protocol::{Address, Header, HeaderError, Protocol, Status};
use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::{Duration, timeout};
use tracing::{debug, trace};

use crate::agent::Shared;
use crate::budget::{Budget, Share};
use crate::dial::status_of;
use crate::splice::{reset_on_drop, splice, write_all};
use crate::udp::FlowPeer;

/// How long a refused client may take to read the status and hang up.
const FAREWELL: Duration = Duration::from_secs(1);
/// Datagrams that may wait for a client that does not read, in bytes: four of the largest.
const MOST_WAITING: usize = 256 << 10;

/// What a client asked for, whichever header it used.
#[derive(Debug)]
pub struct Request {
    /// Whether the client knows only the first six status codes.
    v0: bool,
    id: String,
    /// `None` for a stream that only keeps the agent alive.
    target: Option<(Protocol, u16, Address)>,
}

impl Request {
    /// Reads a request from the front of `bytes`, and how long its header is; `None` where bytes are missing.
    ///
    /// # Errors
    /// A [`HeaderError`] as soon as no more bytes could make it one.
    pub fn decode(bytes: &[u8]) -> Result<Option<(Self, usize)>, HeaderError> {
        if bytes.first() != Some(&0) {
            let Some((header, len)) = Header::decode(bytes)? else { return Ok(None) };
            let target = Some((header.protocol, header.port, header.address));
            return Ok(Some((Self { v0: false, id: header.request_id.to_string(), target }, len)));
        }
        let Some((header, len)) = v0::Header::decode(bytes)? else { return Ok(None) };
        let target = match header.purpose {
            v0::Purpose::Tcp(target) => Some((Protocol::Tcp, target.port, target.address)),
            v0::Purpose::Udp(target) => Some((Protocol::Udp, target.port, target.address)),
            v0::Purpose::KeepAlive => None,
        };
        let id = header.request_id.iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Some((Self { v0: true, id, target }, len)))
    }

    /// The longest header that [`Request::decode`] waits for.
    pub const MAX: usize = MAX_HEADER;

    fn code(&self, status: Status) -> u8 {
        if self.v0 { status.as_v0() } else { status.as_u8() }
    }
}

/// Serves a stream whose header was read; `early` are the bytes that came behind it.
pub async fn serve(client: TcpStream, request: Request, early: BytesMut, shared: &Shared) {
    let Some((protocol, port, address)) = &request.target else {
        debug!(id = request.id, "keep-alive stream");
        // Nothing comes on it but its end, and it must not hold up ours.
        tokio::select! {
            () = until_end(&client) => {}
            () = shared.draining.cancelled() => {}
        }
        return;
    };
    debug!(id = request.id, %protocol, %address, port, "direct stream");
    if shared.streams() > shared.limits.direct_streams {
        return refuse(&client, request.code(Status::TooManyStreams)).await;
    }
    let result = match protocol {
        Protocol::Tcp => tcp(&client, &request, early, shared, (address, *port)).await,
        Protocol::Udp => udp(client, &request, early, shared, (address, *port)).await,
    };
    match result {
        Ok(status) => debug!(id = request.id, %status, "direct stream ended"),
        Err(error) => debug!(id = request.id, %error, "direct stream broke"),
    }
}

async fn tcp(
    client: &TcpStream,
    request: &Request,
    early: BytesMut,
    shared: &Shared,
    (address, port): (&Address, u16),
) -> io::Result<Status> {
    let (target, _share) = match shared.dialer.tcp(address, port).await {
        Ok(connected) => connected,
        Err(error) => {
            debug!(id = request.id, reason = error.reason, "target not reached");
            refuse(client, request.code(error.status)).await;
            return Ok(error.status);
        }
    };
    let carried = async {
        write_all(&[request.code(Status::Ok)], client).await?;
        write_all(&early, &target).await?;
        drop(early);
        splice(client, &target, &shared.held).await
    };
    let (sent, received) = tokio::select! {
        result = carried => result.inspect_err(|_| { reset_on_drop(&target); reset_on_drop(client); })?,
        () = shared.abort.cancelled() => {
            reset_on_drop(client);
            reset_on_drop(&target);
            return Ok(Status::ShuttingDown);
        }
    };
    debug!(id = request.id, sent, received, "both ends finished");
    Ok(Status::Ok)
}

async fn udp(
    client: TcpStream,
    request: &Request,
    early: BytesMut,
    shared: &Shared,
    (address, port): (&Address, u16),
) -> io::Result<Status> {
    let socket = match shared.dialer.udp(address, port).await {
        Ok(socket) => socket,
        Err(error) => {
            debug!(id = request.id, reason = error.reason, "target not reached");
            refuse(&client, request.code(error.status)).await;
            return Ok(error.status);
        }
    };
    write_all(&[request.code(Status::Ok)], &client).await?;
    let mut flow = DirectFlow::new(client, early, shared.held.clone());
    tokio::select! {
        status = shared.flows.run(&mut flow, &socket) => Ok(status),
        () = shared.abort.cancelled() => Ok(Status::ShuttingDown),
    }
}

/// Answers with a status code alone, then reads until the client has ended its side: closing with bytes unread would
/// be a reset, which may overtake the status.
pub async fn refuse(client: &TcpStream, code: u8) {
    if write_all(&[code], client).await.is_ok() && SockRef::from(client).shutdown(Shutdown::Write).is_ok() {
        // A client that does not hang up in time is cut off.
        let _ = timeout(FAREWELL, until_end(client)).await;
    }
}

/// Reads and forgets until the client's end, or its failure.
async fn until_end(client: &TcpStream) {
    let mut waste = [0; 1024];
    while client.readable().await.is_ok() {
        match client.try_read(&mut waste) {
            Ok(0) => return,
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return,
            _ => {}
        }
    }
}

/// Datagrams on a direct stream, each behind its length in two bytes.
struct DirectFlow {
    client: TcpStream,
    /// What the client sent and is not yet a whole datagram.
    input: BytesMut,
    /// What the client has not yet taken, from `written` on.
    output: BytesMut,
    /// Accounts for `output`; only there while it holds anything.
    waiting: Option<Share>,
    held: Budget,
    dropped: u64,
}

impl DirectFlow {
    fn new(client: TcpStream, early: BytesMut, held: Budget) -> Self {
        Self { client, input: early, output: BytesMut::new(), waiting: None, held, dropped: 0 }
    }

    /// Takes a whole datagram off the input.
    fn next(&mut self) -> Option<Bytes> {
        let len = usize::from(u16::from_be_bytes(*self.input.first_chunk()?));
        if self.input.len() < 2 + len {
            // A datagram in the making needs its own room, and no more than that.
            self.input.reserve(2 + len - self.input.len());
            return None;
        }
        self.input.advance(2);
        Some(self.input.split_to(len).freeze())
    }

    /// Writes what the client takes now.
    fn flush(&mut self) -> io::Result<()> {
        while !self.output.is_empty() {
            match self.client.try_write(&self.output) {
                Ok(written) => self.output.advance(written),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        self.output = BytesMut::new();
        self.waiting = None;
        Ok(())
    }

    async fn fill(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            if let Some(datagram) = self.next() {
                return Ok(Some(datagram));
            }
            let write = if self.output.is_empty() { None } else { Some(Interest::WRITABLE) };
            let ready =
                self.client.ready(write.map_or(Interest::READABLE, |w| w | Interest::READABLE)).await?;
            if ready.is_writable() {
                self.flush()?;
            }
            if ready.is_readable() {
                match self.client.try_read_buf(&mut self.input) {
                    Ok(0) => return Ok(None),
                    Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
                    _ => {}
                }
            }
        }
    }
}

impl FlowPeer for DirectFlow {
    async fn recv(&mut self) -> Result<Bytes, Status> {
        self.fill().await.map_err(|error| status_of(&error))?.ok_or(Status::Ok)
    }

    fn send(&mut self, datagram: &[u8]) -> Result<(), Status> {
        // No datagram is that long (its sender's limit is 65,507 bytes), but the prefix must never lie.
        let Ok(len) = u16::try_from(datagram.len()) else { return Ok(()) };
        let wanted = self.output.len() + 2 + datagram.len();
        self.waiting = None;
        match self.held.take_whole(wanted) {
            Some(share) if wanted <= MOST_WAITING => self.waiting = Some(share),
            _ => {
                self.waiting = Some(self.held.take(self.output.len()));
                self.dropped += 1;
                trace!(dropped = self.dropped, "the client does not read: datagram dropped");
                return Ok(());
            }
        }
        self.output.put_u16(len);
        self.output.put_slice(datagram);
        self.flush().map_err(|error| status_of(&error))
    }
}
