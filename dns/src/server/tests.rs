use std::{net::Ipv4Addr, sync::Mutex};

use hickory_proto::op::{Message, ResponseCode};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
};
use tokio_util::task::AbortOnDropHandle;

use super::*;
use crate::{message::tests::a_query, upstream::Datagrams};

/// Answers with the query and so many bytes more, whatever is asked; or never.
#[derive(Clone, Copy)]
struct Padded(Option<usize>);

struct Loopback(Padded, UnboundedSender<Bytes>, UnboundedReceiver<Bytes>);

impl Padded {
    fn answer(self, query: &[u8]) -> Option<Bytes> {
        let mut answer = query.to_vec();
        answer[2] |= 0x80;
        answer.resize(answer.len() + self.0?, 0);
        Some(answer.into())
    }
}

impl Datagrams for Loopback {
    fn send(&mut self, message: Bytes) -> io::Result<()> {
        if let Some(answer) = self.0.answer(&message) {
            self.1.send(answer).unwrap();
        }
        Ok(())
    }

    async fn recv(&mut self) -> io::Result<Bytes> {
        Ok(self.2.recv().await.unwrap())
    }
}

impl Upstream for Padded {
    type Datagrams = Loopback;
    type Stream = tokio::io::DuplexStream;

    async fn datagrams(&self) -> io::Result<Loopback> {
        let (answers, received) = unbounded_channel();
        Ok(Loopback(*self, answers, received))
    }

    async fn stream(&self) -> io::Result<Self::Stream> {
        let (near, mut far) = tokio::io::duplex(64);
        let padded = *self;
        tokio::spawn(async move {
            while let Ok(length) = far.read_u16().await {
                let mut message = vec![0; length.into()];
                far.read_exact(&mut message).await.unwrap();
                let Some(answer) = padded.answer(&message) else { continue };
                far.write_u16(answer.len() as u16).await.unwrap();
                far.write_all(&answer).await.unwrap();
            }
        });
        Ok(near)
    }
}

/// A server; its UDP and TCP addresses.
struct Running {
    udp: std::net::SocketAddr,
    tcp: std::net::SocketAddr,
    _tasks: Mutex<[AbortOnDropHandle<()>; 2]>,
}

async fn start(padded: Padded) -> Running {
    let server = Server::new(Forwarder::new(padded, None));
    let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let (udp_address, tcp_address) = (udp.local_addr().unwrap(), tcp.local_addr().unwrap());
    let tasks = [tokio::spawn(server.clone().serve_udp(udp)), tokio::spawn(server.serve_tcp(tcp))];
    Running { udp: udp_address, tcp: tcp_address, _tasks: Mutex::new(tasks.map(AbortOnDropHandle::new)) }
}

async fn over_udp(server: &Running, message: &[u8]) -> Message {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    socket.send_to(message, server.udp).await.unwrap();
    let mut answer = vec![0; LARGEST];
    let length = socket.recv(&mut answer).await.unwrap();
    Message::from_vec(&answer[..length]).unwrap()
}

async fn send(stream: &mut TcpStream, message: &[u8]) {
    stream.write_u16(message.len() as u16).await.unwrap();
    stream.write_all(message).await.unwrap();
}

async fn receive(stream: &mut TcpStream) -> Vec<u8> {
    let mut answer = vec![0; stream.read_u16().await.unwrap().into()];
    stream.read_exact(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn a_large_answer_is_cut_over_udp_and_whole_over_tcp() {
    let server = start(Padded(Some(60_000))).await;
    let query = a_query("web.default.svc.cluster.local.", 77);
    let cut = over_udp(&server, &query.bytes).await;
    assert!(cut.metadata.truncation && cut.metadata.id == 77);

    let mut stream = TcpStream::connect(server.tcp).await.unwrap();
    send(&mut stream, &query.bytes).await;
    let answer = receive(&mut stream).await;
    assert_eq!(answer.len(), query.bytes.len() + 60_000);
    assert!(query.is_answered_by(&answer));
}

#[tokio::test]
async fn many_queries_of_one_connection_are_all_answered_also_after_its_end() {
    let server = start(Padded(Some(0))).await;
    let mut stream = TcpStream::connect(server.tcp).await.unwrap();
    let (mut read, mut write) = stream.split();
    let sending = async {
        for id in 0..1000u16 {
            let query = a_query("web.", id);
            write.write_u16(query.bytes.len() as u16).await.unwrap();
            write.write_all(&query.bytes).await.unwrap();
        }
        write.shutdown().await.unwrap();
    };
    let receiving = async {
        let mut ids = std::collections::HashSet::new();
        while let Ok(length) = read.read_u16().await {
            let mut answer = vec![0; length.into()];
            read.read_exact(&mut answer).await.unwrap();
            ids.insert(crate::message::id(&answer));
        }
        ids.len()
    };
    assert_eq!(tokio::join!(sending, receiving).1, 1000);
}

#[tokio::test]
async fn what_is_no_query_is_answered_or_ignored_and_harms_nobody() {
    let server = start(Padded(Some(0))).await;
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let query = a_query("web.", 7);
    let mut response = query.bytes.to_vec();
    response[2] |= 0x80;
    for ignored in [&b""[..], b"x", &response] {
        socket.send_to(ignored, server.udp).await.unwrap();
    }
    let refused = over_udp(&server, &[0, 9, 1, 0, 0, 9, 0, 0, 0, 0, 0, 0]).await;
    assert_eq!((refused.metadata.response_code, refused.metadata.id), (ResponseCode::FormErr, 9));
    // The next thing that comes is the answer to this: nothing came before it.
    socket.send_to(&query.bytes, server.udp).await.unwrap();
    let mut answer = [0; 512];
    let length = socket.recv(&mut answer).await.unwrap();
    assert!(query.is_answered_by(&answer[..length]));

    let mut stream = TcpStream::connect(server.tcp).await.unwrap();
    send(&mut stream, b"").await;
    send(&mut stream, &query.bytes).await;
    assert!(query.is_answered_by(&receive(&mut stream).await));
}

#[tokio::test]
async fn a_connection_that_asks_without_end_holds_only_so_many_queries() {
    let server = start(Padded(None)).await;
    let mut stream = TcpStream::connect(server.tcp).await.unwrap();
    let query = a_query("web.", 7);
    for _ in 0..MAX_PIPELINED + 10 {
        send(&mut stream, &query.bytes).await;
    }
    let answer = receive(&mut stream).await;
    let answer = Message::from_vec(&answer).unwrap();
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
}
