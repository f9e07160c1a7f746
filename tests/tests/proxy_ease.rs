//! What makes the proxy easy: names over DNS, the variables for commands and shells, the pages for browsers.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that fails here should panic")]

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RecordType};
use relay_tests::{Exited, Namespace, Relay, Signal, admin_kubeconfig, kubectl, kubectl_apply, wait_until};
use relay_workload::MARKER;
use serde_json::Value;

/// How long a run may take from its start to its end.
const WHOLE: Duration = Duration::from_secs(60);
/// Longer than the name server here takes to give up.
const PATIENCE: Duration = Duration::from_secs(6);
/// How long the cluster may take to notice or remove something.
const SETTLED: Duration = Duration::from_secs(30);

/// A proxy with an agent in this namespace, and a name server if it is to have one.
struct Proxy {
    relay: Relay,
    address: SocketAddr,
    dns: Option<SocketAddr>,
}

impl Proxy {
    fn start(namespace: &Namespace, more: &[&str]) -> Self {
        let args = [&["-n", namespace.name(), "proxy", "-l", "127.0.0.1:0"], more].concat();
        let relay = Relay::spawn(&args);
        let after = |line: String, what: &str| {
            let rest = line.strip_prefix(what).unwrap_or_else(|| panic!("{what:?} in {line:?}"));
            rest.split(' ').next().unwrap().parse().unwrap()
        };
        let address = after(relay.next_line(WHOLE), "Proxy listening on ");
        let has_dns = more.contains(&"--dns");
        let dns = has_dns.then(|| after(relay.next_line(WHOLE), "DNS listening on "));
        Self { relay, address, dns }
    }

    fn with_dns(namespace: &Namespace) -> (Self, SocketAddr) {
        let proxy = Self::start(namespace, &["--dns", "127.0.0.1:0", "--namespace-search", "default"]);
        let dns = proxy.dns.unwrap();
        (proxy, dns)
    }
}

fn question(id: u16, name: &str, kind: RecordType, payload: Option<u16>) -> Vec<u8> {
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    if let Some(payload) = payload {
        let mut edns = Edns::new();
        edns.set_max_payload(payload);
        message.set_edns(edns);
    }
    message.to_vec().unwrap()
}

fn over_udp(server: SocketAddr, question: &[u8]) -> Message {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.send_to(question, server).unwrap();
    let mut answer = [0; 65_535];
    let length = socket.recv(&mut answer).expect("an answer over UDP");
    Message::from_vec(&answer[..length]).unwrap()
}

fn over_tcp(server: SocketAddr, question: &[u8]) -> Message {
    let mut stream = TcpStream::connect(server).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(&(question.len() as u16).to_be_bytes()).unwrap();
    stream.write_all(question).unwrap();
    let mut length = [0; 2];
    stream.read_exact(&mut length).expect("an answer over TCP");
    let mut answer = vec![0; u16::from_be_bytes(length).into()];
    stream.read_exact(&mut answer).unwrap();
    Message::from_vec(&answer).unwrap()
}

/// What is said about a name, each record in a line.
fn records(message: &Message) -> Vec<String> {
    message
        .answers
        .iter()
        .map(|record| {
            assert!(record.dns_class == DNSClass::IN && record.ttl > 0);
            format!("{} {} {}", record.name, record.record_type(), record.data)
        })
        .collect()
}

fn cluster_ip(service: &str) -> String {
    kubectl(&["get", "service", service, "-o", "jsonpath={.spec.clusterIP}"])
}

#[test]
fn every_type_of_record_is_answered_as_the_cluster_does() {
    let namespace = Namespace::new("dns", &[]);
    let (_proxy, dns) = Proxy::with_dns(&namespace);
    let ip = cluster_ip("web");
    let reverse = ip.split('.').rev().collect::<Vec<_>>().join(".") + ".in-addr.arpa.";
    let web = "web.default.svc.cluster.local.";
    let srv = "_http._tcp.web.default.svc.cluster.local.";
    let version = "dns-version.cluster.local.";
    let cases = [
        (web, RecordType::A, vec![format!("{web} A {ip}")]),
        (web, RecordType::AAAA, vec![]),
        (srv, RecordType::SRV, vec![format!("{srv} SRV 0 100 80 {web}")]),
        (&reverse, RecordType::PTR, vec![format!("{reverse} PTR {web}")]),
        (version, RecordType::TXT, vec![format!("{version} TXT 1.1.0")]),
        ("web.", RecordType::A, vec![format!("web. CNAME {web}"), format!("{web} A {ip}")]),
        ("web.default.", RecordType::A, vec![format!("web.default. CNAME {web}"), format!("{web} A {ip}")]),
        ("web.default.svc.", RecordType::AAAA, vec![format!("web.default.svc. CNAME {web}")]),
    ];
    for (id, (name, kind, expected)) in (1..).zip(cases) {
        for payload in [None, Some(1232)] {
            let question = question(id, name, kind, payload);
            for answer in [over_udp(dns, &question), over_tcp(dns, &question)] {
                assert_eq!(answer.metadata.response_code, ResponseCode::NoError, "{name} {kind}");
                assert_eq!((answer.metadata.id, answer.queries[0].name().to_ascii()), (id, name.to_owned()));
                assert_eq!(records(&answer), expected, "{name} {kind}");
                assert_eq!(answer.edns.is_some(), payload.is_some(), "{name} {kind}");
            }
        }
    }
}

#[test]
fn names_that_are_nowhere_are_told_to_be_nowhere() {
    let namespace = Namespace::new("dns", &[]);
    let (_proxy, dns) = Proxy::with_dns(&namespace);
    for name in ["no-such.default.svc.cluster.local.", "no-such.", "no-such.default.", "no-such.example."] {
        let answer = over_udp(dns, &question(7, name, RecordType::A, Some(1232)));
        assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain, "{name}");
        assert_eq!((records(&answer).len(), answer.queries[0].name().to_ascii()), (0, name.to_owned()));
    }
}

#[test]
fn a_large_answer_is_cut_over_udp_and_whole_over_tcp() {
    const ADDRESSES: usize = 200;
    let namespace = Namespace::new("dns", &[]);
    many_addresses(&namespace, ADDRESSES);
    let (_proxy, dns) = Proxy::with_dns(&namespace);
    let name = format!("many.{}.svc.cluster.local.", namespace.name());
    let whole = question(9, &name, RecordType::A, Some(1232));
    wait_until("the name server knows the addresses", SETTLED, || {
        over_tcp(dns, &whole).answers.len() == ADDRESSES
    });
    let cut = over_udp(dns, &whole);
    assert!(cut.metadata.truncation && cut.answers.len() < ADDRESSES);
    assert!(cut.to_vec().unwrap().len() <= 1232);
    // Whoever takes more is given more.
    let large = over_udp(dns, &question(10, &name, RecordType::A, Some(65_535)));
    assert_eq!((large.answers.len(), large.metadata.truncation), (ADDRESSES, false));
    // A short name's answer grows by its alias.
    let short = format!("many.{}.", namespace.name());
    let answer = over_tcp(dns, &question(11, &short, RecordType::A, None));
    assert_eq!(answer.answers.len(), ADDRESSES + 1);
    let cut = over_udp(dns, &question(12, &short, RecordType::A, None));
    assert!(cut.metadata.truncation && cut.to_vec().unwrap().len() <= 512);
}

/// A headless Service `many` with so many addresses.
fn many_addresses(namespace: &Namespace, count: usize) {
    let endpoint = |number| format!(r#"{{"addresses":["10.1.{}.{}"]}}"#, number / 250, number % 250 + 1);
    let slices = (0..count).collect::<Vec<_>>();
    let slices = slices.chunks(100).enumerate().map(|(at, numbers)| {
        let endpoints = numbers.iter().map(|number| endpoint(*number)).collect::<Vec<_>>().join(",");
        format!(
            r#"{{"apiVersion":"discovery.k8s.io/v1","kind":"EndpointSlice","addressType":"IPv4",
            "metadata":{{"name":"many-{at}","labels":{{"kubernetes.io/service-name":"many"}}}},
            "ports":[{{"name":"http","port":80}}],"endpoints":[{endpoints}]}}"#
        )
    });
    let service = r#"{"apiVersion":"v1","kind":"Service","metadata":{"name":"many"},
        "spec":{"clusterIP":"None","ports":[{"name":"http","port":80}]}}"#;
    let items = std::iter::once(service.to_owned()).chain(slices).collect::<Vec<_>>().join(",");
    kubectl_apply(namespace.name(), &format!(r#"{{"apiVersion":"v1","kind":"List","items":[{items}]}}"#));
}

#[test]
fn a_thousand_queries_a_second_are_all_answered() {
    let namespace = Namespace::new("dns", &[]);
    let (_proxy, dns) = Proxy::with_dns(&namespace);
    // A machine that is busy with other tests may leave no time to take what has arrived: that says nothing.
    let all = (0..3).any(|_| ask_a_thousand_a_second(dns));
    assert!(all, "queries stayed without an answer, three times");
}

/// Asks for five seconds; says whether everything was answered.
fn ask_a_thousand_a_second(dns: SocketAddr) -> bool {
    const QUERIES: u16 = 5000;
    /// A busy machine delays everything: no more than this is under way then, as with any resolver.
    const UNDER_WAY: usize = 100;
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.connect(dns).unwrap();
    let receiver = socket.try_clone().unwrap();
    let (leave, may_ask) = std::sync::mpsc::channel();
    (0..UNDER_WAY).for_each(|_| leave.send(()).unwrap());
    let receiving = thread::spawn(move || {
        let mut answered = std::collections::HashSet::new();
        let mut answer = [0; 1500];
        while answered.len() < usize::from(QUERIES) {
            let Ok(length) = receiver.recv(&mut answer) else { break };
            let answer = Message::from_vec(&answer[..length]).unwrap();
            if answer.metadata.response_code != ResponseCode::NoError {
                break;
            }
            if answered.insert(answer.metadata.id) {
                let _ = leave.send(());
            }
        }
        answered.len()
    });
    let began = Instant::now();
    for id in 0..QUERIES {
        if may_ask.recv_timeout(PATIENCE).is_err() {
            break;
        }
        let due = began + Duration::from_millis(id.into());
        thread::sleep(due.saturating_duration_since(Instant::now()));
        let name = if id % 2 == 0 { "web.default.svc.cluster.local." } else { "web.default." };
        socket.send(&question(id, name, RecordType::A, Some(1232))).unwrap();
    }
    let answered = receiving.join().unwrap();
    let took = began.elapsed();
    println!("{answered} of {QUERIES} queries answered in {took:.1?}");
    answered == usize::from(QUERIES)
}

#[test]
fn a_name_server_that_is_not_there_is_told_and_answered_for() {
    let namespace = Namespace::new("dns", &[]);
    let elsewhere = ["--dns", "127.0.0.1:0", "--dns-server", "no-such.default.svc.cluster.local"];
    let proxy = Proxy::start(&namespace, &elsewhere);
    let answer = over_udp(proxy.dns.unwrap(), &question(7, "example.com.", RecordType::A, None));
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    proxy.relay.wait_stderr("the cluster knows no host \"no-such.default.svc.cluster.local\"", PATIENCE);
}

#[test]
fn a_users_own_namespace_is_enough_for_names() {
    let namespace = Namespace::new("dns", &[]);
    let user = namespace.user("named", &serde_json::to_string(&relay_tests::documented_rules()).unwrap());
    let args = ["-n", namespace.name(), "proxy", "-l", "127.0.0.1:0", "--dns", "127.0.0.1:0"];
    let relay = Relay::spawn_as(&user, &args);
    relay.next_line(WHOLE);
    let line = relay.next_line(WHOLE);
    let dns = line.split(' ').nth(3).unwrap().parse().unwrap();
    let answer = over_udp(dns, &question(7, "web.default.svc.cluster.local.", RecordType::A, None));
    assert_eq!(answer.answers.len(), 1);
}

fn command(namespace: &Namespace, command: &[&str]) -> Exited {
    let search = ["proxy", "-l", "127.0.0.1:0", "--namespace-search", "default", "--"];
    let args = [&["-n", namespace.name()], &search[..], command].concat();
    let exited = Relay::spawn(&args).wait(WHOLE);
    wait_until("Job and pod are gone", SETTLED, || namespace.agents().is_empty());
    exited
}

#[test]
fn a_command_finds_the_proxy_by_its_variables() {
    let namespace = Namespace::new("proxy", &[]);
    let script = "curl -sS http://web && unset http_proxy && curl -sS http://web.default && exit 7";
    let exited = command(&namespace, &["sh", "-c", script]);
    assert_eq!(exited.code, Some(7), "{}", exited.stderr);
    // By HTTP_PROXY first, then by ALL_PROXY.
    assert_eq!(exited.stdout.matches(MARKER).count(), 2, "{}", exited.stdout);
    assert!(exited.stderr.starts_with("Proxy listening on 127.0.0.1:"), "{}", exited.stderr);
}

#[test]
fn a_command_reaches_the_api_server_without_the_proxy() {
    let namespace = Namespace::new("proxy", &[]);
    let exited = command(&namespace, &["sh", "-c", "kubectl version && echo $NO_PROXY"]);
    assert_eq!(exited.code, Some(0), "{}", exited.stderr);
    let kubeconfig = std::fs::read_to_string(admin_kubeconfig()).unwrap();
    let direct = exited.stdout.lines().last().unwrap();
    let api_server = direct.rsplit(',').next().unwrap();
    assert!(kubeconfig.contains(api_server), "{direct}");
}

#[test]
fn a_shell_sets_its_variables_and_goes_on_beside_the_proxy() {
    let namespace = Namespace::new("proxy", &[]);
    let script = "source <(\"$RELAY_BIN\" -n \"$0\" proxy -l 127.0.0.1:0 --print-env)\n\
                  curl -sS http://web.default; kill \"$RELAY_PID\"\n\
                  while kill -0 \"$RELAY_PID\" 2>/dev/null; do sleep 0.05; done; echo ended";
    let said = Command::new("bash").args(["-c", script, namespace.name()]).output().unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&said.stdout), String::from_utf8_lossy(&said.stderr));
    assert!(stdout.contains(MARKER) && stdout.ends_with("ended\n"), "{stdout}{stderr}");
    wait_until("Job and pod are gone", SETTLED, || namespace.agents().is_empty());
}

#[test]
fn the_proxy_of_a_shell_goes_with_it_and_leaves_nothing() {
    let namespace = Namespace::new("proxy", &[]);
    let script = "source <(\"$RELAY_BIN\" -n \"$0\" proxy -l 127.0.0.1:0 --print-env); echo \"$RELAY_PID\"";
    let said = Command::new("bash").args(["-c", script, namespace.name()]).output().unwrap();
    let stderr = String::from_utf8_lossy(&said.stderr);
    let process = String::from_utf8_lossy(&said.stdout).trim().parse::<u32>().expect("a process id");
    assert!(stderr.starts_with("Proxy listening on "), "{stderr}");
    wait_until("Job and pod are gone", SETTLED, || namespace.agents().is_empty());
    wait_until("the proxy has ended", SETTLED, || !std::fs::exists(format!("/proc/{process}/fd/0")).unwrap());
}

/// A page of the proxy's own, as a whole: its head and its body.
fn page(proxy: SocketAddr, path: &str, host: &str) -> (String, String) {
    let mut stream = TcpStream::connect(proxy).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    let (head, body) = reply.split_once("\r\n\r\n").expect("a head");
    (head.to_ascii_lowercase(), body.to_owned())
}

fn status(proxy: SocketAddr) -> Value {
    let (head, body) = page(proxy, "/status.json", &proxy.to_string());
    assert!(head.starts_with("http/1.1 200"), "{head}");
    serde_json::from_str(&body).unwrap()
}

#[test]
fn the_status_page_shows_a_transfer_while_it_runs_and_counts_it_afterwards() {
    const BYTES: u64 = 50_000_000;
    let namespace = Namespace::new("proxy", &[]);
    let proxy = Proxy::start(&namespace, &["--namespace-search", "default"]);
    let before = status(proxy.address);
    assert_eq!((&before["state"], &before["connections"]), (&"ready".into(), &Value::Array(vec![])));

    let through = format!("socks5h://{}", proxy.address);
    let url = format!("http://web/bytes/{BYTES}");
    // Slow enough to be seen, and to be compared with.
    let slow =
        ["-sS", "--limit-rate", "10M", "-o", "/dev/null", "-w", "%{size_download}", "-x", &through, &url];
    let curl = Command::new("curl").args(slow).stdout(std::process::Stdio::piped()).spawn().unwrap();
    wait_until("the transfer is shown with its rate", SETTLED, || {
        let now = status(proxy.address);
        let shown = &now["connections"][0];
        shown["target"] == "web:80"
            && shown["protocol"] == "socks5"
            && shown["received"].as_u64() > Some(1_000_000)
            && now["totals"]["receivedPerSecond"].as_u64() > Some(100_000)
    });
    let (head, html) = page(proxy.address, "/", &proxy.address.to_string());
    assert!(head.contains("content-type: text/html"), "{head}");
    assert!(html.contains("<td class=\"wide\">web:80<td>socks5<td>127.0.0.1:"), "{html}");
    let output = curl.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), BYTES.to_string());

    wait_until("the connection is gone", SETTLED, || status(proxy.address)["connections"][0].is_null());
    let after = status(proxy.address);
    assert_eq!(after["totals"]["asked"], 1);
    assert!(after["totals"]["received"].as_u64() >= Some(BYTES), "{after}");

    let failed = Command::new("curl").args(["-sS", "-x", &through, "http://web:7099"]).output().unwrap();
    assert!(!failed.status.success());
    let after = status(proxy.address);
    assert_eq!(after["totals"]["refused"], 1);
    let message = after["failures"][0]["message"].as_str().unwrap();
    assert!(message.contains("web.default:7099") && message.contains("refuses"), "{message}");
    assert_eq!(proxy.relay.stop(Signal::INT).code, Some(0));
}

#[test]
fn pages_are_for_this_machine_and_the_pac_file_names_the_proxy_as_it_was_asked_for() {
    let namespace = Namespace::new("proxy", &[]);
    let proxy = Proxy::start(&namespace, &["--pac-range", "10.96.0.0/12", "--pac-domain", "db.example.com"]);
    for path in ["/", "/status.json", "/proxy.pac"] {
        for host in ["evil.example", "localhost.evil.example:80"] {
            let (head, body) = page(proxy.address, path, host);
            assert!(head.starts_with("http/1.1 421"), "{head}");
            assert!(!body.contains("10.96") && !body.contains("ready"), "{body}");
        }
        let (head, _) = page(proxy.address, path, &proxy.address.to_string());
        assert!(
            head.starts_with("http/1.1 200") && head.contains("x-content-type-options: nosniff"),
            "{head}"
        );
        assert!(!head.contains("access-control"), "{head}");
    }
    let (_, script) = page(proxy.address, "/proxy.pac", &format!("localhost:{}", proxy.address.port()));
    let facts = script.lines().find_map(|line| line.strip_prefix("var facts = ")).unwrap();
    let facts: Value = serde_json::from_str(facts.trim_end_matches(';')).unwrap();
    assert_eq!(facts["proxy"], format!("PROXY localhost:{}", proxy.address.port()));
    assert_eq!(facts["domains"], serde_json::json!(["cluster.local", "svc", "db.example.com"]));
    assert_eq!(facts["namespaces"], serde_json::json!([namespace.name()]));
    assert_eq!(facts["ranges"], serde_json::json!([{ "address": [10, 96, 0, 0], "bits": 12 }]));
}
