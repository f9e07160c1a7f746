//! What the cluster tells of a target that is typed without ports, and of a namespace without a target.

use std::time::Duration;

use kubectl_relay::{
    cluster::{
        api::ApiError,
        resolve::{ResolveError, Resolver},
    },
    hints::{
        HintError,
        offer::{self, Offer},
        picker,
    },
    target::parse_typed,
};
use serde_json::{Value, json};

use crate::fake::{Answer, Asked, forbidden, list, server};

async fn offered(
    target: &str,
    answer: impl Fn(&Asked) -> Answer + Send + 'static,
) -> Result<Offer, HintError> {
    let (client, _) = server(answer);
    let resolver = Resolver {
        access: client.into(),
        namespace: "dev".into(),
        request_timeout: Duration::ZERO,
        pod_timeout: Duration::from_secs(60),
    };
    offer::of(&resolver, &parse_typed(&[target]).unwrap()[0]).await
}

fn ports(offer: &Offer) -> Vec<String> {
    offer.ports.iter().map(ToString::to_string).collect()
}

fn suggested(offer: &Offer) -> Option<Vec<String>> {
    offer.suggested.as_ref().map(|ports| ports.iter().map(ToString::to_string).collect())
}

fn pod(annotations: Value) -> Value {
    json!({"metadata": {"name": "web-0", "annotations": annotations},
           "spec": {"containers": [{"name": "c", "ports": [{"name": "http", "containerPort": 8080}]}]}})
}

#[tokio::test]
async fn a_services_ports_and_its_annotation_are_offered() {
    let offer = offered("svc/web", |asked| {
        assert!(asked.is("GET", "/api/v1/namespaces/dev/services/web"), "{asked:?}");
        Answer::Json(
            200,
            json!({"metadata": {"name": "web", "annotations": {"kubectl-relay/forward": "8080:http, :53@udp"}},
                   "spec": {"ports": [{"name": "http", "port": 80}, {"port": 53, "protocol": "UDP"}]}}),
        )
    })
    .await
    .unwrap();
    assert_eq!(ports(&offer), ["80/tcp (http)", "53/udp"]);
    assert_eq!(suggested(&offer).unwrap(), ["8080:http", ":53@udp"]);
}

#[tokio::test]
async fn a_pod_is_looked_at_with_the_right_to_list() {
    let offer = offered("pod/web-0", |asked| {
        assert!(asked.is("GET", "/api/v1/namespaces/dev/pods"), "{asked:?}");
        assert!(asked.query.contains("metadata.name%3Dweb-0"), "{asked:?}");
        list(vec![pod(json!({}))])
    })
    .await
    .unwrap();
    assert_eq!((ports(&offer), suggested(&offer)), (vec!["8080/tcp (http)".to_owned()], None));
    let missing = offered("web-0", |_| list(vec![])).await.unwrap_err();
    assert_eq!(missing.to_string(), "pods \"web-0\" not found in namespace \"dev\"");
    assert!(!missing.is_misuse() && !missing.hint().is_empty());
}

#[tokio::test]
async fn a_workloads_ports_are_its_templates() {
    let offer = offered("deploy/web", |asked| {
        assert!(asked.is("GET", "/apis/apps/v1/namespaces/dev/deployments/web"), "{asked:?}");
        let template = json!({"spec": pod(json!({}))["spec"]});
        Answer::Json(
            200,
            json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
                   "spec": {"selector": {"matchLabels": {"app": "web"}}, "template": template}}),
        )
    })
    .await
    .unwrap();
    assert_eq!(ports(&offer), ["8080/tcp (http)"]);
}

#[tokio::test]
async fn an_annotation_that_makes_no_sense_is_an_error_that_names_the_object() {
    let error = offered("svc/web", |_| {
        let annotations = json!({"kubectl-relay/forward": "eighty:80"});
        Answer::Json(200, json!({"metadata": {"name": "web", "annotations": annotations}, "spec": {}}))
    })
    .await
    .unwrap_err();
    assert_eq!(
        error.to_string(),
        "the annotation kubectl-relay/forward of svc/web is wrong: port \"eighty:80\": the local port \"eighty\" is not a \
         number from 1 to 65535"
    );
    assert_eq!(
        error.hint(),
        "name the ports yourself, or correct it: kubectl annotate svc/web --overwrite kubectl-relay/forward=8080:http"
    );
}

fn named(names: &[&str]) -> Vec<Value> {
    names.iter().map(|name| json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": {"name": name}})).collect()
}

#[tokio::test]
async fn the_picker_has_services_and_workloads_and_skips_what_may_not_be_listed() {
    let (client, _) = server(|asked| match asked.path.rsplit('/').next() {
        Some("services") => list(named(&["web", "db"])),
        Some("statefulsets") => forbidden("list", "any"),
        Some("deployments") => list(named(&["web"])),
        _ => list(vec![]),
    });
    let entries = picker::entries(&client.into(), "dev", Duration::ZERO).await.unwrap();
    let targets: Vec<_> = entries.iter().map(|entry| entry.target.as_str()).collect();
    assert_eq!(targets, ["svc/web", "svc/db", "deploy/web"]);
}

#[tokio::test]
async fn a_namespace_with_nothing_in_it_or_nothing_to_see_is_an_error() {
    let (client, _) = server(|_| list(vec![]));
    let error = picker::entries(&client.into(), "dev", Duration::ZERO).await.unwrap_err();
    assert_eq!(error.to_string(), "namespace \"dev\" has no Service and no workload");
    let (client, _) = server(|_| forbidden("list", "any"));
    let error = picker::entries(&client.into(), "dev", Duration::ZERO).await.unwrap_err();
    assert!(matches!(&error, HintError::Resolve(ResolveError::Api(ApiError::Denied { .. }))), "{error}");
}
