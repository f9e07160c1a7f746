//! The documentation's own commands, word by word: the blocks of README.md and docs/ that are marked `run`.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that fails here should panic")]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use relay_tests::{Namespace, Relay, Signal, admin_kubeconfig, kubectl, kubectl_apply, repository};

/// How long a command may take, with the agent that it starts.
const WHOLE: Duration = Duration::from_secs(60);

/// What the pages talk of: a web page, and a database of which only the port is looked at.
const OBJECTS: &str = r#"
apiVersion: v1
kind: Pod
metadata: { name: web, labels: { app: web } }
spec:
  containers:
    - { name: workload, image: "relay.test/workload:1", imagePullPolicy: IfNotPresent, args: [serve] }
---
apiVersion: v1
kind: Service
metadata: { name: web }
spec: { selector: { app: web }, ports: [{ name: http, port: 80, targetPort: 8080 }] }
---
apiVersion: v1
kind: Service
metadata: { name: db }
spec: { selector: { app: web }, ports: [{ name: postgres, port: 5432, targetPort: 7007 }] }
"#;

/// A block that is marked.
struct Block {
    page: String,
    language: String,
    lines: Vec<String>,
}

fn blocks() -> Vec<Block> {
    let mut files: Vec<PathBuf> =
        fs::read_dir(repository("docs")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.push(repository("README.md"));
    let mut blocks = Vec::new();
    for file in files {
        let page = file.file_name().unwrap().to_string_lossy().into_owned();
        let mut open: Option<Block> = None;
        for line in fs::read_to_string(&file).unwrap_or_default().lines() {
            match (line.strip_prefix("```"), &mut open) {
                (Some(_), Some(_)) => blocks.extend(open.take().filter(|block| !block.language.is_empty())),
                (Some(info), None) => {
                    // A block without the mark is passed over, and ends at its own end.
                    let language = info.strip_suffix(" run").unwrap_or_default().to_owned();
                    open = Some(Block { page: page.clone(), language, lines: Vec::new() });
                }
                (None, Some(block)) => block.lines.push(line.to_owned()),
                (None, None) => {}
            }
        }
    }
    blocks
}

/// A shell as the reader has it: the plugin on the PATH, a current namespace, a folder to work in.
struct Reader {
    folder: tempfile::TempDir,
    path: String,
}

impl Reader {
    fn new(namespace: &Namespace) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("bin")).unwrap();
        symlink(Relay::program(), folder.path().join("bin/kubectl-relay")).unwrap();
        let config = folder.path().join("config");
        fs::copy(admin_kubeconfig(), &config).unwrap();
        let config = config.to_str().unwrap();
        kubectl(&[
            "--kubeconfig",
            config,
            "config",
            "set-context",
            "--current",
            "--namespace",
            namespace.name(),
        ]);
        let path = format!("{}/bin:{}", folder.path().display(), std::env::var("PATH").unwrap());
        Self { folder, path }
    }

    fn shell(&self, work: &Path, script: &str) -> Command {
        let mut shell = Command::new("bash");
        shell.args(["-euc", script]).current_dir(work).env("PATH", &self.path);
        shell.env("KUBECONFIG", self.folder.path().join("config"));
        shell
    }

    fn has(&self, program: &str) -> bool {
        let mut look = self.shell(self.folder.path(), &format!("command -v {program} >/dev/null"));
        look.status().unwrap().success()
    }

    /// Runs a block; nothing is done where a program of it is not on this machine.
    fn follow(&self, block: &Block) -> bool {
        let work = tempfile::tempdir().unwrap();
        if block.language == "sh" {
            self.run(block, work.path(), &block.lines.join("\n"), &[]);
            return true;
        }
        let steps = steps(&block.lines);
        if let Some((missing, _)) =
            steps.iter().find(|(typed, _)| !self.has(typed.split(' ').next().unwrap()))
        {
            eprintln!("{}: not run, for want of a program: {missing}", block.page);
            return false;
        }
        let mut forwards = Vec::new();
        for (typed, shown) in steps {
            if typed.starts_with("kubectl relay") && !typed.contains(" -- ") {
                forwards.push(self.forward(block, work.path(), typed, &shown));
            } else {
                self.run(block, work.path(), typed, &shown);
            }
        }
        for forward in forwards {
            let exited = forward.stop(Signal::INT);
            assert_eq!(exited.code, Some(0), "{}: {}", block.page, exited.stderr);
        }
        true
    }

    /// A forward that stays until the end of its block, as in another terminal.
    fn forward(&self, block: &Block, work: &Path, typed: &str, shown: &[&str]) -> Relay {
        let relay = Relay::spawn_command(self.shell(work, &format!("exec {typed}")));
        for wanted in shown.iter().copied().chain(shown.is_empty().then_some("Forwarding from ")) {
            while !relay.next_line(WHOLE).contains(wanted) {}
        }
        eprintln!("{}: {typed}", block.page);
        relay
    }

    fn run(&self, block: &Block, work: &Path, script: &str, shown: &[&str]) {
        let exited = Relay::spawn_command(self.shell(work, script)).wait(WHOLE);
        let what = format!("{}: {script}\n{}\n{}", block.page, exited.stdout, exited.stderr);
        assert_eq!(exited.code, Some(0), "{what}");
        let mut lines = exited.stdout.lines();
        for wanted in shown {
            assert!(lines.any(|line| line.contains(wanted)), "{wanted:?} is not shown by {what}");
        }
        eprintln!("{}: {script}", block.page);
    }
}

/// What is typed, each with what is shown of its output.
fn steps(lines: &[String]) -> Vec<(&str, Vec<&str>)> {
    let mut steps: Vec<(&str, Vec<&str>)> = Vec::new();
    for line in lines {
        match (line.strip_prefix("$ "), steps.last_mut()) {
            (Some(typed), _) => steps.push((typed, Vec::new())),
            (None, Some((_, shown))) => shown.push(line),
            (None, None) => panic!("output before any command: {line}"),
        }
    }
    steps
}

#[test]
fn what_the_documentation_says_works() {
    let namespace = Namespace::new("docs", &[]);
    kubectl_apply(namespace.name(), OBJECTS);
    kubectl(&["wait", "-n", namespace.name(), "--for=condition=Ready", "pod/web", "--timeout=60s"]);
    let reader = Reader::new(&namespace);
    let blocks = blocks();
    let followed = blocks.iter().filter(|block| reader.follow(block)).count();
    assert!(followed > 4, "only {followed} of {} blocks could be run", blocks.len());
}
