//! Changes of the network are noticed. In a network namespace of its own, so that nothing else changes meanwhile and
//! nothing of the machine's does.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{process::Command, time::Duration};

use kubectl_relay::network;
use tokio::time::timeout;

const SOON: Duration = Duration::from_secs(10);

/// Runs one of the ignored tests below in a namespace of its own.
fn alone(test: &str) {
    let mut command = Command::new("unshare");
    if !rustix::process::geteuid().is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    let program = std::env::current_exe().unwrap();
    let output = command.arg("--net").arg(program).args(["--ignored", "--exact", test]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"));
}

fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split_whitespace()).status().unwrap();
    assert!(status.success(), "ip {arguments}");
}

#[test]
fn an_address_that_comes_and_one_that_goes_are_each_noticed_once() {
    alone("an_address_comes_and_goes");
}

#[tokio::test]
#[ignore = "needs a network namespace of its own"]
async fn an_address_comes_and_goes() {
    ip("link set lo up");
    let mut changes = network::changes();
    for (count, arguments) in
        ["addr add 192.0.2.7/32 dev lo", "addr del 192.0.2.7/32 dev lo"].iter().enumerate()
    {
        ip(arguments);
        timeout(SOON, changes.changed()).await.unwrap().unwrap();
        assert_eq!(*changes.borrow_and_update(), count as u64 + 1, "{arguments}");
    }
}
