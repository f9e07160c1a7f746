//! The target rolls out anew while requests come. Through a Service nobody notices where nobody would inside the
//! cluster; straight to the workload's pods each failure is counted and told.

use std::io::Read as _;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use relay_tests::{Namespace, Relay, beside_others, http_get, kubectl, kubectl_apply};

const PER_SECOND: u32 = 20;
/// Requests go on this long after the rollout, as endpoints that have gone may be used late.
const AFTER: Duration = Duration::from_secs(2);

/// A cluster that fails requests by itself may be asked this often.
const TRIES: usize = 3;

/// Two pods that are taken out of service before they stop serving.
const WORKLOAD: &str = r#"{"apiVersion": "v1", "kind": "List", "items": [
  {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "rolled"}, "spec": {
    "replicas": 2,
    "selector": {"matchLabels": {"app": "rolled"}},
    "template": {"metadata": {"labels": {"app": "rolled"}}, "spec": {
      "terminationGracePeriodSeconds": 15,
      "containers": [{
        "name": "workload", "image": "relay.test/workload:1", "imagePullPolicy": "IfNotPresent",
        "args": ["serve"],
        "ports": [{"name": "http", "containerPort": 8080}],
        "readinessProbe": {"httpGet": {"path": "/healthz", "port": "http"}, "periodSeconds": 1, "failureThreshold": 1, "timeoutSeconds": 10},
        "lifecycle": {"preStop": {"sleep": {"seconds": 5}}}
      }]
    }}
  }},
  {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "rolled"}, "spec": {
    "selector": {"app": "rolled"}, "ports": [{"name": "http", "port": 80, "targetPort": "http"}]
  }}
]}"#;

/// Requests through the relay at a steady rate.
struct Requests {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<(usize, Vec<String>)>,
}

impl Requests {
    fn start(address: std::net::SocketAddr) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = thread::spawn(move || {
            let (begun, mut requests) = (Instant::now(), Vec::new());
            while !stopped.load(Ordering::Relaxed) {
                requests.push(thread::spawn(move || http_get(address, "/")));
                let next = begun + Duration::from_secs(1) / PER_SECOND * requests.len() as u32;
                thread::sleep(next.saturating_duration_since(Instant::now()));
            }
            let count = requests.len();
            let ends = requests.into_iter().map(|request| request.join().expect("a request's thread"));
            (count, ends.filter_map(Result::err).map(|error| error.to_string()).collect())
        });
        Self { stop, thread }
    }

    fn finish(self) -> (usize, Vec<String>) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the requesting thread")
    }
}

/// The same requests from a pod, without a relay.
struct Control(Child);

impl Control {
    fn start(address: &str) -> Self {
        let mut command = Command::new("kubectl");
        command.args(["exec", "-i", "pod-echo", "--", "/relay-workload", "probe", address]);
        command.args(["--per-second", &PER_SECOND.to_string()]);
        Self(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("kubectl runs"))
    }

    fn finish(mut self) -> String {
        drop(self.0.stdin.take());
        let mut said = String::new();
        self.0.stdout.take().unwrap().read_to_string(&mut said).unwrap();
        assert!(self.0.wait().unwrap().success(), "the control said {said}");
        said
    }
}

#[test]
fn not_one_request_to_a_service_fails() {
    let (count, failures, control, stderr) = undisturbed("svc/rolled");
    println!("svc/: {count} requests, {} failures; from a pod: {}", failures.len(), control.trim());
    assert!(failures.is_empty(), "{failures:#?}\n{stderr}");
}

#[test]
fn each_request_to_a_deployment_that_fails_is_told() {
    let (count, failures, control, stderr) = roll_out("deploy/rolled");
    println!(
        "deploy/: {count} requests, {} failures; from a pod: {}; {stderr}",
        failures.len(),
        control.trim()
    );
    assert!(failures.is_empty() || stderr.contains("warning: deploy/rolled"), "{failures:#?}\n{stderr}");
    assert!(failures.len() * 20 < count, "more than one in twenty failed: {failures:#?}\n{stderr}");
}

/// A rollout during which no request failed without a relay.
fn undisturbed(target: &str) -> (usize, Vec<String>, String, String) {
    for _ in 0..TRIES {
        let round = roll_out(target);
        let control = &round.2;
        if control.contains(" 0 failures") {
            return round;
        }
        println!("without a relay some fail too: {control}");
    }
    panic!("without a relay some fail too, {TRIES} times");
}

fn roll_out(target: &str) -> (usize, Vec<String>, String, String) {
    let _beside = beside_others();
    let namespace = Namespace::new("rollout", &[]);
    let name = namespace.name();
    kubectl_apply(name, WORKLOAD);
    kubectl(&["rollout", "status", "deploy/rolled", "-n", name, "--timeout=120s"]);
    let (relay, address) = Relay::start(&["-n", name, target, ":http"]);
    let control = Control::start(&format!("rolled.{name}:80"));
    let requests = Requests::start(address);
    kubectl(&["rollout", "restart", "deploy/rolled", "-n", name]);
    kubectl(&["rollout", "status", "deploy/rolled", "-n", name, "--timeout=180s"]);
    // The status is reached before the last old pod has gone.
    kubectl(&["wait", "--for=jsonpath={.status.replicas}=2", "deploy/rolled", "-n", name, "--timeout=60s"]);
    thread::sleep(AFTER);
    let (count, failures) = requests.finish();
    (count, failures, control.finish(), relay.stderr())
}
