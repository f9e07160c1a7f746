//! Forwards in the background: `up` and its companions, as processes, over clusters that are not real.

use std::{path::PathBuf, process::Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::Command;

use super::*;

/// A user with a folder of their own, a kubeconfig and a file of forwards.
struct Desk {
    folder: TempDir,
}

struct Told {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Desk {
    fn new(servers: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("token"), "first").unwrap();
        let mut text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: {}\nusers:\n- {{name: u, user: {{tokenFile: token}}}}\nclusters:\n",
            servers[0].0
        );
        for (name, server) in servers {
            text += &format!("- {{name: {name}, cluster: {{server: '{server}'}}}}\n");
        }
        text += "contexts:\n";
        for (name, _) in servers {
            text += &format!("- {{name: {name}, context: {{cluster: {name}, user: u, namespace: dev}}}}\n");
        }
        fs::write(folder.path().join("config"), text).unwrap();
        Self { folder }
    }

    /// Writes the file as editors do: another one takes its place.
    fn write(&self, forwards: &str) {
        let text = format!("defaults:\n  transport: websocket-v4\n  address: 127.0.0.1\n{forwards}");
        let beside = self.path(".relay.yaml.new");
        fs::write(&beside, text).unwrap();
        fs::rename(beside, self.path("relay.yaml")).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    async fn relay(&self, words: &[&str]) -> Told {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kubectl-relay"));
        command.args(words).current_dir(self.folder.path()).stdin(Stdio::null());
        command.env("XDG_RUNTIME_DIR", self.folder.path()).env("KUBECONFIG", "config");
        let output = timeout(SOON * 2, command.output()).await.unwrap().unwrap();
        Told {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    async fn fine(&self, words: &[&str]) -> String {
        let told = self.relay(words).await;
        assert_eq!(told.code, Some(0), "{words:?}: {}{}\n{}", told.stdout, told.stderr, self.log());
        told.stdout
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("kubectl-relay/log")).unwrap_or_default()
    }

    async fn list(&self) -> Value {
        serde_json::from_str(&self.fine(&["ls", "-o", "json"]).await).unwrap()
    }

    /// Waits until the listing is so.
    async fn until(&self, is: impl Fn(&Value) -> bool) -> Value {
        let since = Instant::now();
        loop {
            let list = self.list().await;
            if is(&list) {
                return list;
            }
            assert!(since.elapsed() < SOON, "{list:#}\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn pid(list: &Value) -> Pid {
        Pid::from_raw(i32::try_from(list["pid"].as_i64().unwrap()).unwrap()).unwrap()
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        // A test that has failed leaves no process.
        let mut down = std::process::Command::new(env!("CARGO_BIN_EXE_kubectl-relay"));
        down.arg("down").env("XDG_RUNTIME_DIR", self.folder.path());
        let _ = down.stdout(Stdio::null()).stderr(Stdio::null()).status();
    }
}

fn forward<'a>(list: &'a Value, name: &str) -> &'a Value {
    let forwards = list["forwards"].as_array().unwrap();
    forwards.iter().find(|forward| forward["name"] == name).unwrap_or(&Value::Null)
}

fn state(list: &Value, name: &str) -> String {
    forward(list, name)["state"].as_str().unwrap_or("gone").to_owned()
}

async fn connect(list: &Value, name: &str) -> TcpStream {
    let local = forward(list, name)["local"][0].as_str().unwrap().to_owned();
    let mut stream = TcpStream::connect(local).await.unwrap();
    echo(&mut stream, b"hello").await;
    stream
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forwards_come_and_go_and_leave_each_other_alone() {
    let (one, two) = (Cluster::new(), Cluster::new());
    let ((first, _), (second, _)) = (one.listen().await, two.listen().await);
    let desk = Desk::new(&[("one", &first), ("two", &second)]);
    desk.write(
        "groups:\n  data:\n    context: two\n    forwards:\n    - {name: db, target: ip/10.0.0.2, ports: ':7'}\n\
         forwards:\n- {name: a, target: ip/10.0.0.1, ports: ':7'}\n- {name: other, target: ip/10.0.0.3, ports: ':7', namespace: tools}\n",
    );
    let told = desk.fine(&["up"]).await;
    assert_eq!(
        told.lines().filter(|line| line.starts_with("Forwarding from 127.0.0.1:")).count(),
        3,
        "{told}"
    );
    // One agent for each namespace and context.
    assert_eq!((one.nodes().len(), two.nodes().len()), (2, 1));
    let list = desk.list().await;
    assert_eq!(list["agents"].as_array().unwrap().len(), 3, "{list:#}");
    let (mut a, db) = (connect(&list, "a").await, connect(&list, "db").await);
    assert_eq!(desk.fine(&["ls", "-o", "name"]).await, "a\nother\ndb\n");

    // The same again changes nothing.
    desk.fine(&["up"]).await;
    assert_eq!(desk.list().await["forwards"][0]["id"], list["forwards"][0]["id"]);
    assert_eq!((one.nodes().len(), two.nodes().len()), (2, 1));

    // One goes, with its connections; one comes; a busy port fails alone, and is tried again.
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = taken.local_addr().unwrap().port();
    desk.write(&format!(
        "forwards:\n- {{name: a, target: ip/10.0.0.1, ports: ':7'}}\n- {{name: b, target: ip/10.0.0.1, ports: ':8'}}\n\
         - {{name: busy, target: ip/10.0.0.1, ports: '{port}:9'}}\n",
    ));
    let list = desk
        .until(|list| {
            state(list, "b") == "ready" && state(list, "busy") == "failed" && state(list, "db") == "gone"
        })
        .await;
    assert!(forward(&list, "busy")["reason"].as_str().unwrap().ends_with("the port is in use"), "{list:#}");
    assert!(forward(&list, "busy")["reason"].as_str().unwrap().contains("relay.yaml:"), "{list:#}");
    is_reset(db).await;
    echo(&mut a, b"still there").await;
    // Its agent goes some time after the last forward.
    let since = Instant::now();
    while !two.nodes().is_empty() || one.nodes().len() > 1 {
        assert!(since.elapsed() < SOON, "{}", desk.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    drop(taken);
    desk.until(|list| state(list, "busy") == "ready").await;

    // A file that is wrong changes nothing, and says so.
    desk.write("forwards:\n- {name: a, target: ip/10.0.0.1, port: 7}\n");
    let list = desk.until(|list| list["files"][0]["error"].is_object()).await;
    let message = list["files"][0]["error"]["message"].as_str().unwrap();
    assert!(message.ends_with("relay.yaml:5: a forward has no \"port\""), "{message}");
    assert_eq!(list["forwards"].as_array().unwrap().len(), 3);
    let told = desk.relay(&["ls"]).await;
    assert!(told.stderr.contains("hint: did you mean ports?"), "{}", told.stderr);
    echo(&mut a, b"and still there").await;

    // One is stopped and removed by hand; the last end ends the process.
    assert_eq!(desk.fine(&["rm", "b"]).await, "Ended 1 forward\n");
    assert_eq!(state(&desk.list().await, "b"), "gone");
    echo(&mut a, b"once more").await;
    let told = desk.relay(&["rm", "bb"]).await;
    assert_eq!(told.code, Some(2));
    assert_eq!(
        told.stderr,
        "error: no forward is called \"bb\"\nhint: kubectl relay ls lists them with their numbers and names\n"
    );
    assert!(desk.fine(&["logs"]).await.contains("relay.yaml has changed"));
    assert_eq!(desk.fine(&["down"]).await, "Ended 2 forwards\n");
    is_reset(a).await;
    assert_eq!((one.nodes().len(), two.nodes().len()), (0, 0));
    assert!(!desk.path("kubectl-relay/control").exists());
    assert_eq!(desk.list().await["forwards"].as_array().unwrap().len(), 0);
    assert_eq!(desk.relay(&["down"]).await.stderr, "note: nothing is forwarded in the background\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn groups_are_remembered_and_failures_are_told() {
    let one = Cluster::new();
    let (first, _) = one.listen().await;
    let desk = Desk::new(&[("one", &first)]);
    let groups = "groups:\n  x: {forwards: [{name: a, target: ip/10.0.0.1, ports: ':7'}]}\n  \
                  y: {forwards: [{name: b, target: ip/10.0.0.1, ports: ':8'}]}\n  \
                  z: {context: three, forwards: [{name: c, target: ip/10.0.0.1, ports: ':9'}]}\n";
    desk.write(groups);
    let told = desk.relay(&["up", "q"]).await;
    assert_eq!(told.code, Some(2));
    assert!(told.stderr.ends_with("has no group \"q\"\nhint: it has x, y, z\n"), "{}", told.stderr);
    assert!(!desk.path("kubectl-relay").exists(), "misuse costs no process");

    desk.fine(&["up", "x"]).await;
    let names = async || desk.fine(&["ls", "-o", "name"]).await;
    assert_eq!(names().await, "a\n");
    desk.fine(&["up", "y"]).await;
    assert_eq!(names().await, "a\nb\n");
    desk.fine(&["down", "x"]).await;
    assert_eq!(names().await, "b\n");
    // Ended stays ended when the file changes.
    desk.write(&groups.replace("':8'}", "':8'}, {name: d, target: ip/10.0.0.1, ports: ':10'}"));
    desk.until(|list| state(list, "d") == "ready").await;
    assert_eq!(names().await, "b\nd\n");
    let told = desk.relay(&["up"]).await;
    assert_eq!(told.code, Some(1), "{}", told.stderr);
    assert!(
        told.stderr.starts_with("error: c: the kubeconfig has no context \"three\"\nhint: "),
        "{}",
        told.stderr
    );
    assert_eq!(names().await, "b\nd\na\nc\n");

    let told = desk.fine(&["add", "ip/10.0.0.4", ":7", "-l", "127.0.0.1", "--name", "more"]).await;
    assert!(told.starts_with("Forwarding from 127.0.0.1:") && told.ends_with(" -> 7 (more)\n"), "{told}");
    desk.fine(&["down", "y", "a", "c"]).await;
    assert_eq!(names().await, "more\n");
    desk.fine(&["rm", "ip/10.0.0.4"]).await;
    assert!(one.nodes().is_empty() && !desk.path("kubectl-relay/control").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_process_is_replaced_and_a_hang_up_ends_nothing() {
    let one = Cluster::new();
    let (first, _) = one.listen().await;
    let desk = Desk::new(&[("one", &first)]);
    desk.write("forwards:\n- {name: a, target: ip/10.0.0.1, ports: ':7'}\n");
    desk.fine(&["up"]).await;
    let list = desk.list().await;
    let mut a = connect(&list, "a").await;
    kill_process(Desk::pid(&list), Signal::HUP).unwrap();
    echo(&mut a, b"still there").await;
    assert_eq!(desk.list().await["pid"], list["pid"]);

    kill_process(Desk::pid(&list), Signal::KILL).unwrap();
    is_reset(a).await;
    assert!(desk.path("kubectl-relay/control").exists(), "a stale socket");
    assert_eq!(desk.list().await["forwards"].as_array().unwrap().len(), 0);
    desk.fine(&["up"]).await;
    let again = desk.list().await;
    assert_ne!(again["pid"], list["pid"]);
    connect(&again, "a").await;
    desk.fine(&["down"]).await;
    assert!(!desk.path("kubectl-relay/control").exists());
}
