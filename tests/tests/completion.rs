//! Completion as shells get it: kubectl is asked, and asks the helper on the PATH.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that fails here should panic")]

use std::process::Command;
use std::time::{Duration, Instant};

use relay_tests::{Namespace, Relay, Took, admin_kubeconfig, in_time};

/// A folder with the plugin, and the helper's name for it.
fn helper() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let plugin = folder.path().join("kubectl-relay");
    std::os::unix::fs::symlink(std::path::absolute(Relay::program()).unwrap(), plugin).unwrap();
    std::os::unix::fs::symlink("kubectl-relay", folder.path().join("kubectl_complete-relay")).unwrap();
    folder
}

/// What kubectl offers for `kubectl relay WORDS`, and how long that takes.
fn completed(folder: &tempfile::TempDir, kubeconfig: &std::path::Path, words: &[&str]) -> (String, Duration) {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = [folder.path().to_owned()].into_iter().chain(std::env::split_paths(&path));
    let mut kubectl = Command::new("kubectl");
    kubectl.args(["__complete", "relay"]).args(words).env("KUBECONFIG", kubeconfig);
    kubectl.env("PATH", std::env::join_paths(folders).unwrap());
    let since = Instant::now();
    let output = kubectl.output().unwrap();
    let took = since.elapsed();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    (String::from_utf8(output.stdout).unwrap(), took)
}

#[test]
fn kubectl_offers_names_and_ports_of_the_cluster_at_once() {
    let folder = helper();
    let cases: &[(&[&str], &[&str])] = &[
        (&["svc/"], &["svc/web\n", "svc/web-headless\n", ":4\n"]),
        (&["deploy/w"], &["deploy/web\n"]),
        (&["pod/pod-e"], &["pod/pod-echo\n"]),
        (&["svc/web", "h"], &["http\t80/tcp\n", "half-close\t"]),
        (&["svc/web", "8080:h"], &["8080:http\t80/tcp\n"]),
        (&["svc/web", "echo@"], &["echo@tcp\t7007/tcp\n"]),
        (
            &["-n", "kube-system", "svc/kube-dns", "5353:53"],
            &["5353:53@udp\tdns\n", "5353:53@tcp\tdns-tcp\n"],
        ),
        (&["-n", "kube-s"], &["kube-system\n"]),
        (&["--agent-source", ""], &["embedded\t"]),
        (&["s"], &["svc/\tService\n", ":6\n"]),
    ];
    for (words, expected) in cases {
        in_time(|| {
            let (text, took) = completed(&folder, &admin_kubeconfig(), words);
            for line in *expected {
                assert!(text.contains(line), "{words:?}: {line:?} is missing in:\n{text}");
            }
            [Took::new(format!("{words:?} was completed"), took, Duration::from_millis(300))]
        });
    }
}

#[test]
fn who_may_see_nothing_is_offered_nothing_and_told_nothing() {
    let folder = helper();
    let namespace = Namespace::new("completion", &[]);
    let nobody = namespace.user("nobody", "[]");
    for words in [&["svc/"][..], &["svc/web", ""], &["rollouts/"]] {
        assert_eq!(completed(&folder, &nobody, words).0, ":4\n", "{words:?}");
    }
    // The kubeconfig's own namespace is known all the same.
    let (text, _) = completed(&folder, &nobody, &["-n", ""]);
    assert_eq!(text, format!("{}\n:4\n", namespace.name()));
}
