//! One run over two clusters: each with an agent of its own, and what happens to one leaves the other alone.

use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};

use super::*;

fn write_files(folder: &TempDir, servers: [&str; 2], targets: &str) {
    fs::write(folder.path().join("token"), "first").unwrap();
    fs::write(folder.path().join("targets"), targets).unwrap();
    let mut text = "apiVersion: v1\nkind: Config\ncurrent-context: one\n\
                    users:\n- {name: u, user: {tokenFile: token}}\n"
        .to_owned();
    let [one, two] = servers;
    text += &format!(
        "clusters:\n- {{name: one, cluster: {{server: '{one}'}}}}\n- {{name: two, cluster: {{server: '{two}'}}}}\n"
    );
    text += "contexts:\n- {name: one, context: {cluster: one, user: u, namespace: dev}}\n\
             - {name: two, context: {cluster: two, user: u, namespace: dev}}\n";
    fs::write(folder.path().join("config"), text).unwrap();
}

fn start(folder: &TempDir) -> Child {
    Command::new(env!("CARGO_BIN_EXE_kubectl-relay"))
        .arg("--kubeconfig")
        .arg(folder.path().join("config"))
        .args(["--transport", "websocket-v4", "-l", "127.0.0.1", "-o", "json", "ip/10.0.0.1", ":7@tcp", "-f"])
        .arg(folder.path().join("targets"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

#[tokio::test]
async fn each_context_has_an_agent_and_loses_it_alone() {
    let (one, two) = (Cluster::new(), Cluster::new());
    let ((first, _), (second, _)) = (one.listen().await, two.listen().await);
    let folder = tempfile::tempdir().unwrap();
    let targets = "--context two ip/10.0.0.2 :7@tcp\n--context one ip/10.0.0.3 :7@tcp\n";
    write_files(&folder, [&first, &second], targets);
    let mut child = start(&folder);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut event = async |wanted: &dyn Fn(&Value) -> bool| loop {
        let line = timeout(SOON, lines.next_line()).await.unwrap().unwrap().unwrap();
        let event: Value = serde_json::from_str(&line).unwrap();
        if wanted(&event) {
            return event;
        }
    };

    let mut streams = std::collections::BTreeMap::new();
    for _ in 0..3 {
        let forward = event(&|event| event["event"] == "forwarding").await;
        let port = u16::try_from(forward["port"].as_u64().unwrap()).unwrap();
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        echo(&mut stream, b"hello").await;
        let key =
            (forward["target"].as_str().unwrap().to_owned(), forward["context"].as_str().unwrap().to_owned());
        streams.insert(key, stream);
    }
    let key = |target: &str, context: &str| (target.to_owned(), context.to_owned());
    let expected = [key("ip/10.0.0.1", "one"), key("ip/10.0.0.2", "two"), key("ip/10.0.0.3", "one")];
    assert!(streams.keys().eq(expected.iter()), "{:?}", streams.keys());
    // The current context and its name are one: one agent.
    assert_eq!((one.nodes().len(), two.nodes().len()), (1, 1));

    two.delete_pods();
    let lost = event(&|event| event["state"] == "agentLost").await;
    assert_eq!(lost["context"], "two", "{lost}");
    is_reset(streams.remove(&expected[1]).unwrap()).await;
    for stream in streams.values_mut() {
        echo(stream, b"still there").await;
    }
    event(&|event| event["state"] == "ready" && event["context"] == "two").await;

    kill_process(Pid::from_raw(child.id().unwrap().cast_signed()).unwrap(), Signal::INT).unwrap();
    let status = timeout(SOON, child.wait()).await.unwrap().unwrap();
    assert_eq!(status.code(), Some(0));
    assert_eq!((one.nodes().len(), two.nodes().len()), (0, 0));
}

#[tokio::test]
async fn an_error_names_its_context_and_ends_the_whole_run() {
    let (one, two) = (Cluster::new(), Cluster::new());
    let ((first, _), (second, _)) = (one.listen().await, two.listen().await);
    let folder = tempfile::tempdir().unwrap();
    write_files(&folder, [&first, &second], "--context two ip/10.0.0.2 :7@tcp");
    two.set_mood(Mood::Forbidden);
    let output = timeout(SOON, start(&folder).wait_with_output()).await.unwrap().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("error: context two: not allowed to create jobs.batch"), "{stderr}");
    assert_eq!(one.nodes(), [""; 0]);
}

#[tokio::test]
async fn a_context_that_is_not_there_is_told_with_its_line() {
    let folder = tempfile::tempdir().unwrap();
    write_files(&folder, ["http://127.0.0.1:1"; 2], "\n--context three ip/10.0.0.2 :7@tcp");
    let output = timeout(SOON, start(&folder).wait_with_output()).await.unwrap().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    let expected = format!(
        "error: {}:2: the kubeconfig has no context \"three\"\nhint: kubectl config get-contexts lists them\n",
        folder.path().join("targets").display()
    );
    assert_eq!(stderr, expected);
}
