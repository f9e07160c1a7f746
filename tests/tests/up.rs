//! Many forwards in the background: a file that changes under traffic, two contexts, and what is left at the end.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that fails here should panic")]

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use relay_tests::{
    Echoes, Namespace, Relay, Terminal, admin_kubeconfig, alone, beside_others, http_get, kubectl,
    wait_until, xtask,
};
use relay_workload::MARKER;
use serde_json::Value;

/// For what is only a matter of time.
const LONG: Duration = Duration::from_secs(90);

/// A user's folder: where the background process is found, and the file.
struct Desk {
    folder: tempfile::TempDir,
}

impl Desk {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// As editors do it: another file takes its place.
    fn write(&self, text: &str) {
        fs::write(self.path(".new"), text).unwrap();
        fs::rename(self.path(".new"), self.path("relay.yaml")).unwrap();
    }

    fn run(&self, words: &[&str]) -> Output {
        let mut command = Command::new(Relay::program());
        command.args(words).current_dir(self.folder.path()).env("XDG_RUNTIME_DIR", self.folder.path());
        command.env("KUBECONFIG", self.kubeconfig()).output().unwrap()
    }

    /// The administrator's, or one of its own.
    fn kubeconfig(&self) -> PathBuf {
        let own = self.path("config");
        if own.exists() { own } else { admin_kubeconfig() }
    }

    fn fine(&self, words: &[&str]) -> String {
        let output = self.run(words);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{words:?}: {stderr}\n{}", self.log());
        String::from_utf8(output.stdout).unwrap()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("kubectl-relay/log")).unwrap_or_default()
    }

    fn list(&self) -> Value {
        serde_json::from_str(&self.fine(&["ls", "-o", "json"])).unwrap()
    }

    fn forwards(&self) -> Vec<Value> {
        self.list()["forwards"].as_array().unwrap().clone()
    }

    fn local(&self, name: &str) -> SocketAddr {
        let forwards = self.forwards();
        let forward = forwards.iter().find(|forward| forward["name"] == name).unwrap();
        forward["local"][0].as_str().unwrap().parse().unwrap()
    }

    /// Nothing is left on this machine.
    fn is_over(&self) {
        assert!(!self.path("kubectl-relay/control").exists());
        let pids = Command::new("pgrep").args(["-f", "up-background"]).output().unwrap();
        for pid in String::from_utf8_lossy(&pids.stdout).lines() {
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            let own = self.folder.path().to_str().unwrap();
            assert!(!String::from_utf8_lossy(&environment).contains(own), "process {pid} is left");
        }
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        self.run(&["down"]);
    }
}

#[test]
fn a_terminal_closes_and_the_forwards_go_on_until_down() {
    let _beside = beside_others();
    let namespace = Namespace::new("up", &[]);
    let desk = Desk::new();
    let own = namespace.name();
    desk.write(&format!(
        "defaults: {{serverNamespace: {own}, address: 127.0.0.1}}\n\
         forwards: [svc/web :80, {{name: echo, target: svc/web, ports: ':7007@tcp'}}]\n"
    ));
    let folder = desk.folder.path().to_str().unwrap();
    let file = desk.path("relay.yaml");
    let words = ["up", "-f", file.to_str().unwrap()];
    let terminal = Terminal::run_in(80, &[("XDG_RUNTIME_DIR", folder)], &words);
    wait_until("both are ready", Duration::from_secs(90), || {
        terminal.screen().matches("Forwarding from 127.0.0.1:").count() == 2
    });
    // Its keyboard is gone: whatever is in it is hung up.
    drop(terminal);

    let (web, echoes) = (desk.local("web"), Echoes::start(desk.local("echo"), 2));
    assert!(http_get(web, "/").unwrap().contains(MARKER));
    let mut logs = Command::new(Relay::program())
        .args(["logs", "-f"])
        .env("XDG_RUNTIME_DIR", desk.folder.path())
        .stdout(fs::File::create(desk.path("followed")).unwrap())
        .spawn()
        .unwrap();
    desk.write(&format!(
        "defaults: {{serverNamespace: {own}, address: 127.0.0.1}}\n\
         forwards: [{{name: echo, target: svc/web, ports: ':7007@tcp'}}]\n"
    ));
    wait_until("the followed log tells of the change", Duration::from_secs(20), || {
        fs::read_to_string(desk.path("followed")).unwrap().contains("relay.yaml has changed")
    });
    wait_until("its port is free", Duration::from_secs(20), || http_get(web, "/").is_err());
    echoes.all_answered(Instant::now());

    assert_eq!(desk.fine(&["down"]), "Ended 1 forward\n");
    assert!(logs.wait().unwrap().success(), "what follows the log ends with it");
    desk.is_over();
    wait_until("Job and pod are gone", Duration::from_secs(20), || namespace.agents().is_empty());
}

#[test]
fn top_shows_what_is_in_the_background_and_stops_and_starts_it() {
    let _beside = beside_others();
    let namespace = Namespace::new("top", &[]);
    let desk = Desk::new();
    let folder = desk.folder.path().to_str().unwrap().to_owned();
    let top = |words: &[&str]| Terminal::run_in(100, &[("XDG_RUNTIME_DIR", &folder)], words);
    let (code, screen) = top(&["top"]).end(LONG);
    assert_eq!(code, 1, "{screen}");
    assert!(screen.contains("nothing forwards in the background"), "{screen}");

    desk.write(&format!(
        "defaults: {{serverNamespace: {}, address: 127.0.0.1}}\nforwards: [svc/web :80]\n",
        namespace.name()
    ));
    desk.fine(&["up"]);
    let web = desk.local("web");
    let mut terminal = top(&["top"]);
    terminal.wait_to_see("1 of 1 ready", LONG);
    terminal.wait_to_see("svc/web", LONG);
    terminal.keys("s");
    wait_until("it has stopped", LONG, || desk.forwards()[0]["state"] == "stopped");
    assert!(http_get(web, "/").is_err());
    // The key does what fits what the view shows.
    terminal.wait_to_see("stopped", LONG);
    terminal.keys("s");
    wait_until("it is ready again, where it was", LONG, || http_get(web, "/").is_ok());
    terminal.keys("q");
    let (code, screen) = terminal.end(LONG);
    assert_eq!(code, 0, "{screen}");

    let lines = top(&["top", "--plain"]);
    lines.wait_for("on 127.0.0.1:", LONG);
    // Its end ends whoever looks on.
    desk.fine(&["down"]);
    let (code, screen) = lines.end(LONG);
    assert_eq!(code, 0, "{screen}");
    desk.is_over();
}

#[test]
fn a_file_is_edited_a_hundred_times_under_traffic() {
    let _beside = beside_others();
    let namespace = Namespace::new("edit", &[]);
    let desk = Desk::new();
    let own = namespace.name();
    let text = |edit: usize| {
        let more: String = (0..edit % 4)
            .map(|more| format!("- {{name: w{edit}-{more}, target: svc/web, ports: ':80'}}\n"))
            .collect();
        format!(
            "defaults: {{serverNamespace: {own}, address: 127.0.0.1}}\n\
             forwards:\n- {{name: echo, target: svc/web, ports: ':7007@tcp'}}\n- {{name: edit{edit}, target: svc/web, ports: ':80'}}\n{more}"
        )
    };
    desk.write(&text(0));
    desk.fine(&["up"]);
    let echoes = Echoes::start(desk.local("echo"), 8);
    for edit in 1..=100 {
        desk.write(&text(edit));
        let name = format!("edit{edit}");
        wait_until("the edit is in effect", Duration::from_secs(30), || {
            desk.forwards()
                .iter()
                .any(|forward| forward["name"] == name.as_str() && forward["state"] == "ready")
        });
    }
    // Not one of its connections has broken.
    echoes.all_answered(Instant::now());
    assert!(http_get(desk.local("edit100"), "/").unwrap().contains(MARKER));
    let agents = namespace.agents();
    assert_eq!(agents.lines().filter(|line| line.starts_with("pod/")).count(), 1, "{agents}");
    desk.fine(&["down"]);
    desk.is_over();
}

#[test]
fn thirty_forwards_in_three_namespaces_and_two_contexts_survive_the_api_server() {
    let alone = alone();
    let namespaces: Vec<Namespace> = (0..3).map(|_| Namespace::new("many", &[])).collect();
    let desk = Desk::new();
    fs::copy(admin_kubeconfig(), desk.path("config")).unwrap();
    let config = desk.path("config");
    let current = || {
        kubectl(&[
            "config",
            "view",
            "--minify",
            "-o",
            "jsonpath={.clusters[0].name} {.contexts[0].context.user}",
        ])
    };
    let told = current();
    let (cluster, user) = told.split_once(' ').unwrap();
    for context in ["one", "two"] {
        let config = format!("--kubeconfig={}", config.display());
        let (cluster, user) = (format!("--cluster={cluster}"), format!("--user={user}"));
        kubectl(&["config", "set-context", context, &cluster, &user, &config]);
    }
    let mut text = "defaults: {address: 127.0.0.1}\ngroups:\n".to_owned();
    for context in ["one", "two"] {
        for (index, namespace) in namespaces.iter().enumerate() {
            text += &format!(
                "  {context}{index}: {{context: {context}, namespace: {}, forwards: [\n",
                namespace.name()
            );
            for number in 0..5 {
                text += &format!(
                    "    {{name: {context}{index}-{number}, target: host/web.default.svc.cluster.local, ports: ':80'}},\n"
                );
            }
            text += "  ]}\n";
        }
    }
    desk.write(&text);
    let since = Instant::now();
    let told = desk.fine(&["up"]);
    let took = since.elapsed();
    assert_eq!(told.lines().count(), 30, "{told}");
    let list = desk.list();
    assert_eq!(list["agents"].as_array().unwrap().len(), 6, "{list:#}");
    for namespace in &namespaces {
        let agents = namespace.agents();
        assert_eq!(agents.lines().filter(|line| line.starts_with("pod/")).count(), 2, "{agents}");
    }
    let at = |value: &Value| value["since"].as_str().unwrap().to_owned();
    let last_agent = list["agents"].as_array().unwrap().iter().map(at).max().unwrap();
    let last_forward = list["forwards"].as_array().unwrap().iter().map(at).max().unwrap();
    eprintln!(
        "30 forwards after {took:?}: the last agent at {last_agent}, the last forward at {last_forward}"
    );

    xtask(&["apiserver", "stop"]);
    xtask(&["apiserver", "start"]);
    wait_until("all are ready again", Duration::from_secs(120), || {
        desk.forwards().iter().all(|forward| forward["state"] == "ready")
    });
    for forward in desk.forwards() {
        let local: SocketAddr = forward["local"][0].as_str().unwrap().parse().unwrap();
        assert!(http_get(local, "/").unwrap().contains(MARKER), "{forward}");
    }
    drop(alone);
    desk.fine(&["down"]);
    desk.is_over();
    for namespace in &namespaces {
        wait_until("Jobs and pods are gone", Duration::from_secs(60), || namespace.agents().is_empty());
    }
}
