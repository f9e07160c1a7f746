//! What a terminal shows: colours and none, questions, what is waited for. And that none of it is in a pipe.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that fails here should panic")]

use std::time::Duration;

use relay_tests::{CTRL_C, Namespace, Relay, Signal, Terminal, http_get, kubectl_apply, wait_until};
use relay_workload::MARKER;

/// How long a run may take from its start to its end.
const WHOLE: Duration = Duration::from_secs(60);
/// What clears the line of what is waited for.
const CLEAR: &str = "\r\x1b[K";

/// Two Services with nobody behind them, one with an annotation, and one that leads to the test's own web page.
const OBJECTS: &str = r#"
apiVersion: v1
kind: Service
metadata: { name: page }
spec: { type: ExternalName, externalName: web.default.svc.cluster.local,
        ports: [{ name: http, port: 80 }, { name: echo, port: 7007 }] }
---
apiVersion: v1
kind: Service
metadata: { name: hinted, annotations: { kubectl-relay/forward: ":http" } }
spec: { type: ExternalName, externalName: web.default.svc.cluster.local, ports: [{ name: http, port: 80 }] }
---
apiVersion: v1
kind: Service
metadata: { name: spoilt, annotations: { kubectl-relay/forward: "http:80" } }
spec: { ports: [{ name: http, port: 80 }] }
"#;

fn namespace() -> Namespace {
    let namespace = Namespace::new("words", &[]);
    kubectl_apply(namespace.name(), OBJECTS);
    namespace
}

fn piped(args: &[&str]) -> (i32, String) {
    let exited = Relay::spawn(args).wait(WHOLE);
    assert_eq!(exited.stdout, "", "{}", exited.stderr);
    (exited.code.expect("an exit code"), exited.stderr)
}

/// What is left of what a terminal was shown when colours are taken away.
fn without_colours(shown: &str) -> String {
    let mut parts = shown.split("\x1b[");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| text + part.split_once('m').map_or(part, |(_, rest)| rest))
}

#[test]
fn colours_are_for_terminals_that_want_them_and_mean_nothing_by_themselves() {
    let args = ["svc/web", "53@sctp"];
    let (code, plain) = piped(&args);
    assert_eq!(code, 2);
    assert_eq!(
        plain,
        "error: port \"53@sctp\": unknown protocol \"sctp\"\n\
         hint: end the port with @tcp or @udp, for example 5353:53@udp\n"
    );
    let end = |environment: &[(&str, &str)], columns| {
        Terminal::run_in(columns, environment, &args).end(WHOLE).1.replace("\r\n", "\n")
    };
    for columns in [20, 80] {
        let shown = end(&[("LANG", "C"), ("LC_ALL", "C")], columns);
        assert_eq!(
            shown,
            "\x1b[1;31merror:\x1b[0m port \"53@sctp\": unknown protocol \"sctp\"\n\
             \x1b[36mhint:\x1b[0m end the port with @tcp or @udp, for example 5353:53@udp\n"
        );
        assert_eq!(without_colours(&shown), plain);
        assert!(shown.is_ascii());
    }
    assert_eq!(end(&[("NO_COLOR", "1")], 80), plain);
    assert_eq!(end(&[("TERM", "dumb")], 80), plain);
}

#[test]
fn without_ports_a_terminal_is_asked_and_a_pipe_is_told() {
    let namespace = namespace();
    let args = ["-n", namespace.name(), "-l", "127.0.0.1", "svc/page"];
    let (code, told) = piped(&args);
    assert_eq!(code, 2);
    let command = format!("kubectl relay -n {} svc/page", namespace.name());
    assert_eq!(
        told,
        format!(
            "error: target \"svc/page\" has no port\n\
             hint: svc/page has 80/tcp (http), 7007/tcp (echo); type for example: {command} 8080:http\n"
        )
    );

    let mut terminal = Terminal::run_in(20, &[("NO_COLOR", "1")], &args);
    terminal.wait_for(
        "Ports of svc/page:\r\n  1  80/tcp (http)\r\n  2  7007/tcp (echo)\r\nNumber or name [1]: ",
        WHOLE,
    );
    terminal.keys("htpp\n");
    terminal.wait_for("\"htpp\" is none of them.\r\nNumber or name [1]: ", WHOLE);
    terminal.keys("18140:http\n");
    terminal.wait_for(&format!("note: to be asked no more: {command} 18140:http\r\n"), WHOLE);
    terminal.wait_for("Forwarding from 127.0.0.1:18140 -> 80\r\n", WHOLE);
    assert!(http_get(([127, 0, 0, 1], 18140).into(), "/").unwrap().contains(MARKER));
    terminal.keys(CTRL_C);
    assert_eq!(terminal.end(WHOLE).0, 0);
}

#[test]
fn a_question_is_left_by_the_keyboard_and_leaves_nothing() {
    let namespace = namespace();
    let args = ["-n", namespace.name(), "svc/page"];
    for (key, expected) in [(CTRL_C, 0), ("\x04", 2)] {
        let mut terminal = Terminal::run(&args);
        terminal.wait_for("Number or name [1]: ", WHOLE);
        terminal.keys(key);
        let (code, shown) = terminal.end(WHOLE);
        assert_eq!(code, expected, "{shown}");
        assert_eq!(namespace.agents(), "");
    }
}

#[test]
fn without_a_target_one_is_picked() {
    let namespace = namespace();
    let args = ["-n", namespace.name(), "-l", "127.0.0.1"];
    assert_eq!(piped(&args).0, 2);
    let mut terminal = Terminal::run(&args);
    terminal.wait_for("  1  svc/hinted (:http)\r\n", WHOLE);
    terminal.wait_for("Number or part of a name: ", WHOLE);
    terminal.keys("hint\n");
    terminal.wait_for("svc/hinted suggests :http, so that is forwarded\r\n", WHOLE);
    terminal.wait_for("Forwarding from 127.0.0.1:", WHOLE);
    terminal.keys(CTRL_C);
    assert_eq!(terminal.end(WHOLE).0, 0);
}

#[test]
fn what_the_owner_suggests_is_forwarded_without_a_question() {
    let namespace = namespace();
    let of = |service| ["-n", namespace.name(), "-l", "127.0.0.1", service];
    let (relay, address) = Relay::start(&of("svc/hinted"));
    assert!(http_get(address, "/").unwrap().contains(MARKER));
    let exited = relay.stop(Signal::INT);
    // No line of what is waited for, no colour.
    assert_eq!(exited.stderr, "note: svc/hinted suggests :http, so that is forwarded\n");

    let (code, told) = piped(&of("svc/spoilt"));
    assert_eq!(code, 1);
    assert!(
        told.starts_with(
            "error: the annotation kubectl-relay/forward of svc/spoilt is wrong: port \"http:80\": "
        ),
        "{told}"
    );
}

#[test]
fn a_terminal_sees_what_is_waited_for_until_it_is_there() {
    let namespace = Namespace::new("words", &[]);
    let healthy = ["-n", namespace.name(), "-l", "127.0.0.1", "ip/192.0.2.1", ":80"];
    let mut terminal = Terminal::run_in(80, &[], &healthy);
    terminal.wait_for("Forwarding from", WHOLE);
    terminal.keys(CTRL_C);
    let (_, shown) = terminal.end(WHOLE);
    assert!(shown.contains(&format!("{CLEAR}starting an agent")), "{shown:?}");
    assert!(shown.contains(&format!("{CLEAR}Forwarding from 127.0.0.1:")), "{shown:?}");

    let nowhere = ["--server.node-selector", "no=where", "--pod-running-timeout", "4s"];
    let terminal = Terminal::run_in(20, &[], &[&nowhere[..], &healthy[..]].concat());
    let (code, shown) = terminal.end(WHOLE);
    assert_eq!(code, 1, "{shown:?}");
    assert!(shown.contains(&format!("{CLEAR}waiting for a no...{CLEAR}")), "{shown:?}");
    assert!(shown.contains(&format!("{CLEAR}3 s: waiting for...{CLEAR}")), "{shown:?}");
    let (_, told) = piped(&[&nowhere[..], &healthy[..]].concat());
    assert!(!told.contains("waiting for") && !told.contains('\x1b'), "{told:?}");
}

/// The lines that stay on a terminal: what was waited for is gone, and so are colours and the echo of a key.
fn stays(shown: &str) -> String {
    let pieces = shown.split(CLEAR).filter(|piece| piece.contains('\n'));
    let text = without_colours(&pieces.collect::<String>()).replace("\r\n", "\n").replace("^C", "");
    text.split_inclusive('\n').filter(|line| *line != "\n").collect()
}

#[test]
fn a_whole_run_says_the_same_in_a_pipe_and_on_any_terminal() {
    let namespace = namespace();
    let args = ["-n", namespace.name(), "-l", "127.0.0.1", "svc/hinted", "svc/page", "18142:http"];
    let note = "note: svc/hinted suggests :http, so that is forwarded\n";
    // The port of the first is free to be any.
    let of = |said: &str| {
        let lines = said.lines().map(|line| match line.strip_prefix("Forwarding from 127.0.0.1:") {
            Some(rest) if !rest.starts_with("18142 ") => "Forwarding from 127.0.0.1:PORT -> 80".to_owned(),
            _ => line.to_owned(),
        });
        let mut lines: Vec<String> = lines.collect();
        lines.sort();
        lines
    };
    let expected =
        of(&format!("{note}Forwarding from 127.0.0.1:1 -> 80\nForwarding from 127.0.0.1:18142 -> 80\n"));

    let relay = Relay::spawn(&args);
    let lines = [relay.next_line(WHOLE), relay.next_line(WHOLE)].join("\n");
    let exited = relay.stop(Signal::INT);
    assert_eq!((exited.code, exited.stderr.as_str()), (Some(0), note));
    assert_eq!(of(&format!("{note}{lines}\n{}", exited.stdout)), expected);

    let terminals: [(u16, &[(&str, &str)]); 4] = [
        (80, &[("NO_COLOR", "1")]),
        (20, &[("LANG", "C"), ("LC_ALL", "C")]),
        (20, &[("TERM", "dumb")]),
        (200, &[("NO_COLOR", "1"), ("LANG", "C")]),
    ];
    for (columns, environment) in terminals {
        let mut terminal = Terminal::run_in(columns, environment, &args);
        wait_until("both forwards are told", WHOLE, || terminal.screen().matches(" -> 80\r\n").count() == 2);
        assert!(http_get(([127, 0, 0, 1], 18142).into(), "/").unwrap().contains(MARKER));
        terminal.keys(CTRL_C);
        let (code, shown) = terminal.end(WHOLE);
        assert_eq!(code, 0, "{shown:?}");
        assert_eq!(of(&stays(&shown)), expected, "{columns} {environment:?} {shown:?}");
        assert!(shown.is_ascii(), "{shown:?}");
        if environment.contains(&("NO_COLOR", "1")) || environment.contains(&("TERM", "dumb")) {
            assert!(!shown.replace(CLEAR, "").contains('\x1b'), "{shown:?}");
        }
    }
}
