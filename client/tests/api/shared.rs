//! A shared agent: where it is looked for, which of its pods is taken, and what is said when there is none.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use kubectl_relay::agent::launch::{Fate, LaunchError};
use serde_json::{Value, json};

use crate::{
    fake::{Answer, Asked, event, failure, forbidden, list},
    launch::launcher_with,
};

const HERE: &str = "/api/v1/namespaces/dev/pods";
const COMMON: &str = "/api/v1/namespaces/kubectl-relay/pods";
const JOBS: &str = "/apis/batch/v1/namespaces/dev/jobs";

fn replica(name: &str, node: &str) -> Value {
    json!({
        "metadata": {"name": name, "uid": format!("uid-{name}"), "resourceVersion": "2"},
        "spec": {"nodeName": node, "containers": []},
        "status": {
            "phase": "Running",
            "conditions": [{"type": "Ready", "status": "True"}],
            "containerStatuses": [{"name": "agent", "image": "", "imageID": "", "ready": true, "restartCount": 0,
                                   "state": {"running": {}}}],
        },
    })
}

fn unready(name: &str) -> Value {
    let mut pod = replica(name, "node-1");
    pod["status"]["conditions"][0]["status"] = "False".into();
    pod
}

fn leaving(name: &str) -> Value {
    let mut pod = replica(name, "node-1");
    pod["metadata"]["deletionTimestamp"] = "2030-01-01T00:00:00Z".into();
    pod
}

/// A cluster whose namespaces hold these replicas.
fn cluster(here: Vec<Value>, common: Vec<Value>) -> impl Fn(&Asked) -> Answer + Send + 'static {
    move |asked| match asked.path.as_str() {
        _ if asked.is_watch() => Answer::Watch(vec![]),
        HERE => list(here.clone()),
        COMMON => list(common.clone()),
        path => panic!("{path} is not asked for"),
    }
}

#[tokio::test]
async fn the_current_namespace_comes_before_the_common_one() {
    for (here, expected) in [(vec![replica("a", "node-1")], ("a", "dev")), (vec![], ("b", "kubectl-relay"))] {
        let answer = cluster(here, vec![replica("b", "node-1")]);
        let (launcher, err, log) = launcher_with(&["--agent-source=shared"], answer);
        let agent = launcher.launch(None).await.unwrap();
        assert_eq!((agent.pod.as_str(), agent.namespace.as_str()), expected);
        assert!(agent.is_shared() && agent.job.is_none());
        assert_eq!(err.text(), "");
        assert!(log.lock().unwrap().iter().all(|asked| asked.starts_with("GET")), "nothing is created");
    }
}

#[tokio::test]
async fn a_named_namespace_is_the_only_one() {
    let (launcher, _, log) = launcher_with(&["--agent-source=shared", "--server.namespace=tools"], |asked| {
        if asked.is_watch() { Answer::Watch(vec![]) } else { list(vec![replica("a", "node-1")]) }
    });
    launcher.launch(None).await.unwrap();
    let elsewhere = |asked: &String| !asked.starts_with("GET /api/v1/namespaces/tools/");
    assert!(!log.lock().unwrap().iter().any(elsewhere), "{:?}", log.lock().unwrap());
}

#[tokio::test]
async fn only_replicas_that_are_ready_are_taken() {
    let all = vec![unready("u"), leaving("l"), replica("r", "node-1")];
    let (launcher, ..) = launcher_with(&["--agent-source=shared"], cluster(all, vec![]));
    for _ in 0..5 {
        assert_eq!(launcher.launch(None).await.unwrap().pod, "r");
    }
}

#[tokio::test]
async fn each_replica_is_tried_before_one_is_tried_again_and_a_lost_node_last() {
    let all = vec![replica("a", "node-1"), replica("b", "node-2"), replica("c", "node-2")];
    let (launcher, ..) = launcher_with(&["--agent-source=shared"], cluster(all, vec![]));
    let mut tried = Vec::new();
    for left in [true, true, false] {
        tried.push(launcher.launch(Some("node-1")).await.unwrap().pod);
        assert_eq!(launcher.shared.has_untried(), left);
        if tried.len() == 2 {
            assert!(!tried.contains(&"a".to_owned()), "node-1 is lost");
            // The node is back.
            tried.push(launcher.launch(None).await.unwrap().pod);
        }
    }
    tried[..3].sort();
    assert_eq!(tried[..3], ["a", "b", "c"]);
}

#[tokio::test]
async fn who_may_not_look_is_told_the_right_and_the_role() {
    let (launcher, ..) = launcher_with(&["--agent-source=shared"], |_| forbidden("list", "pods"));
    let error = launcher.launch(None).await.err().unwrap();
    assert!(
        error.to_string().starts_with(
            "there is no shared agent in namespace \"dev\" or \"kubectl-relay\": not allowed to list pods in namespace \
             \"kubectl-relay\""
        ),
        "{error}"
    );
    let hint = error.hint();
    assert!(hint.contains("name: kubectl-relay-shared\n  namespace: kubectl-relay\n"), "{hint}");
    assert!(!hint.contains("jobs"), "{hint}");
    assert!(error.is_refusal());
}

#[tokio::test]
async fn without_a_shared_agent_auto_starts_its_own_and_says_nothing_of_it() {
    for refused in [true, false] {
        let answer = move |asked: &Asked| match (asked.verb.as_str(), asked.path.as_str()) {
            ("POST", JOBS) => failure(422, "no such Job today", json!({"kind": "Job"})),
            (_, HERE | COMMON) if asked.query.contains("shared-agent") && refused => {
                forbidden("list", "pods")
            }
            _ if asked.is_watch() => Answer::Watch(vec![]),
            _ => list(vec![]),
        };
        let (launcher, err, log) = launcher_with(&[], answer);
        let error = launcher.launch(None).await.err().unwrap();
        assert!(
            matches!(&error, LaunchError::Api(_)) && error.to_string().contains("no such Job today"),
            "{error}"
        );
        assert_eq!(err.text(), "");
        let looks =
            log.lock().unwrap().iter().filter(|asked| asked.as_str() == format!("GET {COMMON}")).count();
        assert_eq!(looks, 1, "{:?}", log.lock().unwrap());
    }
}

#[tokio::test]
async fn auto_takes_the_shared_agent_and_says_so_once() {
    let answer = cluster(vec![], vec![replica("a", "node-1")]);
    let (launcher, err, _) = launcher_with(&[], answer);
    launcher.launch(None).await.unwrap();
    launcher.launch(None).await.unwrap();
    assert_eq!(err.text(), "note: going through the shared agent in namespace \"kubectl-relay\"\n");
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_is_about_to_be_ready_is_waited_for() {
    let answer = |asked: &Asked| match asked.path.as_str() {
        HERE if asked.is_watch() => Answer::Watch(vec![event("MODIFIED", replica("a", "node-1"))]),
        HERE => list(vec![unready("a")]),
        _ => list(vec![]),
    };
    let (launcher, ..) = launcher_with(&["--agent-source=shared"], answer);
    assert_eq!(launcher.launch(None).await.unwrap().pod, "a");

    let (launcher, ..) = launcher_with(&["--agent-source=shared"], cluster(vec![unready("a")], vec![]));
    let error = launcher.launch(None).await.err().unwrap();
    assert_eq!(error.to_string(), "no pod of the shared agent in namespace \"dev\" is ready after 1m");
}

#[tokio::test(start_paused = true)]
async fn who_may_not_watch_learns_of_a_loss_by_listing() {
    let deleted = Arc::new(AtomicBool::new(false));
    let is_deleted = Arc::clone(&deleted);
    let answer = move |asked: &Asked| match asked.path.as_str() {
        _ if asked.is_watch() => forbidden("watch", "pods"),
        HERE if is_deleted.load(Ordering::SeqCst) => list(vec![]),
        HERE => list(vec![replica("a", "node-1")]),
        _ => list(vec![]),
    };
    let (launcher, err, _) = launcher_with(&["--agent-source=shared"], answer);
    let agent = launcher.launch(None).await.unwrap();
    let none_yet = tokio::time::timeout(Duration::from_secs(30), agent.fate_after(None)).await;
    assert!(none_yet.is_err(), "it is there");
    deleted.store(true, Ordering::SeqCst);
    assert!(matches!(agent.fate_after(None).await, Fate::Gone(_)));
    assert_eq!(err.text(), "");
}
