//! The command line: what the plugin and krelay's clients say, and what is wrong.

use std::time::Duration;

use relay_policy::Policy;
use relay_server::settings::Settings;

fn parse(line: &str) -> Result<Settings, String> {
    Settings::parse(line.split_whitespace().map(str::to_owned))
}

#[test]
fn the_plugins_arguments() {
    let got =
        parse("--idle 2m30s --session-life=1h --ping 3s --dead-after=9s --drain-grace 1.5s --port 0 -v=3 --exit-on-goodbye").unwrap();
    let want = Settings {
        port: 0,
        idle: Some(Duration::from_secs(150)),
        session_life: Duration::from_secs(3600),
        ping: Duration::from_secs(3),
        dead_after: Duration::from_secs(9),
        drain_grace: Duration::from_millis(1500),
        exit_on_goodbye: true,
        verbosity: 3,
        ..Settings::default()
    };
    assert_eq!(got, want);
    assert!(parse("--health").unwrap().health);
    assert!(!parse("--exit-on-goodbye=false").unwrap().exit_on_goodbye);
    assert_eq!(parse("--idle 0").unwrap().idle, None);
}

#[test]
fn the_arguments_of_a_krelay_client() {
    for line in ["-v=4 --idle-timeout=15s", "-v 4 --idle-timeout 15s", "-v4 --idle-timeout=15s"] {
        let got = parse(line).unwrap();
        assert_eq!((got.verbosity, got.idle), (4, Some(Duration::from_secs(15))), "{line}");
    }
}

#[test]
fn flags_from_the_future_are_skipped_with_their_value() {
    let got = parse("--turbo 9 --colour=red --port 1 --fast --idle 1s extra").unwrap();
    assert_eq!(got.unknown, ["--turbo", "9", "--colour=red", "--fast", "extra"]);
    assert_eq!((got.port, got.idle), (1, Some(Duration::from_secs(1))));
}

#[test]
fn a_bad_value_names_the_flag() {
    for line in [
        "--port 70000",
        "--idle 5",
        "--idle m",
        "--idle 5d",
        "--idle=",
        "-v=x",
        "--idle -1s",
        "--idle 1e400h",
    ] {
        let flag = line.split([' ', '=']).next().unwrap();
        assert!(parse(line).unwrap_err().contains(flag), "{line}");
    }
    assert_eq!(parse("--port").unwrap_err(), "--port needs a value");
    assert!(parse("--health=maybe").is_err());
}

#[test]
fn the_arguments_of_a_shared_agent() {
    let got = parse(
        "--shared --idle 5m --exit-on-goodbye --allow 10.0.0.0/8:443 --allow=*.example.com --deny [fd00::/8]:1-9 \
         --max-sessions 7 --max-streams=70 --max-streams-total 700 --audit --metrics-listen 0.0.0.0:9100",
    )
    .unwrap();
    let rule = |text: &str| text.parse().unwrap();
    let policy = Policy {
        allow: vec![rule("10.0.0.0/8:443"), rule("*.example.com")],
        deny: vec![rule("[fd00::/8]:1-9")],
        ..Policy::default()
    };
    let want = Settings {
        shared: true,
        idle: None,
        exit_on_goodbye: false,
        policy,
        max_sessions: 7,
        max_streams: Some(70),
        max_streams_total: Some(700),
        audit: true,
        metrics_listen: Some("0.0.0.0:9100".parse().unwrap()),
        ..Settings::default()
    };
    assert_eq!(got, want);
}

#[test]
fn a_bad_rule_is_named_with_what_to_write() {
    let error = parse("--deny 10.0.0.0/33").unwrap_err();
    assert!(error.starts_with("--deny \"10.0.0.0/33\": ") && error.contains("hint: "), "{error}");
    for line in
        ["--max-sessions 0", "--max-streams x", "--metrics-listen :9", "--allow", "--shared --port 65535"]
    {
        assert!(parse(line).is_err(), "{line}");
    }
}
