//! Direct streams: one header, one status byte, then one TCP connection or the datagrams of one UDP flow. Clients of
//! krelay's port-forward generation speak the same with a header of their own.

use std::future::poll_fn;
use std::io;
use std::net::Ipv4Addr;
use std::pin::Pin;

use bytes::{Bytes, BytesMut};
use futures_util::{Sink, Stream};
use relay_dial::{DialError, FlowPeer, status_of};
use relay_observe::{About, Entry};
use relay_protocol::header::{MAX_HEADER, v0};
use relay_protocol::{Address, Header, HeaderError, Protocol, Status};
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest, copy_bidirectional_with_sizes};
use tokio::net::TcpStream;
use tokio::time::{Duration, timeout};
use tokio_util::codec::{Framed, FramedParts, LengthDelimitedCodec};
use tokio_util::io::{InspectReader, InspectWriter};
use tracing::{debug, trace};

use crate::agent::Shared;

/// What a direct TCP stream holds in each direction, in bytes.
const BUFFER: usize = 16 << 10;
/// Datagrams that may wait for a client that does not read, in bytes: two of the largest.
const MOST_WAITING: usize = 128 << 10;
/// How long a refused client may take to read the status and hang up.
const FAREWELL: Duration = Duration::from_secs(1);

/// What a client asked for, whichever header it used.
#[derive(Debug)]
pub struct Request {
    /// Whether the client knows only the first six status codes.
    v0: bool,
    id: String,
    /// `None` for a stream that only keeps the agent alive.
    protocol: Option<Protocol>,
    address: Address,
    port: u16,
}

impl Request {
    /// The longest header that [`Request::decode`] waits for.
    pub const MAX: usize = MAX_HEADER;

    /// Reads a request from the front of `bytes`, and how long its header is; `None` where bytes are missing.
    ///
    /// # Errors
    /// A [`HeaderError`] as soon as no more bytes could make it one.
    pub fn decode(bytes: &[u8]) -> Result<Option<(Self, usize)>, HeaderError> {
        if bytes.first() != Some(&0) {
            let Some((Header { request_id, protocol, port, address }, len)) = Header::decode(bytes)? else {
                return Ok(None);
            };
            let id = request_id.to_string();
            return Ok(Some((Self { v0: false, id, protocol: Some(protocol), address, port }, len)));
        }
        let Some((header, len)) = v0::Header::decode(bytes)? else { return Ok(None) };
        let nowhere = v0::Target { address: Address::Ip(Ipv4Addr::UNSPECIFIED.into()), port: 0 };
        let (protocol, v0::Target { address, port }) = match header.purpose {
            v0::Purpose::Tcp(target) => (Some(Protocol::Tcp), target),
            v0::Purpose::Udp(target) => (Some(Protocol::Udp), target),
            v0::Purpose::KeepAlive => (None, nowhere),
        };
        let id = format!("{:02x?}", header.request_id);
        Ok(Some((Self { v0: true, id, protocol, address, port }, len)))
    }

    /// What the ledger enters; nothing for a stream that only keeps the agent alive.
    fn about(&self) -> Option<About> {
        Some(About {
            session: None,
            stream: None,
            request: self.id.clone(),
            protocol: self.protocol?,
            address: self.address.clone(),
            port: self.port,
        })
    }

    fn code(&self, status: Status) -> u8 {
        if self.v0 { status.as_v0() } else { status.as_u8() }
    }
}

/// Serves a stream whose header was read; `early` are the bytes that came behind it.
pub async fn serve(client: TcpStream, request: Request, early: BytesMut, shared: &Shared) {
    debug!(id = request.id, protocol = ?request.protocol, address = %request.address, port = request.port, "direct stream");
    let mut entry = request.about().map(|about| shared.ledger.open(about));
    let place = shared.places.take(None).filter(|_| shared.streams() <= shared.limits.direct_streams);
    if place.is_none() {
        entry.iter_mut().for_each(Entry::refused);
        return refuse(client, request.code(Status::TooManyStreams)).await;
    }
    let result = match &mut entry {
        Some(entry) if request.protocol == Some(Protocol::Tcp) => {
            tcp(client, &request, &early, entry, shared).await
        }
        Some(entry) => udp(client, &request, early, entry, shared).await,
        // Nothing comes on it but its end, and it must not hold up ours.
        None => tokio::select! {
            () = until_end(client) => Ok(Status::Ok),
            () = shared.draining.cancelled() => Ok(Status::ShuttingDown),
        },
    };
    if let Some(entry) = &mut entry {
        entry.ended(result.as_ref().map_or_else(status_of, |status| *status));
    }
    match result {
        Ok(status) => debug!(id = request.id, %status, "direct stream ended"),
        Err(error) => debug!(id = request.id, %error, "direct stream broke"),
    }
}

async fn tcp(
    mut client: TcpStream,
    request: &Request,
    early: &[u8],
    entry: &mut Entry<'_>,
    shared: &Shared,
) -> io::Result<Status> {
    let dial = shared.dialer.tcp(&request.address, request.port);
    let (target, _share) = match unless_gone(&client, dial).await? {
        Ok(connected) => connected,
        Err(error) => return Ok(not_reached(client, request, entry, shared, error).await),
    };
    entry.reached(target.peer_addr().ok());
    // Until both directions have ended orderly, a socket that is dropped is reset: what was lost must not look
    // complete to the other side.
    client.set_zero_linger()?;
    target.set_zero_linger()?;
    let from_target = InspectReader::new(target, |bytes: &[u8]| entry.add(0, bytes.len()));
    let mut target = InspectWriter::new(from_target, |bytes: &[u8]| entry.add(bytes.len(), 0));
    let carried = async {
        client.write_all(&[request.code(Status::Ok)]).await?;
        target.write_all(early).await?;
        copy_bidirectional_with_sizes(&mut client, &mut target, BUFFER, BUFFER).await
    };
    let (sent, received) = tokio::select! {
        result = carried => result?,
        () = shared.abort.cancelled() => return Ok(Status::ShuttingDown),
    };
    SockRef::from(&client).set_linger(None)?;
    SockRef::from(target.get_ref().get_ref()).set_linger(None)?;
    debug!(id = request.id, sent, received, "both ends finished");
    Ok(Status::Ok)
}

async fn udp(
    mut client: TcpStream,
    request: &Request,
    early: BytesMut,
    entry: &mut Entry<'_>,
    shared: &Shared,
) -> io::Result<Status> {
    let dial = shared.dialer.udp(&request.address, request.port);
    let (socket, _share) = match unless_gone(&client, dial).await? {
        Ok(connected) => connected,
        Err(error) => return Ok(not_reached(client, request, entry, shared, error).await),
    };
    entry.reached(socket.peer_addr().ok());
    client.write_all(&[request.code(Status::Ok)]).await?;
    let mut flow = DirectFlow::new(client, early);
    tokio::select! {
        status = shared.carry(entry, None, &mut flow, &socket) => Ok(status),
        () = shared.abort.cancelled() => Ok(Status::ShuttingDown),
    }
}

/// Waits for a dial, unless the client breaks off meanwhile. Its end alone does not count: it may have sent all that
/// it has to say.
async fn unless_gone<T>(client: &TcpStream, dial: impl Future<Output = T>) -> io::Result<T> {
    tokio::select! {
        dialled = dial => Ok(dialled),
        gone = client.ready(Interest::ERROR) => Err(gone.err().unwrap_or(io::ErrorKind::ConnectionReset.into())),
    }
}

async fn not_reached(
    client: TcpStream,
    request: &Request,
    entry: &mut Entry<'_>,
    shared: &Shared,
    error: DialError,
) -> Status {
    shared.not_reached(entry, &error);
    refuse(client, request.code(error.status)).await;
    error.status
}

/// Answers with a status code alone, then reads until the client has ended its side: closing with bytes unread would
/// be a reset, which may overtake the status.
pub async fn refuse(mut client: TcpStream, code: u8) {
    if client.write_all(&[code]).await.is_ok() && client.shutdown().await.is_ok() {
        // A client that does not hang up in time is cut off.
        let _ = timeout(FAREWELL, until_end(client)).await;
    }
}

/// Reads and forgets until the client's end, or its failure.
async fn until_end(mut client: TcpStream) {
    let mut waste = [0; 1024];
    while matches!(client.read(&mut waste).await, Ok(1..)) {}
}

/// Datagrams on a direct stream, each behind its length in two bytes.
struct DirectFlow {
    client: Framed<TcpStream, LengthDelimitedCodec>,
    dropped: u64,
}

impl DirectFlow {
    fn new(client: TcpStream, early: BytesMut) -> Self {
        let codec = LengthDelimitedCodec::builder().length_field_length(2).new_codec();
        let mut parts = FramedParts::new::<Bytes>(client, codec);
        parts.read_buf = early;
        Self { client: Framed::from_parts(parts), dropped: 0 }
    }
}

impl FlowPeer for DirectFlow {
    async fn recv(&mut self) -> Result<Bytes, Status> {
        let mut client = Pin::new(&mut self.client);
        let received = poll_fn(|cx| {
            // What waits to be written goes out meanwhile; a failure shows in the read as well.
            let _ = Sink::<Bytes>::poll_flush(client.as_mut(), cx);
            client.as_mut().poll_next(cx)
        });
        match received.await {
            Some(datagram) => datagram.map(BytesMut::freeze).map_err(|error| status_of(&error)),
            None => Err(Status::Ok),
        }
    }

    fn send(&mut self, datagram: &[u8]) -> Result<(), Status> {
        if self.client.write_buffer().len() + datagram.len() > MOST_WAITING {
            self.dropped += 1;
            trace!(dropped = self.dropped, "the client does not read: datagram dropped");
            return Ok(());
        }
        // Only appends to the buffer, which the next `recv` begins to write.
        Pin::new(&mut self.client)
            .start_send(Bytes::copy_from_slice(datagram))
            .map_err(|error| status_of(&error))
    }
}
