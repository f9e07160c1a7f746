//! `doctor` without an agent: whole outputs for clusters of every mood.

use std::{sync::Arc, time::Duration};

use clap::Parser;
use kubectl_relay::{
    cli::{args::Args, settings::Settings, verb::Verb},
    cluster::config::ClusterConfig,
    doctor::{Report, without_agent},
    output::Output,
    version::Format,
};
use serde_json::{Value, json};

use crate::{
    captured::Captured,
    fake::{Answer, Asked, failure, forbidden, list, server},
};

/// What it prints with these flags, each line in one piece and times as `T`; and whether an agent would be started.
async fn examined(flags: &[&str], answer: impl Fn(&Asked) -> Answer + Send + 'static) -> (String, bool) {
    let (client, _) = server(answer);
    let words = ["kubectl-relay", "doctor", "--agent-source", "image"].iter().chain(flags);
    let args = Args::try_parse_from(words).unwrap();
    let Some(Verb::Doctor(doctor)) = args.verb else { panic!("another verb") };
    let settings = Settings::without_targets(&doctor.agent, &doctor.session, args.cluster, 0).unwrap();
    let config = ClusterConfig {
        kube: kube::Config::new("https://cluster.example:6443".parse().unwrap()),
        proxy_url: None,
        namespace: "dev".into(),
        user: "jane".into(),
        context: Some("c".into()),
        files: vec![],
        fingerprint: [0; 32],
    };
    let out = Captured::default();
    let output = Output::to(false, 0, Box::new(out.clone()), Box::new(std::io::sink()));
    let report = Report::new(Format::Text, Arc::new(output));
    let can_start = without_agent(&config, &client.into(), &settings, &report).await;
    (plain(&out.text()), can_start)
}

fn plain(text: &str) -> String {
    let mut plain = String::new();
    for line in text.lines() {
        match line.strip_prefix("                     ") {
            Some(more) if !more.starts_with("hint: ") => plain += &format!(" {more}"),
            Some(hint) => plain += &format!("\n  {hint}"),
            None => plain += &format!("\n{line}"),
        }
    }
    let words: Vec<&str> = plain.trim_start().split(' ').collect();
    let is_number = |word: &str| word.trim_start_matches('(').parse::<f64>().is_ok();
    let mut shown: Vec<String> = Vec::new();
    let mut words = words.into_iter().peekable();
    while let Some(word) = words.next() {
        let unit = words.peek().copied().unwrap_or_default();
        match unit.strip_prefix("ms").or_else(|| unit.strip_prefix('s')) {
            Some(rest) if is_number(word) && !rest.starts_with(char::is_alphanumeric) => {
                shown.push(format!("{}T{rest}", if word.starts_with('(') { "(" } else { "" }));
                words.next();
            }
            _ => shown.push(word.into()),
        }
    }
    shown.join(" ")
}

fn version(version: &str) -> Answer {
    Answer::Json(
        200,
        json!({"major": "1", "minor": "34", "gitVersion": version, "gitCommit": "", "gitTreeState": "", "buildDate": "",
               "goVersion": "", "compiler": "", "platform": ""}),
    )
}

fn node() -> Value {
    json!({"metadata": {"name": "n"}, "status": {"nodeInfo": {"architecture": "amd64", "bootID": "",
        "containerRuntimeVersion": "", "kernelVersion": "", "kubeProxyVersion": "", "kubeletVersion": "",
        "machineID": "", "operatingSystem": "", "osImage": "", "systemUUID": ""}}})
}

/// A cluster where all is well and allowed, but for these verbs.
fn fine(asked: &Asked, refused: &[(&str, &str)]) -> Answer {
    match (asked.verb.as_str(), asked.path.as_str()) {
        ("GET", "/version") => version("v1.34.4"),
        ("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews") => {
            Answer::Json(201, json!({"status": {"userInfo": {"username": "jane"}}}))
        }
        ("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews") => {
            let wanted = &asked.body["spec"]["resourceAttributes"];
            let mut resource = wanted["resource"].as_str().unwrap().to_owned();
            if let Some(subresource) = wanted["subresource"].as_str() {
                resource += &format!("/{subresource}");
            }
            let is_refused = refused.contains(&(wanted["verb"].as_str().unwrap(), resource.as_str()));
            Answer::Json(201, json!({"spec": {}, "status": {"allowed": !is_refused}}))
        }
        ("POST", path) if asked.query.contains("dryRun=All") => {
            let resource = path.rsplit('/').next().unwrap();
            if refused.contains(&("create", resource)) {
                return forbidden("create", resource);
            }
            Answer::Json(201, asked.body.clone())
        }
        ("GET", "/api/v1/namespaces/dev") => Answer::Json(
            200,
            json!({"metadata": {"name": "dev", "labels": {"pod-security.kubernetes.io/enforce": "restricted"}}}),
        ),
        ("GET", "/api/v1/nodes") => list(vec![node()]),
        ("GET", _) => list(vec![]),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn where_all_is_well_every_line_is_ok() {
    let (text, can_start) = examined(&[], |asked| fine(asked, &[])).await;
    assert!(can_start);
    let expected = [
        "ok       server      Kubernetes 1.34.4 answers in T (first contact T)",
        "ok       user        the cluster takes you for \"jane\"",
        "ok       image       allowed in \"dev\", all of it",
        "ok       targets     those of \"dev\" may be looked up by name",
        "ok       namespace   \"dev\" enforces Pod Security \"restricted\", which the agent fits",
        "ok       admission   the agent's Job and its pod would be admitted",
    ];
    let shown: Vec<&str> = text.lines().filter(|line| of_this_build(line)).collect();
    assert_eq!(shown, expected, "{text}");
}

/// Leaves out what depends on whether agents are built in, and on what ways there are.
fn of_this_build(line: &str) -> bool {
    let others = ["embedded", "shared", "none", "nodes"];
    !others.iter().any(|check| line.get(9..).is_some_and(|rest| rest.starts_with(check)))
}

#[tokio::test]
async fn who_sees_little_is_told_so_once_and_may_start() {
    let (text, can_start) = examined(&[], |asked| match asked.path.as_str() {
        "/api/v1/namespaces/dev" => forbidden("get", "namespaces"),
        "/api/v1/nodes" => forbidden("list", "nodes"),
        "/api/v1/namespaces/dev/resourcequotas" => forbidden("list", "resourcequotas"),
        "/api/v1/namespaces/dev/limitranges" => forbidden("list", "limitranges"),
        "/version" => forbidden("get", "/version"),
        _ => fine(asked, &[("create", "pods"), ("get", "deployments"), ("watch", "events")]),
    })
    .await;
    assert!(can_start);
    let expected = [
        "note     server      it answers in T, and keeps its version to itself",
        "ok       user        the cluster takes you for \"jane\"",
        "warning  image       allowed in \"dev\", but for: watch events",
        "  hint: kubectl relay doctor --print-role prints what to ask for",
        "note     targets     not allowed in \"dev\": get deployments.apps",
        "ok       admission   the agent's Job would be admitted (its pod may not be tried)",
        "note     unread      not readable for you, and not needed: namespaces, resourcequotas, limitranges, nodes",
    ];
    let shown: Vec<&str> = text.lines().filter(|line| of_this_build(line)).collect();
    assert_eq!(shown, expected, "{text}");
}

#[tokio::test]
async fn a_missing_right_fails_and_ends_before_the_room_is_looked_at() {
    for (verb, resource, named) in [
        ("create", "jobs", "create jobs.batch"),
        ("delete", "jobs", "delete jobs.batch"),
        ("watch", "pods", "watch pods"),
    ] {
        let (text, can_start) = examined(&[], move |asked| fine(asked, &[(verb, resource)])).await;
        assert!(!can_start);
        let failed = format!(
            "failed   image       not allowed in \"dev\": {named}\n  hint: kubectl relay doctor --print-role prints what to ask for\n"
        );
        assert!(text.contains(&failed) && !text.contains("admission"), "{text}");
    }
}

#[tokio::test]
async fn one_verb_on_port_forward_is_a_warning_and_none_a_failure() {
    let (text, can_start) = examined(&[], |asked| fine(asked, &[("get", "pods/portforward")])).await;
    assert!(
        can_start && text.contains("warning  image       allowed in \"dev\", but for: get pods/portforward"),
        "{text}"
    );
    let both = [("get", "pods/portforward"), ("create", "pods/portforward")];
    let (text, can_start) = examined(&[], move |asked| fine(asked, &both)).await;
    assert!(
        !can_start
            && text.contains("failed   image       not allowed in \"dev\": get, create pods/portforward"),
        "{text}"
    );
}

#[tokio::test]
async fn a_pod_that_would_be_refused_fails_with_the_rule() {
    let message =
        "pods \"relay-agent-doctor\" is forbidden: violates PodSecurity \"restricted:latest\": hostNetwork";
    let (text, can_start) = examined(&[], move |asked| match asked.path.as_str() {
        "/api/v1/namespaces/dev/pods" if asked.verb == "POST" => {
            failure(403, message, json!({"kind": "pods"}))
        }
        _ => fine(asked, &[]),
    })
    .await;
    assert!(!can_start);
    let expected = format!(
        "failed   admission   cannot create pods in namespace \"dev\", the cluster refused it: {message}\n  hint: change the agent"
    );
    assert!(text.contains(&expected), "{text}");
}

#[tokio::test]
async fn quotas_and_limit_ranges_are_read_where_no_pod_may_be_tried() {
    let (text, can_start) = examined(&[], |asked| match asked.path.as_str() {
        "/api/v1/namespaces/dev/resourcequotas" => list(vec![
            json!({"metadata": {"name": "q"}, "status": {"hard": {"pods": "2"}, "used": {"pods": "2"}}}),
        ]),
        "/api/v1/namespaces/dev/limitranges" => list(vec![
            json!({"metadata": {"name": "r"}, "spec": {"limits": [{"type": "Container", "max": {"memory": "64Mi"}}]}}),
        ]),
        _ => fine(asked, &[("create", "pods")]),
    })
    .await;
    assert!(!can_start);
    for line in [
        "failed   quota       quota \"q\" has 2 of 2 pods in use\n  hint: free some of it",
        "failed   limits      limit range \"r\": memory is at most 64Mi, and the agent's is 128Mi\n  hint: ask for what fits",
    ] {
        assert!(text.contains(line), "{text}");
    }
}

#[tokio::test]
async fn a_namespace_that_is_not_there_fails() {
    let (text, can_start) = examined(&["--server.namespace", "nope"], |asked| match asked.path.as_str() {
        "/api/v1/namespaces/nope" => {
            failure(404, "namespaces \"nope\" not found", json!({"kind": "namespaces", "name": "nope"}))
        }
        _ => fine(asked, &[]),
    })
    .await;
    assert!(!can_start);
    let expected = "failed   namespace   there is no namespace \"nope\"\n  hint: name another one with -n or --server.namespace";
    assert!(text.contains(expected), "{text}");
}

#[tokio::test]
async fn an_old_api_server_is_a_warning() {
    let (text, _) = examined(&[], |asked| match asked.path.as_str() {
        "/version" => version("v1.27.3-eks"),
        _ => fine(asked, &[]),
    })
    .await;
    assert!(text.starts_with("warning  server      Kubernetes 1.27.3-eks answers in T (first contact T)\n  hint: it is older than 1.30"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_does_not_answer_is_given_up() {
    let since = tokio::time::Instant::now();
    let (text, can_start) = examined(&["--request-timeout", "4s"], |_| Answer::Silence).await;
    assert!(
        !can_start
            && text.starts_with("failed   server      cannot get /version: no answer within 4s\n  hint: "),
        "{text}"
    );
    assert!(since.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn rights_that_cannot_be_asked_for_are_a_warning() {
    let (text, can_start) = examined(&[], |asked| match asked.path.as_str() {
        "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews" => {
            forbidden("create", "selfsubjectaccessreviews")
        }
        _ => fine(asked, &[]),
    })
    .await;
    assert!(
        can_start && text.contains("warning  rights      they cannot be asked for: not allowed to create"),
        "{text}"
    );
}
