//! The newer API server asks for more: from 1.35 on a WebSocket port-forward needs `create` as well as `get`.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that fails here should panic")]

use std::time::Duration;

use relay_tests::{Namespace, Relay, documented_rules, echo_once, kubectl, with_verbs, xtask};
use serde_json::json;

const WEB: &str = "host/web.default.svc.cluster.local";

/// The older API server is back when this goes.
struct Newer;

impl Newer {
    fn start() -> Self {
        xtask(&["apiserver", "switch", "--version", "1.36"]);
        let version = kubectl(&["version", "-o", "json"]);
        let version: serde_json::Value = serde_json::from_str(&version).unwrap();
        assert!(version["serverVersion"]["gitVersion"].as_str().unwrap().starts_with("v1.36."), "{version}");
        Self
    }
}

impl Drop for Newer {
    fn drop(&mut self) {
        xtask(&["apiserver", "switch", "--version", "1.34"]);
    }
}

#[test]
fn the_documented_role_and_each_variation_of_it() {
    let _newer = Newer::start();

    let namespace = Namespace::new("newer", &[]);
    let user = namespace.user("dev", &json!(documented_rules()).to_string());
    for transport in ["websocket", "websocket-v4", "spdy", "auto"] {
        let args = ["-n", namespace.name(), "--transport", transport, WEB, ":7007@tcp"];
        let (_relay, address) = Relay::start_as(&user, &args);
        echo_once(&mut relay_tests::connect(address), transport.as_bytes()).unwrap();
    }

    let creator = Namespace::new("creator", &[]);
    let user = creator.user("dev", &with_verbs("pods/portforward", &["create"]));
    let (_relay, address) = Relay::start_as(&user, &["-n", creator.name(), WEB, ":7007@tcp"]);
    echo_once(&mut relay_tests::connect(address), b"create alone is enough for SPDY").unwrap();

    let getter = Namespace::new("getter", &[]);
    let user = getter.user("dev", &with_verbs("pods/portforward", &["get"]));
    let exited =
        Relay::spawn_as(&user, &["-n", getter.name(), WEB, ":7007@tcp"]).wait(Duration::from_secs(30));
    assert_eq!(exited.code, Some(1), "{}", exited.stderr);
    for word in ["create", "pods/portforward"] {
        assert!(exited.stderr.contains(word), "{word:?} is missing in:\n{}", exited.stderr);
    }
}
