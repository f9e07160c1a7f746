//! The emulated link does what it is told: figures that are measured over it rest on that.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that fails here should panic")]

use std::process::Command;

use relay_tests::{kubectl, xtask};
use serde_json::Value;

/// Runs a program behind the link and gives its stdout.
fn behind(command: &[&str]) -> String {
    let program = std::env::var_os("RELAY_XTASK").expect("RELAY_XTASK");
    // The cluster's name comes from $RELAY_CLUSTER.
    let output =
        Command::new(program).args(["cluster", "link", "exec", "--"]).args(command).output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// One measurement by the bench's own load, behind the link.
fn measure(kind: &str, arguments: &[&str]) -> Value {
    let program = std::env::var("RELAY_XTASK").expect("RELAY_XTASK");
    let text = behind(&[&[&program, "bench", "load", kind], arguments].concat());
    serde_json::from_str(&text).unwrap()
}

#[test]
fn the_link_delays_loses_and_limits_as_told() {
    let pod = kubectl(&["get", "pod", "pod-echo", "-o", "jsonpath={.status.podIP}"]);
    let echo = format!("{pod}:7007");

    xtask(&["link", "up", "--rtt", "40ms"]);
    let delayed = measure("echo", &["--address", &echo, "--seconds", "2", "--count", "1000"]);
    xtask(&["link", "up", "--rtt", "4ms", "--loss", "10%"]);
    let lossy = measure("udp", &["--address", &echo, "--seconds", "2"]);
    xtask(&["link", "up", "--rtt", "4ms", "--rate", "8mbit"]);
    let narrow = measure("udp", &["--address", &echo, "--seconds", "2"]);
    let ready = behind(&["kubectl", "get", "--raw", "/readyz"]);
    let status = xtask(&["link", "status"]);
    xtask(&["link", "down"]);

    let median = delayed["p50_us"].as_f64().unwrap() / 1e3;
    assert!((40.0..60.0).contains(&median), "an echo took {median} ms");
    // 10 % each way.
    let lost = lossy["loss_percent"].as_f64().unwrap();
    assert!((12.0..26.0).contains(&lost), "{lost} % were lost");
    // A datagram of 512 bytes is an IP packet of 540.
    let rate = narrow["per_s"].as_f64().unwrap() * 540.0 * 8.0 / 1e6;
    assert!((6.0..8.2).contains(&rate), "{rate} Mbit/s were carried");
    assert_eq!(ready, "ok");
    assert!(status.starts_with("4ms/8mbit/1q\n"), "{status}");
}
