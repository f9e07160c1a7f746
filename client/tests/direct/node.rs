//! An API server with one pod, and the node's end of each port-forward to it, over SPDY. What the node does with a
//! connection is the test's part.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};

const ERROR: u32 = 1;
const DATA: u32 = 3;

/// The API server, whose port-forwards come out of it one after the other.
pub(crate) struct Server {
    pub(crate) address: String,
    forwards: mpsc::Receiver<Forwarded>,
    /// Whether port-forwards are refused for want of a right.
    pub(crate) forbids: Arc<AtomicBool>,
}

impl Server {
    /// With one pod of this uid. `may_list`: otherwise it may only be got by its name.
    pub(crate) async fn start(uid: &'static str, may_list: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let (sender, forwards) = mpsc::channel(32);
        let forbids = Arc::new(AtomicBool::new(false));
        let forbidden = Arc::clone(&forbids);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, uid, may_list, Arc::clone(&forbidden), sender.clone()));
            }
        });
        Self { address, forwards, forbids }
    }

    /// The next connection that was upgraded.
    pub(crate) async fn next(&mut self) -> Forwarded {
        tokio::time::timeout(crate::SOON, self.forwards.recv()).await.unwrap().unwrap()
    }

    /// The next connection, with its stream open.
    pub(crate) async fn next_open(&mut self) -> Forwarded {
        let mut forwarded = self.next().await;
        forwarded.take().await;
        forwarded
    }
}

async fn serve(
    mut stream: TcpStream,
    uid: &'static str,
    may_list: bool,
    forbids: Arc<AtomicBool>,
    forwards: mpsc::Sender<Forwarded>,
) {
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let Ok(byte) = stream.read_u8().await else { return };
            head.push(byte);
        }
        let head = String::from_utf8(head).unwrap();
        let target = head.split(' ').nth(1).unwrap().to_owned();
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        let (code, body) = if path.ends_with("/portforward") {
            if !forbids.load(Ordering::Relaxed) {
                let answer =
                    "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n";
                stream.write_all(answer.as_bytes()).await.unwrap();
                let _ = forwards.send(Forwarded { stream }).await;
                return;
            }
            denied("create", "pods/portforward")
        } else if path.ends_with("/pods/web") {
            (200, pod(uid))
        } else if !may_list {
            denied("list", "pods")
        } else if query.contains("watch=true") {
            return std::future::pending().await;
        } else {
            (200, json!({"metadata": {"resourceVersion": "1"}, "items": [pod(uid)]}))
        };
        let body = body.to_string();
        let text = format!("HTTP/1.1 {code} X\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        if stream.write_all(text.as_bytes()).await.is_err() {
            return;
        }
    }
}

fn pod(uid: &str) -> Value {
    json!({
        "metadata": {"name": "web", "uid": uid, "resourceVersion": "1"},
        "spec": {"containers": []},
        "status": {"phase": "Running", "podIP": "10.0.0.66",
                   "conditions": [{"type": "Ready", "status": "True"}]},
    })
}

fn denied(verb: &str, resource: &str) -> (u16, Value) {
    let message = format!("{resource} is forbidden: User \"jane\" cannot {verb} resource \"{resource}\"");
    let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message,
                        "reason": "Forbidden", "code": 403, "details": {"kind": "pods"}});
    (403, status)
}

/// One upgraded connection.
pub(crate) struct Forwarded {
    stream: TcpStream,
}

impl Forwarded {
    /// Takes the streams that the client opens, and answers.
    pub(crate) async fn take(&mut self) {
        for id in [ERROR, DATA] {
            self.frame().await.unwrap();
            let mut reply = vec![0x80, 3, 0, 2, 0, 0, 0, 4];
            reply.extend_from_slice(&id.to_be_bytes());
            self.stream.write_all(&reply).await.unwrap();
        }
    }

    /// A frame's flags and payload; `None` at the connection's end.
    async fn frame(&mut self) -> Option<(u8, Vec<u8>)> {
        let _first = self.stream.read_u32().await.ok()?;
        let second = self.stream.read_u32().await.ok()?;
        let [flags, ..] = second.to_be_bytes();
        let mut payload = vec![0; (second & 0x00ff_ffff) as usize];
        self.stream.read_exact(&mut payload).await.ok()?;
        Some((flags, payload))
    }

    /// Bytes of the data stream, as many as are expected.
    pub(crate) async fn receive(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        while bytes.len() < length {
            let frame = tokio::time::timeout(crate::SOON, self.frame()).await.unwrap();
            bytes.extend(frame.expect("more bytes").1);
        }
        bytes
    }

    /// Waits for the end of the client's direction; true for an orderly one.
    pub(crate) async fn ended(&mut self) -> bool {
        loop {
            match tokio::time::timeout(crate::SOON, self.frame()).await.unwrap() {
                Some((1, _)) => return true,
                Some(_) => {}
                None => return false,
            }
        }
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        self.data(DATA, 0, bytes).await;
    }

    /// The end of the data alone.
    pub(crate) async fn end_data(&mut self) {
        self.data(DATA, 1, b"").await;
    }

    /// The end of both streams.
    pub(crate) async fn finish(&mut self) {
        self.end_data().await;
        self.data(ERROR, 1, b"").await;
    }

    pub(crate) async fn complain(&mut self, text: &str) {
        self.data(ERROR, 0, text.as_bytes()).await;
    }

    async fn data(&mut self, stream: u32, flags: u32, bytes: &[u8]) {
        let mut frame = stream.to_be_bytes().to_vec();
        frame.extend_from_slice(&(flags << 24 | bytes.len() as u32).to_be_bytes());
        frame.extend_from_slice(bytes);
        self.stream.write_all(&frame).await.unwrap();
    }

    /// Whether nothing has come for this connection.
    pub(crate) fn is_untouched(&self) -> bool {
        self.stream.try_read(&mut [0; 1]).is_err()
    }
}
