//! What is said to bad input: each in a snapshot of the whole output and the exit code, `told.txt`.
//! `RELAY_UPDATE=1 cargo test -p kubectl-relay --test bad_inputs` writes it anew; look at the difference before it is
//! committed.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

mod inputs;
#[path = "../docs/shell.rs"]
mod shell;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

/// Nothing of this needs a cluster, so nothing of it may take long, whatever else the machine does.
const LIMIT: Duration = Duration::from_secs(60);

/// What is typed, and what comes of it.
struct Told {
    typed: &'static str,
    code: i32,
    stdout: String,
    stderr: String,
}

fn run(folder: &Path, typed: &'static str) -> Told {
    let words = shell::relay_commands(typed).pop().expect("a command line of the plugin");
    let mut command = Command::new(env!("CARGO_BIN_EXE_kubectl-relay"));
    command.args(words).current_dir(folder).stdin(Stdio::null());
    // Nothing of whoever runs this test: neither a cluster nor settings.
    command.env_clear().env("HOME", "/nowhere").env("PATH", "/usr/bin:/bin").env("LC_ALL", "C");
    let (stdout, stderr) = (folder.join("stdout"), folder.join("stderr"));
    command.stdout(fs::File::create(&stdout).unwrap()).stderr(fs::File::create(&stderr).unwrap());
    let mut child = command.spawn().unwrap();
    let since = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if since.elapsed() > LIMIT {
            child.kill().unwrap();
            panic!("{typed} still runs after {LIMIT:?}");
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    let read = |file| fs::read_to_string(file).unwrap();
    Told { typed, code: status.code().expect("an exit code"), stdout: read(&stdout), stderr: read(&stderr) }
}

#[test]
fn each_is_told_what_is_wrong_and_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in inputs::FILES {
        fs::write(folder.path().join(name), text).unwrap();
    }
    let all: Vec<Told> = inputs::TYPED.lines().map(|typed| run(folder.path(), typed)).collect();
    assert!(all.len() >= 60, "only {} bad inputs", all.len());
    for Told { typed, code, stdout, stderr } in &all {
        let what = format!("{typed}\nexit code {code}\n{stdout}{stderr}");
        assert!(matches!(code, 1 | 2 | 126 | 127), "{what}");
        assert_eq!(stdout, "", "{what}");
        let lines: Vec<&str> = stderr.lines().collect();
        let [error, hint] = lines.as_slice() else { panic!("not a sentence and a hint: {what}") };
        assert!(error.starts_with("error: ") && hint.starts_with("hint: "), "{what}");
        // What a credential plugin prints may be a token.
        assert!(stderr.is_ascii() && !stderr.contains("secret-of-mine"), "{what}");
    }

    let told: Vec<String> =
        all.iter().map(|told| format!("$ {}\n{}[{}]\n", told.typed, told.stderr, told.code)).collect();
    let (told, snapshot) = (told.join("\n"), snapshot());
    if std::env::var_os("RELAY_UPDATE").is_some() {
        fs::write(&snapshot, &told).unwrap();
    }
    let expected = fs::read_to_string(&snapshot).unwrap();
    let differs = told.split("\n$ ").zip(expected.split("\n$ ")).find(|(now, before)| now != before);
    if let Some((now, before)) = differs {
        panic!("told otherwise than {}:\n{before}\nbut now:\n{now}", snapshot.display());
    }
    assert_eq!(told.len(), expected.len());
}

fn snapshot() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bad_inputs/told.txt")
}
