//! Without an agent: each connection by its pod's own port-forward, where no agent may be had or a port answers on the
//! pod's loopback only.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that fails here should panic")]

use std::{
    io::{self, Read as _, Write as _},
    net::{Shutdown, SocketAddr},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use relay_tests::{
    Namespace, Relay, Signal, connect, download, echo_once, http_get, kubectl, kubectl_apply,
    receive_pattern, send_pattern, wait_until, with_verbs,
};
use relay_workload::MARKER;

const SOON: Duration = Duration::from_secs(10);

/// What `kubectl port-forward pod/NAME` needs.
const LEAST: &str = r#"[{"apiGroups":[""],"resources":["pods"],"verbs":["get"]},
    {"apiGroups":[""],"resources":["pods/portforward"],"verbs":["create"]}]"#;
/// What it needs for a Service.
const LEAST_FOR_SERVICES: &str = r#"[{"apiGroups":[""],"resources":["pods"],"verbs":["get","list"]},
    {"apiGroups":[""],"resources":["services"],"verbs":["get"]},
    {"apiGroups":[""],"resources":["pods/portforward"],"verbs":["get","create"]}]"#;

/// A namespace with a pod `web`, its Service, and a Deployment `app` with its Service.
fn namespace(purpose: &str) -> Namespace {
    let namespace = Namespace::new(purpose, &[]);
    let container = r#"{"name":"workload","image":"relay.test/workload:1","imagePullPolicy":"IfNotPresent",
        "args":["serve"],"ports":[{"name":"http","containerPort":8080},{"name":"echo","containerPort":7007}]}"#;
    let pod = |labels: &str| {
        format!(
            r#""metadata":{{"name":"web","labels":{{"app":"{labels}"}}}},"spec":{{"terminationGracePeriodSeconds":1,
               "containers":[{container}]}}"#
        )
    };
    let manifest = format!(
        r#"{{"apiVersion":"v1","kind":"List","items":[
        {{"apiVersion":"v1","kind":"Pod",{web}}},
        {{"apiVersion":"v1","kind":"Service","metadata":{{"name":"web"}},"spec":{{"selector":{{"app":"web"}},
          "ports":[{{"name":"page","port":80,"targetPort":"http"}},{{"name":"echo","port":7,"targetPort":7007}},
                   {{"name":"dns","port":53,"protocol":"UDP"}}]}}}},
        {{"apiVersion":"v1","kind":"Service","metadata":{{"name":"headless"}},"spec":{{"clusterIP":"None",
          "selector":{{"app":"web"}},"ports":[{{"name":"page","port":80,"targetPort":"http"}}]}}}},
        {{"apiVersion":"v1","kind":"Service","metadata":{{"name":"bare"}},"spec":{{"ports":[{{"port":80}}]}}}},
        {{"apiVersion":"apps/v1","kind":"Deployment","metadata":{{"name":"app"}},"spec":{{"replicas":1,
          "selector":{{"matchLabels":{{"app":"app"}}}},"template":{{{app}}}}}}}]}}"#,
        web = pod("web"),
        app = pod("app"),
    );
    kubectl_apply(namespace.name(), &manifest);
    kubectl(&["wait", "pod/web", "-n", namespace.name(), "--for=condition=Ready", "--timeout=60s"]);
    kubectl(&["rollout", "status", "deployment/app", "-n", namespace.name(), "--timeout=60s"]);
    namespace
}

/// Starts the plugin without an agent, with one forward.
fn start(namespace: &Namespace, target: &str, port: &str) -> (Relay, SocketAddr) {
    Relay::start(&["-n", namespace.name(), "--agent-source", "none", target, port])
}

fn serves(relay: &Relay, address: SocketAddr) {
    let page = http_get(address, "/").unwrap_or_else(|error| panic!("{error}; {}", relay.stderr()));
    assert!(page.contains(MARKER), "{page}");
}

fn refused(namespace: &Namespace, kubeconfig: &Path, args: &[&str], code: i32, words: &[&str]) {
    let relay = Relay::spawn_as(kubeconfig, &[&["-n", namespace.name()], args].concat());
    let exited = relay.wait(Duration::from_secs(20));
    assert_eq!(exited.code, Some(code), "{args:?}: {}", exited.stderr);
    assert_eq!(exited.stdout, "", "nothing is bound: {args:?}");
    for word in words {
        assert!(exited.stderr.contains(word), "{args:?}: {word:?} is missing in:\n{}", exited.stderr);
    }
}

#[test]
fn who_may_only_port_forward_gets_tcp_to_pods_and_is_told_what_is_missing() {
    let namespace = namespace("least");
    let name = namespace.name();
    let user = namespace.user("least", LEAST);
    let (relay, address) = Relay::start_as(&user, &["-n", name, "pod/web", ":echo"]);
    for round in 0..3 {
        echo_once(&mut connect(address), format!("hello {round}").as_bytes()).unwrap();
    }
    let said = relay.stderr();
    for word in ["not allowed to create jobs.batch", "TCP to pods only", "no UDP", "kind: Role", "[jobs]"] {
        assert!(said.contains(word), "{word:?} is missing in:\n{said}");
    }
    assert_eq!(said.matches("warning:").count(), 1, "{said}");
    assert_eq!(namespace.agents(), "");
    // Its end is noticed by asking.
    kubectl(&["delete", "pod", "web", "-n", name, "--wait=false"]);
    relay.wait_stderr("pod \"web\" is gone", Duration::from_secs(20));
    let exited = relay.stop(Signal::INT);
    assert_eq!(exited.code, Some(0), "{}", exited.stderr);

    let needs_an_agent = [
        "not allowed to create jobs.batch",
        "TCP to pods only",
        "host/web.default is not that",
        "kind: Role",
    ];
    refused(&namespace, &user, &["host/web.default", ":80"], 1, &needs_an_agent);
}

#[test]
fn where_a_quota_leaves_no_room_for_an_agent_there_is_none() {
    let namespace = namespace("quota");
    let name = namespace.name();
    kubectl(&["create", "quota", "none", "-n", name, "--hard=count/jobs.batch=0"]);
    let (relay, address) = Relay::start(&["-n", name, "svc/web", ":echo"]);
    echo_once(&mut connect(address), b"hello").unwrap();
    assert!(relay.stderr().contains("a quota is used up"), "{}", relay.stderr());
    let args = ["--agent-source", "image", "svc/web", ":echo"];
    refused(&namespace, &relay_tests::admin_kubeconfig(), &args, 1, &["a quota is used up"]);
}

#[test]
fn a_services_port_is_that_of_its_pods_and_a_deployment_is_followed() {
    let namespace = namespace("mapped");
    let name = namespace.name();
    let user = namespace.user("services", LEAST_FOR_SERVICES);
    for (target, port) in [("svc/web", ":80"), ("svc/web", ":page"), ("svc/headless", ":80")] {
        let (relay, address) = Relay::start_as(&user, &["-n", name, target, port]);
        serves(&relay, address);
    }
    let (relay, address) = start(&namespace, "deploy/app", ":http");
    serves(&relay, address);
    let before = kubectl(&["get", "pods", "-n", name, "-l", "app=app", "-o", "name"]);
    // Until it is gone it may still take a connection.
    kubectl(&["delete", &before, "-n", name, "--wait=true"]);
    serves(&relay, address);
}

#[test]
fn what_needs_an_agent_is_said_before_anything_is_bound() {
    let namespace = namespace("misuse");
    let admin = relay_tests::admin_kubeconfig();
    let none = |target: &'static str, port: &'static str| ["--agent-source", "none", target, port];
    let needs = |target: &'static str| [target, "needs an agent", "leave --agent-source none away"];
    refused(&namespace, &admin, &none("host/web.default", ":80"), 2, &needs("host/web.default"));
    refused(&namespace, &admin, &none("ip/10.0.0.1", ":80"), 2, &needs("ip/10.0.0.1"));
    refused(&namespace, &admin, &none("node/any", ":80"), 2, &needs("node/any"));
    refused(&namespace, &admin, &none("pod/web", ":53@udp"), 2, &needs("pod/web"));
    refused(&namespace, &admin, &none("svc/web", ":dns"), 2, &needs("svc/web"));
    refused(&namespace, &admin, &none("svc/bare", ":80"), 1, &["svc/bare selects no pods"]);
    let blind = namespace.user("blind", r#"[{"apiGroups":[""],"resources":["pods"],"verbs":["get"]}]"#);
    let may_not = ["pods/portforward", "not allowed to get and create", "kind: Role", "verbs: [get, create]"];
    let relay = Relay::spawn_as(&blind, &[&["-n", namespace.name()], &none("pod/web", ":80")[..]].concat());
    let exited = relay.wait(Duration::from_secs(20));
    assert_eq!(exited.code, Some(1), "{}", exited.stderr);
    for word in may_not {
        assert!(exited.stderr.contains(word), "{word:?} is missing in:\n{}", exited.stderr);
    }
}

#[test]
fn connections_do_not_touch_each_other_and_every_byte_arrives() {
    let namespace = namespace("parallel");
    let name = namespace.name();
    let args = ["-n", name, "--agent-source=none", "pod/web", ":7007@tcp", ":7010", ":7012"];
    let (relay, echo) = Relay::start(&args);
    let (source, reset) = (relay.next_forward(), relay.next_forward());
    thread::scope(|scope| {
        let downloads: Vec<_> = (0..4).map(|_| scope.spawn(move || download(source, 8 << 20))).collect();
        let echoes: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(move || -> io::Result<()> {
                    let mut stream = connect(echo);
                    let mut back = stream.try_clone()?;
                    let sending = thread::spawn(move || send_pattern(&mut stream, 2 << 20));
                    let mut received = vec![0; 2 << 20];
                    back.read_exact(&mut received)?;
                    sending.join().expect("no panic")?;
                    let mut pattern = relay_workload::Pattern::new();
                    let expected = pattern.take(2 << 20);
                    if received == expected { Ok(()) } else { Err(io::Error::other("other bytes")) }
                })
            })
            .collect();
        for _ in 0..3 {
            let mut stream = connect(reset);
            stream.write_all(b"go away").unwrap();
            let error = stream.read(&mut [0; 1]).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "never a clean end");
        }
        for outcome in downloads.into_iter().chain(echoes) {
            outcome.join().unwrap().unwrap();
        }
    });
    serves_echo(echo);
}

fn serves_echo(address: SocketAddr) {
    echo_once(&mut connect(address), b"still there").unwrap();
}

#[test]
fn a_client_that_ends_its_direction_gets_its_whole_reply() {
    let namespace = namespace("half");
    let (_relay, address) = start(&namespace, "pod/web", ":7010");
    // kubectl's way ends such a reply after a second, and here it takes longer to be read.
    let mut stream = connect(address);
    stream.write_all(b"1048576\n").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut first = [0; 1];
    stream.peek(&mut first).unwrap();
    receive_pattern(&mut stream, 1 << 20).unwrap();

    let (_relay, slow) = start(&namespace, "pod/web", ":7014");
    let mut stream = connect(slow);
    stream.write_all(b"30720\n").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let since = Instant::now();
    receive_pattern(&mut stream, 30_720).unwrap();
    assert!(since.elapsed() > Duration::from_secs(2), "30 pieces, 100 ms apart");
}

#[test]
fn clients_that_leave_without_a_word_or_in_the_middle_leave_nothing_behind() {
    let namespace = namespace("leave");
    let (relay, address) = start(&namespace, "pod/web", ":7010");
    download(address, 1).unwrap();
    let before = relay.descriptors();
    for _ in 0..10 {
        drop(connect(address));
    }
    let mut stream = connect(address);
    stream.write_all(b"41943040\n").unwrap();
    stream.read_exact(&mut vec![0; 1 << 20]).unwrap();
    drop(stream);
    download(address, 1 << 20).unwrap();
    wait_until("their connections are closed", SOON, || relay.descriptors() <= before + 1);
}

#[test]
fn a_port_on_the_pods_loopback_is_reached_in_every_mode() {
    let namespace = namespace("loopback");
    let name = namespace.name();
    // The health server of Kubernetes' own DNS would do; this is a pod whose only listener is on its loopback.
    let container = r#"{"name":"workload","image":"relay.test/workload:1","imagePullPolicy":"IfNotPresent",
        "args":["serve","--loopback"],"ports":[{"name":"http","containerPort":8080}]}"#;
    kubectl_apply(
        name,
        &format!(
            r#"{{"apiVersion":"v1","kind":"List","items":[
            {{"apiVersion":"apps/v1","kind":"Deployment","metadata":{{"name":"inner"}},"spec":{{"replicas":1,
              "selector":{{"matchLabels":{{"app":"inner"}}}},"template":{{"metadata":{{"labels":{{"app":"inner"}}}},
              "spec":{{"terminationGracePeriodSeconds":1,"containers":[{container}]}}}}}}}},
            {{"apiVersion":"v1","kind":"Service","metadata":{{"name":"inner"}},"spec":{{"selector":{{"app":"inner"}},
              "ports":[{{"name":"page","port":80,"targetPort":"http"}}]}}}}]}}"#
        ),
    );
    kubectl(&["rollout", "status", "deployment/inner", "-n", name, "--timeout=60s"]);
    let pod = kubectl(&["get", "pods", "-n", name, "-l", "app=inner", "-o", "name"]);

    let args = ["-n", name, &pod, ":8080", "deploy/inner", ":http", "svc/inner", ":page", "pod/web", ":7099"];
    let (relay, by_pod) = Relay::start(&args);
    let (by_deployment, by_service, closed) =
        (relay.next_forward(), relay.next_forward(), relay.next_forward());
    for address in [by_pod, by_deployment, by_service] {
        for _ in 0..2 {
            serves(&relay, address);
        }
    }
    let said = relay.stderr();
    assert_eq!(said.matches("answers on its pod's loopback only").count(), 3, "{said}");
    let error = connect(closed).read(&mut [0; 1]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    relay.wait_stderr("nothing listens on port 7099", SOON);

    // What is sent first is neither lost nor doubled, also where it is more than goes out before the refusal.
    let mut stream = connect(by_pod);
    let body = vec![b'x'; 300_000];
    write!(
        stream,
        "POST /sink HTTP/1.1\r\nHost: web\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    )
    .unwrap();
    stream.write_all(&body).unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    assert!(reply.starts_with("HTTP/1.1 200"), "{reply}");

    kubectl(&["delete", &pod, "-n", name, "--wait=false"]);
    wait_until("the next pod serves", Duration::from_secs(20), || http_get(by_service, "/").is_ok());
    assert!(http_get(by_deployment, "/").unwrap().contains(MARKER));

    let (relay, address) = start(&namespace, "svc/inner", ":80");
    serves(&relay, address);

    // An agent, and no right to port-forward where the target is.
    let agents = Namespace::new("agents", &[]);
    let user = agents.user("dev", &with_verbs("pods/portforward", &["get", "create"]));
    kubectl_apply(
        name,
        &format!(
            r#"{{"apiVersion":"v1","kind":"List","items":[
            {{"apiVersion":"rbac.authorization.k8s.io/v1","kind":"Role","metadata":{{"name":"look"}},"rules":[
              {{"apiGroups":["","apps"],"resources":["pods","deployments"],"verbs":["get","list","watch"]}}]}},
            {{"apiVersion":"rbac.authorization.k8s.io/v1","kind":"RoleBinding","metadata":{{"name":"look"}},
              "roleRef":{{"apiGroup":"rbac.authorization.k8s.io","kind":"Role","name":"look"}},
              "subjects":[{{"apiGroup":"rbac.authorization.k8s.io","kind":"User","name":"dev-{}"}}]}}]}}"#,
            agents.name()
        ),
    );
    let args = ["-n", name, "--server.namespace", agents.name(), "deploy/inner", ":http"];
    let (relay, address) = Relay::start_as(&user, &args);
    connect(address).read(&mut [0; 1]).unwrap_err();
    relay.wait_stderr("refuses the connection", SOON);
    for word in ["loopback was not tried", "pods/portforward", "kind: Role", name] {
        assert!(relay.stderr().contains(word), "{word:?} is missing in:\n{}", relay.stderr());
    }
}
