//! What targets stand for.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use kubectl_relay::{
    cluster::{
        ready::{Choice, Destination},
        resolve::{Forward, ResolveError, Resolver},
    },
    target::parse_arguments,
};
use relay_protocol::header::{Address, HostName, Protocol};
use serde_json::{Value, json};

use crate::fake::{Answer, Asked, event, failure, list, server};

async fn resolve(
    arguments: &[&str],
    answer: impl Fn(&Asked) -> Answer + Send + 'static,
) -> Result<Vec<Forward>, ResolveError> {
    let (client, _) = server(answer);
    let resolver = Resolver {
        access: client.into(),
        namespace: "dev".into(),
        request_timeout: Duration::ZERO,
        pod_timeout: Duration::from_secs(60),
    };
    let specs = parse_arguments(arguments).unwrap();
    resolver.resolve(&specs[0]).await
}

fn ip(address: &str, port: u16) -> Destination {
    Destination { address: Address::Ip(address.parse().unwrap()), port }
}

fn pod(name: &str, address: &str, http: u16) -> Value {
    json!({
        "metadata": {"name": name, "uid": name, "resourceVersion": "2", "labels": {"app": "web"}},
        "spec": {"containers": [{"name": "c", "ports": [{"name": "http", "containerPort": http}]}]},
        "status": {"phase": "Running", "podIP": address, "conditions": [{"type": "Ready", "status": "True"}]},
    })
}

#[tokio::test]
async fn a_service_is_dialled_at_its_cluster_ip_and_port() {
    let forwards = resolve(&["svc/web", "8080:http", ":53"], |asked| {
        assert!(asked.is("GET", "/api/v1/namespaces/dev/services/web"), "{asked:?}");
        Answer::Json(
            200,
            json!({"metadata": {"name": "web"}, "spec": {"clusterIP": "10.96.0.7", "ports": [
            {"name": "http", "port": 80, "targetPort": 8080}, {"name": "dns", "port": 53, "protocol": "UDP"}]}}),
        )
    })
    .await
    .unwrap();
    assert_eq!(forwards[0].route.destination().await, Ok(ip("10.96.0.7", 80)));
    assert_eq!((forwards[0].remote, forwards[0].protocol), (80, Protocol::Tcp));
    assert_eq!(forwards[1].protocol, Protocol::Udp);
}

#[tokio::test]
async fn an_external_name_is_left_to_the_agent() {
    let forwards = resolve(&["svc/db", "5432"], |_| {
        Answer::Json(
            200,
            json!({"metadata": {"name": "db"}, "spec": {"type": "ExternalName", "externalName": "db.example.com"}}),
        )
    })
    .await
    .unwrap();
    let host = Address::Host(HostName::new("db.example.com").unwrap());
    assert_eq!(forwards[0].route.destination().await, Ok(Destination { address: host, port: 5432 }));
}

#[tokio::test]
async fn a_headless_service_is_dialled_at_its_ready_endpoints_in_turn() {
    let forwards = resolve(&["svc/db", "sql"], |asked| {
        if asked.path.ends_with("/services/db") {
            return Answer::Json(
                200,
                json!({"metadata": {"name": "db"}, "spec": {"clusterIP": "None", "ports": [
                {"name": "sql", "port": 5432, "targetPort": "pg"}]}}),
            );
        }
        assert_eq!(asked.path, "/apis/discovery.k8s.io/v1/namespaces/dev/endpointslices");
        assert!(asked.query.contains("kubernetes.io%2Fservice-name%3Ddb"), "{asked:?}");
        if asked.is_watch() {
            return Answer::Watch(vec![]);
        }
        list(vec![json!({"metadata": {"name": "s"}, "addressType": "IPv4",
            "ports": [{"name": "sql", "port": 15432, "protocol": "TCP"}],
            "endpoints": [{"addresses": ["10.0.0.1"]}, {"addresses": ["10.0.0.2"], "conditions": {"ready": false}},
                          {"addresses": ["10.0.0.3"], "conditions": {"ready": true}}]})])
    })
    .await
    .unwrap();
    let route = &forwards[0].route;
    assert_eq!(forwards[0].remote, 15432);
    assert_eq!(route.destination().await, Ok(ip("10.0.0.1", 15432)));
    assert_eq!(route.destination().await, Ok(ip("10.0.0.3", 15432)));
}

#[tokio::test]
async fn a_workload_follows_its_rollout_to_pods_with_other_port_numbers() {
    let forwards = resolve(&["deploy/web", "http"], |asked| {
        if asked.path.ends_with("/deployments/web") {
            return Answer::Json(
                200,
                json!({"metadata": {"name": "web"}, "spec": {
                "selector": {"matchLabels": {"app": "web"}},
                "template": {"spec": {"containers": [{"name": "c", "ports": [{"name": "http", "containerPort": 80}]}]}}}}),
            );
        }
        assert_eq!(asked.path, "/api/v1/namespaces/dev/pods");
        assert!(asked.query.contains("labelSelector=app%3Dweb"), "{asked:?}");
        if asked.is_watch() {
            return Answer::Watch(vec![
                event("DELETED", pod("old", "10.0.0.1", 80)),
                event("ADDED", pod("new", "10.0.0.2", 8080)),
            ]);
        }
        list(vec![pod("old", "10.0.0.1", 80)])
    })
    .await
    .unwrap();
    let route = &forwards[0].route;
    assert_eq!(forwards[0].remote, 80);
    while route.destination().await != Ok(ip("10.0.0.2", 8080)) {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn an_expired_watch_lists_again() {
    let deleted = Arc::new(AtomicBool::new(false));
    let is_deleted = Arc::clone(&deleted);
    let forwards = resolve(&["pod/web", "80"], move |asked| {
        if asked.is_watch() {
            // The deletion is in no watch: only another list can tell.
            let expired = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                "message": "too old resource version", "reason": "Expired", "code": 410});
            return Answer::WatchEnd(vec![event("ERROR", expired)]);
        }
        let pods = if is_deleted.load(Ordering::Relaxed) { vec![] } else { vec![pod("web", "10.0.0.1", 80)] };
        list(pods)
    })
    .await
    .unwrap();
    deleted.store(true, Ordering::Relaxed);
    assert_eq!(forwards[0].route.gone().await, "pod \"web\" is gone");
}

#[tokio::test]
async fn any_kind_with_a_pod_selector_is_found_by_discovery() {
    let forwards = resolve(&["ro/web", "http"], |asked| match asked.path.as_str() {
        "/api" => Answer::Json(200, json!({"metadata": {}, "items": []})),
        "/apis" => Answer::Json(
            200,
            json!({"metadata": {}, "items": [{"metadata": {"name": "argoproj.io"}, "versions": [
            {"version": "v1alpha1", "resources": [{"resource": "rollouts", "singularResource": "rollout", "shortNames": ["ro"],
                "scope": "Namespaced", "verbs": ["get"], "responseKind": {"group": "", "version": "", "kind": "Rollout"}}]}]}]}),
        ),
        "/apis/argoproj.io/v1alpha1/namespaces/dev/rollouts/web" => Answer::Json(
            200,
            json!({
            "apiVersion": "argoproj.io/v1alpha1", "kind": "Rollout", "metadata": {"name": "web"},
            "spec": {"selector": {"matchLabels": {"app": "web"}}, "workloadRef": {"name": "x"}}}),
        ),
        _ if asked.is_watch() => Answer::Watch(vec![]),
        _ => list(vec![pod("web-1", "10.0.0.1", 8080)]),
    })
    .await
    .unwrap();
    assert_eq!(forwards[0].route.destination().await, Ok(ip("10.0.0.1", 8080)));
}

#[tokio::test]
async fn a_node_is_dialled_at_its_internal_address() {
    let forwards = resolve(&["node/n1", "10250"], |asked| {
        assert!(asked.is("GET", "/api/v1/nodes/n1"));
        Answer::Json(
            200,
            json!({"metadata": {"name": "n1"}, "status": {"addresses": [
            {"type": "Hostname", "address": "n1"}, {"type": "InternalIP", "address": "10.77.0.1"}]}}),
        )
    })
    .await
    .unwrap();
    assert_eq!(forwards[0].route.destination().await, Ok(ip("10.77.0.1", 10250)));
}

#[tokio::test]
async fn what_is_not_there_is_said_with_where_to_look() {
    let error = resolve(&["svc/web", "80"], |_| {
        failure(404, "services \"web\" not found", json!({"kind": "services", "name": "web"}))
    })
    .await
    .unwrap_err();
    assert_eq!(error.to_string(), "services \"web\" not found in namespace \"dev\"");

    let error =
        resolve(
            &["pod/web", "80"],
            |asked| {
                if asked.is_watch() { Answer::Watch(vec![]) } else { list(vec![]) }
            },
        )
        .await
        .unwrap_err();
    assert_eq!(error.to_string(), "pods \"web\" not found in namespace \"dev\"");

    let error = resolve(&["widgets/x", "80"], |_| Answer::Json(200, json!({"metadata": {}, "items": []})))
        .await
        .unwrap_err();
    assert_eq!(error.to_string(), "the cluster has no resource type \"widgets\"");

    let error = resolve(&["svc/web", "81"], |_| {
        Answer::Json(
            200,
            json!({"metadata": {"name": "web"}, "spec": {"clusterIP": "10.96.0.7", "ports": [{"port": 80}]}}),
        )
    })
    .await
    .unwrap_err();
    assert_eq!(error.to_string(), "svc/web has no port 81; it has 80/tcp");
    assert_eq!(error.hint(), "for example: kubectl relay svc/web :80");
}

#[tokio::test(start_paused = true)]
async fn a_service_that_is_created_anew_is_dialled_at_its_new_address() {
    let addresses = ["10.96.0.7", "", "10.96.0.9"];
    let step = Arc::new(AtomicUsize::new(0));
    let current = Arc::clone(&step);
    let forwards = resolve(&["svc/web", "80"], move |_| match addresses[current.load(Ordering::SeqCst)] {
        "" => failure(404, "services \"web\" not found", json!({"kind": "services", "name": "web"})),
        address => {
            let ports = json!([{"name": "http", "port": 80}]);
            Answer::Json(
                200,
                json!({"metadata": {"name": "web"}, "spec": {"clusterIP": address, "ports": ports}}),
            )
        }
    })
    .await
    .unwrap();
    let route = &forwards[0].route;
    assert_eq!(route.destination().await.unwrap(), ip("10.96.0.7", 80));

    // Deleted: a connection fails, and from then on others wait.
    step.store(1, Ordering::SeqCst);
    route.doubt();
    while route.choose() != Choice::Wait {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // Back, with nobody but who waits for it to notice.
    step.store(2, Ordering::SeqCst);
    let since = tokio::time::Instant::now();
    assert_eq!(route.destination().await.unwrap(), ip("10.96.0.9", 80));
    assert!(since.elapsed() <= Duration::from_secs(2), "{:?}", since.elapsed());
}
