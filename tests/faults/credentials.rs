//! What the user may do changes while the path is down: a token ends and another takes its place, or the rights are
//! withdrawn. The first goes on unnoticed, the second is said clearly.

use std::io::{ErrorKind, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

use relay_tests::{
    Namespace, Path, Relay, beside_others, connect, documented_rules, echo_once, kubectl, kubectl_apply,
    try_kubectl, wait_until,
};
use serde_json::json;

const TARGET: &str = "host/web.default.svc.cluster.local";
/// The API server remembers for ten seconds that a token was good.
const REMEMBERED: Duration = Duration::from_secs(12);
/// Refusals that may pass are final after fifteen seconds; then everything is put away.
const FINAL: Duration = Duration::from_secs(45);

/// A service account with the documented rights, and tokens that end when their Secret does.
struct Account<'a>(&'a Namespace);

impl<'a> Account<'a> {
    fn new(namespace: &'a Namespace) -> Self {
        let role = json!({"apiVersion": "v1", "kind": "List", "items": [
            {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "dev"}},
            {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "first"}},
            {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "second"}},
            {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "dev"},
             "rules": documented_rules()},
            {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "dev"},
             "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "dev"},
             "subjects": [{"kind": "ServiceAccount", "name": "dev", "namespace": namespace.name()}]},
        ]});
        kubectl_apply(namespace.name(), &role.to_string());
        Self(namespace)
    }

    /// What a credential plugin answers with a token that lives as long as a Secret.
    fn credential(&self, secret: &str) -> String {
        let bound = ["--bound-object-kind=Secret", "--bound-object-name", secret];
        let token = kubectl(&[&["create", "token", "dev", "-n", self.0.name()], &bound[..]].concat());
        let api_version = "client.authentication.k8s.io/v1";
        json!({"apiVersion": api_version, "kind": "ExecCredential", "status": {"token": token}}).to_string()
    }

    fn end(&self, secret: &str) {
        kubectl(&["delete", "secret", secret, "-n", self.0.name()]);
    }
}

#[test]
fn a_token_that_ends_during_a_cut_is_replaced_by_the_credential_plugin() {
    let _beside = beside_others();
    let (namespace, path) = (Namespace::new("token", &[]), Path::new());
    let account = Account::new(&namespace);
    let files = tempfile::tempdir().unwrap();
    let (credential, runs) = (files.path().join("credential"), files.path().join("runs"));
    let plugin = files.path().join("plugin");
    let script = format!("#!/bin/sh\necho run >>{}\ncat {}\n", runs.display(), credential.display());
    std::fs::write(&plugin, script).unwrap();
    std::fs::set_permissions(&plugin, std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::write(&credential, account.credential("first")).unwrap();
    let user = json!({"exec": {"apiVersion": "client.authentication.k8s.io/v1", "interactiveMode": "Never",
                               "command": plugin.to_str().unwrap()}});
    let kubeconfig = path.kubeconfig_of(user, namespace.name());
    let (relay, echo) = Relay::start_as(&kubeconfig, &["-o", "json", TARGET, ":7007@tcp"]);
    let mut stream = connect(echo);
    echo_once(&mut stream, b"before").unwrap();
    let count = || std::fs::read_to_string(&runs).unwrap().lines().count();
    let runs_before = count();

    let since = Instant::now();
    path.refuse();
    relay.wait_state("reconnecting", since, Duration::from_secs(20));
    // A whole answer appears at once, as a plugin's would.
    let next = files.path().join("next");
    std::fs::write(&next, account.credential("second")).unwrap();
    account.end("first");
    std::thread::sleep(REMEMBERED);
    std::fs::rename(&next, &credential).unwrap();
    path.heal();
    let healed = Instant::now();
    echo_once(&mut stream, b"after").expect("an open connection goes on with the new token");
    let resumed = healed.elapsed();
    echo_once(&mut connect(echo), b"new").unwrap();
    println!(
        "a token ended in a cut: resumed {resumed:?} after the heal; the plugin ran {} times more",
        count() - runs_before
    );
    assert!(count() > runs_before, "the credential plugin was asked again");
}

#[test]
fn rights_withdrawn_during_a_cut_end_the_run_with_a_clear_error() {
    let _beside = beside_others();
    let (namespace, path) = (Namespace::new("withdrawn", &[]), Path::new());
    let user = namespace.user("dev", &serde_json::to_string(&documented_rules()).unwrap());
    let (relay, echo) = Relay::start_as(&path.kubeconfig_like(&user), &["-o", "json", TARGET, ":7007@tcp"]);
    let mut stream = connect(echo);
    echo_once(&mut stream, b"before").unwrap();

    let since = Instant::now();
    path.refuse();
    relay.wait_state("reconnecting", since, Duration::from_secs(20));
    kubectl(&["delete", "rolebinding", "--all", "-n", namespace.name()]);
    // The authoriser learns it by a watch.
    let name = format!("dev-{}", namespace.name());
    wait_until("the rights are withdrawn", Duration::from_secs(30), || {
        let asked = ["auth", "can-i", "create", "pods/portforward", "-n", namespace.name(), "--as", &name];
        String::from_utf8_lossy(&try_kubectl(&asked).stdout).trim() == "no"
    });
    path.heal();
    let healed = Instant::now();
    assert_eq!(stream.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    let exited = relay.wait(FINAL);
    println!(
        "rights withdrawn in a cut: ended {:?} after the heal with {:?}: {}",
        healed.elapsed(),
        exited.code,
        exited.stderr
    );
    assert_eq!(exited.code, Some(1), "{}", exited.stderr);
    assert!(
        exited.stderr.contains("error: ") && exited.stderr.contains("pods/portforward"),
        "{}",
        exited.stderr
    );
    assert!(exited.stderr.contains("hint: "), "{}", exited.stderr);
    assert!(std::net::TcpStream::connect(echo).is_err(), "nobody listens any more");
}
