//! An API server of a few lines: a function from requests to answers, and a record of what was asked.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{Request, Response, header::CONTENT_TYPE};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use k8s_openapi::ByteString;
use kube::{Client, client::Body};
use kubectl_relay::agent::wire;
use prost::Message;
use serde_json::{Value, json};

/// What the server says to one request.
pub(crate) enum Answer {
    /// A whole object, with a status.
    Json(u16, Value),
    /// The same, after this time.
    Late(Duration, u16, Value),
    /// The events of a watch that stays open.
    Watch(Vec<Value>),
    /// The events of a watch that ends after them.
    WatchEnd(Vec<Value>),
    /// Nothing, ever.
    Silence,
}

/// A request as the answering function sees it: `GET /path?query`.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) verb: String,
    pub(crate) path: String,
    pub(crate) query: String,
    /// What `Content-Type` says; empty where it says nothing.
    pub(crate) media_type: String,
    /// `null` where there is none.
    pub(crate) body: Value,
}

impl Asked {
    pub(crate) fn is(&self, verb: &str, path: &str) -> bool {
        self.verb == verb && self.path == path
    }

    pub(crate) fn is_watch(&self) -> bool {
        self.query.contains("watch=true")
    }
}

/// The requests so far, as `GET /path`, with ` (watch)` or ` (dry run)` behind.
pub(crate) type Log = Arc<Mutex<Vec<String>>>;

pub(crate) fn server(answer: impl Fn(&Asked) -> Answer + Send + 'static) -> (Client, Log) {
    let (service, mut handle) = tower_test::mock::pair::<Request<Body>, Response<Answered>>();
    let log = Log::default();
    let asked_log = Arc::clone(&log);
    tokio::spawn(async move {
        while let Some((request, send)) = handle.next_request().await {
            let (head, body) = request.into_parts();
            let body = body.collect_bytes().await.unwrap();
            let media_type = head.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
            let asked = Asked {
                verb: head.method.to_string(),
                path: head.uri.path().to_owned(),
                query: head.uri.query().unwrap_or_default().to_owned(),
                media_type: media_type.unwrap_or_default().to_owned(),
                body: object(&body),
            };
            let watch = if asked.is_watch() {
                " (watch)"
            } else if asked.query.contains("dryRun") {
                " (dry run)"
            } else {
                ""
            };
            asked_log.lock().unwrap().push(format!("{} {}{watch}", asked.verb, asked.path));
            match answer(&asked) {
                Answer::Json(status, value) => {
                    send.send_response(Response::builder().status(status).body(whole(&value)).unwrap());
                }
                Answer::Late(after, status, value) => {
                    tokio::spawn(async move {
                        tokio::time::sleep(after).await;
                        send.send_response(Response::builder().status(status).body(whole(&value)).unwrap());
                    });
                }
                Answer::Watch(events) => send.send_response(Response::new(lines(events, true))),
                Answer::WatchEnd(events) => send.send_response(Response::new(lines(events, false))),
                Answer::Silence => std::mem::forget(send),
            }
        }
    });
    (Client::new(service, "dev"), log)
}

/// What was sent, as JSON: `null` for anything but an object.
fn object(body: &[u8]) -> Value {
    let Some(unknown) = body.strip_prefix(wire::MAGIC) else {
        return serde_json::from_slice(body).unwrap_or_default();
    };
    let unknown = wire::Unknown::decode(unknown).unwrap();
    let wire::ConfigMap { metadata, binary_data, immutable } =
        wire::ConfigMap::decode(&*unknown.raw).unwrap();
    let owners = metadata.owner_references.into_iter().map(|owner| {
        json!({"apiVersion": owner.api_version, "kind": owner.kind, "name": owner.name, "uid": owner.uid})
    });
    json!({
        "apiVersion": unknown.type_meta.api_version, "kind": unknown.type_meta.kind, "immutable": immutable,
        "metadata": {"name": metadata.name, "namespace": metadata.namespace, "labels": metadata.labels,
                     "ownerReferences": owners.collect::<Vec<_>>()},
        "binaryData": binary_data.into_iter().map(|(key, value)| (key, ByteString(value))).collect::<BTreeMap<_, _>>(),
    })
}

type Answered = UnsyncBoxBody<Bytes, std::io::Error>;

fn whole(value: &Value) -> Answered {
    Full::from(value.to_string()).map_err(|never| match never {}).boxed_unsync()
}

fn lines(events: Vec<Value>, open: bool) -> Answered {
    let frames = stream::iter(events)
        .map(|event| Ok::<_, std::io::Error>(http_body::Frame::data(Bytes::from(format!("{event}\n")))));
    if open {
        StreamBody::new(frames.chain(stream::pending())).boxed_unsync()
    } else {
        StreamBody::new(frames).boxed_unsync()
    }
}

/// A list as the API gives it.
pub(crate) fn list(items: Vec<Value>) -> Answer {
    Answer::Json(200, json!({"metadata": {"resourceVersion": "1"}, "items": items}))
}

/// A Status.
pub(crate) fn failure(code: u16, message: &str, details: Value) -> Answer {
    let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message,
                        "reason": "", "code": code, "details": details});
    Answer::Json(code, status)
}

/// What RBAC says.
pub(crate) fn forbidden(verb: &str, resource: &str) -> Answer {
    failure(
        403,
        &format!(
            "{resource} is forbidden: User \"jane\" cannot {verb} resource \"{resource}\" in the namespace \"dev\""
        ),
        json!({"kind": resource}),
    )
}

pub(crate) fn event(kind: &str, object: Value) -> Value {
    json!({"type": kind, "object": object})
}
