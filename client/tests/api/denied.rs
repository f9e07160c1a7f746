//! Each right that may be missing: named, with the Role that would do.

use std::time::Duration;

use kubectl_relay::{
    agent::launch::LaunchError,
    cluster::{api::ApiError, resolve::Resolver},
    target::parse_arguments,
};
use serde_json::json;

use crate::{
    fake::{Answer, forbidden, list, server},
    launch::{launch, launcher},
};

fn check(error: &str, hint: &str, call: &str, rule: &str) {
    assert!(error.starts_with(&format!("not allowed to {call}")), "{error}");
    assert!(hint.starts_with("ask for this Role, bound to you:\n"), "{hint}");
    assert!(hint.contains(rule), "{hint}");
}

async fn resolve_denied(target: &str, denied: &'static str, verb: &'static str, call: &str, rule: &str) {
    let (client, _) = server(move |asked| {
        if asked.path.contains(denied) && (verb != "watch" || asked.is_watch()) {
            return forbidden(verb, denied);
        }
        if asked.path.ends_with("/services/web") {
            return Answer::Json(
                200,
                json!({"metadata": {"name": "web"}, "spec": {"clusterIP": "None", "ports": [{"port": 80}]}}),
            );
        }
        Answer::Json(
            200,
            json!({"metadata": {"name": "web"}, "spec": {"selector": {"matchLabels": {"a": "b"}}}}),
        )
    });
    let resolver = Resolver {
        access: client.into(),
        namespace: "dev".into(),
        request_timeout: Duration::ZERO,
        pod_timeout: Duration::from_secs(1),
    };
    let specs = parse_arguments(&[target, "80"]).unwrap();
    let error = resolver.resolve(&specs[0]).await.unwrap_err();
    check(&error.to_string(), &error.hint(), call, rule);
}

#[tokio::test]
async fn every_look_up_of_a_target() {
    resolve_denied(
        "svc/web",
        "services",
        "get",
        "get services \"web\" in namespace \"dev\"",
        "resources: [services], verbs: [get]",
    )
    .await;
    resolve_denied(
        "svc/web",
        "endpointslices",
        "list",
        "list endpointslices.discovery.k8s.io in namespace \"dev\"",
        "resources: [endpointslices], verbs: [list]",
    )
    .await;
    resolve_denied(
        "deploy/web",
        "deployments",
        "get",
        "get deployments.apps \"web\" in namespace \"dev\"",
        "resources: [deployments], verbs: [get]",
    )
    .await;
    resolve_denied(
        "pod/web",
        "pods",
        "list",
        "list pods \"web\" in namespace \"dev\"",
        "resources: [pods], verbs: [list, watch]",
    )
    .await;
}

#[tokio::test]
async fn creating_the_agents_job() {
    let attempt = launch(|asked| match asked.verb.as_str() {
        "POST" => forbidden("create", "jobs"),
        _ if asked.is_watch() => Answer::Watch(vec![]),
        _ => list(vec![]),
    })
    .await;
    let error = attempt.outcome.err().unwrap();
    check(
        &error.to_string(),
        &error.hint(),
        "create jobs.batch in namespace \"dev\"",
        "resources: [jobs], verbs: [create, delete, list]",
    );
    assert_eq!(attempt.stderr, "");
}

#[tokio::test]
async fn watching_the_agents_pod() {
    let attempt = launch(|asked| match asked.verb.as_str() {
        "POST" => Answer::Json(201, json!({"metadata": {"name": "j"}})),
        "DELETE" => Answer::Json(200, json!({"kind": "Status", "apiVersion": "v1", "status": "Success"})),
        _ if asked.path.ends_with("/pods") => forbidden("list", "pods"),
        _ if asked.is_watch() => Answer::Watch(vec![]),
        _ => list(vec![]),
    })
    .await;
    let error = attempt.outcome.err().unwrap();
    assert!(matches!(&error, LaunchError::Api(ApiError::Denied { call, .. }) if call.verb == "list"));
    assert!(attempt.log.iter().any(|asked| asked.starts_with("DELETE")), "{:?}", attempt.log);
}

#[tokio::test]
async fn removing_the_agents_job() {
    let (launcher, _, _) = launcher(|asked| match asked.verb.as_str() {
        "DELETE" => forbidden("delete", "jobs"),
        "POST" => Answer::Json(201, json!({"metadata": {"name": "j"}})),
        _ => list(vec![]),
    });
    let job =
        serde_json::from_value(json!({"metadata": {"name": "relay-agent-1"}, "spec": {"template": {}}}))
            .unwrap();
    launcher.jobs.create(job, None).await.unwrap();
    let error = launcher.jobs.remove_all().await.unwrap_err();
    check(
        &error.to_string(),
        &error.hint(),
        "delete jobs.batch \"relay-agent-1\" in namespace \"dev\"",
        "resources: [jobs], verbs: [create, delete, list]",
    );
}
