//! A command with a forward: the program itself, as a script sees it.

use std::process::{Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
};

use super::*;

/// Says when it runs, then tells which signal it got.
const TELLS_ITS_SIGNAL: &str = "for s in INT TERM HUP; do trap \"echo $s; exit 3\" $s; done; \
                                echo runs; while :; do sleep 0.02; done";

/// A plugin with a command, as a process of its own.
struct Started {
    _folder: TempDir,
    child: Child,
    stdin: ChildStdin,
    stdout: Lines<BufReader<ChildStdout>>,
}

fn start(server: &str, more: &[&str], command: &[&str]) -> Started {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("token"), "first").unwrap();
    point_at(&folder, server);
    let mut child = Command::new(env!("CARGO_BIN_EXE_kubectl-relay"))
        .arg("--kubeconfig")
        .arg(folder.path().join("config"))
        .args(["--transport", "websocket-v4", "-l", "127.0.0.1", "ip/10.0.0.1", ":7@tcp", ":7@udp"])
        .args(more)
        .arg("--")
        .args(command)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // Not in the foreground of the terminal that the tests may have.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let stdin = child.stdin.take().unwrap();
    let stdout = BufReader::new(child.stdout.take().unwrap()).lines();
    Started { _folder: folder, child, stdin, stdout }
}

impl Started {
    async fn line(&mut self) -> String {
        timeout(SOON, self.stdout.next_line()).await.unwrap().unwrap().unwrap()
    }

    fn signal(&self, signal: Signal) {
        let id = Pid::from_raw(self.child.id().unwrap().cast_signed()).unwrap();
        kill_process(id, signal).unwrap();
    }

    /// What came of it: exit code, the rest of stdout, stderr.
    async fn ended(self) -> (i32, String, String) {
        let Self { child, stdin, mut stdout, .. } = self;
        drop(stdin);
        let rest = async {
            let mut rest = String::new();
            while let Some(line) = stdout.next_line().await.unwrap() {
                rest += &(line + "\n");
            }
            rest
        };
        let ended = async { tokio::join!(child.wait_with_output(), rest) };
        let (output, rest) = timeout(SOON * 2, ended).await.unwrap();
        let Output { status, stderr, .. } = output.unwrap();
        (status.code().unwrap(), rest, String::from_utf8(stderr).unwrap())
    }
}

/// Runs to the end; nothing may be left in the cluster.
async fn run_to_the_end(more: &[&str], command: &[&str]) -> (i32, String, String) {
    let cluster = Cluster::new();
    let (server, _) = cluster.listen().await;
    let ended = start(&server, more, command).ended().await;
    assert_eq!(cluster.nodes(), [""; 0]);
    ended
}

#[tokio::test]
async fn the_exit_code_is_the_commands_and_stdout_is_its_own() {
    let (code, stdout, stderr) = run_to_the_end(&[], &["sh", "-c", "echo said; exit 7"]).await;
    assert_eq!((code, stdout.as_str()), (7, "said\n"), "{stderr}");
    let lines: Vec<_> = stderr.lines().collect();
    assert_eq!(lines.len(), 2, "{stderr}");
    assert!(lines[0].starts_with("Forwarding from 127.0.0.1:") && lines[0].ends_with(" -> 7"), "{stderr}");
    assert!(lines[1].ends_with(" -> 7/udp"), "{stderr}");
}

#[tokio::test]
async fn a_command_that_a_signal_ends_gives_128_and_its_number() {
    let (code, _, stderr) = run_to_the_end(&[], &["sh", "-c", "kill -KILL $$"]).await;
    assert_eq!(code, 137, "{stderr}");
}

#[tokio::test]
async fn a_command_starts_when_traffic_flows_and_knows_where() {
    let cluster = Cluster::new();
    let (server, _) = cluster.listen().await;
    let script = "echo $RELAY_ADDR:$RELAY_PORT; echo $RELAY_10_0_0_1_7; echo $RELAY_10_0_0_1_7_UDP; cat";
    let mut started = start(&server, &[], &["sh", "-c", script]);
    let first = started.line().await;
    assert_eq!(first, started.line().await);
    let (tcp, udp): (SocketAddr, SocketAddr) =
        (first.parse().unwrap(), started.line().await.parse().unwrap());
    echo(&mut TcpStream::connect(tcp).await.unwrap(), b"at once").await;
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.send_to(b"at once", udp).await.unwrap();
    timeout(SOON, socket.recv(&mut [0; 7])).await.unwrap().unwrap();

    // What is said to the plugin is said to the command.
    started.stdin.write_all(b"through\n").await.unwrap();
    assert_eq!(started.line().await, "through");
    assert_eq!(started.ended().await.0, 0);
    assert_eq!(cluster.nodes(), [""; 0]);
}

#[tokio::test]
async fn signals_go_to_the_command_and_nobody_ends_before_it() {
    for (signal, name) in [(Signal::INT, "INT"), (Signal::TERM, "TERM"), (Signal::HUP, "HUP")] {
        let cluster = Cluster::new();
        let (server, _) = cluster.listen().await;
        let mut started = start(&server, &[], &["sh", "-c", TELLS_ITS_SIGNAL]);
        assert_eq!(started.line().await, "runs");
        started.signal(signal);
        assert_eq!(started.line().await, name);
        let (code, _, stderr) = started.ended().await;
        assert_eq!(code, 3, "{stderr}");
        assert_eq!(cluster.nodes(), [""; 0]);
    }
}

#[tokio::test]
async fn a_command_that_ends_by_the_signal_passed_on_gives_128_and_its_number() {
    let cluster = Cluster::new();
    let (server, _) = cluster.listen().await;
    let mut started = start(&server, &[], &["sh", "-c", "echo runs; exec cat"]);
    assert_eq!(started.line().await, "runs");
    started.signal(Signal::TERM);
    let Started { child, stdin, .. } = &mut started;
    let status = timeout(SOON, child.wait()).await.unwrap().unwrap();
    assert_eq!(status.code(), Some(143));
    stdin.shutdown().await.unwrap();
    assert_eq!(cluster.nodes(), [""; 0]);
}

#[tokio::test]
async fn a_tunnel_lost_for_good_is_told_and_ends_the_command() {
    let cluster = Cluster::new();
    let (server, _) = cluster.listen().await;
    let mut started = start(&server, &[], &["sh", "-c", TELLS_ITS_SIGNAL]);
    assert_eq!(started.line().await, "runs");
    cluster.set_mood(Mood::Forbidden);
    cluster.cut();
    assert_eq!(started.line().await, "TERM");
    let (code, _, stderr) = started.ended().await;
    assert_eq!(code, 1, "{stderr}");
    assert_eq!(stderr.matches("error: not allowed to get").count(), 1, "{stderr}");
    assert!(stderr.contains("\nhint: ask for this Role"), "{stderr}");
}

#[tokio::test]
async fn what_cannot_be_started_is_said_and_costs_no_agent() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    fs::write(&data, "x").unwrap();
    let data = data.to_str().unwrap();
    let cases = [
        (
            "no-such-command",
            127,
            "error: there is no command \"no-such-command\" in PATH\nhint: what follows --",
        ),
        ("/nowhere/at/all", 127, "error: there is no command \"/nowhere/at/all\"\nhint: name a program"),
        (
            data,
            126,
            "cannot be executed: it has no permission to be executed\nhint: if it is a script: chmod +x ",
        ),
    ];
    for (command, expected, text) in cases {
        let (code, stdout, stderr) = run_to_the_end(&[], &[command]).await;
        assert_eq!((code, stdout.as_str()), (expected, ""), "{stderr}");
        assert!(stderr.contains(text) && !stderr.contains("Forwarding"), "{stderr}");
    }
}

#[tokio::test]
async fn what_only_the_system_finds_out_is_said_and_leaves_nothing() {
    use std::os::unix::fs::PermissionsExt;

    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("script");
    fs::write(&script, "#!/nowhere/interpreter\n").unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let (code, _, stderr) = run_to_the_end(&[], &[script.to_str().unwrap()]).await;
    assert_eq!(code, 127, "{stderr}");
    assert!(stderr.contains("\nerror: there is no command") && stderr.contains("\nhint: "), "{stderr}");
}

#[tokio::test]
async fn a_signal_before_the_command_starts_is_no_success() {
    let cluster = Cluster::new();
    cluster.lose_node("node-1", Away::Silent);
    let (server, _) = cluster.listen().await;
    let started = start(&server, &[], &["echo", "never"]);
    let since = Instant::now();
    while cluster.nodes().is_empty() {
        assert!(since.elapsed() < SOON);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    started.signal(Signal::INT);
    let (code, stdout, stderr) = started.ended().await;
    assert_eq!((code, stdout.as_str()), (130, ""), "{stderr}");
    assert_eq!(cluster.nodes(), [""; 0]);
}

#[tokio::test]
async fn events_go_to_stderr_and_nothing_else_does() {
    let (code, stdout, stderr) = run_to_the_end(&["-o", "json"], &["echo", "said"]).await;
    assert_eq!((code, stdout.as_str()), (0, "said\n"), "{stderr}");
    let events: Vec<Value> = stderr.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(events.iter().filter(|event| event["event"] == "forwarding").count(), 2);
}
