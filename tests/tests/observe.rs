//! What a run tells of itself: events that fit their schema in every state, metrics, a view.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that fails here should panic")]

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use relay_tests::{
    AGENT_LABEL, Agent, Namespace, Path, Relay, Signal, Spoken, Terminal, connect, http_get, kubectl,
    wait_until,
};

const WEB: &str = "host/web.default.svc.cluster.local";
/// Nothing listens there.
const NOTHING: &str = "ip/127.0.0.2";
const LONG: Duration = Duration::from_secs(90);

/// The page with the metrics: it is for whoever names an address of this machine.
fn scrape(address: SocketAddr) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(LONG)).unwrap();
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: {address}\r\n\r\n").unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    assert!(reply.starts_with("HTTP/1.1 200 "), "{reply}");
    reply
}

/// The value of a sample whose line holds all of these.
fn value(page: &str, parts: &[&str]) -> f64 {
    let line =
        page.lines().find(|line| !line.starts_with('#') && parts.iter().all(|part| line.contains(part)));
    let line = line.unwrap_or_else(|| panic!("no {parts:?} in:\n{page}"));
    line.rsplit(' ').next().and_then(|value| value.parse().ok()).expect("a number")
}

#[test]
fn a_run_through_every_state_tells_events_of_the_schema_and_counts_what_it_carried() {
    let (namespace, path) = (Namespace::new("observe", &[]), Path::new());
    let args = ["-o", "json", "--log-connections", "--metrics", "127.0.0.1:0", "-n", namespace.name()];
    let targets = [WEB, ":80", NOTHING, ":9"];
    let relay = Relay::spawn_as(&path.kubeconfig(), &[&args[..], &targets[..]].concat());
    let began = Instant::now();
    let told = relay.wait_event("metrics", began, LONG, |event| event.value["event"] == "metrics");
    let metrics: SocketAddr = format!("127.0.0.1:{}", told.value["port"]).parse().unwrap();
    let web = relay.next_forward();
    let nothing = relay.next_forward();
    let page = http_get(web, "/").unwrap();
    assert!(connect(nothing).peer_addr().is_ok());
    relay.wait_event("a stream", began, LONG, |event| event.value["event"] == "stream");
    let count = || scrape(metrics);
    let failed = || value(&count(), &["failed_connections_total{", NOTHING]) >= 1.0;
    wait_until("the failure is counted", LONG, failed);
    let counted = count();
    assert!(value(&counted, &["connections_total{", WEB]) >= 1.0);
    assert!(value(&counted, &["bytes_total{", WEB, "\"received\""]) >= page.len() as f64);
    assert_eq!(value(&counted, &["forward_state{", WEB, "state=\"ready\""]), 1.0);
    assert!(value(&counted, &["agent_lanes{"]) >= 1.0);

    let ready_again = |since| relay.wait_state("ready", since, LONG);
    let cut = Instant::now();
    path.refuse();
    relay.wait_state("reconnecting", cut, LONG);
    assert_eq!(value(&count(), &["forward_state{", WEB, "state=\"reconnecting\""]), 1.0);
    path.heal();
    ready_again(cut);

    let asked = Instant::now();
    let delete = ["delete", "pod", "-n", namespace.name(), "-l", AGENT_LABEL, "--wait=false"];
    kubectl(&delete);
    relay.wait_state("draining", asked, LONG);
    let ready = ready_again(asked);
    wait_until("one agent is left", LONG, || {
        let pods = kubectl(&["get", "pods", "-n", namespace.name(), "-l", AGENT_LABEL, "-o", "name"]);
        pods.lines().count() == 1
    });
    let killed = Instant::now();
    Agent::of(namespace.name()).kill();
    relay.wait_state("agentLost", ready.at, LONG);
    ready_again(killed);
    assert!(http_get(web, "/").is_ok());

    // Each was checked against the schema as it was read.
    let events = relay.events();
    let names = |field: &str| -> BTreeSet<String> {
        let of = |event: &relay_tests::Event| event.value[field].as_str().map(ToOwned::to_owned);
        events.iter().filter_map(of).collect()
    };
    for name in ["forwarding", "metrics", "state", "stream", "connection", "warning"] {
        assert!(names("event").contains(name), "{name}: {events:#?}");
    }
    for state in ["connecting", "ready", "reconnecting", "draining", "agentLost"] {
        assert!(names("state").contains(state), "{state}: {events:#?}");
    }
    assert_eq!(relay.stop(Signal::INT).code, Some(0));
}

#[test]
fn a_proxy_and_an_error_tell_events_of_the_schema_too() {
    let namespace = Namespace::new("observe-proxy", &[]);
    let listen = ["--listen", "0", "--dns", "127.0.0.1:0", "--metrics", "0"];
    let args = ["proxy", "-o", "json", "-n", namespace.name()];
    let (relay, began) = (Relay::spawn(&[&args[..], &listen[..]].concat()), Instant::now());
    let listens = |name: &str| -> SocketAddr {
        let told = relay.wait_event(name, began, LONG, |event| event.value["event"] == name);
        format!("127.0.0.1:{}", told.value["port"]).parse().unwrap()
    };
    let (metrics, proxy) = (listens("metrics"), listens("proxy"));
    listens("dns");
    for _ in 0..2 {
        Spoken::Socks5.connect(proxy, "web.default.svc.cluster.local", 80).unwrap();
    }
    assert!(Spoken::Socks5.connect(proxy, "there-is-none.default.svc.cluster.local", 80).is_err());
    let page = scrape(metrics);
    assert_eq!(value(&page, &["proxy_connections_total "]), 3.0);
    assert_eq!(value(&page, &["proxy_failed_connections_total "]), 1.0);
    assert_eq!(relay.stop(Signal::INT).code, Some(0));
    let relay = Relay::spawn(&["-o", "json", "-n", namespace.name(), "svc/there-is-none", ":80"]);
    relay.wait_event("error", began, LONG, |event| event.value["event"] == "error");
    assert_eq!(relay.wait(LONG).code, Some(1));
}

#[test]
fn the_view_has_the_terminal_and_gives_it_back() {
    const ENTER: &str = "\u{1b}[?1049h";
    const LEAVE: &str = "\u{1b}[?1049l";
    let namespace = Namespace::new("observe-view", &[]);
    for ends_by in ["q", "\u{3}", "SIGTERM"] {
        let args = ["--tui", "-n", namespace.name(), WEB, ":80"];
        let mut terminal = Terminal::run_in(100, &[("LC_ALL", "C.UTF-8")], &args);
        terminal.wait_to_see("1 of 1 ready", LONG);
        terminal.wait_to_see(WEB, LONG);
        if ends_by == "SIGTERM" {
            terminal.signal(Signal::TERM);
        } else {
            terminal.keys(ends_by);
        }
        let (code, screen) = terminal.end(LONG);
        assert_eq!(code, 0, "{ends_by:?}: {screen}");
        let (enter, leave) = (screen.find(ENTER).expect("taken"), screen.rfind(LEAVE).expect("given back"));
        let between = &screen[enter..leave];
        assert!(!between.contains("Forwarding from"), "nothing runs across it: {between}");
        assert!(screen[..leave].contains("\u{1b}[?25h"), "the cursor is shown again");
    }
}

#[test]
fn in_a_pipe_the_view_is_lines() {
    let namespace = Namespace::new("observe-plain", &[]);
    let relay = Relay::spawn(&["--tui", "-n", namespace.name(), WEB, ":80"]);
    let ready = loop {
        let line = relay.next_line(LONG);
        if line.contains(": ready for ") {
            break line;
        }
    };
    assert!(ready.starts_with(&format!("{WEB}:80 on ")) && ready.contains(", 0 open of 0, "), "{ready}");
    assert_eq!(relay.stop(Signal::INT).code, Some(0));
}
