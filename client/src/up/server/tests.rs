use std::path::PathBuf;

use super::*;
use crate::output::Output;

const SOON: Duration = Duration::from_secs(20);

struct Served {
    folder: tempfile::TempDir,
    server: Server,
    _task: tokio_util::task::AbortOnDropHandle<()>,
}

impl Served {
    fn begin() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let log = Log::open(&folder.path().join("log")).unwrap();
        let output = Arc::new(Output::to(false, 0, log.writer(), log.writer()));
        let desk = Desk::new(Engine::new(Arc::clone(&output)), output, 0);
        let server = Server::new(desk, log, None);
        let listener = UnixListener::bind(folder.path().join("control")).unwrap();
        let serving = server.clone();
        let task = tokio::spawn(async move { serving.serve(listener).await });
        Self { folder, server, _task: tokio_util::task::AbortOnDropHandle::new(task) }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("control")
    }

    /// Everything that is answered to some bytes.
    async fn say(&self, bytes: &[u8]) -> String {
        let mut stream = UnixStream::connect(self.path()).await.unwrap();
        // It may be refused before it is whole.
        let _ = stream.write_all(bytes).await;
        let mut answer = String::new();
        let _ = timeout(SOON, stream.read_to_string(&mut answer)).await.unwrap();
        answer
    }
}

#[tokio::test]
async fn what_makes_no_sense_is_answered_and_ends_nothing() {
    let served = Served::begin();
    for bytes in [
        &b"garbage\n"[..],
        b"{}\n",
        b"\n",
        b"\xff\xfe\0\n",
        b"{\"stop\":7}\n",
        b"{\"protocol\":2,\"list\":0}\n",
    ] {
        let answer = served.say(bytes).await;
        assert!(answer.starts_with("{\"error\":{\"message\":"), "{bytes:?}: {answer}");
        assert_eq!(answer.lines().count(), 1);
    }
    let answer = served.say(b"\"list\"\n").await;
    assert!(answer.starts_with("{\"version\":1"), "{answer}");
}

#[tokio::test]
async fn a_line_without_end_is_cut_off() {
    let served = Served::begin();
    let answer = served.say(&vec![b'x'; LONGEST * 4]).await;
    // The rest is in the way of the answer, on some systems.
    assert!(answer.is_empty() || answer.contains("the request is too long"), "{answer}");
    assert!(served.say(b"\"list\"\n").await.starts_with("{\"version\":1"));
}

#[tokio::test]
async fn whoever_goes_early_holds_nobody_up() {
    let served = Served::begin();
    for _ in 0..CONNECTIONS * 2 {
        let mut stream = UnixStream::connect(served.path()).await.unwrap();
        stream.write_all(b"\"watch").await.unwrap();
    }
    for _ in 0..CONNECTIONS * 2 {
        let mut stream = UnixStream::connect(served.path()).await.unwrap();
        stream.write_all(b"\"watch\"\n").await.unwrap();
    }
    assert!(timeout(SOON, served.say(b"\"list\"\n")).await.unwrap().starts_with("{\"version\":1"));
}

#[tokio::test]
async fn a_watcher_gets_a_snapshot_again_and_again_until_the_end() {
    let served = Served::begin();
    let mut stream = UnixStream::connect(served.path()).await.unwrap();
    stream.write_all(b"{\"protocol\":1,\"watch\":null}\n").await.unwrap();
    let mut lines = BufReader::new(stream).lines();
    for _ in 0..2 {
        let line = timeout(SOON, lines.next_line()).await.unwrap().unwrap().unwrap();
        let snapshot: crate::ledger::Snapshot = serde_json::from_str(&line).unwrap();
        assert_eq!(snapshot.pid, std::process::id());
    }
    assert_eq!(served.say(b"\"down\"\n").await, "{\"ok\":0}\n");
    served.server.ended().await;
    while let Some(_line) = timeout(SOON, lines.next_line()).await.unwrap().unwrap() {}
}

#[test]
fn only_its_owner_is_answered() {
    let own = geteuid().as_raw();
    assert!(is_owner(own));
    assert!(!is_owner(own + 1) && !is_owner(u32::MAX));
}
