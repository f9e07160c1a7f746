//! An agent that this plugin carries: what is asked of the cluster for it, when, and what is left of it.

use std::sync::{Arc, Mutex};

use kubectl_relay::{
    agent::{
        embedded::Embedded,
        launch::{LaunchError, Launcher},
    },
    cluster::resolve::TargetPods,
};
use serde_json::{Value, json};

use crate::{
    captured::Captured,
    fake::{Answer, Asked, Log, event, failure, forbidden, list},
    launch::{launcher_with, waiting},
};

const JOBS: &str = "/apis/batch/v1/namespaces/dev/jobs";
const CONFIG_MAPS: &str = "/api/v1/namespaces/dev/configmaps";
const PODS: &str = "/api/v1/namespaces/dev/pods";

/// What was created, whole.
type Created = Arc<Mutex<Vec<Value>>>;

fn running() -> Value {
    json!({"phase": "Running", "containerStatuses": [{"name": "agent", "image": "", "imageID": "", "ready": true,
        "restartCount": 0, "state": {"running": {}}}]})
}

fn unscheduled() -> Value {
    json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False",
        "message": "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector."}]})
}

/// A pod of somebody's in the namespace.
fn neighbour(name: &str) -> Value {
    json!({
        "metadata": {"name": name},
        "spec": {"nodeName": "node-1", "containers": [{"name": "c", "image": format!("r/{name}:1")}]},
        "status": {"containerStatuses": [{"name": "c", "image": "", "imageID": "", "ready": true, "restartCount": 0,
                                          "state": {"running": {}}}]},
    })
}

/// A cluster in which web and db run, and an agent's pod gets a status that depends on its Job.
fn cluster(
    status: impl Fn(&Value) -> Value + Send + 'static,
) -> (impl Fn(&Asked) -> Answer + Send + 'static, Created) {
    let created = Created::default();
    let seen = Arc::clone(&created);
    let answer = move |asked: &Asked| match (asked.verb.as_str(), asked.path.as_str()) {
        ("POST", JOBS | CONFIG_MAPS) => {
            let mut object = asked.body.clone();
            if !asked.query.contains("dryRun") {
                seen.lock().unwrap().push(object.clone());
            }
            object["metadata"]["uid"] = "uid-of-it".into();
            Answer::Json(201, object)
        }
        ("DELETE", _) => {
            Answer::Json(200, json!({"kind": "Status", "apiVersion": "v1", "status": "Success"}))
        }
        (_, PODS) if asked.is_watch() => {
            let jobs = seen.lock().unwrap();
            let Some(job) = jobs.iter().rev().find(|object| object["kind"] == "Job") else {
                return Answer::WatchEnd(vec![]);
            };
            let pod =
                json!({"metadata": {"name": "p", "uid": "u", "resourceVersion": "2"}, "status": status(job)});
            Answer::Watch(vec![event("ADDED", pod)])
        }
        (_, PODS) if asked.query.contains("status.phase") => {
            let selected = asked.query.contains("labelSelector=app%3Dweb");
            list(if selected { vec![neighbour("web")] } else { vec![neighbour("db"), neighbour("web")] })
        }
        _ if asked.is_watch() => Answer::Watch(vec![]),
        _ => list(vec![]),
    };
    (answer, created)
}

fn carrying(
    arguments: &[&str],
    answer: impl Fn(&Asked) -> Answer + Send + 'static,
) -> (Launcher, Captured, Log) {
    let (mut launcher, err, log) = launcher_with(arguments, answer);
    launcher.embedded = ["amd64", "arm64"].map(|processor| Embedded { processor, file: b"program" }).into();
    launcher.targets = vec![("dev".into(), TargetPods::Selected("app=web".into()))];
    (launcher, err, log)
}

fn image_of(job: &Value) -> &str {
    job["spec"]["template"]["spec"]["containers"][0]["image"].as_str().unwrap()
}

fn processor_of(job: &Value) -> &Value {
    &job["spec"]["template"]["spec"]["nodeSelector"]["kubernetes.io/arch"]
}

fn jobs_in(created: &Created) -> Vec<Value> {
    created.lock().unwrap().iter().filter(|object| object["kind"] == "Job").cloned().collect()
}

fn deletions(log: &Log, of: &str) -> usize {
    log.lock().unwrap().iter().filter(|asked| asked.starts_with(&format!("DELETE {of}/relay-agent-"))).count()
}

/// As a cluster whose nodes can pull nothing: only images that are in use run.
fn nothing_is_pulled(job: &Value) -> Value {
    if image_of(job).starts_with("r/") { running() } else { waiting("ErrImagePull", "no such host") }
}

#[tokio::test]
async fn it_runs_under_the_targets_image_from_a_config_map_that_its_job_owns() {
    let (answer, created) = cluster(nothing_is_pulled);
    let (launcher, err, log) = carrying(&["--agent-source=embedded"], answer);
    let agent = launcher.launch(None).await.unwrap();

    let objects = created.lock().unwrap().clone();
    let [job, config_map] = &objects[..] else { panic!("{objects:?}") };
    assert_eq!((image_of(job), processor_of(job)), ("r/web:1", &json!("amd64")));
    assert_eq!(config_map["metadata"]["name"].as_str(), agent.job.as_deref());
    assert_eq!(
        config_map["metadata"]["ownerReferences"],
        json!([{"apiVersion": "batch/v1", "kind": "Job", "name": agent.job, "uid": "uid-of-it"}])
    );
    assert_eq!(config_map["binaryData"], json!({"relay-server": "cHJvZ3JhbQ=="}));
    assert_eq!(err.text(), "");

    launcher.jobs.remove_all().await.unwrap();
    assert_eq!((deletions(&log, JOBS), deletions(&log, CONFIG_MAPS)), (1, 1));
}

#[tokio::test]
async fn an_image_that_was_named_is_the_one_it_runs_under() {
    let (answer, created) = cluster(|_| running());
    let (launcher, ..) = carrying(&["--agent-source=embedded", "--server.image=their/own:2"], answer);
    launcher.launch(None).await.unwrap();
    assert_eq!(image_of(&jobs_in(&created)[0]), "their/own:2");
}

#[tokio::test]
async fn a_processor_that_no_node_has_makes_room_for_the_next() {
    let (answer, created) =
        cluster(|job| if processor_of(job) == "arm64" { running() } else { unscheduled() });
    let (launcher, err, log) = carrying(&["--agent-source=embedded"], answer);
    launcher.launch(None).await.unwrap();
    let jobs = jobs_in(&created);
    assert_eq!(jobs.iter().map(processor_of).collect::<Vec<_>>(), ["amd64", "arm64"]);
    assert_eq!((deletions(&log, JOBS), deletions(&log, CONFIG_MAPS)), (1, 1));
    assert_eq!(err.text(), "");
}

#[tokio::test(start_paused = true)]
async fn a_selector_that_fits_no_node_at_all_is_told_and_waited_for() {
    let (answer, created) = cluster(|_| unscheduled());
    let (launcher, err, _) = carrying(&["--agent-source=embedded", "--server.image=i:1"], answer);
    let error = launcher.launch(None).await.err().unwrap();
    assert!(matches!(error, LaunchError::TimedOut { .. }), "{error}");
    assert_eq!(jobs_in(&created).len(), 2);
    assert!(err.text().starts_with("warning: no node takes the agent's pod: 0/1"), "{}", err.text());
}

#[tokio::test(start_paused = true)]
async fn a_node_selector_that_fits_no_node_has_nothing_to_do_with_the_image() {
    let (answer, created) = cluster(|_| unscheduled());
    let (launcher, err, _) = carrying(&["--server.node-selector=no=node"], answer);
    let error = launcher.launch(None).await.err().unwrap();
    assert!(matches!(error, LaunchError::TimedOut { .. }), "{error}");
    assert_eq!(jobs_in(&created).len(), 1);
    assert!(err.text().starts_with("warning: no node takes the agent's pod: 0/1"), "{}", err.text());
}

#[tokio::test]
async fn the_next_image_is_tried_when_one_is_not_to_be_had() {
    let (answer, created) = cluster(|job| match image_of(job) {
        "r/db:1" => running(),
        _ => waiting("ImagePullBackOff", "gone"),
    });
    let (launcher, ..) = carrying(&["--agent-source=embedded"], answer);
    launcher.launch(None).await.unwrap();
    assert_eq!(jobs_in(&created).iter().map(image_of).collect::<Vec<_>>(), ["r/web:1", "r/db:1"]);
}

#[tokio::test]
async fn an_image_that_cannot_be_pulled_is_replaced_by_what_the_plugin_carries() {
    for reason in ["ErrImagePull", "ImagePullBackOff", "InvalidImageName"] {
        let (answer, created) = cluster(move |job| match image_of(job) {
            "r/web:1" => running(),
            _ => waiting(reason, "no such host"),
        });
        let (launcher, err, log) = carrying(&["--server.image=own/agent:1"], answer);
        launcher.launch(None).await.unwrap();
        assert_eq!(jobs_in(&created).iter().map(image_of).collect::<Vec<_>>(), ["own/agent:1", "r/web:1"]);
        assert!(err.text().starts_with("note: the image "), "{}", err.text());
        assert!(err.text().ends_with("; starting the agent that this plugin carries\n"), "{}", err.text());
        assert_eq!(deletions(&log, JOBS), 1, "the first Job is gone");

        // The next agent does not begin with the image again.
        launcher.launch(None).await.unwrap();
        assert_eq!(image_of(&jobs_in(&created)[2]), "r/web:1");
    }
}

#[tokio::test(start_paused = true)]
async fn without_the_right_to_config_maps_the_image_is_waited_for_and_the_right_is_named() {
    let (inner, created) = cluster(nothing_is_pulled);
    let (launcher, err, log) = carrying(&[], move |asked| {
        if asked.path == CONFIG_MAPS { forbidden("create", "configmaps") } else { inner(asked) }
    });
    let error = launcher.launch(None).await.err().unwrap();
    assert!(error.to_string().contains("cannot be pulled: no such host"), "{error}");
    assert_eq!(jobs_in(&created).len(), 1);
    assert!(log.lock().unwrap().contains(&format!("POST {CONFIG_MAPS} (dry run)")));
    for words in [
        "cannot be started instead: not allowed to create configmaps in namespace \"dev\"",
        "resources: [configmaps], verbs: [create, delete]",
        "warning: the image ",
    ] {
        assert!(err.text().contains(words), "{words:?} is missing in:\n{}", err.text());
    }
}

#[tokio::test]
async fn a_config_map_that_may_not_be_created_ends_the_run_and_leaves_no_job() {
    let (inner, _) = cluster(nothing_is_pulled);
    let (launcher, _, log) = carrying(&["--agent-source=embedded"], move |asked| {
        if asked.path == CONFIG_MAPS { forbidden("create", "configmaps") } else { inner(asked) }
    });
    let error = launcher.launch(None).await.err().unwrap();
    assert!(
        error.to_string().starts_with("not allowed to create configmaps in namespace \"dev\""),
        "{error}"
    );
    assert!(error.hint().contains("resources: [configmaps], verbs: [create, delete]"), "{}", error.hint());
    assert_eq!(deletions(&log, JOBS), 1);
}

#[tokio::test]
async fn an_api_server_that_takes_no_protobuf_gets_json() {
    let (inner, created) = cluster(|_| running());
    let (launcher, err, log) = carrying(&["--agent-source=embedded"], move |asked| {
        if asked.is("POST", CONFIG_MAPS) && asked.media_type == "application/vnd.kubernetes.protobuf" {
            failure(415, "the body of the request was in an unknown format", json!({}))
        } else {
            inner(asked)
        }
    });
    launcher.launch(None).await.unwrap();
    let objects = created.lock().unwrap().clone();
    let [job, config_map] = &objects[..] else { panic!("{objects:?}") };
    assert_eq!(config_map["metadata"]["ownerReferences"][0]["name"], job["metadata"]["name"]);
    assert_eq!(config_map["binaryData"], json!({"relay-server": "cHJvZ3JhbQ=="}));
    let sent = log.lock().unwrap().iter().filter(|asked| **asked == format!("POST {CONFIG_MAPS}")).count();
    assert_eq!((sent, err.text().as_str()), (2, ""));
}

#[tokio::test]
async fn a_job_that_may_not_be_created_leaves_no_config_map() {
    let (inner, created) = cluster(nothing_is_pulled);
    let (launcher, ..) = carrying(&["--agent-source=embedded"], move |asked| {
        if asked.is("POST", JOBS) { forbidden("create", "jobs") } else { inner(asked) }
    });
    assert!(launcher.launch(None).await.is_err());
    assert!(created.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_config_map_whose_creation_is_under_way_is_removed_too() {
    let (inner, _) = cluster(|_| waiting("ContainerCreating", ""));
    let (launcher, _, log) = carrying(&["--agent-source=embedded"], inner);
    let begun = || log.lock().unwrap().iter().any(|asked| asked.starts_with(&format!("POST {CONFIG_MAPS}")));
    // Dropped as a signal would drop it.
    tokio::select! {
        _ = launcher.launch(None) => panic!("nothing runs"),
        () = async { while !begun() { tokio::task::yield_now().await; } } => {}
    }
    launcher.jobs.remove_all().await.unwrap();
    assert_eq!((deletions(&log, JOBS), deletions(&log, CONFIG_MAPS)), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn the_pods_wait_for_its_config_map_is_no_trouble() {
    let (inner, _) = cluster(|_| json!({"phase": "Pending"}));
    let (launcher, err, _) = carrying(&["--agent-source=embedded", "--server.image=i:1"], move |asked| {
        let job = asked.query.split("name%3Drelay-agent-").nth(1);
        match job.filter(|_| asked.is_watch() && asked.path.ends_with("/events")) {
            Some(rest) => {
                let name: String = rest.chars().take_while(char::is_ascii_alphanumeric).collect();
                let message =
                    format!("MountVolume.SetUp failed : configmap \"relay-agent-{name}\" not found");
                Answer::Watch(vec![event(
                    "ADDED",
                    json!({"metadata": {"name": "e", "resourceVersion": "2"}, "involvedObject": {},
                           "reason": "FailedMount", "message": message}),
                )])
            }
            None => inner(asked),
        }
    });
    let error = launcher.launch(None).await.err().unwrap();
    assert_eq!(error.to_string(), "the agent's pod does not run after 1m");
    assert_eq!(err.text(), "");
}

#[tokio::test]
async fn a_plugin_without_an_agent_says_so() {
    let (answer, created) = cluster(nothing_is_pulled);
    let (launcher, ..) = launcher_with(&["--agent-source=embedded"], answer);
    let error = launcher.launch(None).await.err().unwrap();
    assert_eq!(error.to_string(), "this plugin was built without an agent inside");
    assert!(error.hint().contains("--agent-source image"), "{}", error.hint());
    assert!(created.lock().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_plugin_without_an_agent_waits_for_the_image_by_default_and_says_what_it_lacks() {
    let (answer, created) = cluster(nothing_is_pulled);
    let (launcher, err, _) = launcher_with(&[], answer);
    let error = launcher.launch(None).await.err().unwrap();
    assert!(matches!(error, LaunchError::TimedOut { .. }), "{error}");
    assert_eq!(jobs_in(&created).len(), 1);
    assert!(err.text().starts_with("warning: the image "), "{}", err.text());
    let lacks = "this plugin carries no agent to start instead: `cargo xtask plugin` builds one that does";
    assert_eq!(err.text().matches(lacks).count(), 1, "{}", err.text());
    assert!(error.hint().contains(lacks), "{}", error.hint());
}

#[tokio::test]
async fn where_nothing_runs_there_is_no_image_to_borrow() {
    let (launcher, ..) = carrying(&["--agent-source=embedded"], |_| list(vec![]));
    let error = launcher.launch(None).await.err().unwrap();
    assert_eq!(
        error.to_string(),
        "no pod runs in namespace \"dev\" whose image the agent could be started under"
    );
    assert!(error.hint().contains("--server.image IMAGE"), "{}", error.hint());
}
