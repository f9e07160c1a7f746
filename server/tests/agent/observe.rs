//! What the agent tells of itself: audit lines and metrics.

use std::collections::HashMap;
use std::io::Write;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use relay_observe::Ledger;
use relay_protocol::Protocol::{Tcp, Udp};
use relay_protocol::Status;
use relay_server::settings::{Limits, Settings};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

use crate::session::{client, to};
use crate::support::*;

/// What was written, to read it back.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<u8>>>);

impl Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        Write::write(&mut *self.0.lock().unwrap(), bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Kept {
    /// So many lines, as soon as they are there.
    async fn lines(&self, count: usize) -> Vec<Value> {
        loop {
            let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
            assert!(text.is_empty() || text.ends_with('\n'));
            let lines: Vec<_> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
            if lines.len() >= count {
                return lines;
            }
            tokio::task::yield_now().await;
        }
    }
}

async fn audited() -> (Running, Kept) {
    let kept = Kept::default();
    let ledger = Ledger::new(Some(Box::new(kept.clone())));
    (Running::with_ledger(local(), Limits::default(), names(0, &[]), ledger).await, kept)
}

#[tokio::test]
async fn a_stream_of_a_session_has_a_line_at_either_end() {
    let (agent, kept) = audited().await;
    let address = echo().await;
    let mut stream = client(&agent).open(to(Tcp, "127.0.0.1", address.port())).await.unwrap();
    stream.write_all(b"twelve bytes").await.unwrap();
    stream.shutdown().await.unwrap();
    assert_eq!(stream.read_to_end(&mut Vec::new()).await.unwrap(), 12);
    let [open, end] = &kept.lines(2).await[..] else { panic!("two lines") };
    for line in [open, end] {
        assert_eq!(
            (&line["protocol"], &line["address"], &line["port"]),
            (&"tcp".into(), &"127.0.0.1".into(), &address.port().into())
        );
        assert_eq!(line["request"], uuid::Uuid::from_u128(9).to_string());
        assert_eq!(line["session"].as_str().unwrap().len(), 32);
        assert_eq!((&line["session"], &line["stream"]), (&open["session"], &0.into()));
        line["time"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    }
    assert_eq!((&open["event"], &end["event"]), (&"open".into(), &"end".into()));
    assert_eq!((&end["status"], &end["code"]), (&Status::Ok.to_string().into(), &1.into()));
    assert_eq!((&end["sent"], &end["received"]), (&12.into(), &12.into()));
    assert_eq!(end["resolved"], address.to_string());
    assert!(end["milliseconds"].is_u64());
}

#[tokio::test]
async fn what_was_not_reached_is_written_with_its_status() {
    let (agent, kept) = audited().await;
    let session = client(&agent);
    let refused = session.open(to(Tcp, "127.0.0.1", nobody().await.port())).await.unwrap();
    assert_eq!(refused.opened().await, Err(Status::Refused));
    assert_eq!(kept.lines(2).await[1]["code"], Status::Refused.as_u8());
    let denied = session.open(to(Tcp, "169.254.169.254", 80)).await.unwrap();
    assert_eq!(denied.opened().await, Err(Status::Denied));
    let end = &kept.lines(4).await[3];
    assert_eq!((&end["status"], &end["code"]), (&"denied by policy".into(), &10.into()));
    assert!(end.get("resolved").is_none());
}

#[tokio::test]
async fn flows_and_direct_streams_are_written_too() {
    let (agent, kept) = audited().await;
    let target = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let mut flow =
        client(&agent).open_flow(to(Udp, "127.0.0.1", target.local_addr().unwrap().port())).await.unwrap();
    flow.send(Bytes::from_static(b"ask")).unwrap();
    let mut buf = [0; 9];
    let (len, from) = target.recv_from(&mut buf).await.unwrap();
    target.send_to(&buf[..len], from).await.unwrap();
    flow.recv().await.unwrap();
    drop(flow);
    let end = &kept.lines(2).await[1];
    assert_eq!((&end["protocol"], &end["sent"], &end["received"]), (&"udp".into(), &3.into(), &3.into()));
    let mut direct = agent.open_ok(Tcp, echo().await).await;
    direct.write_all(b"five!").await.unwrap();
    direct.shutdown().await.unwrap();
    assert_eq!(rest(&mut direct).await, b"five!");
    let end = &kept.lines(4).await[3];
    assert!(end.get("session").is_none());
    assert_eq!((&end["code"], &end["sent"], &end["received"]), (&1.into(), &5.into(), &5.into()));
    assert_eq!(end["request"], uuid::Uuid::from_u128(7).to_string());
}

/// Asks a listener for its metrics.
pub(crate) async fn scrape(agent: &Running) -> HashMap<String, f64> {
    let mut socket = TcpStream::connect(agent.metrics.unwrap()).await.unwrap();
    socket.write_all(b"GET /metrics HTTP/1.1\r\nHost: agent\r\n\r\n").await.unwrap();
    let answer = String::from_utf8(rest(&mut socket).await).unwrap();
    let (head, page) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    let (mut samples, mut family) = (HashMap::new(), String::new());
    for line in page.lines() {
        if let Some(comment) = line.strip_prefix("# ") {
            family = comment.split(' ').nth(1).unwrap().to_owned();
            continue;
        }
        let (name, value) = line.rsplit_once(' ').unwrap();
        assert_eq!(name.split('{').next().unwrap(), family, "a sample stands below its family");
        assert!(samples.insert(name.to_owned(), value.parse().unwrap()).is_none(), "{name} twice");
    }
    samples
}

#[tokio::test]
async fn a_shared_agents_metrics_say_what_goes_on() {
    let settings = Settings { shared: true, ..local() };
    let agent = Running::with(settings, Limits::default(), names(0, &[])).await;
    assert!(agent.metrics.unwrap().ip().is_loopback());
    let before = scrape(&agent).await;
    let session = client(&agent);
    let mut stream = session.open(to(Tcp, "127.0.0.1", echo().await.port())).await.unwrap();
    let bytes = pattern(3 << 20);
    let (mut read, mut write) = tokio::io::split(&mut stream);
    let mut got = vec![0; bytes.len()];
    let (sent, received) = tokio::join!(write.write_all(&bytes), read.read_exact(&mut got));
    sent.unwrap();
    received.unwrap();
    for (address, status) in [("127.0.0.1", Status::Refused), ("169.254.169.254", Status::Denied)] {
        let stream = session.open(to(Tcp, address, nobody().await.port())).await.unwrap();
        assert_eq!(stream.opened().await, Err(status));
    }
    let during = scrape(&agent).await;
    let of = |samples: &HashMap<String, f64>, name: &str| samples[&format!("relay_agent_{name}")];
    for name in ["sessions", "streams", "dials_total{status=\"ok\"}", "denied_total"] {
        assert_eq!((of(&before, name), of(&during, name)), (0.0, 1.0), "{name}");
    }
    assert_eq!(of(&during, "dials_total{status=\"denied_by_policy\"}"), 1.0);
    assert_eq!(of(&during, "dials_total{status=\"connection_refused\"}"), 1.0);
    assert_eq!(of(&during, "flows"), 0.0);
    assert_eq!(of(&during, &format!("build_info{{version=\"{}\"}}", env!("CARGO_PKG_VERSION"))), 1.0);
    // To the mebibyte as long as the stream is open,
    assert!(of(&during, "bytes_total{direction=\"to_target\"}") >= f64::from(1 << 20));
    for pool in ["receive", "send", "kernel"] {
        let (used, limit) =
            (format!("memory_bytes{{pool=\"{pool}\"}}"), format!("memory_limit_bytes{{pool=\"{pool}\"}}"));
        assert!(of(&during, &used) > of(&before, &used), "{pool}");
        assert!(of(&during, &used) <= of(&during, &limit));
    }
    // and to the byte when it has ended.
    stream.shutdown().await.unwrap();
    stream.read_to_end(&mut Vec::new()).await.unwrap();
    drop(stream);
    loop {
        let after = scrape(&agent).await;
        if of(&after, "streams") == 0.0 {
            assert_eq!(of(&after, "bytes_total{direction=\"to_target\"}"), bytes.len() as f64);
            assert_eq!(of(&after, "bytes_total{direction=\"from_target\"}"), bytes.len() as f64);
            return;
        }
    }
}

#[tokio::test]
async fn metrics_are_nowhere_unless_they_are_wanted_and_where_they_are_wanted() {
    assert!(Running::start().await.metrics.is_none());
    let metrics_listen = Some("0.0.0.0:0".parse().unwrap());
    let agent = Running::with(Settings { metrics_listen, ..local() }, Limits::default(), names(0, &[])).await;
    assert!(agent.metrics.unwrap().ip().is_unspecified());
    assert_eq!(scrape(&agent).await["relay_agent_sessions"], 0.0);
    // They are no way around the policy.
    let port = agent.metrics.unwrap().port();
    assert_eq!(agent.answer(&header(Tcp, "127.0.0.1", port)).await, [Status::Denied.as_u8()]);
}
