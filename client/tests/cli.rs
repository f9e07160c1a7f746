//! The program itself, as a terminal sees it: what it prints, where, and its exit code.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

fn relay(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_kubectl-relay"))
        .args(arguments)
        .env_remove("KUBECONFIG")
        .env_remove("KUBERNETES_SERVICE_HOST")
        .env("HOME", "/nowhere")
        .output()
        .unwrap()
}

fn told(arguments: &[&str]) -> (String, String, i32) {
    let output = relay(arguments);
    (
        String::from_utf8(output.stdout).unwrap(),
        String::from_utf8(output.stderr).unwrap(),
        output.status.code().unwrap(),
    )
}

#[test]
fn misuse_exits_with_two_and_a_hint() {
    let cases: &[(&[&str], &str)] = &[
        (
            &[],
            "error: no target given\nhint: a target is svc/NAME, pod/NAME, deploy/NAME, sts/NAME, TYPE/NAME, ip/ADDR, \
             host/NAME or node/NAME; for example: kubectl relay svc/web 8080:http\n",
        ),
        (
            &["svc/web"],
            "error: target \"svc/web\" has no port\nhint: name at least one port: kubectl relay svc/web 8080:80\n",
        ),
        (
            &["svc/web", "53@sctp"],
            "error: port \"53@sctp\": unknown protocol \"sctp\"\nhint: end the port with @tcp or @udp, for example 5353:53@udp\n",
        ),
    ];
    for (arguments, expected) in cases {
        assert_eq!(told(arguments), (String::new(), (*expected).to_owned(), 2), "{arguments:?}");
    }
}

#[test]
fn what_is_wrong_in_a_targets_file_is_told_with_its_line() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("targets.txt");
    let file = file.to_str().unwrap();
    let cases = [
        (
            "svc/a 1\n\n-n dev svc/b\n",
            ":3: target \"svc/b\" has no port\nhint: name at least one port: kubectl relay svc/b 8080:80\n",
        ),
        (
            "svc/a 1 --lanes 2",
            ":1: unexpected argument '--lanes' found\nhint: a line holds a target, its ports, and -n NAMESPACE, \
             -l ADDRESS or --context NAME; other flags are for the command line\n",
        ),
        ("# to do\n", " holds no target\nhint: write a target and its ports on a line: svc/web 8080:http\n"),
    ];
    for (text, expected) in cases {
        std::fs::write(file, text).unwrap();
        assert_eq!(told(&["-f", file]), (String::new(), format!("error: {file}{expected}"), 2), "{text:?}");
    }
    let (_, stderr, code) = told(&["-f", "/nowhere/targets.txt"]);
    assert_eq!(code, 2);
    assert!(stderr.starts_with("error: cannot read the targets file /nowhere/targets.txt: "), "{stderr}");
    std::fs::write(file, [b's', 0xff]).unwrap();
    let (_, stderr, code) = told(&["-f", file]);
    assert_eq!(code, 2);
    assert!(stderr.starts_with(&format!("error: cannot read the targets file {file}: ")), "{stderr}");
}

#[test]
fn standard_input_holds_targets_once() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_kubectl-relay"))
        .args(["-f", "-", "-f", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"svc/a 1\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(
        String::from_utf8(output.stderr).unwrap(),
        "error: standard input can be read only once\nhint: give -f - once\n"
    );
}

#[test]
fn what_the_cluster_says_about_a_line_is_told_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("targets.txt");
    std::fs::write(&file, "ip/10.0.0.1 :1\n-n dev svc/web :80\n").unwrap();
    let (_, stderr, code) = told(&["--server", "http://127.0.0.1:1", "-f", file.to_str().unwrap()]);
    assert_eq!(code, 1);
    let expected = format!("error: {}:2: cannot get services \"web\" in namespace \"dev\", ", file.display());
    assert!(stderr.starts_with(&expected), "{stderr}");
}

#[test]
fn two_dashes_without_a_command_are_misuse() {
    let (stdout, stderr, code) = told(&["svc/web", "80", "--"]);
    assert_eq!((stdout.as_str(), code), ("", 2));
    assert!(stderr.starts_with("error: a command is missing after --\n"), "{stderr}");
}

#[test]
fn an_unknown_flag_is_misuse_too() {
    let (stdout, stderr, code) = told(&["--no-such-flag", "svc/web", "80"]);
    assert_eq!((stdout.as_str(), code), ("", 2));
    assert!(stderr.contains("--no-such-flag"), "{stderr}");
}

#[test]
fn help_goes_to_stdout_with_examples() {
    let (stdout, stderr, code) = told(&["--help"]);
    assert_eq!((stderr.as_str(), code), ("", 0));
    assert!(stdout.contains("kubectl relay -n kube-system svc/kube-dns 5353:53@udp 5353:53@tcp"));
    assert!(stdout.starts_with("Forward local TCP and UDP ports"), "{stdout}");
}

#[test]
fn a_missing_kubeconfig_is_a_failure_that_names_it() {
    let (stdout, stderr, code) = told(&["--kubeconfig", "/nowhere/config", "svc/web", "80"]);
    assert_eq!((stdout.as_str(), code), ("", 1));
    assert!(stderr.starts_with("error: cannot use the kubeconfig: "), "{stderr}");
    assert!(stderr.contains("/nowhere/config") && stderr.contains("\nhint: "), "{stderr}");
}

#[test]
fn an_api_server_that_is_not_there_is_a_failure_that_says_so() {
    let (_, stderr, code) = told(&["--server", "http://127.0.0.1:1", "svc/web", "80"]);
    assert_eq!(code, 1);
    assert!(
        stderr.starts_with(
            "error: cannot get services \"web\" in namespace \"default\", the API server cannot be reached: "
        ),
        "{stderr}"
    );
    assert!(stderr.contains("Connection refused"), "{stderr}");
}

#[test]
fn a_closed_stdout_does_not_panic() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = Command::new(env!("CARGO_BIN_EXE_kubectl-relay"))
        .arg("--help")
        .stdout(Stdio::from(writer))
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(!stderr.contains("panicked"), "{stderr}");
}

#[test]
fn nothing_that_is_written_needs_more_than_ascii() {
    fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { sources(&path, found) } else { found.push(path) }
        }
    }
    let mut files = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut files);
    let mut wrong = Vec::new();
    for file in files.iter().filter(|file| file.extension().is_some_and(|extension| extension == "rs")) {
        let text = std::fs::read_to_string(file).unwrap();
        let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
        wrong.extend(code.filter(|line| !line.is_ascii()).map(|line| format!("{}: {line}", file.display())));
    }
    assert!(files.len() > 50 && wrong.is_empty(), "{wrong:#?}");
    assert!(told(&["--help"]).0.is_ascii());
}

#[cfg(unix)]
#[test]
fn the_helper_answers_by_its_own_name_and_never_complains() {
    let folder = tempfile::tempdir().unwrap();
    let helper = folder.path().join("kubectl_complete-relay");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_kubectl-relay"), &helper).unwrap();
    let cases: &[(&[&str], &str)] = &[
        (&["--agent-source", "im"], "image\tAn image that the nodes can pull\n:4\n"),
        (&["--kubeconfig", "/nowhere", "svc/"], ":4\n"),
        (&["--kubeconfig", "/nowhere", "svc/web", ""], ":4\n"),
        (&["--lanes=x", "--no-such", "svc/"], ":4\n"),
    ];
    for (words, expected) in cases {
        let output = Command::new(&helper).args(*words).env("HOME", "/nowhere").output().unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), *expected, "{words:?}");
        assert_eq!((output.stderr.len(), output.status.code()), (0, Some(0)), "{words:?}");
    }
}
