//! The command itself: its arguments, its exit codes, its signals.

use std::process::{ExitStatus, Stdio};

use relay_protocol::Protocol::Tcp;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use relay_tunnel::{ClientConfig, Session};

use crate::session::{Loopback, to};
use crate::support::*;

/// Leave to dial this machine.
const LOCAL: [&str; 3] = ["--allow=127.0.0.0/8", "--allow=::1", "--allow=*"];
const AGENT: &str = env!("CARGO_BIN_EXE_relay-server");

pub(crate) struct Process {
    pub(crate) child: Child,
    pub(crate) port: u16,
    /// Kept open, so that the agent can log to its end.
    _stderr: BufReader<tokio::process::ChildStderr>,
}

impl Process {
    async fn start(command: &mut Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        while !line.contains("listening on 127.0.0.1:") {
            line.clear();
            assert_ne!(stderr.read_line(&mut line).await.unwrap(), 0, "the agent ended");
        }
        let port =
            line.split("127.0.0.1:").nth(1).unwrap().split_whitespace().next().unwrap().parse().unwrap();
        Self { child, port, _stderr: stderr }
    }

    pub(crate) async fn with(args: &str) -> Self {
        let args = LOCAL.iter().copied().chain(args.split_whitespace());
        Self::start(Command::new(AGENT).args(["--port", "0"]).args(args)).await
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(("127.0.0.1", self.port)).await.unwrap()
    }

    async fn signal(&self, name: &str) {
        let pid = self.child.id().unwrap().to_string();
        assert!(Command::new("kill").args(["-s", name, &pid]).status().await.unwrap().success());
    }
}

async fn run(args: &[&str]) -> ExitStatus {
    Command::new(AGENT).args(args).stderr(Stdio::null()).status().await.unwrap()
}

#[tokio::test]
async fn it_ends_by_itself_when_idle() {
    let mut agent = Process::with("--idle 100ms").await;
    assert_eq!(agent.child.wait().await.unwrap().code(), Some(0));
}

#[tokio::test]
async fn it_starts_with_the_arguments_of_a_krelay_client() {
    for args in ["-v=4 --idle-timeout=15s", "-v 4 --idle-timeout 15s"] {
        let agent = Process::with(args).await;
        let mut client = agent.connect().await;
        client.write_all(&header(Tcp, "127.0.0.1", echo().await.port())).await.unwrap();
        assert_eq!(client.read_u8().await.unwrap(), OK);
    }
}

#[tokio::test]
async fn health_is_an_exit_code() {
    let agent = Process::with("").await;
    assert_eq!(run(&["--health", "--port", &agent.port.to_string()]).await.code(), Some(0));
    assert_eq!(run(&["--health", "--port", &nobody().await.port().to_string()]).await.code(), Some(1));
}

#[tokio::test]
async fn misuse_and_failure_have_their_codes() {
    assert_eq!(run(&["--port", "many"]).await.code(), Some(2));
    let (_listener, busy) = target().await;
    assert_eq!(run(&["--port", &busy.port().to_string()]).await.code(), Some(1));
}

#[tokio::test]
async fn any_images_stop_signal_lets_open_streams_finish() {
    let target = echo().await;
    // nginx has QUIT, httpd WINCH.
    for signal in ["TERM", "INT", "QUIT", "WINCH", "USR1", "HUP"] {
        let mut agent = Process::with("").await;
        let mut client = agent.connect().await;
        client.write_all(&header(Tcp, "127.0.0.1", target.port())).await.unwrap();
        assert_eq!(client.read_u8().await.unwrap(), OK);
        agent.signal(signal).await;
        while TcpStream::connect(("127.0.0.1", agent.port)).await.is_ok() {}
        client.write_all(b"last words").await.unwrap();
        client.shutdown().await.unwrap();
        assert_eq!(rest(&mut client).await, b"last words");
        assert_eq!(agent.child.wait().await.unwrap().code(), Some(0));
    }
}

#[tokio::test]
async fn running_out_of_files_is_survived() {
    let shell = format!("ulimit -n 24; exec {AGENT} --port 0 --allow=127.0.0.0/8");
    let mut agent = Process::start(Command::new("sh").args(["-c", &shell])).await;
    let mut streams = Vec::new();
    for _ in 0..40 {
        let mut client = agent.connect().await;
        // Keep-alive streams of the old generation: each holds one file.
        client.write_all(&[0, 0, 12, 1, 2, 3, 4, 5, 2, 0, 0, 0]).await.unwrap();
        streams.push(client);
    }
    drop(streams);
    let mut client = agent.connect().await;
    client.write_all(&header(Tcp, "127.0.0.1", echo().await.port())).await.unwrap();
    assert_eq!(client.read_u8().await.unwrap(), OK);
    assert!(agent.child.try_wait().unwrap().is_none());
}

#[tokio::test]
async fn the_soft_limit_of_files_is_no_limit() {
    let shell = format!("ulimit -S -n 24; exec {AGENT} --port 0 --allow=127.0.0.0/8");
    let agent = Process::start(Command::new("sh").args(["-c", &shell])).await;
    let target = echo().await;
    let mut clients = Vec::new();
    for _ in 0..40 {
        let mut client = agent.connect().await;
        client.write_all(&header(Tcp, "127.0.0.1", target.port())).await.unwrap();
        assert_eq!(client.read_u8().await.unwrap(), OK);
        clients.push(client);
    }
}

#[tokio::test]
async fn an_agent_that_is_killed_leaves_no_upload_that_looks_whole() {
    let mut agent = Process::with("").await;
    let dialer = Loopback((std::net::Ipv4Addr::LOCALHOST, agent.port).into());
    let session = Session::start(&ClientConfig::default(), dialer).0;
    let (listener, address) = target().await;
    let mut stream = session.open(to(Tcp, "127.0.0.1", address.port())).await.unwrap();
    let (mut server, _) = listener.accept().await.unwrap();
    stream.write_all(b"half of an upl").await.unwrap();
    server.read_exact(&mut [0; 14]).await.unwrap();
    agent.child.kill().await.unwrap();
    assert_eq!(server.read_u8().await.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
}
