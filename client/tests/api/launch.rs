//! The agent's start, and what is said when it does not come about.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use clap::Parser;
use kubectl_relay::{
    agent::{
        found::Finder,
        identity::Owner,
        jobs::Jobs,
        launch::{LaunchError, Launcher, Running},
    },
    cli::{args::Args, settings::Settings},
    output::Output,
};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::captured::Captured;
use crate::fake::{Answer, Asked, Log, event, failure, forbidden, list, server};

pub(crate) struct Attempt {
    pub(crate) outcome: Result<Running, LaunchError>,
    pub(crate) stderr: String,
    pub(crate) log: Vec<String>,
    pub(crate) jobs: Jobs,
}

pub(crate) fn launcher(answer: impl Fn(&Asked) -> Answer + Send + 'static) -> (Launcher, Captured, Log) {
    launcher_with(&["--agent-source=image"], answer)
}

pub(crate) fn launcher_with(
    arguments: &[&str],
    answer: impl Fn(&Asked) -> Answer + Send + 'static,
) -> (Launcher, Captured, Log) {
    let (client, log) = server(answer);
    let err = Captured::default();
    let typed = ["kubectl-relay", "x", "1"].iter().chain(arguments);
    let args = Args::try_parse_from(typed).unwrap();
    let agent = Settings::from_args(args).unwrap().agent;
    let launcher = Launcher {
        access: client.clone().into(),
        namespace: "dev".into(),
        settings: agent.clone(),
        owner: Owner::new("jane", "laptop", "dev"),
        jobs: Jobs::new(&client.clone().into(), "dev", Duration::ZERO),
        timeout: Duration::from_secs(60),
        output: Arc::new(Output::to(false, 0, Box::new(std::io::sink()), Box::new(err.clone()))),
        embedded: vec![],
        targets: vec![],
        borrowed: Arc::default(),
        shared: Finder::start(&client.into(), &agent, "dev", Duration::ZERO),
    };
    (launcher, err, log)
}

pub(crate) async fn launch(answer: impl Fn(&Asked) -> Answer + Send + 'static) -> Attempt {
    let (launcher, err, log) = launcher(answer);
    let outcome = launcher.launch(None).await;
    let log = log.lock().unwrap().clone();
    Attempt { outcome, stderr: err.text(), log, jobs: launcher.jobs }
}

/// A cluster where creating works, the pod has this status and the events are these.
fn cluster(pod_status: Option<Value>, events: Vec<Value>) -> impl Fn(&Asked) -> Answer + Send + 'static {
    move |asked| {
        match (asked.verb.as_str(), asked.path.as_str()) {
        ("POST", "/apis/batch/v1/namespaces/dev/jobs") => Answer::Json(201, json!({"metadata": {"name": "j"}})),
        ("DELETE", _) => Answer::Json(200, json!({"kind": "Status", "apiVersion": "v1", "status": "Success"})),
        (_, "/api/v1/namespaces/dev/pods") if asked.is_watch() => Answer::Watch(
            pod_status
                .iter()
                .map(|status| event("ADDED", json!({"metadata": {"name": "p", "uid": "u", "resourceVersion": "2"}, "status": status})))
                .collect(),
        ),
        (_, "/api/v1/namespaces/dev/events") if asked.is_watch() => {
            if asked.query.contains("kind%3DJob") {
                Answer::Watch(events.iter().map(|object| event("ADDED", object.clone())).collect())
            } else {
                Answer::Watch(vec![])
            }
        }
        _ => list(vec![]),
    }
    }
}

fn running() -> Value {
    json!({"phase": "Running", "containerStatuses": [{"name": "agent", "image": "", "imageID": "",
        "ready": true, "restartCount": 0, "state": {"running": {}}}]})
}

pub(crate) fn waiting(reason: &str, message: &str) -> Value {
    json!({"phase": "Pending", "containerStatuses": [{"name": "agent", "image": "r/i:1", "imageID": "", "ready": false,
        "restartCount": 0, "state": {"waiting": {"reason": reason, "message": message}}}]})
}

fn failed_create(message: &str) -> Value {
    json!({"metadata": {"name": "e", "resourceVersion": "2"}, "involvedObject": {"kind": "Job"}, "reason": "FailedCreate", "message": message})
}

fn deleted(log: &[String]) -> bool {
    log.iter().any(|asked| asked.starts_with("DELETE /apis/batch/v1/namespaces/dev/jobs/relay-agent-"))
}

#[tokio::test]
async fn a_running_container_is_an_agent() {
    let attempt = launch(cluster(Some(running()), vec![])).await;
    let agent = attempt.outcome.unwrap();
    assert_eq!((agent.pod.as_str(), agent.uid.as_str()), ("p", "u"));
    assert_eq!(attempt.stderr, "");
    assert!(!deleted(&attempt.log));

    attempt.jobs.remove_all().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_image_that_cannot_be_pulled_is_told_and_waited_for() {
    let attempt = launch(cluster(Some(waiting("ErrImagePull", "no such host")), vec![])).await;
    assert_eq!(
        attempt.stderr,
        "warning: the image r/i:1 cannot be pulled: no such host\n\
         hint: name an image that the nodes can pull with --server.image, with --server.pull-secret if it needs credentials\n"
    );
    assert_eq!(
        attempt.outcome.err().unwrap().to_string(),
        "the agent's pod does not run after 1m: the image r/i:1 cannot be pulled: no such host"
    );
    assert!(deleted(&attempt.log), "{:?}", attempt.log);
}

#[tokio::test(start_paused = true)]
async fn an_unusable_image_ends_the_run_at_once() {
    let started = tokio::time::Instant::now();
    let attempt = launch(cluster(Some(waiting("InvalidImageName", "bad")), vec![])).await;
    assert_eq!(attempt.outcome.err().unwrap().to_string(), "the image name r/i:1 is not valid: bad");
    assert!(started.elapsed() < Duration::from_secs(3));
    assert!(deleted(&attempt.log), "{:?}", attempt.log);
}

#[tokio::test(start_paused = true)]
async fn an_unschedulable_pod_is_told_in_the_schedulers_words_and_waited_for() {
    let status = json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False",
        "message": "0/1 nodes are available"}]});
    let attempt = launch(cluster(Some(status), vec![])).await;
    assert!(
        attempt
            .stderr
            .starts_with("warning: no node takes the agent's pod: 0/1 nodes are available\nhint: steer"),
        "{}",
        attempt.stderr
    );
    assert_eq!(
        attempt.outcome.err().unwrap().to_string(),
        "the agent's pod does not run after 1m: no node takes the agent's pod: 0/1 nodes are available"
    );
}

#[tokio::test(start_paused = true)]
async fn a_quota_is_told_from_the_jobs_events_and_waited_for() {
    let message = "Error creating: pods \"p\" is forbidden: exceeded quota: q, requested: pods=1";
    let attempt = launch(cluster(None, vec![failed_create(message)])).await;
    assert!(
        attempt.stderr.starts_with(
            "warning: a quota leaves no room for the agent's pod: exceeded quota: q, requested: pods=1\nhint: free some"
        ),
        "{}",
        attempt.stderr
    );
    assert!(matches!(attempt.outcome.err().unwrap(), LaunchError::TimedOut { .. }));
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_admission_refuses_ends_the_run_at_once() {
    let message =
        "Error creating: pods \"p\" is forbidden: violates PodSecurity \"restricted:latest\": hostNetwork";
    let attempt = launch(cluster(None, vec![failed_create(message)])).await;
    assert_eq!(
        attempt.outcome.err().unwrap().to_string(),
        "Pod Security does not admit the agent's pod: violates PodSecurity \"restricted:latest\": hostNetwork"
    );
    assert!(deleted(&attempt.log), "{:?}", attempt.log);
}

const NO_ACCOUNT: &str = "Error creating: pods \"p\" is forbidden: error looking up service account n/default: \
                          serviceaccount \"default\" not found";

#[tokio::test(start_paused = true)]
async fn a_namespace_that_has_just_been_made_is_waited_for_without_a_word() {
    let refused = cluster(None, vec![failed_create(NO_ACCOUNT)]);
    let attempt = launch(move |asked| match asked.path.as_str() {
        "/api/v1/namespaces/dev/pods" if !asked.is_watch() => {
            let pod = json!({"metadata": {"name": "p", "uid": "u"}, "status": running()});
            let list = json!({"metadata": {"resourceVersion": "1"}, "items": [pod]});
            Answer::Late(Duration::from_secs(2), 200, list)
        }
        _ => refused(asked),
    })
    .await;
    assert_eq!(attempt.outcome.unwrap().pod, "p");
    assert_eq!(attempt.stderr, "");
}

#[tokio::test(start_paused = true)]
async fn a_service_account_that_does_not_come_is_told() {
    let attempt = launch(cluster(None, vec![failed_create(NO_ACCOUNT)])).await;
    assert!(
        attempt.stderr.starts_with(
            "warning: the agent's pod waits for its service account: error looking up service account n/default: \
             serviceaccount \"default\" not found\nhint: kubectl get serviceaccounts"
        ),
        "{}",
        attempt.stderr
    );
    assert!(matches!(attempt.outcome.err().unwrap(), LaunchError::TimedOut { .. }));
}

#[tokio::test(start_paused = true)]
async fn nothing_to_say_is_said_after_the_timeout() {
    let attempt = launch(cluster(None, vec![])).await;
    assert_eq!(attempt.outcome.err().unwrap().to_string(), "the agent's pod does not run after 1m");
}

#[tokio::test]
async fn a_job_whose_creation_is_under_way_is_removed_too() {
    let (launcher, _, log) = launcher(|asked| match asked.verb.as_str() {
        "DELETE" => Answer::Json(200, json!({"kind": "Status", "apiVersion": "v1", "status": "Success"})),
        "POST" => Answer::Json(201, json!({"metadata": {"name": "j"}})),
        _ => Answer::Silence,
    });
    leave_while_creating(&launcher, &log).await;
    launcher.jobs.remove_all().await.unwrap();
    assert!(deleted(&log.lock().unwrap()));
}

/// Drops a launch as a signal would.
async fn leave_while_creating(launcher: &Launcher, log: &Log) {
    tokio::select! {
        _ = launcher.launch(None) => panic!("nothing runs"),
        () = async { while log.lock().unwrap().iter().all(|asked| !asked.starts_with("POST")) { tokio::task::yield_now().await; } } => {}
    }
}

#[tokio::test(start_paused = true)]
async fn a_job_whose_creation_takes_its_time_is_removed_when_it_is_there() {
    let start = tokio::time::Instant::now();
    let takes = Duration::from_secs(4);
    let removed = Arc::new(AtomicBool::new(false));
    let is_removed = Arc::clone(&removed);
    let (launcher, _, log) = launcher(move |asked| match asked.verb.as_str() {
        "DELETE" if start.elapsed() < takes => failure(404, "not found", json!({})),
        "DELETE" => {
            is_removed.store(true, Ordering::SeqCst);
            Answer::Json(200, json!({"kind": "Status", "apiVersion": "v1", "status": "Success"}))
        }
        "POST" => Answer::Late(takes, 201, json!({"metadata": {"name": "j"}})),
        _ => Answer::Silence,
    });
    leave_while_creating(&launcher, &log).await;
    // A removal that is given up, as that of a launch is when the run ends, does not spoil the next.
    timeout(Duration::from_secs(2), launcher.jobs.remove_all()).await.expect_err("nothing is there yet");
    launcher.jobs.remove_all().await.unwrap();
    assert!(removed.load(Ordering::SeqCst), "{:?}", log.lock().unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_job_that_may_still_come_does_not_count_as_removed() {
    let (launcher, _, log) = launcher(|asked| match asked.verb.as_str() {
        "DELETE" => failure(404, "not found", json!({})),
        _ => Answer::Silence,
    });
    leave_while_creating(&launcher, &log).await;
    timeout(Duration::from_secs(60), launcher.jobs.remove_all()).await.expect_err("its creation goes on");
}

#[tokio::test(start_paused = true)]
async fn a_job_is_removed_although_the_answer_to_its_creation_was_lost() {
    let (launcher, _, log) = launcher(|asked| match asked.verb.as_str() {
        "DELETE" => Answer::Json(200, json!({"kind": "Status", "apiVersion": "v1", "status": "Success"})),
        _ => Answer::Silence,
    });
    leave_while_creating(&launcher, &log).await;
    timeout(Duration::from_secs(2), launcher.jobs.remove_all()).await.unwrap().unwrap();
    assert!(deleted(&log.lock().unwrap()));
}

#[tokio::test]
async fn only_own_old_jobs_are_removed() {
    let (launcher, _, log) = launcher(|asked| {
        if asked.verb == "DELETE" {
            return Answer::Json(200, json!({"kind": "Status", "apiVersion": "v1", "status": "Success"}));
        }
        assert!(asked.query.contains("kubectl-relay.io%2Fowner%3D"), "{asked:?}");
        list(vec![
            json!({"metadata": {"name": "old", "creationTimestamp": "2030-01-01T00:00:00Z"}}),
            json!({"metadata": {"name": "young", "creationTimestamp": "2030-01-01T00:55:00Z"}}),
            json!({"metadata": {"name": "busy", "creationTimestamp": "2030-01-01T00:00:00Z"}, "status": {"active": 1}}),
        ])
    });
    let now = "2030-01-01T01:00:00Z".parse().unwrap();
    assert_eq!(launcher.jobs.remove_old(&launcher.owner, now).await.unwrap(), 1);
    let deletions: Vec<_> =
        log.lock().unwrap().iter().filter(|asked| asked.starts_with("DELETE")).cloned().collect();
    assert_eq!(deletions, ["DELETE /apis/batch/v1/namespaces/dev/jobs/old"]);
}

#[tokio::test]
async fn a_refused_event_watch_is_told_and_does_not_end_the_run() {
    let running = json!({"phase": "Running", "containerStatuses": [{"name": "agent", "image": "", "imageID": "",
        "ready": true, "restartCount": 0, "state": {"running": {}}}]});
    let inner = cluster(Some(running), vec![]);
    let attempt =
        launch(
            move |asked| {
                if asked.path.ends_with("/events") { forbidden("list", "events") } else { inner(asked) }
            },
        )
        .await;
    assert!(attempt.outcome.is_ok());
}

#[tokio::test]
async fn an_object_that_the_cluster_refuses_is_told_in_its_words() {
    let attempt = launch(|asked| match asked.verb.as_str() {
        "POST" => failure(422, "Job.batch \"j\" is invalid: spec.template: no", json!({"kind": "Job"})),
        _ => list(vec![]),
    })
    .await;
    let error = attempt.outcome.err().unwrap();
    assert_eq!(
        error.to_string(),
        "cannot create jobs.batch in namespace \"dev\", the cluster refused it: Job.batch \"j\" is invalid: spec.template: no"
    );
}
