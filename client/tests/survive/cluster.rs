//! A cluster of a few lines on real sockets: Jobs become pods at once, each pod is an agent that echoes, and the API
//! server in front can refuse, lose a node, move to another address, or be cut off.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex},
};

use relay_tunnel::{Agent, AgentConfig, Incoming};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
};
use tokio_util::sync::CancellationToken;

use crate::websocket;

/// Nodes, in the order in which the scheduler prefers them.
const NODES: [&str; 2] = ["node-1", "node-2"];

#[derive(Clone)]
pub(crate) struct Pod {
    pub(crate) object: Value,
    agent: Agent,
    job: String,
    node: &'static str,
}

/// What comes of a dial to a node that is gone.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Away {
    /// The API server says so.
    Told,
    /// The API server waits for it, and so does the dial.
    Silent,
}

/// What the API server says to everything.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mood {
    Fine,
    /// The user has lost all rights.
    Forbidden,
}

#[derive(Clone)]
pub(crate) struct Cluster(Arc<State>);

struct State {
    pods: watch::Sender<BTreeMap<String, Pod>>,
    mood: Mutex<Mood>,
    token: Mutex<String>,
    away: Mutex<HashMap<&'static str, Away>>,
    /// No pod's status ever tells of its start: an event alone does.
    is_silent: Mutex<bool>,
    /// Open connections, those of lanes with their node.
    connections: Mutex<Vec<(Option<&'static str>, CancellationToken)>>,
}

/// A request.
struct Asked {
    verb: String,
    path: String,
    query: String,
    head: String,
    body: Vec<u8>,
}

impl Cluster {
    pub(crate) fn new() -> Self {
        Self(Arc::new(State {
            pods: watch::Sender::new(BTreeMap::new()),
            mood: Mutex::new(Mood::Fine),
            token: Mutex::new("first".into()),
            away: Mutex::default(),
            is_silent: Mutex::default(),
            connections: Mutex::default(),
        }))
    }

    /// One more API server in front of it, until the token is cancelled.
    pub(crate) async fn listen(&self) -> (String, CancellationToken) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let (this, closed) = (self.clone(), CancellationToken::new());
        let until = closed.clone();
        tokio::spawn(until.run_until_cancelled_owned(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (this, cut) = (this.clone(), CancellationToken::new());
                this.0.connections.lock().unwrap().push((None, cut.clone()));
                tokio::spawn(async move { cut.clone().run_until_cancelled(this.serve(stream, &cut)).await });
            }
        }));
        (address, closed)
    }

    pub(crate) fn set_mood(&self, mood: Mood) {
        *self.0.mood.lock().unwrap() = mood;
    }

    pub(crate) fn accept_only(&self, token: &str) {
        *self.0.token.lock().unwrap() = token.into();
    }

    /// Every connection to the API server breaks.
    pub(crate) fn cut(&self) {
        self.0.connections.lock().unwrap().drain(..).for_each(|(_, cut)| cut.cancel());
    }

    /// A node is gone: its lanes break, and the API server does not reach it.
    pub(crate) fn lose_node(&self, node: &'static str, away: Away) {
        self.0.away.lock().unwrap().insert(node, away);
        self.cut_lanes(node);
    }

    fn cut_lanes(&self, node: &'static str) {
        self.0.connections.lock().unwrap().retain(|(on, cut)| {
            if *on == Some(node) {
                cut.cancel();
            }
            *on != Some(node)
        });
    }

    /// It is back.
    pub(crate) fn find_node(&self, node: &'static str) {
        self.0.away.lock().unwrap().remove(node);
    }

    /// What the node controller does to the pods of a node that it has not heard of for long enough.
    pub(crate) fn mark_not_ready(&self, node: &str) {
        self.0.pods.send_modify(|pods| {
            for pod in pods.values_mut().filter(|pod| pod.node == node) {
                pod.object["status"]["conditions"] = json!([{"type": "Ready", "status": "False"}]);
            }
        });
    }

    /// From now on only events tell that an agent was started.
    pub(crate) fn tell_by_events_only(&self) {
        *self.0.is_silent.lock().unwrap() = true;
    }

    /// The status of every pod tells that its agent has ended.
    pub(crate) fn end_agents(&self, code: u8) {
        let ended = json!({"phase": "Failed", "containerStatuses": [
            {"name": "agent", "image": "r/i:1", "imageID": "", "ready": false, "restartCount": 0,
             "state": {"terminated": {"exitCode": code, "reason": "Error"}}}]});
        self.0.pods.send_modify(|pods| {
            pods.values_mut().for_each(|pod| pod.object["status"] = ended.clone());
        });
    }

    /// Every pod is asked to end, and has its grace.
    pub(crate) fn ask_agents_to_end(&self) {
        self.0.pods.send_modify(|pods| {
            pods.values_mut()
                .for_each(|pod| pod.object["metadata"]["deletionTimestamp"] = json!("2099-01-01T00:00:00Z"));
        });
    }

    /// Every agent starts again in its container: its lanes break, and it knows no session.
    pub(crate) fn restart_agents(&self) {
        self.0.pods.send_modify(|pods| pods.values_mut().for_each(|pod| pod.agent = echoing()));
        NODES.into_iter().for_each(|node| self.cut_lanes(node));
    }

    /// Deletes every pod without a grace.
    pub(crate) fn delete_pods(&self) {
        self.0.pods.send_modify(BTreeMap::clear);
        self.cut();
    }

    pub(crate) fn nodes(&self) -> Vec<&'static str> {
        self.0.pods.borrow().values().map(|pod| pod.node).collect()
    }

    async fn serve(&self, mut stream: TcpStream, cut: &CancellationToken) {
        while let Some(asked) = Asked::read(&mut stream).await {
            let mood = *self.0.mood.lock().unwrap();
            let token = format!("Bearer {}\r\n", self.0.token.lock().unwrap());
            let answer = match (asked.verb.as_str(), asked.path.as_str()) {
                _ if !asked.head.contains(&token) => status(401, "Unauthorized"),
                _ if mood == Mood::Forbidden => {
                    let verb = if asked.verb == "POST" { "create" } else { "get" };
                    status(403, &format!("x is forbidden: User \"jane\" cannot {verb} resource \"x\""))
                }
                (_, path) if path.ends_with("/portforward") => match self.agent(&asked) {
                    Ok(pod) => {
                        self.0.connections.lock().unwrap().push((Some(pod.node), cut.clone()));
                        return websocket::serve(stream, &asked.head, pod.agent).await;
                    }
                    Err(Some(answer)) => answer,
                    Err(None) => return std::future::pending().await,
                },
                (_, path) if asked.query.contains("watch=true") => {
                    let kind = path.rsplit('/').next().unwrap_or_default();
                    return self.watch(stream, kind, &asked.query).await;
                }
                ("GET", path) if path.ends_with("/pods") => {
                    let items: Vec<_> = self.matching(&asked.query).into_values().collect();
                    (200, json!({"metadata": {"resourceVersion": "1"}, "items": items}))
                }
                ("GET", "/version") => (200, version()),
                ("POST", path) if path.ends_with("reviews") => {
                    (201, json!({"spec": {}, "status": {"allowed": true, "userInfo": {"username": "jane"}}}))
                }
                ("POST", _) if asked.query.contains("dryRun") => {
                    (201, serde_json::from_slice(&asked.body).unwrap())
                }
                ("POST", _) => (201, self.create(&asked.body)),
                ("DELETE", path) => {
                    let job = path.rsplit('/').next().unwrap_or_default();
                    self.0.pods.send_modify(|pods| pods.retain(|_, pod| pod.job != job));
                    (200, json!({"kind": "Status", "apiVersion": "v1", "status": "Success"}))
                }
                _ => (200, json!({"metadata": {"resourceVersion": "1"}, "items": []})),
            };
            let (code, body) = (answer.0, answer.1.to_string());
            let text = format!("HTTP/1.1 {code} X\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            if stream.write_all(text.as_bytes()).await.is_err() {
                return;
            }
        }
    }

    /// The pod of a dial; otherwise what is answered, if anything is.
    fn agent(&self, asked: &Asked) -> Result<Pod, Option<(u16, Value)>> {
        let name = asked.path.rsplit('/').nth(1).unwrap_or_default();
        let pod = self.0.pods.borrow().get(name).cloned();
        let Some(pod) = pod else { return Err(Some(not_found(name))) };
        match self.0.away.lock().unwrap().get(pod.node) {
            None => Ok(pod),
            Some(Away::Told) => {
                let message = "error dialing backend: dial tcp 10.0.0.1:10250: connect: no route to host";
                Err(Some(status(500, message)))
            }
            Some(Away::Silent) => Err(None),
        }
    }

    fn create(&self, body: &[u8]) -> Value {
        let job: Value = serde_json::from_slice(body).unwrap();
        let name = job["metadata"]["name"].as_str().unwrap().to_owned();
        let affinity = job["spec"]["template"]["spec"]["affinity"].to_string();
        let node = NODES.into_iter().find(|node| !affinity.contains(node)).unwrap_or(NODES[0]);
        let pod = format!("{name}-x");
        let is_silent = *self.0.is_silent.lock().unwrap();
        let status = if is_silent { json!({"phase": "Pending"}) } else { running() };
        let object = json!({
            "metadata": {"name": pod, "uid": format!("uid-{pod}"), "resourceVersion": "2"},
            "spec": {"nodeName": node, "containers": []},
            "status": status,
        });
        let pod_entry = Pod { object, agent: echoing(), job: name, node };
        self.0.pods.send_modify(|pods| drop(pods.insert(pod, pod_entry)));
        job
    }

    fn matching(&self, query: &str) -> BTreeMap<String, Value> {
        let pods = self.0.pods.borrow();
        let matching = pods.iter().filter(|(_, pod)| query.contains(&pod.job));
        matching.map(|(name, pod)| (name.clone(), pod.object.clone())).collect()
    }

    /// The events of the pods that a query names.
    fn starts(&self, query: &str) -> BTreeMap<String, Value> {
        let pods = self.0.pods.borrow();
        let named = pods.iter().filter(|(name, _)| query.contains(&format!("name%3D{name}")));
        let start = |(name, pod): (&String, &Pod)| {
            let of = json!({"kind": "Pod", "name": name, "uid": pod.object["metadata"]["uid"],
                            "fieldPath": "spec.containers{agent}"});
            let metadata = json!({"name": format!("{name}.1"), "resourceVersion": "2"});
            (name.clone(), json!({"metadata": metadata, "involvedObject": of, "reason": "Started"}))
        };
        named.map(start).collect()
    }

    async fn watch(&self, mut stream: TcpStream, kind: &str, query: &str) {
        let mut changes = self.0.pods.subscribe();
        let mut known = BTreeMap::new();
        let mut text = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned();
        loop {
            let current = match kind {
                "pods" => self.matching(query),
                "events" => self.starts(query),
                _ => BTreeMap::new(),
            };
            for (name, object) in &current {
                match known.get(name) {
                    None => text += &chunk("ADDED", object),
                    Some(before) if before != object => text += &chunk("MODIFIED", object),
                    Some(_) => {}
                }
            }
            for (_, object) in known.iter().filter(|(name, _)| !current.contains_key(*name)) {
                text += &chunk("DELETED", object);
            }
            known = current;
            if stream.write_all(text.as_bytes()).await.is_err() || changes.changed().await.is_err() {
                return;
            }
            text.clear();
        }
    }
}

impl Asked {
    async fn read(stream: &mut TcpStream) -> Option<Self> {
        let mut bytes = Vec::new();
        while !bytes.ends_with(b"\r\n\r\n") {
            bytes.push(stream.read_u8().await.ok()?);
        }
        let head = String::from_utf8(bytes).ok()?;
        let mut first = head.lines().next()?.split(' ');
        let (verb, target) = (first.next()?.to_owned(), first.next()?);
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
        let mut body = vec![0; length.unwrap_or(0)];
        stream.read_exact(&mut body).await.ok()?;
        Some(Self { verb, path: path.into(), query: query.into(), head: head.clone(), body })
    }
}

fn running() -> Value {
    json!({
        "phase": "Running",
        "conditions": [{"type": "Ready", "status": "True"}],
        "containerStatuses": [{"name": "agent", "image": "", "imageID": "", "ready": true, "restartCount": 0,
                               "state": {"running": {}}}],
    })
}

fn chunk(kind: &str, object: &Value) -> String {
    let line = format!("{}\n", json!({"type": kind, "object": object}));
    format!("{:x}\r\n{line}\r\n", line.len())
}

fn status(code: u16, message: &str) -> (u16, Value) {
    let reason = if code == 403 { "Forbidden" } else { "" };
    let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message,
                        "reason": reason, "code": code});
    (code, status)
}

fn version() -> Value {
    json!({"major": "1", "minor": "34", "gitVersion": "v1.34.4", "gitCommit": "", "gitTreeState": "", "buildDate": "",
           "goVersion": "", "compiler": "", "platform": ""})
}

fn not_found(name: &str) -> (u16, Value) {
    let message = format!("pods \"{name}\" not found");
    (
        404,
        json!({"kind": "Status", "status": "Failure", "message": message, "reason": "NotFound", "code": 404}),
    )
}

/// An agent all of whose targets echo.
fn echoing() -> Agent {
    let (agent, mut incoming) = Agent::new(&AgentConfig::default()).unwrap();
    tokio::spawn(async move {
        while let Some(incoming) = incoming.recv().await {
            match incoming {
                Incoming::Stream(stream) => tokio::spawn(async move {
                    stream.accept().await.unwrap();
                    let (mut read, mut write) = tokio::io::split(stream);
                    // A session that ends takes its streams along.
                    let _ = tokio::io::copy(&mut read, &mut write).await;
                }),
                Incoming::Flow(mut flow) => tokio::spawn(async move {
                    while let Ok(datagram) = flow.recv().await {
                        let _ = flow.send(datagram);
                    }
                }),
            };
        }
    });
    agent
}
