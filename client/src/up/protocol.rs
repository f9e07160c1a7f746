//! What is said over the control socket: one JSON object on a line each way. A request has the number of the protocol and
//! one verb; an answer is one or more lines, the last of which is `ok` or `error`.

use std::{collections::BTreeSet, path::PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::told::Told;
use crate::cli::args::ClusterArgs;

/// The number of this protocol. Whoever speaks another one is told so; `down` is understood in all of them.
pub const PROTOCOL: u64 = 1;
/// The longest request, in bytes.
pub const LONGEST: usize = 64 * 1024;

/// What is asked for.
#[derive(Debug, Clone, PartialEq)]
pub enum Request {
    /// Forward what a file says.
    Up(UpRequest),
    /// End some, or all.
    Down(Which),
    /// Everything, once.
    List,
    /// Everything, again and again.
    Watch,
    /// The log.
    Logs {
        /// Whether to wait for more.
        follow: bool,
    },
    /// Forward one more target.
    Add(AddRequest),
    /// End some for good.
    Remove(Which),
    /// End one by its number, until it is started again.
    Stop(u64),
    /// Start one by its number.
    Start(u64),
    /// Both.
    Restart(u64),
}

/// `up`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UpRequest {
    /// The file's whole path.
    pub file: PathBuf,
    /// Its groups; none: all of it.
    #[serde(default)]
    pub groups: BTreeSet<String>,
    /// Which cluster.
    #[serde(default)]
    pub cluster: ClusterArgs,
    /// `KUBECONFIG`, where it is more than one file.
    #[serde(default)]
    pub kubeconfigs: Option<String>,
    /// Answer only when every forward is ready or has failed.
    pub wait: bool,
}

/// `add`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AddRequest {
    /// Targets and ports as typed.
    pub words: Vec<String>,
    /// What to call them.
    #[serde(default)]
    pub name: Option<String>,
    /// Where to listen, as typed.
    #[serde(default)]
    pub addresses: Vec<String>,
    /// Which cluster.
    #[serde(default)]
    pub cluster: ClusterArgs,
    /// As of [`UpRequest`].
    #[serde(default)]
    pub kubeconfigs: Option<String>,
    /// As of [`UpRequest`].
    pub wait: bool,
}

/// Names, groups, targets or numbers of forwards; none: all there are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Which(pub Vec<String>);

/// A line of an answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Answer {
    /// A forward that is ready, in the words of its Forwarding line.
    Ready {
        /// Its number.
        id: u64,
        /// Its name.
        name: String,
        /// What is told of it.
        lines: Vec<String>,
    },
    /// A forward that has failed, and will be tried again.
    Failed {
        /// Its number.
        id: u64,
        /// Its name.
        name: String,
        /// Why.
        told: Told,
    },
    /// A line of the log.
    Line(String),
    /// It is done: how many forwards it was about.
    Ok(usize),
    /// It is not done.
    Error(Told),
}

/// What is wrong with a request.
fn nonsense(what: &str) -> Told {
    Told::new(format!("the background process does not understand {what}"), other_version())
}

fn other_version() -> &'static str {
    "end it with kubectl relay down, and begin anew with kubectl relay up, both of the same version"
}

impl Request {
    /// Reads a line.
    ///
    /// # Errors
    /// What to answer to it.
    pub fn parse(line: &[u8]) -> Result<Self, Told> {
        let value: Value = serde_json::from_slice(line).map_err(|_| nonsense("a request that is no JSON"))?;
        let mut map = match value {
            Value::String(verb) => Map::from_iter([(verb, Value::Null)]),
            Value::Object(map) => map,
            _ => return Err(nonsense("a request that is no object")),
        };
        let protocol = map.remove("protocol").unwrap_or_else(|| PROTOCOL.into());
        let mut rest = map.into_iter();
        let (Some((verb, value)), None) = (rest.next(), rest.next()) else {
            return Err(nonsense("a request without exactly one verb"));
        };
        if protocol != PROTOCOL && verb != "down" {
            let message = format!(
                "the background process is kubectl relay {} and speaks protocol {PROTOCOL}, but was asked in {protocol}",
                env!("CARGO_PKG_VERSION")
            );
            return Err(Told::new(message, other_version()));
        }
        Self::of(&verb, value).map_err(|error| nonsense(&format!("its {verb}: {error}")))?.ok_or_else(|| {
            let verb: String = verb.chars().take(40).collect();
            nonsense(&format!("{verb:?}"))
        })
    }

    fn of(verb: &str, value: Value) -> Result<Option<Self>, serde_json::Error> {
        let which = |value: Value| match value {
            Value::Array(_) => serde_json::from_value(value),
            _ => Ok(Which::default()),
        };
        Ok(Some(match verb {
            "up" => Self::Up(serde_json::from_value(value)?),
            "down" => Self::Down(which(value)?),
            "list" => Self::List,
            "watch" => Self::Watch,
            "logs" => Self::Logs { follow: value["follow"] == true },
            "add" => Self::Add(serde_json::from_value(value)?),
            "remove" => Self::Remove(which(value)?),
            "stop" => Self::Stop(serde_json::from_value(value)?),
            "start" => Self::Start(serde_json::from_value(value)?),
            "restart" => Self::Restart(serde_json::from_value(value)?),
            _ => return Ok(None),
        }))
    }

    /// As a line, without its end.
    pub fn line(&self) -> String {
        let (verb, value) = match self {
            Self::Up(up) => ("up", json!(up)),
            Self::Down(which) => ("down", json!(which)),
            Self::List => ("list", Value::Null),
            Self::Watch => ("watch", Value::Null),
            Self::Logs { follow } => ("logs", json!({ "follow": follow })),
            Self::Add(add) => ("add", json!(add)),
            Self::Remove(which) => ("remove", json!(which)),
            Self::Stop(id) => ("stop", json!(id)),
            Self::Start(id) => ("start", json!(id)),
            Self::Restart(id) => ("restart", json!(id)),
        };
        json!({ "protocol": PROTOCOL, verb: value }).to_string()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_written_is_read_back_the_same() {
        let up = UpRequest {
            file: "/x/relay.yaml".into(),
            groups: ["a".to_owned()].into(),
            cluster: ClusterArgs { namespace: Some("dev".into()), ..ClusterArgs::default() },
            kubeconfigs: None,
            wait: true,
        };
        let add = AddRequest {
            words: vec!["svc/a".into(), "1".into()],
            name: Some("a".into()),
            addresses: vec![],
            cluster: ClusterArgs::default(),
            kubeconfigs: None,
            wait: false,
        };
        let which = Which(vec!["a".into(), "7".into()]);
        let all = [
            Request::Up(up),
            Request::Down(Which::default()),
            Request::Down(which.clone()),
            Request::List,
            Request::Watch,
            Request::Logs { follow: true },
            Request::Add(add),
            Request::Remove(which),
            Request::Stop(1),
            Request::Start(2),
            Request::Restart(3),
        ];
        for request in all {
            assert_eq!(Request::parse(request.line().as_bytes()).unwrap(), request);
        }
    }

    #[test]
    fn short_forms_are_understood_too() {
        assert_eq!(Request::parse(b"\"watch\"").unwrap(), Request::Watch);
        assert_eq!(Request::parse(b"{\"stop\": 3}").unwrap(), Request::Stop(3));
        assert_eq!(Request::parse(b"{\"down\": {}}").unwrap(), Request::Down(Which::default()));
    }

    #[test]
    fn another_protocol_is_told_with_what_to_do_and_may_say_down() {
        let told = Request::parse(b"{\"protocol\": 9, \"list\": null}").unwrap_err();
        assert!(told.message.ends_with("speaks protocol 1, but was asked in 9"), "{told}");
        assert!(told.hint.contains("kubectl relay down"), "{}", told.hint);
        assert!(Request::parse(b"{\"protocol\": 9, \"down\": null}").is_ok());
        for line in
            ["", "7", "{}", "{\"a\": 1}", "{\"stop\": \"x\"}", "{\"list\": 1, \"watch\": 2}", "{\"up\": {}}"]
        {
            assert!(Request::parse(line.as_bytes()).is_err(), "{line}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_give_a_request_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Request::parse(&bytes);
        }
    }
}
