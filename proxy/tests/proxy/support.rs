//! A proxy with a way out whose fate each test decides, and targets behind it.

use std::{
    collections::HashMap,
    io,
    net::{Ipv4Addr, SocketAddr},
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use relay_protocol::Status;
use relay_proxy::{
    Credentials, Datagrams, Dial, End, Ended, Limits, Moved, NoPages, Observer, Outbound, PageRequest, Pages,
    Proxy, Refused, Rules, Settings, Target, carry,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::{mpsc, oneshot},
    time::timeout,
};

/// No test waits longer for anything.
const PATIENCE: Duration = Duration::from_secs(20);

/// What becomes of a dial.
enum Fate {
    To(SocketAddr),
    Fails(Status),
    /// Tells that it was asked for, and waits for what becomes of it.
    Held(Option<oneshot::Sender<()>>, Option<oneshot::Receiver<Status>>),
}

/// The way out. What no test has decided on is no such host.
#[derive(Clone, Default)]
pub(crate) struct Mock {
    fates: Arc<Mutex<HashMap<String, Fate>>>,
    dialled: Arc<Mutex<Vec<String>>>,
}

impl Mock {
    pub(crate) fn leads(&self, target: &str, to: SocketAddr) {
        self.fates.lock().unwrap().insert(target.into(), Fate::To(to));
    }

    pub(crate) fn fails(&self, target: &str, status: Status) {
        self.fates.lock().unwrap().insert(target.into(), Fate::Fails(status));
    }

    /// The dial is told of by the one, and ends by the other.
    pub(crate) fn held(&self, target: &str) -> (oneshot::Receiver<()>, oneshot::Sender<Status>) {
        let (asked, is_asked) = oneshot::channel();
        let (decide, decided) = oneshot::channel();
        self.fates.lock().unwrap().insert(target.into(), Fate::Held(Some(asked), Some(decided)));
        (is_asked, decide)
    }

    /// Everything that was dialled, in order.
    pub(crate) fn dialled(&self) -> Vec<String> {
        self.dialled.lock().unwrap().clone()
    }

    async fn reach(&self, target: &Target) -> Result<SocketAddr, Refused> {
        self.dialled.lock().unwrap().push(target.to_string());
        let decided = match self.fates.lock().unwrap().get_mut(&target.to_string()) {
            Some(Fate::To(address)) => return Ok(*address),
            Some(Fate::Fails(status)) => return Err(refused(target, *status)),
            None => return Err(refused(target, Status::NoSuchHost)),
            Some(Fate::Held(asked, decided)) => {
                if let Some(asked) = asked.take() {
                    let _ = asked.send(());
                }
                decided.take()
            }
        };
        let status = match decided {
            Some(decided) => decided.await.unwrap_or(Status::Aborted),
            None => Status::Aborted,
        };
        Err(refused(target, status))
    }
}

fn refused(target: &Target, status: Status) -> Refused {
    Refused { status, why: format!("{target}: {status}") }
}

pub(crate) struct Out(TcpStream);

pub(crate) struct OutFlow(UdpSocket);

impl Dial for Mock {
    type Stream = Out;
    type Flow = OutFlow;

    async fn tcp(&self, target: &Target) -> Result<Out, Refused> {
        let address = self.reach(target).await?;
        let stream = TcpStream::connect(address).await.map_err(|_| refused(target, Status::Refused))?;
        stream.set_zero_linger().unwrap();
        Ok(Out(stream))
    }

    async fn udp(&self, target: &Target) -> Result<OutFlow, Refused> {
        let address = self.reach(target).await.or_else(|refused| match refused.status {
            // As with an agent: that nobody has the name shows later.
            Status::NoSuchHost => Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))),
            _ => Err(refused),
        })?;
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        if address.port() > 0 {
            socket.connect(address).await.unwrap();
        }
        Ok(OutFlow(socket))
    }
}

impl Outbound for Out {
    async fn carry(mut self, socket: TcpStream, early: Bytes, moved: &Moved) -> End {
        let end = carry(socket, &mut self, early, moved).await;
        if end == End::Finished {
            socket2::SockRef::from(&self.0).set_linger(None).unwrap();
        }
        end
    }
}

impl AsyncRead for Out {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Out {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

impl Datagrams for OutFlow {
    fn send(&self, datagram: Bytes) -> Result<(), Status> {
        match socket2::SockRef::from(&self.0).send(&datagram) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            // Not connected.
            Err(_) => Err(Status::NoSuchHost),
            Ok(_) => Ok(()),
        }
    }

    async fn recv(&mut self) -> Result<Bytes, Status> {
        let mut buffer = vec![0; 65_536];
        let len = self.0.recv(&mut buffer).await.map_err(|_| Status::Refused)?;
        Ok(Bytes::copy_from_slice(&buffer[..len]))
    }
}

/// What was told of an end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) target: String,
    pub(crate) spoken: String,
    pub(crate) status: Status,
    pub(crate) by_client: bool,
    pub(crate) sent: u64,
    pub(crate) received: u64,
}

struct Teller(mpsc::UnboundedSender<Told>);

impl Observer for Teller {
    fn ended(&self, ended: &Ended<'_>) {
        let (sent, received) = ended.connection.moved.get();
        let _ = self.0.send(Told {
            target: ended.connection.target.to_string(),
            spoken: ended.connection.spoken.to_string(),
            status: ended.status,
            by_client: ended.by_client,
            sent,
            received,
        });
    }

    fn trouble(&self, sentence: &str) {
        eprintln!("{sentence}");
    }
}

/// One page, at `/`.
pub(crate) struct OnePage;

impl Pages for OnePage {
    fn page(&self, request: &PageRequest<'_>) -> Option<http::Response<Bytes>> {
        let text = format!("for {} at {}, authorized: {}", request.path, request.host, request.is_authorized);
        (request.path == "/").then(|| http::Response::new(Bytes::from(text)))
    }
}

/// A proxy at work.
pub(crate) struct Rig {
    pub(crate) mock: Mock,
    pub(crate) address: SocketAddr,
    pub(crate) proxy: Proxy<Mock>,
    told: tokio::sync::Mutex<mpsc::UnboundedReceiver<Told>>,
    _serving: tokio_util::task::AbortOnDropHandle<()>,
}

#[derive(Default)]
pub(crate) struct Wanted {
    pub(crate) rules: Rules,
    pub(crate) credentials: Option<&'static str>,
    pub(crate) limits: Limits,
    pub(crate) pages: bool,
}

impl Rig {
    pub(crate) async fn start() -> Self {
        Self::with(Wanted::default()).await
    }

    pub(crate) async fn with(wanted: Wanted) -> Self {
        let (sender, told) = mpsc::unbounded_channel();
        let mock = Mock::default();
        let pages: Arc<dyn Pages> = if wanted.pages { Arc::new(OnePage) } else { Arc::new(NoPages) };
        let settings = Settings {
            rules: wanted.rules,
            credentials: wanted.credentials.map(|text| Credentials::parse(text).unwrap()),
            limits: wanted.limits,
            pages,
            observer: Arc::new(Teller(sender)),
            tasks: tokio_util::task::TaskTracker::new(),
        };
        let proxy = Proxy::new(mock.clone(), settings);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(proxy.clone().serve(listener)));
        Self { mock, address, proxy, told: tokio::sync::Mutex::new(told), _serving: serving }
    }

    pub(crate) async fn connect(&self) -> Client {
        Client(TcpStream::connect(self.address).await.unwrap())
    }

    /// A client that has written this.
    pub(crate) async fn says(&self, bytes: impl AsRef<[u8]>) -> Client {
        let mut client = self.connect().await;
        client.write(bytes).await;
        client
    }

    /// The next end that is told of.
    pub(crate) async fn told(&self) -> Told {
        in_time(async { self.told.lock().await.recv().await.unwrap() }).await
    }
}

pub(crate) async fn in_time<T>(future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.expect("in time")
}

/// A client's socket, or a target's.
pub(crate) struct Client(pub(crate) TcpStream);

impl Client {
    pub(crate) async fn write(&mut self, bytes: impl AsRef<[u8]>) {
        in_time(self.0.write_all(bytes.as_ref())).await.unwrap();
    }

    pub(crate) async fn read(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        in_time(self.0.read_exact(&mut bytes)).await.unwrap();
        bytes
    }

    /// To the end, which has to be one in order.
    pub(crate) async fn rest(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        in_time(self.0.read_to_end(&mut bytes)).await.unwrap();
        bytes
    }

    pub(crate) async fn rest_as_text(&mut self) -> String {
        String::from_utf8(self.rest().await).unwrap()
    }

    /// Up to the empty line of a head, with it.
    pub(crate) async fn head(&mut self) -> String {
        self.until("\r\n\r\n").await
    }

    pub(crate) async fn until(&mut self, end: &str) -> String {
        let mut text = String::new();
        while !text.ends_with(end) {
            text.push(char::from(self.read(1).await[0]));
        }
        text
    }

    /// Waits for the reset that has to come; gives what came before.
    pub(crate) async fn until_reset(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let error = in_time(self.0.read_to_end(&mut bytes)).await.expect_err("a reset");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        bytes
    }

    pub(crate) async fn half_close(&mut self) {
        self.0.shutdown().await.unwrap();
    }

    pub(crate) fn reset(self) {
        self.0.set_zero_linger().unwrap();
    }

    /// Whether there is nothing to be read yet.
    pub(crate) fn is_silent(&self) -> bool {
        let nothing = self.0.try_read(&mut [0]).expect_err("nothing");
        nothing.kind() == io::ErrorKind::WouldBlock
    }
}

/// A target that the test plays itself.
pub(crate) struct Origin(TcpListener);

impl Origin {
    pub(crate) async fn new(rig: &Rig, target: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        rig.mock.leads(target, listener.local_addr().unwrap());
        Self(listener)
    }

    pub(crate) async fn accept(&self) -> Client {
        Client(in_time(self.0.accept()).await.unwrap().0)
    }
}
