//! The program itself, as a terminal sees it: what it prints, where, and its exit code.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::process::{Command, Output, Stdio};

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
