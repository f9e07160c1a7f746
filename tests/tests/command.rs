//! A command with a forward: when it starts, what it knows, whose terminal and signals those are, how it ends.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that fails here should panic")]

use std::net::SocketAddr;
use std::time::Duration;

use relay_tests::{
    CTRL_BACKSLASH, CTRL_C, CTRL_Z, Exited, Namespace, Relay, Signal, Terminal, documented_rules, http_get,
    kubectl, try_kubectl, wait_until,
};
use relay_workload::MARKER;

const WEB: &str = "host/web.default.svc.cluster.local";
/// How long a run may take from its start to its end.
const WHOLE: Duration = Duration::from_secs(60);
/// How long the cluster may take to remove what was deleted: much less than an agent that nobody deletes stays.
const GONE: Duration = Duration::from_secs(20);

/// The plugin with a command, its agent in this namespace.
fn with_command<'a>(namespace: &'a Namespace, command: &[&'a str]) -> Vec<&'a str> {
    [&["-n", namespace.name(), "-l", "127.0.0.1", WEB, ":80", "--"], command].concat()
}

fn run(namespace: &Namespace, command: &[&str]) -> Exited {
    let exited = Relay::spawn(&with_command(namespace, command)).wait(WHOLE);
    nothing_is_left(namespace);
    exited
}

fn nothing_is_left(namespace: &Namespace) {
    wait_until("Job and pod are gone", GONE, || namespace.agents().is_empty());
}

#[test]
fn the_exit_code_is_the_commands_and_nothing_is_left() {
    let namespace = Namespace::new("command", &[]);
    let exited = run(&namespace, &["sh", "-c", "echo result; exit 7"]);
    assert_eq!((exited.code, exited.stdout.as_str()), (Some(7), "result\n"), "{}", exited.stderr);
    assert!(exited.stderr.starts_with("Forwarding from 127.0.0.1:"), "{}", exited.stderr);
    let exited = run(&namespace, &["true"]);
    assert_eq!((exited.code, exited.stdout.as_str()), (Some(0), ""), "{}", exited.stderr);
}

#[test]
fn a_command_that_a_signal_ends_gives_128_and_its_number() {
    let namespace = Namespace::new("command", &[]);
    let exited = run(&namespace, &["sh", "-c", "kill -KILL $$"]);
    assert_eq!(exited.code, Some(137), "{}", exited.stderr);
}

#[test]
fn the_first_connection_of_the_command_gets_through() {
    let namespace = Namespace::new("command", &[]);
    let fetch = "exec 3<>/dev/tcp/$RELAY_ADDR/$RELAY_PORT; printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3";
    let exited = run(&namespace, &["bash", "-c", fetch]);
    assert_eq!(exited.code, Some(0), "{}", exited.stderr);
    assert!(exited.stdout.contains(MARKER), "{}", exited.stdout);
}

#[test]
fn every_forward_has_a_variable() {
    let namespace = Namespace::new("command", &[]);
    let targets =
        ["--server.namespace", namespace.name(), "svc/web", ":http", ":7007@udp", "deploy/web", ":8080"];
    let show = ["--", "sh", "-c", "echo $RELAY_WEB_HTTP $RELAY_WEB_7007_UDP $RELAY_WEB_8080; cat"];
    let mut command = std::process::Command::new(Relay::program());
    command.args(["-l", "127.0.0.1"]).args(targets).args(show);
    command.env("KUBECONFIG", relay_tests::admin_kubeconfig());
    let exited = Relay::spawn_command(command).wait(WHOLE);
    assert_eq!(exited.code, Some(0), "{}", exited.stderr);
    let said: Vec<SocketAddr> = exited.stdout.split_whitespace().map(|word| word.parse().unwrap()).collect();
    assert_eq!(said.len(), 3, "{}", exited.stdout);
    for address in said {
        assert!(exited.stderr.contains(&format!("Forwarding from {address} -> ")), "{}", exited.stderr);
    }
}

#[test]
fn a_mistyped_command_makes_nothing_in_the_cluster() {
    let namespace = Namespace::new("command", &[]);
    let exited = Relay::spawn(&with_command(&namespace, &["no-such-command"])).wait(Duration::from_secs(10));
    assert_eq!(exited.code, Some(127), "{}", exited.stderr);
    assert!(exited.stderr.contains("hint: "), "{}", exited.stderr);
    let exited = Relay::spawn(&with_command(&namespace, &["/etc/passwd"])).wait(Duration::from_secs(10));
    assert_eq!(exited.code, Some(126), "{}", exited.stderr);
    assert_eq!(kubectl(&["get", "events,jobs", "-n", namespace.name(), "-o", "name"]), "");
}

#[test]
fn a_termination_is_passed_on_and_waits_for_the_command() {
    for signal in [Signal::TERM, Signal::HUP] {
        let namespace = Namespace::new("command", &[]);
        let script = "trap 'echo asked; read line; exit 3' TERM HUP; echo $RELAY_WEB_DEFAULT_SVC_CLUSTER_LOCAL_80; \
             while :; do sleep 0.05; done";
        let relay = Relay::spawn(&with_command(&namespace, &["sh", "-c", script]));
        let address = relay.next_line(WHOLE).parse().unwrap();
        relay.signal(signal);
        assert_eq!(relay.next_line(WHOLE), "asked");
        // The way is open for as long as the command lives: it may have something to finish.
        let _ = http_get(address, "/");
        let exited = relay.wait(WHOLE);
        assert_eq!(exited.code, Some(3), "{}", exited.stderr);
        nothing_is_left(&namespace);
    }
}

#[test]
fn the_command_has_the_terminal_and_ctrl_c_is_for_it() {
    let namespace = Namespace::new("terminal", &[]);
    let script = "test -t 0 && test -t 1 && test -t 2 && echo three; trap 'echo interrupted' INT; \
                  echo at $RELAY_ADDR:$RELAY_PORT; read line; echo; read line; echo \"then $line\"; exit 5";
    let mut terminal = Terminal::run(&with_command(&namespace, &["sh", "-c", script]));
    terminal.wait_for("at 127.0.0.1:", WHOLE);
    let shown = terminal.screen();
    assert!(shown.contains("three\r\n"), "{shown}");
    terminal.keys(CTRL_C);
    terminal.wait_for("interrupted", WHOLE);
    // The relay goes on.
    let address = shown.split("at ").nth(1).unwrap().trim().parse().unwrap();
    assert!(http_get(address, "/").unwrap().contains(MARKER));
    terminal.keys("more\n");
    terminal.wait_for("then more", WHOLE);
    let (code, shown) = terminal.end(WHOLE);
    assert_eq!(code, 5, "{shown}");
    nothing_is_left(&namespace);
}

#[test]
fn a_command_that_the_keyboard_ends_is_cleaned_up_after() {
    for (key, code) in [(CTRL_C, 130), (CTRL_BACKSLASH, 131)] {
        let namespace = Namespace::new("terminal", &[]);
        let mut terminal =
            Terminal::run(&with_command(&namespace, &["sh", "-c", "echo runs; exec sleep 600"]));
        terminal.wait_for("runs", WHOLE);
        terminal.keys(key);
        let (ended, shown) = terminal.end(WHOLE);
        assert_eq!(ended, code, "{shown}");
        nothing_is_left(&namespace);
    }
}

#[test]
fn an_interactive_shell_keeps_its_jobs() {
    let namespace = Namespace::new("terminal", &[]);
    let shell = ["env", "PS1=next> ", "bash", "--norc", "--noprofile", "-i"];
    let mut terminal = Terminal::run(&with_command(&namespace, &shell));
    terminal.wait_for("next> ", WHOLE);
    assert!(!terminal.screen().contains("no job control"), "{}", terminal.screen());
    // What is typed is shown too: it must differ from what is waited for. A key that is a signal throws away what was
    // typed before it and not read yet.
    terminal.keys("sh -c 'echo be''gun; exec sleep 600'\n");
    terminal.wait_for("begun", WHOLE);
    terminal.keys(CTRL_Z);
    terminal.wait_for("Stopped", WHOLE);
    terminal.keys("kill %1; wait; echo $((40 + 2))\n");
    terminal.wait_for("\n42", WHOLE);
    terminal.keys("exit 9\n");
    let (code, shown) = terminal.end(WHOLE);
    assert_eq!(code, 9, "{shown}");
    nothing_is_left(&namespace);
}

#[test]
fn a_tunnel_lost_for_good_is_said_and_the_command_told() {
    let namespace = Namespace::new("lost", &[]);
    let user = namespace.user("dev", &serde_json::to_string(&documented_rules()).unwrap());
    let script = "trap 'echo told; exit 3' TERM; echo runs; while :; do sleep 0.05; done";
    let relay = Relay::spawn_as(&user, &with_command(&namespace, &["sh", "-c", script]));
    assert_eq!(relay.next_line(WHOLE), "runs");

    kubectl(&["delete", "rolebinding", "--all", "-n", namespace.name()]);
    let name = format!("dev-{}", namespace.name());
    wait_until("the rights are withdrawn", Duration::from_secs(30), || {
        let asked = ["auth", "can-i", "create", "jobs", "-n", namespace.name(), "--as", &name];
        String::from_utf8_lossy(&try_kubectl(&asked).stdout).trim() == "no"
    });
    kubectl(&[
        "delete",
        "pods",
        "--all",
        "-n",
        namespace.name(),
        "--grace-period=0",
        "--force",
        "--wait=false",
    ]);
    assert_eq!(relay.next_line(WHOLE), "told");
    let exited = relay.wait(WHOLE);
    assert_eq!(exited.code, Some(1), "{}", exited.stderr);
    assert_eq!(exited.stderr.matches("error: ").count(), 1, "{}", exited.stderr);
    assert!(
        exited.stderr.contains("not allowed to") && exited.stderr.contains("hint: "),
        "{}",
        exited.stderr
    );
}
