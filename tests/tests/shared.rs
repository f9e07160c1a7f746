//! An agent that a team shares: who may use it and what that takes, what its users notice when a replica goes or all are
//! rolled, and what the rest of the cluster sees of it.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that fails here should panic")]

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use relay_tests::{
    Namespace, Relay, Signal, Took, connect, documented_rules_of, echo_once, in_time, kubectl, repository,
    shared_agent as agent, shared_agent_status as status, shared_agent_sum, try_kubectl,
    try_shared_agent as try_agent, udp_echo, wait_until,
};
use serde_json::json;

const TARGET: &str = "host/web.default.svc.cluster.local";
const RESTRICTED: &str = "pod-security.kubernetes.io/enforce=restricted";
const POD: &str = "app.kubernetes.io/component=shared-agent";

/// The replica that holds the one session.
fn in_use(namespace: &str) -> String {
    let status = status(namespace);
    let replicas = status["replicas"].as_array().unwrap();
    let mut with_session = replicas.iter().filter(|replica| replica["sessions"].as_u64() > Some(0));
    with_session.next().unwrap_or_else(|| panic!("no session: {status}"))["pod"].as_str().unwrap().to_owned()
}

/// What there is in the namespace besides what every namespace has.
fn objects(namespace: &str) -> String {
    let kinds = "deployments,pods,jobs,configmaps,serviceaccounts,roles,rolebindings,networkpolicies,poddisruptionbudgets";
    let all = kubectl(&["get", kinds, "-n", namespace, "-o", "name"]);
    let of_its_own = |line: &&str| !line.ends_with("/kube-root-ca.crt") && *line != "serviceaccount/default";
    all.lines().filter(of_its_own).collect::<Vec<_>>().join("\n")
}

/// When a connection began, and what came of it: how long it took, or why not.
type Attempt = (Instant, Result<Duration, String>);

/// New connections, one after the other, each with an echo.
struct Newcomers {
    stop: Arc<AtomicBool>,
    tries: Arc<Mutex<Vec<Attempt>>>,
    thread: JoinHandle<()>,
}

impl Newcomers {
    fn start(address: SocketAddr) -> Self {
        let (stop, tries) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let (stopped, record) = (Arc::clone(&stop), Arc::clone(&tries));
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let begun = Instant::now();
                let result = come(address).map(|()| begun.elapsed()).map_err(|error| error.to_string());
                record.lock().unwrap().push((begun, result));
                thread::sleep(Duration::from_millis(10));
            }
        });
        Self { stop, tries, thread }
    }

    /// Waits until one that began after `since` has been served.
    fn served_after(&self, since: Instant, limit: Duration) {
        wait_until("a new connection is served", limit, || {
            self.tries.lock().unwrap().iter().any(|(begun, result)| *begun > since && result.is_ok())
        });
    }

    /// How many were served, the longest that one took, and what went wrong.
    fn finish(self) -> (usize, Duration, Vec<String>) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the thread of new connections");
        let tries = self.tries.lock().unwrap();
        let longest = tries.iter().filter_map(|(_, result)| result.clone().ok()).max().unwrap_or_default();
        let failed: Vec<_> = tries.iter().filter_map(|(_, result)| result.clone().err()).collect();
        (tries.len() - failed.len(), longest, failed)
    }
}

fn come(address: SocketAddr) -> io::Result<()> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    echo_once(&mut stream, b"here I am")
}

#[test]
fn who_has_only_the_shared_role_forwards_both_protocols_and_creates_nothing() {
    let namespace = Namespace::new("team", &[RESTRICTED]);
    let name = namespace.name();
    let user = format!("jane-{name}");
    let said = agent(name, &["install", "--subject", &format!("user:{user}")]);
    assert!(said.contains("deployment.apps/relay-agent created"), "{said}");
    assert!(
        agent(name, &["install", "--subject", &format!("user:{user}")])
            .contains("deployment.apps/relay-agent unchanged")
    );
    let before = objects(name);
    let kubeconfig = namespace.kubeconfig_of(&user);

    let args = ["--agent-source=shared", "--server.namespace", name, TARGET, ":7007@tcp", ":7007@udp"];
    let (relay, tcp) = Relay::start_as(&kubeconfig, &args);
    let shared = relay.age();
    let udp = relay.next_forward();
    echo_once(&mut connect(tcp), b"over TCP").unwrap();
    udp_echo(udp, 1_000).unwrap();
    let counts = status(name);
    assert_eq!((counts["ready"].as_u64(), counts["wanted"].as_u64()), (Some(2), Some(2)), "{counts}");
    assert_eq!(shared_agent_sum(name, "sessions"), 1);
    assert!(shared_agent_sum(name, "bytes") >= 2_016);
    let exited = relay.stop(Signal::INT);
    assert_eq!((exited.code, exited.stderr.as_str()), (Some(0), ""));
    assert_eq!(objects(name), before, "the run has made and removed nothing");

    // Found without being asked for, and said.
    let relay = Relay::spawn_as(&kubeconfig, &["--server.namespace", name, TARGET, ":7007@tcp"]);
    echo_once(&mut connect(relay.next_forward()), b"by itself").unwrap();
    let auto = relay.age();
    relay.wait_stderr(&format!("shared agent in namespace \"{name}\""), Duration::from_secs(1));
    println!("first Forwarding line after {shared:?}, with auto after {auto:?}");

    let own = ["--agent-source=image", "--server.namespace", name, TARGET, ":7007@tcp"];
    let exited = Relay::spawn_as(&kubeconfig, &own).wait(Duration::from_secs(20));
    assert_eq!(exited.code, Some(1), "{}", exited.stderr);
    assert!(exited.stderr.contains("not allowed to create jobs"), "{}", exited.stderr);
}

#[test]
fn without_the_shared_role_the_right_that_is_missing_is_named() {
    let namespace = Namespace::new("outsiders", &[]);
    let name = namespace.name();
    agent(name, &["install", "--replicas=1"]);
    let args = ["--agent-source=shared", "--server.namespace", name, TARGET, ":7007@tcp"];
    let rules = documented_rules_of("manifests/role-shared.yaml");
    let of = |resource: &str| {
        rules.iter().filter(|rule| rule["resources"][0] == resource).cloned().collect::<Vec<_>>()
    };
    let cases = [("nobody", vec![], "list pods"), ("half", of("pods"), "pods/portforward")];
    for (user, rules, missing) in cases {
        let kubeconfig = namespace.user(user, &json!(rules).to_string());
        in_time(|| {
            let exited = Relay::spawn_as(&kubeconfig, &args).wait(Duration::from_secs(30));
            assert_eq!(exited.code, Some(1), "{}", exited.stderr);
            for word in [missing, "kind: Role", "name: kubectl-relay-shared", &format!("namespace: {name}")] {
                assert!(exited.stderr.contains(word), "{word:?} is missing in:\n{}", exited.stderr);
            }
            assert!(!exited.stderr.contains("jobs"), "{}", exited.stderr);
            [Took::new(format!("{user}: {missing} was named"), exited.took, Duration::from_secs(3))]
        });
    }
    // Watching only helps.
    let fewer = json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]}, of("pods/portforward")[0]]);
    let kubeconfig = namespace.user("fewer", &fewer.to_string());
    let (relay, address) = Relay::start_as(&kubeconfig, &args);
    echo_once(&mut connect(address), b"no watch").unwrap();
    assert_eq!(relay.stop(Signal::INT).stderr, "");

    let exited = Relay::spawn(&["--agent-source=shared", "-n", "default", TARGET, ":80"])
        .wait(Duration::from_secs(20));
    assert_eq!(exited.code, Some(1), "{}", exited.stderr);
    assert!(exited.stderr.contains("kubectl relay agent install"), "{}", exited.stderr);
}

#[test]
fn another_replica_takes_new_connections_when_one_goes_and_while_all_are_rolled() {
    let namespace = Namespace::new("replicas", &[]);
    let name = namespace.name();
    agent(name, &["install", "--drain-grace=20s"]);
    let args = ["-o", "json", "--agent-source=shared", "--server.namespace", name, TARGET, ":7007@tcp"];
    let (relay, address) = Relay::start(&args);
    let mut old = connect(address);
    echo_once(&mut old, b"old").unwrap();

    let newcomers = Newcomers::start(address);
    newcomers.served_after(Instant::now(), Duration::from_secs(10));
    let pod = in_use(name);
    let deleted = Instant::now();
    kubectl(&["delete", "pod", &pod, "-n", name, "--wait=false"]);
    let draining = relay.wait_state("draining", deleted, Duration::from_secs(10));
    let ready = relay.wait_state("ready", draining.at, Duration::from_secs(10));
    newcomers.served_after(ready.at, Duration::from_secs(10));
    echo_once(&mut old, b"still old").expect("a connection may finish");
    let (served, longest, failed) = newcomers.finish();
    println!(
        "one replica deleted: told after {:?}, another one serves {:?} later; {served} new connections, none took longer \
         than {longest:?}; failed: {failed:?}",
        draining.at - deleted,
        ready.at - draining.at
    );
    assert!(failed.is_empty(), "{failed:?}; {}", relay.stderr());
    drop(old);

    // What is gone without a word resets what was open there, and no more.
    kubectl(&["rollout", "status", "deployment/relay-agent", "-n", name, "--timeout=60s"]);
    let mut old = connect(address);
    echo_once(&mut old, b"old").unwrap();
    let pod = in_use(name);
    let lost = Instant::now();
    kubectl(&["delete", "pod", &pod, "-n", name, "--force", "--grace-period=0", "--wait=false"]);
    let mut end = [0];
    let ended = old.write_all(b"x").and_then(|()| old.read(&mut end).and_then(|_| old.read(&mut end)));
    assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    let reset = lost.elapsed();
    wait_until("new connections work", Duration::from_secs(10), || come(address).is_ok());
    println!(
        "one replica lost: its connections reset after {reset:?}, new ones served after {:?}",
        lost.elapsed()
    );

    kubectl(&["rollout", "status", "deployment/relay-agent", "-n", name, "--timeout=60s"]);
    let pods = kubectl(&["get", "pods", "-n", name, "-l", POD, "-o", "name"]);
    let newcomers = Newcomers::start(address);
    newcomers.served_after(Instant::now(), Duration::from_secs(10));
    let rolled = Instant::now();
    let said = agent(name, &["upgrade", "--max-streams=900"]);
    let took = rolled.elapsed();
    assert!(said.contains("deployment.apps/relay-agent configured"), "{said}");
    let left = || {
        let now = kubectl(&["get", "pods", "-n", name, "-l", POD, "-o", "name"]);
        pods.lines().any(|pod| now.contains(pod))
    };
    wait_until("the old replicas are gone", Duration::from_secs(60), || !left());
    newcomers.served_after(Instant::now(), Duration::from_secs(10));
    let (served, longest, failed) = newcomers.finish();
    println!(
        "rolled in {took:?}, old replicas gone after {:?}; {served} new connections, none took longer than {longest:?}; \
         failed: {failed:?}",
        rolled.elapsed()
    );
    assert!(failed.is_empty(), "{failed:?}; {}", relay.stderr());
    let spec = "jsonpath={.spec.template.spec.containers[0].args}";
    let args = kubectl(&["get", "deployment/relay-agent", "-n", name, "-o", spec]);
    assert!(args.contains("--max-streams=900") && args.contains("--drain-grace=20s"), "{args}");
}

#[test]
fn the_kustomize_base_can_be_applied_and_uninstall_takes_just_that_away() {
    let namespace = Namespace::new("base", &[RESTRICTED]);
    let name = namespace.name();
    kubectl(&["create", "configmap", "somebodys", "-n", name]);
    let folder = tempfile::tempdir().unwrap();
    for file in ["agent.yaml", "kustomization.yaml"] {
        let base = folder.path().join("base");
        std::fs::create_dir_all(&base).unwrap();
        std::fs::copy(repository("manifests/shared").join(file), base.join(file)).unwrap();
    }
    let overlay = format!(
        "namespace: {name}\nresources: [base]\npatches:\n- patch: |-\n    $patch: delete\n    apiVersion: v1\n    \
         kind: Namespace\n    metadata: {{name: kubectl-relay}}\n"
    );
    std::fs::write(folder.path().join("kustomization.yaml"), overlay).unwrap();
    kubectl(&["apply", "-k", folder.path().to_str().unwrap()]);
    kubectl(&["rollout", "status", "deployment/relay-agent", "-n", name, "--timeout=60s"]);
    let (relay, address) =
        Relay::start(&["--agent-source=shared", "--server.namespace", name, TARGET, ":7007@tcp"]);
    echo_once(&mut connect(address), b"kustomized").unwrap();
    drop(relay);

    let said = agent(name, &["uninstall"]);
    assert!(said.contains("deployment.apps/relay-agent deleted"), "{said}");
    assert_eq!(objects(name), "configmap/somebodys");
    let output = try_agent(name, &["status"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("there is no shared agent"), "{output:?}");
}

#[test]
fn a_namespace_that_install_has_made_goes_with_it_unless_it_is_used() {
    let name = format!("made-{}", std::process::id());
    agent(&name, &["install", "--replicas=1"]);
    kubectl(&["create", "configmap", "somebodys", "-n", &name]);
    agent(&name, &["uninstall"]);
    assert_eq!(objects(&name), "configmap/somebodys");
    kubectl(&["delete", "configmap", "somebodys", "-n", &name]);
    agent(&name, &["uninstall"]);
    let there = kubectl(&["get", "namespace", &name, "--ignore-not-found", "-o", "name"]);
    assert_eq!(there, "");
}

#[test]
fn the_api_server_takes_every_manifest() {
    let made = try_kubectl(&["create", "namespace", "kubectl-relay"]).status.success();
    let apply = |flag: &str, path: &Path| {
        let output = try_kubectl(&["apply", "--dry-run=server", flag, path.to_str().unwrap()]);
        assert!(output.status.success(), "{}: {}", path.display(), String::from_utf8_lossy(&output.stderr));
        println!("{}", String::from_utf8_lossy(&output.stdout));
    };
    let mut files = 0;
    for entry in std::fs::read_dir(repository("manifests")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "yaml") {
            apply("-f", &path);
            files += 1;
        }
    }
    assert!(files >= 3, "{files}");
    apply("-k", &repository("manifests/shared"));

    let namespace = Namespace::new("dry", &[]);
    let printed =
        agent(namespace.name(), &["manifest", "--user-group=developers", "--allow=10.0.0.0/8", "--audit"]);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), printed).unwrap();
    apply("-f", file.path());
    let said = agent(namespace.name(), &["install", "--dry-run=server", "--user-group=developers"]);
    assert!(said.contains("deployment.apps/relay-agent created (server dry run)"), "{said}");
    assert_eq!(objects(namespace.name()), "");
    if made {
        kubectl(&["delete", "namespace", "kubectl-relay", "--wait=false"]);
    }
}

#[test]
fn a_port_scan_of_the_agents_pod_finds_nothing() {
    let namespace = Namespace::new("scanned", &[]);
    let name = namespace.name();
    agent(name, &["install", "--replicas=1"]);
    let address = |namespace: &str, selector: &str| {
        let path = "jsonpath={.items[0].status.podIP}";
        kubectl(&["get", "pods", "-n", namespace, "-l", selector, "-o", path])
    };
    let scan = |pod: &str, address: &str| {
        let run =
            ["run", pod, "-n", name, "--image=relay.test/workload:1", "--image-pull-policy=IfNotPresent"];
        kubectl(
            &[&run[..], &["--restart=Never", "--command", "--", "/relay-workload", "scan", address]].concat(),
        );
        let done = "--for=jsonpath={.status.phase}=Succeeded";
        kubectl(&["wait", &format!("pod/{pod}"), "-n", name, done, "--timeout=90s"]);
        kubectl(&["logs", pod, "-n", name])
    };
    // A scanner that finds nothing anywhere would prove nothing.
    assert!(scan("web", &address("default", "app=web")).contains("open: 7007"));
    assert_eq!(scan("agent", &address(name, POD)), "tried: 65535");
}
