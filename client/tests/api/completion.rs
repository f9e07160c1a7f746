//! Completion: what is offered out of the cluster, what is asked for it, and silence about everything else.

use std::{io::Write, time::Duration};

use kubectl_relay::{
    cli::args::ClusterArgs,
    completion::{Cluster, answer},
};
use serde_json::{Value, json};

use crate::fake::{Answer, Asked, forbidden, list, server};

/// The answer, and what the API server was asked for it.
async fn completed(
    words: &[&str],
    answers: impl Fn(&Asked) -> Answer + Send + 'static,
) -> (String, Vec<String>) {
    let (client, log) = server(answers);
    let words: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
    let open = async |args: ClusterArgs| {
        Some(Cluster::new(client.into(), args.namespace.as_deref().unwrap_or("dev")))
    };
    let text = answer(&words, open).await;
    let asked = log.lock().unwrap().clone();
    (text, asked)
}

fn named(names: &[&str]) -> Answer {
    list(names.iter().map(|name| json!({"metadata": {"name": name}})).collect())
}

fn service() -> Value {
    json!({"metadata": {"name": "web"}, "spec": {"ports": [
        {"name": "http", "port": 80, "protocol": "TCP"},
        {"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "dns-tcp", "port": 53, "protocol": "TCP"}]}})
}

#[tokio::test]
async fn names_of_a_type_come_with_one_request() {
    let cases = [
        ("svc/w", "/api/v1/namespaces/dev/services", "svc/web\nsvc/worker\n:4\n"),
        ("pods/w", "/api/v1/namespaces/dev/pods", "pods/web\npods/worker\n:4\n"),
        ("deploy/we", "/apis/apps/v1/namespaces/dev/deployments", "deploy/web\n:4\n"),
        ("sts/x", "/apis/apps/v1/namespaces/dev/statefulsets", ":4\n"),
        ("node/", "/api/v1/nodes", "node/api\nnode/web\nnode/worker\n:4\n"),
    ];
    for (word, path, expected) in cases {
        let (text, asked) = completed(&[word], |_| named(&["api", "web", "worker"])).await;
        assert_eq!((text.as_str(), asked), (expected, vec![format!("GET {path}")]), "{word}");
    }
}

#[tokio::test]
async fn kubectls_flags_among_the_words_are_honoured() {
    let (text, asked) = completed(&["-n", "prod", "svc/"], |_| named(&["web"])).await;
    assert_eq!(
        (text.as_str(), asked),
        ("svc/web\n:4\n", vec!["GET /api/v1/namespaces/prod/services".into()])
    );
}

#[tokio::test]
async fn ports_are_those_that_the_target_declares() {
    let (text, asked) = completed(&["svc/web", ""], |_| Answer::Json(200, service())).await;
    assert_eq!(
        text,
        "http\t80/tcp\n80\thttp\ndns\t53/udp\n53@udp\tdns\ndns-tcp\t53/tcp\n53@tcp\tdns-tcp\n:4\n"
    );
    assert_eq!(asked, ["GET /api/v1/namespaces/dev/services/web"]);

    let containers =
        json!({"containers": [{"name": "c", "ports": [{"name": "http", "containerPort": 8080}]}]});
    let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "api"},
                            "spec": {"template": {"spec": containers}}});
    let (text, _) = completed(&["deploy/api", "9000:"], move |_| Answer::Json(200, deployment.clone())).await;
    assert_eq!(text, "9000:http\t8080/tcp\n9000:8080\thttp\n:4\n");
}

#[tokio::test]
async fn behind_a_port_the_next_target_may_begin() {
    let (text, _) = completed(&["svc/web", "http", "s"], |_| Answer::Json(200, service())).await;
    assert_eq!(text, "svc/\tService\nsts/\tStatefulSet\n:6\n");
}

#[tokio::test]
async fn the_first_word_may_be_a_verb_a_type_or_a_pod() {
    let (text, asked) = completed(&[""], |_| named(&["svelte"])).await;
    assert!(text.contains("version\tTell ") && text.contains("svc/\tService\n"), "{text}");
    assert!(text.ends_with(":6\n") && asked.is_empty(), "{text}{asked:?}");
    let (text, _) = completed(&["sv"], |_| named(&["svelte", "web"])).await;
    assert_eq!(text, "svc/\tService\nsvelte\tPod\n:6\n");
    let (text, _) = completed(&["sve"], |_| named(&["svelte", "web"])).await;
    assert_eq!(text, "svelte\tPod\n:4\n");
}

#[tokio::test]
async fn flags_and_their_values_need_no_cluster() {
    let nobody = |_: &Asked| Answer::Silence;
    let cases: &[(&[&str], &str)] = &[
        (
            &["--pin"],
            "--ping\tSilence on a lane after which it is asked for a sign of life; 0 turns it off, at both ends\n:4\n",
        ),
        (&["--transport", "websocket-"], "websocket-v4\tThe older channel protocol inside a WebSocket\n:4\n"),
        (&["--transport=s"], "spdy\tSPDY itself\n:4\n"),
        (
            &["-l", "127.0.0.1,::"],
            "127.0.0.1,::1\tIPv6 loopback\n127.0.0.1,::\tevery address of this machine\n:4\n",
        ),
        (&["completion", "ba"], "bash\n:4\n"),
        (&["--kubeconfig", ""], ":0\n"),
        (&["-f", ""], ":0\n"),
        (&["svc/db", "5432", "--", "ps"], ":0\n"),
        (&["--ping", ""], ":4\n"),
        (&["host/"], ":4\n"),
        (&["ip/10.0.0.1", ""], ":4\n"),
    ];
    for (words, expected) in cases {
        let (text, asked) = completed(words, nobody).await;
        assert_eq!((text.as_str(), asked), (*expected, vec![]), "{words:?}");
    }
}

#[tokio::test]
async fn names_out_of_the_kubeconfig_are_offered() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(
        b"apiVersion: v1\nkind: Config\ncurrent-context: one\nclusters:\n- {name: c1, cluster: {server: 'https://c1'}}\n\
        users:\n- {name: jane, user: {}}\ncontexts:\n- {name: one, context: {cluster: c1, user: jane, namespace: dev}}\n\
        - {name: other, context: {cluster: c1, user: jane, namespace: dev}}\n",
    )
    .unwrap();
    let path = file.path().to_str().unwrap();
    let cases: &[(&[&str], &str)] = &[
        (&["--context", "o"], "one\nother\n:4\n"),
        (&["--cluster", ""], "c1\n:4\n"),
        (&["--user="], "jane\n:4\n"),
        (&["-n", ""], "dev\n:4\n"),
    ];
    for (words, expected) in cases {
        let words = [&["--kubeconfig", path], *words].concat();
        assert_eq!(completed(&words, |_| forbidden("list", "namespaces")).await.0, *expected, "{words:?}");
    }
    let (text, asked) = completed(&["--kubeconfig", path, "-n", "d"], |_| named(&["default", "prod"])).await;
    assert_eq!((text.as_str(), asked), ("default\n:4\n", vec!["GET /api/v1/namespaces".into()]));
}

#[tokio::test(start_paused = true)]
async fn what_is_refused_or_late_is_not_offered() {
    let (text, _) = completed(&["svc/"], |_| forbidden("list", "services")).await;
    assert_eq!(text, ":4\n");
    let since = tokio::time::Instant::now();
    let (text, _) = completed(&["svc/"], |_| Answer::Silence).await;
    assert_eq!(text, ":4\n");
    assert!(since.elapsed() < Duration::from_secs(3));
}
