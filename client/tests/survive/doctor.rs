//! `doctor` with a real session: what it measures, and that nothing is left of it.

use std::{fs, sync::Arc};

use clap::Parser;
use kubectl_relay::{
    cli::{args::Args, verb::Verb},
    error::Error,
    output::Output,
};
use tempfile::TempDir;

use crate::{
    Captured,
    cluster::{Away, Cluster, Mood},
    point_at,
};

/// Runs it to its end; gives what it printed and its exit code.
async fn examined(server: &str, more: &[&str]) -> (String, Result<u8, Error>) {
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("token"), "first").unwrap();
    point_at(&folder, server);
    let path = folder.path().join("config");
    let words =
        ["kubectl-relay", "doctor", "--kubeconfig", path.to_str().unwrap(), "--agent-source", "image"];
    let args = Args::try_parse_from(words.iter().chain(more)).unwrap();
    let out = Captured::default();
    let output = Arc::new(Output::to(false, 0, Box::new(out.clone()), Box::new(std::io::sink())));
    let Some(verb @ Verb::Doctor(_)) = args.verb else { panic!("another verb") };
    let code = verb.run(args.cluster, &output).await;
    (out.text(), code)
}

/// The lines of a check, each with its hint.
fn lines<'a>(text: &'a str, check: &str) -> Vec<&'a str> {
    text.lines().filter(|line| line.get(9..).is_some_and(|rest| rest.starts_with(check))).collect()
}

#[tokio::test]
async fn a_test_agent_is_measured_and_removed() {
    let cluster = Cluster::new();
    let (server, _) = cluster.listen().await;
    let (text, code) = examined(&server, &[]).await;
    assert_eq!(code.unwrap(), 0, "{text}");
    let beginnings = [
        ("agent", "ok       agent       runs on node-1, reached "),
        // This API server knows only the older protocol.
        ("upgrade", "ok       upgrade     WebSocket (v4) works, connected in "),
        ("session", "ok       session     a round trip takes "),
        ("dns", "ok       dns         the agent resolves kubernetes.default.svc and reaches it in"),
        // What only echoes is no name server.
        ("udp", "warning  udp         no answer from kube-dns.kube-system.svc by UDP"),
        ("cleanup", "ok       cleanup     the test agent is removed"),
    ];
    for (check, beginning) in beginnings {
        assert!(lines(&text, check)[0].starts_with(beginning), "{check}:\n{text}");
    }
    assert!(cluster.nodes().is_empty(), "the agent is still there");
}

#[tokio::test]
async fn nothing_is_started_when_it_is_not_wanted() {
    let cluster = Cluster::new();
    let (server, _) = cluster.listen().await;
    let (text, code) = examined(&server, &["--no-agent"]).await;
    assert_eq!(code.unwrap(), 0, "{text}");
    assert!(lines(&text, "agent").is_empty() && lines(&text, "cleanup").is_empty(), "{text}");
}

#[tokio::test]
async fn where_everything_is_refused_it_fails_without_an_agent() {
    let cluster = Cluster::new();
    let (server, _) = cluster.listen().await;
    cluster.set_mood(Mood::Forbidden);
    let (text, code) = examined(&server, &[]).await;
    assert_eq!(code.unwrap(), 1, "{text}");
    assert!(lines(&text, "rights")[0].starts_with("warning"), "{text}");
    assert!(lines(&text, "admission")[0].starts_with("failed"), "{text}");
    assert!(lines(&text, "cleanup").is_empty(), "{text}");
}

#[tokio::test]
async fn credentials_that_are_not_accepted_end_it() {
    let cluster = Cluster::new();
    let (server, _) = cluster.listen().await;
    cluster.accept_only("another");
    let (text, code) = examined(&server, &[]).await;
    assert_eq!(code.unwrap(), 1, "{text}");
    let last = text.lines().rfind(|line| !line.starts_with(' ')).unwrap();
    assert!(
        last.starts_with("failed   server      the API server does not accept the credentials"),
        "{text}"
    );
}

#[tokio::test]
async fn an_agent_that_is_not_reached_fails_and_is_removed() {
    let cluster = Cluster::new();
    let (server, _) = cluster.listen().await;
    cluster.lose_node("node-1", Away::Told);
    let (text, code) = examined(&server, &["--pod-running-timeout", "3s"]).await;
    assert_eq!(code.unwrap(), 1, "{text}");
    let agent = lines(&text, "agent");
    assert!(agent[0].starts_with("warning  agent       the agent is not reached yet: "), "{text}");
    assert!(
        agent[1].starts_with("failed   agent       the agent runs, but is not reached after 3s"),
        "{text}"
    );
    assert!(lines(&text, "cleanup")[0].starts_with("ok "), "{text}");
    assert!(cluster.nodes().is_empty(), "the agent is still there");
}
