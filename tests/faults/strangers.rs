//! Somebody else who may port-forward to the agent knocks: with a wrong secret, with a hello that was heard before,
//! for another's session, or as a second client of one session. Nobody reads another's bytes.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use relay_protocol::Status;
use relay_protocol::frame::Frame;
use relay_protocol::hello::{Hello, Instance, Request, Secret, SessionId, VERSION, Welcome};
use relay_tests::{AGENT_LABEL, Echoes, Namespace, Relay, beside_others, connect, kubectl};

const TARGET: &str = "host/web.default.svc.cluster.local";
const RACERS: u64 = 8;

/// A plugin with a conversation that goes on, and a port-forward of kubectl's to the same agent.
struct Scene {
    agent: SocketAddr,
    echoes: Echoes,
    _forward: Relay,
    _relay: Relay,
    _namespace: Namespace,
}

impl Scene {
    fn new() -> Self {
        let namespace = Namespace::new("strangers", &[]);
        let name = namespace.name();
        let (relay, echo) = Relay::start(&["-n", name, TARGET, ":7007@tcp"]);
        let echoes = Echoes::start(echo, 5);
        let pod = kubectl(&["get", "pods", "-n", name, "-l", AGENT_LABEL, "-o", "name"]);
        // The plugin knows from the node's own event that the agent runs; kubectl asks the pod's status, which follows.
        kubectl(&["wait", "-n", name, &pod, "--for=jsonpath={.status.phase}=Running", "--timeout=30s"]);
        let mut forward = Command::new("kubectl");
        forward.args(["port-forward", "-n", name, &pod, ":9527"]);
        let forward = Relay::spawn_command(forward);
        let agent = forward.next_forward();
        Self { agent, echoes, _forward: forward, _relay: relay, _namespace: namespace }
    }

    /// What the agent answers to bytes, and the connection.
    fn say(&self, bytes: &[u8]) -> (Welcome, TcpStream) {
        say(self.agent, bytes)
    }

    fn refuses(&self, hello: &Hello, what: &str) {
        let (welcome, mut lane) = self.say(&hello.encode());
        assert_eq!(welcome.status, Status::AgentLost, "{what}");
        let mut rest = Vec::new();
        // The end, and not a byte before it.
        let _ = lane.read_to_end(&mut rest);
        assert!(rest.is_empty(), "{what} was told {rest:?}");
    }

    fn finish(self) {
        self.echoes.all_answered(Instant::now());
        println!("{} answers of the plugin's own session, all right", self.echoes.finish());
    }
}

fn say(agent: SocketAddr, bytes: &[u8]) -> (Welcome, TcpStream) {
    let mut stream = connect(agent);
    stream.write_all(bytes).unwrap();
    let mut answer = Vec::new();
    loop {
        if let Some((welcome, _)) = Welcome::decode(&answer).expect("a welcome") {
            return (welcome, stream);
        }
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("the agent answers");
        answer.push(byte[0]);
    }
}

fn hello(session: SessionId, lane: u64, request: Request) -> Hello {
    Hello { request, session, lane, versions: (VERSION, VERSION), features: 0, initial_credit: 16 * 1024 }
}

/// A session of the stranger's own.
struct Own {
    id: SessionId,
    secret: Secret,
    instance: Instance,
    first: TcpStream,
}

impl Own {
    fn create(scene: &Scene, number: u8) -> Self {
        let (id, secret) = (SessionId([number; 16]), Secret([number; 32]));
        let (welcome, first) = scene.say(&hello(id, 1, Request::Create { secret: secret.clone() }).encode());
        assert_eq!(welcome.status, Status::Ok);
        Self { id, secret, instance: welcome.instance, first }
    }

    fn join(&self, lane: u64, held: &[u64]) -> Hello {
        self.join_with(&self.secret, lane, held)
    }

    fn join_with(&self, secret: &Secret, lane: u64, held: &[u64]) -> Hello {
        let proof = secret.proof(self.id, self.instance, lane, held);
        hello(self.id, lane, Request::Join { proof, held: held.to_vec() })
    }
}

/// Whether a lane is served: it answers a PING. An end is an error.
fn ping(lane: &mut TcpStream, token: u64) -> io::Result<()> {
    let mut out = Vec::new();
    Frame::Ping { token }.encode(&mut out);
    lane.write_all(&out)?;
    let mut bytes = Vec::new();
    loop {
        while let Some((frame, len)) = Frame::decode(&bytes).map_err(io::Error::other)? {
            if frame == (Frame::Pong { token }) {
                return Ok(());
            }
            bytes.drain(..len);
        }
        let mut byte = [0];
        lane.read_exact(&mut byte)?;
        bytes.push(byte[0]);
    }
}

#[test]
fn who_has_not_the_secret_of_a_session_cannot_join_it() {
    let _beside = beside_others();
    let scene = Scene::new();
    let mut own = Own::create(&scene, 1);
    let wrong = own.join_with(&Secret([9; 32]), 2, &[1]);
    scene.refuses(&wrong, "a wrong secret");
    let unknown = hello(SessionId([3; 16]), 2, Request::Join { proof: [0; 32], held: vec![] });
    scene.refuses(&unknown, "a session that is not there");
    let other = Own::create(&scene, 2);
    let elsewhere = hello(other.id, 2, own.join(2, &[1]).request);
    scene.refuses(&elsewhere, "a proof for another session");
    let again = hello(own.id, 2, Request::Create { secret: Secret([9; 32]) });
    scene.refuses(&again, "another secret for a session that is there");

    let join = own.join(2, &[1]);
    let (welcome, mut second) = scene.say(&join.encode());
    assert_eq!(welcome.status, Status::Ok);
    scene.refuses(&join, "a hello that was heard before");
    // Neither lane was touched by all that.
    ping(&mut own.first, 1).expect("the first lane stays");
    ping(&mut second, 2).expect("the second lane stays");
    scene.finish();
}

#[test]
fn of_clients_that_race_with_one_session_the_newest_has_it() {
    let _beside = beside_others();
    let scene = Scene::new();
    let mut own = Own::create(&scene, 1);
    ping(&mut own.first, 1).unwrap();
    let barrier = Arc::new(Barrier::new(RACERS as usize));
    let racers: Vec<_> = (2..2 + RACERS)
        .map(|lane| {
            let (hello, barrier, agent) = (own.join(lane, &[]), barrier.clone(), scene.agent);
            thread::spawn(move || {
                barrier.wait();
                let (welcome, stream) = say(agent, &hello.encode());
                (lane, welcome.status, stream)
            })
        })
        .collect();
    let mut results: Vec<_> = racers.into_iter().map(|racer| racer.join().expect("a racer")).collect();
    let (newest, status, mut winner) = results.pop().expect("racers");
    assert_eq!((newest, status), (1 + RACERS, Status::Ok), "the highest number is never too old");
    ping(&mut winner, 2).expect("the newest is served");
    let welcomed = results.iter().filter(|(_, status, _)| *status == Status::Ok).count();
    for (lane, _, mut stream) in results {
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let ended = ping(&mut stream, lane).expect_err("an older one has no lane any more");
        assert!(!matches!(ended.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut), "{lane} hangs");
    }
    ping(&mut own.first, 3).expect_err("the first lane was not among those held");
    println!(
        "of {RACERS} racers {welcomed} older ones were welcomed for a moment; the newest has the session"
    );
    scene.finish();
}
