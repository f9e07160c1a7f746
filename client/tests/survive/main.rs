//! Whole runs of the plugin that lose what they stand on: the agent, its node, the API server's address, the
//! credentials, the rights.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "../support/captured.rs"]
mod captured;
mod cluster;
mod command;
mod contexts;
mod doctor;
mod up;
mod websocket;

use std::{
    fs,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use captured::Captured;
use clap::Parser;
use cluster::{Away, Cluster, Mood};
use kubectl_relay::{
    cli::{args::Args, settings::Settings},
    error::Error,
    output::Output,
    run::run,
};
use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    task::JoinHandle,
    time::timeout,
};

const SOON: Duration = Duration::from_secs(30);

/// A plugin that runs, with a kubeconfig whose token is in a file.
struct Plugin {
    folder: TempDir,
    stdout: Captured,
    stderr: Captured,
    task: JoinHandle<Result<u8, Error>>,
}

impl Plugin {
    fn start(server: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("token"), "first").unwrap();
        point_at(&folder, server);
        let path = folder.path().join("config");
        let arguments = ["kubectl-relay", "--kubeconfig", path.to_str().unwrap(), "-o", "json"];
        let more = ["--transport", "websocket-v4", "-l", "127.0.0.1", "ip/10.0.0.1", ":7@tcp", ":7@udp"];
        let args = Args::try_parse_from(arguments.into_iter().chain(more)).unwrap();
        let (stdout, stderr) = (Captured::default(), Captured::default());
        let output = Output::to(true, 0, Box::new(stdout.clone()), Box::new(stderr.clone()));
        let task = tokio::spawn(run(Settings::from_args(args).unwrap(), Arc::new(output)));
        Self { folder, stdout, stderr, task }
    }

    fn events(&self) -> Vec<Value> {
        self.stdout.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Waits for an event, and gives it.
    async fn event(&self, is: impl Fn(&Value) -> bool) -> Value {
        let since = Instant::now();
        loop {
            if let Some(event) = self.events().into_iter().find(&is) {
                return event;
            }
            assert!(since.elapsed() < SOON, "{}\n{}", self.stdout.text(), self.stderr.text());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn state(&self, state: &str) -> Value {
        self.event(|event| event["event"] == "state" && event["state"] == state).await
    }

    async fn not_reached_yet(&self) {
        self.event(|event| event["message"].to_string().contains("the agent is not reached yet")).await;
    }

    async fn ready_again(&self) -> Value {
        self.event(|event| event["state"] == "ready" && event["downSeconds"].is_number()).await
    }

    async fn local(&self, protocol: &str) -> SocketAddr {
        let event = self.event(|event| event["event"] == "forwarding" && event["protocol"] == protocol).await;
        SocketAddr::from(([127, 0, 0, 1], u16::try_from(event["port"].as_u64().unwrap()).unwrap()))
    }

    async fn connected(&self) -> TcpStream {
        let mut stream = TcpStream::connect(self.local("tcp").await).await.unwrap();
        echo(&mut stream, b"hello").await;
        stream
    }
}

impl Drop for Plugin {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn point_at(folder: &TempDir, server: &str) {
    let text = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: c\nclusters:\n- {{name: c, cluster: {{server: '{server}'}}}}\n\
         users:\n- {{name: u, user: {{tokenFile: token}}}}\n\
         contexts:\n- {{name: c, context: {{cluster: c, user: u, namespace: dev}}}}\n"
    );
    let next = folder.path().join("next");
    fs::write(&next, text).unwrap();
    fs::rename(next, folder.path().join("config")).unwrap();
}

async fn echo(stream: &mut TcpStream, bytes: &[u8]) {
    stream.write_all(bytes).await.unwrap();
    let mut back = vec![0; bytes.len()];
    timeout(SOON, stream.read_exact(&mut back)).await.unwrap().unwrap();
    assert_eq!(back, bytes);
}

async fn is_reset(mut stream: TcpStream) {
    let error = timeout(SOON, stream.read(&mut [0; 1])).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_deleted_agent_is_replaced_and_udp_goes_on() {
    let cluster = Cluster::new();
    let (server, _) = cluster.listen().await;
    let plugin = Plugin::start(&server);
    let old = plugin.connected().await;
    let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    udp.connect(plugin.local("udp").await).await.unwrap();
    let mut answer = [0; 16];
    udp.send(b"one").await.unwrap();
    timeout(SOON, udp.recv(&mut answer)).await.unwrap().unwrap();

    cluster.delete_pods();
    is_reset(old).await;
    let lost = plugin.state("agentLost").await;
    assert!(lost["reason"].as_str().unwrap().contains("was deleted"), "{lost}");
    let ended = plugin.event(|event| event["event"] == "stream").await;
    assert_eq!((ended["status"].as_u64(), ended["sent"].as_u64()), (Some(13), Some(5)), "{ended}");
    let ready = plugin.ready_again().await;
    assert!(ready["downSeconds"].as_f64().unwrap() < 5.0, "{ready}");
    plugin.connected().await;
    udp.send(b"two").await.unwrap();
    let length = timeout(SOON, udp.recv(&mut answer)).await.unwrap().unwrap();
    assert_eq!(&answer[..length], b"two");
}

#[tokio::test]
async fn a_node_that_is_not_reached_at_the_start_is_waited_for() {
    let cluster = Cluster::new();
    let (server, _) = cluster.listen().await;
    cluster.lose_node("node-1", Away::Told);
    let plugin = Plugin::start(&server);
    plugin.not_reached_yet().await;
    cluster.find_node("node-1");
    plugin.connected().await;
}

#[tokio::test]
async fn an_agent_is_used_as_soon_as_an_event_tells_of_its_start() {
    let cluster = Cluster::new();
    let (server, _) = cluster.listen().await;
    cluster.tell_by_events_only();
    let plugin = Plugin::start(&server);
    let old = plugin.connected().await;
    // And so is the one that replaces it.
    cluster.delete_pods();
    is_reset(old).await;
    plugin.ready_again().await;
    plugin.connected().await;
}

#[tokio::test]
async fn an_agent_that_is_asked_to_end_before_its_status_tells_of_its_start_hands_over() {
    let cluster = Cluster::new();
    let (server, _) = cluster.listen().await;
    cluster.tell_by_events_only();
    let plugin = Plugin::start(&server);
    let mut old = plugin.connected().await;
    cluster.ask_agents_to_end();
    plugin.state("draining").await;
    plugin.ready_again().await;
    plugin.connected().await;
    echo(&mut old, b"still there").await;
}

#[tokio::test]
async fn an_agent_that_ends_as_soon_as_it_was_started_ends_the_run_with_its_reason() {
    let cluster = Cluster::new();
    let (server, _) = cluster.listen().await;
    cluster.tell_by_events_only();
    cluster.lose_node("node-1", Away::Told);
    let mut plugin = Plugin::start(&server);
    plugin.not_reached_yet().await;
    cluster.end_agents(3);
    let error = timeout(SOON, &mut plugin.task).await.unwrap().unwrap().unwrap_err();
    assert_eq!(error.to_string(), "the agent ended with exit code 3");
    assert!(cluster.nodes().is_empty(), "and leaves no Job");
}

#[tokio::test]
async fn an_agent_whose_node_is_lost_is_replaced_on_another_one() {
    let cluster = Cluster::new();
    let (server, _) = cluster.listen().await;
    let plugin = Plugin::start(&server);
    let old = plugin.connected().await;
    assert_eq!(cluster.nodes(), ["node-1"]);

    cluster.lose_node("node-1", Away::Told);
    let since = Instant::now();
    plugin.state("unreachable").await;
    plugin.ready_again().await;
    assert!(since.elapsed() < Duration::from_secs(15), "{:?}", since.elapsed());
    assert!(cluster.nodes().contains(&"node-2"));
    plugin.connected().await;
    // The node may come back: what is open waits for it.
    assert_eq!(old.try_read(&mut [0; 1]).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);

    cluster.mark_not_ready("node-1");
    is_reset(old).await;
    let warning = plugin.event(|event| event["event"] == "warning").await;
    let message = warning["message"].as_str().unwrap();
    assert!(message.ends_with("are reset: its node node-1 does not answer"), "{message}");
}

#[tokio::test]
async fn an_agent_whose_node_swallows_every_dial_is_replaced_too() {
    let cluster = Cluster::new();
    let (server, _) = cluster.listen().await;
    let plugin = Plugin::start(&server);
    let mut old = plugin.connected().await;

    cluster.lose_node("node-1", Away::Silent);
    plugin.state("unreachable").await;
    plugin.ready_again().await;
    plugin.connected().await;
    // It was only away: what was open goes on there.
    cluster.find_node("node-1");
    echo(&mut old, b"still there").await;
}

#[tokio::test]
async fn an_agent_whose_node_is_lost_while_a_session_begins_anew_is_replaced_too() {
    let cluster = Cluster::new();
    let (server, _) = cluster.listen().await;
    let plugin = Plugin::start(&server);
    let old = plugin.connected().await;

    cluster.restart_agents();
    is_reset(old).await;
    plugin.state("agentLost").await;
    cluster.lose_node("node-1", Away::Told);
    plugin.state("unreachable").await;
    plugin.ready_again().await;
    assert!(cluster.nodes().contains(&"node-2"));
    plugin.connected().await;
}

#[tokio::test]
async fn withdrawn_rights_end_the_run_with_the_role_and_nothing_left_hanging() {
    let cluster = Cluster::new();
    let (server, _) = cluster.listen().await;
    let mut plugin = Plugin::start(&server);
    let old = plugin.connected().await;
    let local = plugin.local("tcp").await;

    cluster.set_mood(Mood::Forbidden);
    cluster.cut();
    let since = Instant::now();
    plugin.state("reconnecting").await;
    let waiting = TcpStream::connect(local).await.unwrap();
    let error = timeout(SOON, &mut plugin.task).await.unwrap().unwrap().unwrap_err();
    assert!(since.elapsed() >= Duration::from_secs(15), "{:?}", since.elapsed());
    assert!(error.to_string().starts_with("not allowed to get"), "{error}");
    assert!(error.hint().contains("resources: [pods/portforward], verbs: [get, create]"), "{}", error.hint());
    assert_eq!(error.exit_code(), 1);
    is_reset(old).await;
    is_reset(waiting).await;
    assert!(TcpStream::connect(local).await.is_err(), "nobody listens any more");
    assert!(plugin.stderr.text().contains("not allowed to delete jobs.batch"), "{}", plugin.stderr.text());
}

#[tokio::test]
async fn an_early_refusal_of_a_session_begun_anew_does_not_end_the_run() {
    let cluster = Cluster::new();
    let (server, _) = cluster.listen().await;
    let plugin = Plugin::start(&server);
    let old = plugin.connected().await;

    cluster.restart_agents();
    is_reset(old).await;
    plugin.state("agentLost").await;
    cluster.set_mood(Mood::Forbidden);
    plugin.not_reached_yet().await;
    cluster.set_mood(Mood::Fine);
    plugin.connected().await;
}

#[tokio::test]
async fn a_token_that_is_replaced_during_a_cut_resumes_the_session() {
    let cluster = Cluster::new();
    let (server, _) = cluster.listen().await;
    let plugin = Plugin::start(&server);
    let mut stream = plugin.connected().await;

    cluster.accept_only("second");
    cluster.cut();
    plugin
        .event(|event| {
            event["state"] == "reconnecting" && event["reason"].to_string().contains("credentials")
        })
        .await;
    fs::write(plugin.folder.path().join("token"), "second").unwrap();
    echo(&mut stream, b"the same connection").await;
    plugin.ready_again().await;
}

#[tokio::test]
async fn a_session_goes_on_through_another_api_server_of_the_same_cluster() {
    let cluster = Cluster::new();
    let (first, closed) = cluster.listen().await;
    let plugin = Plugin::start(&first);
    let mut stream = plugin.connected().await;

    closed.cancel();
    cluster.cut();
    plugin.state("reconnecting").await;
    let (second, _) = cluster.listen().await;
    point_at(&plugin.folder, &second);
    echo(&mut stream, b"the same connection").await;
    plugin.ready_again().await;
    // Its watch follows too: the loss of the agent is noticed.
    cluster.delete_pods();
    is_reset(stream).await;
}
