//! What the command line means: checked values that the rest of the plugin works with.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use serde_json::{Value, json};

use super::{
    args::{AgentArgs, AgentSource, Args, ClusterArgs, OutputArg, PodArgs, SessionArgs, TransportArg},
    wanted::{self, Wanted},
};
use crate::{
    agent::patch,
    command::CommandLine,
    proxy::{ProxyArgs, ProxyError, ProxySettings},
    relay_file::Mistake,
    target::{Place, TargetError},
    trace::{TraceError, Tracing},
    view::Kind,
};

/// Where the agent's images are published. A placeholder until the project has a registry.
pub const IMAGE_REPOSITORY: &str = "ghcr.io/kubectl-relay/relay-server";

/// The image of this version's agent.
pub fn default_image() -> String {
    format!("{IMAGE_REPOSITORY}:{}", env!("CARGO_PKG_VERSION"))
}

/// Everything a run needs to know.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What to forward to. With nothing typed it is empty, and then there may be somebody to ask.
    pub targets: Vec<Wanted>,
    /// Where to listen, for targets that are not typed.
    pub addresses: Vec<ListenAddress>,
    /// Where to write which ports are listened on.
    pub ports_file: Option<PathBuf>,
    /// Where to tell how the forwards do.
    pub metrics: Option<SocketAddr>,
    /// How to show the forwards to whoever sits there.
    pub view: Option<Kind>,
    /// The proxy to be, if one is wanted.
    pub proxy: Option<ProxySettings>,
    /// What sees the traffic, if anything does.
    pub trace: Option<Tracing>,
    /// What to run with the forwards.
    pub command: Option<CommandLine>,
    /// How long a new connection waits for the relay.
    pub connect_wait: Duration,
    /// The session.
    pub session: SessionSettings,
    /// The agent.
    pub agent: AgentSettings,
    /// How long a pod may take to run.
    pub pod_running_timeout: Duration,
    /// How to reach the API server.
    pub cluster: ClusterArgs,
    /// Events on stdout instead of lines.
    pub json: bool,
    /// `-v`.
    pub verbosity: u8,
}

/// One value of `--address`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListenAddress {
    /// 127.0.0.1 and ::1, of which one may be absent.
    Localhost,
    /// Exactly this.
    Ip(IpAddr),
}

/// How the session behaves.
#[derive(Debug, Clone)]
pub struct SessionSettings {
    /// Which upgrade to use.
    pub transport: TransportArg,
    /// The most lanes at once.
    pub lanes: u8,
    /// `None`: no pings.
    pub ping: Option<Duration>,
    /// Silence after which a lane is given up.
    pub dead_after: Duration,
    /// How long the agent keeps a session without lanes.
    pub session_life: Duration,
}

/// What an agent's pod is made of.
#[derive(Debug, Clone, Default)]
pub struct PodSettings {
    /// The image that was asked for.
    pub image: Option<String>,
    /// Names of image pull secrets.
    pub pull_secrets: Vec<String>,
    /// Node labels.
    pub node_selector: BTreeMap<String, String>,
    /// Tolerations, as Kubernetes writes them.
    pub tolerations: Vec<Value>,
    /// Resource requests beside the defaults.
    pub requests: BTreeMap<String, String>,
    /// Resource limits beside the defaults.
    pub limits: BTreeMap<String, String>,
    /// The user's own patch of the pod template.
    pub patch: Option<Value>,
}

/// What the agent's Job is made of.
#[derive(Debug, Clone)]
pub struct AgentSettings {
    /// Where the agent comes from.
    pub source: AgentSource,
    /// Where it runs; `None`: the targets' namespace.
    pub namespace: Option<String>,
    /// Its pod.
    pub pod: PodSettings,
    /// The agent's idle time.
    pub idle: Duration,
    /// The agent's grace for streams at its end.
    pub drain_grace: Duration,
    /// The agent keeps a session without lanes so long.
    pub session_life: Duration,
    /// The agent asks a silent lane for a sign of life after this long; zero never.
    pub ping: Duration,
    /// The agent gives a silent lane up after this long.
    pub dead_after: Duration,
    /// Passed on as the agent's `-v`.
    pub verbosity: u8,
}

/// A command line that cannot be carried out.
#[derive(Debug, thiserror::Error)]
pub enum UsageError {
    /// The positional arguments.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// On a line of a targets file.
    #[error("{place}: {error}")]
    At {
        /// The line.
        place: Place,
        /// What is wrong there.
        error: Box<Self>,
    },
    /// A line of a targets file has flags that are none of its.
    #[error("{0}")]
    Line(String),
    /// `-f`.
    #[error("cannot read the targets file {file}: {source}")]
    TargetsFile {
        /// As typed.
        file: String,
        /// Why.
        source: std::io::Error,
    },
    /// `-f -` twice.
    #[error("standard input can be read only once")]
    StdinTwice,
    /// A targets file with nothing but comments.
    #[error("{0} holds no target")]
    NoTargets(String),
    /// A relay.yaml with nothing but groups without forwards.
    #[error("{0} holds no forward")]
    NoForwards(String),
    /// Something in a relay.yaml.
    #[error(transparent)]
    RelayFile(#[from] Mistake),
    /// `--address`.
    #[error("\"{0}\" is no address to listen on")]
    Address(String),
    /// A flag's value has the wrong form.
    #[error("{flag} \"{value}\" is not of the form {form}")]
    Form {
        /// The flag.
        flag: &'static str,
        /// What was typed.
        value: String,
        /// What it should look like.
        form: &'static str,
    },
    /// `--dead-after` below `--ping`, or zero.
    #[error("--dead-after {dead_after} leaves no time for a ping every {ping}")]
    DeadBeforePing {
        /// As typed.
        dead_after: String,
        /// As typed.
        ping: String,
    },
    /// The patch cannot be read.
    #[error("cannot read the patch file {}", path.display())]
    PatchFile {
        /// `--patch-file`.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The proxy's own flags.
    #[error(transparent)]
    Proxy(#[from] ProxyError),
    /// What cannot be traced.
    #[error(transparent)]
    Trace(#[from] TraceError),
    /// The patch is no patch of a pod template.
    #[error(transparent)]
    Patch(#[from] patch::PatchError),
}

impl UsageError {
    /// Tells where it is.
    pub(crate) fn at(self, place: Option<&Place>) -> Self {
        match place.cloned() {
            Some(place) => Self::At { place, error: self.into() },
            None => self,
        }
    }

    /// What to type instead.
    pub fn hint(&self) -> String {
        match self {
            Self::Target(error) => error.hint(),
            Self::At { error, .. } => error.hint(),
            Self::Line(_) => {
                "a line holds a target, its ports, and -n NAMESPACE, -l ADDRESS or --context NAME; other flags are for \
                 the command line"
                    .into()
            }
            Self::TargetsFile { .. } => "name a file of text, or - for standard input".into(),
            Self::StdinTwice => "give -f - once".into(),
            Self::NoTargets(_) => "write a target and its ports on a line: svc/web 8080:http".into(),
            Self::NoForwards(_) => {
                "write at least one below forwards, for example: - {target: svc/web, ports: 8080:http}".into()
            }
            Self::RelayFile(mistake) => mistake.hint(),
            Self::Address(_) => {
                "give an IP address of this machine, or localhost: --address 127.0.0.1".into()
            }
            Self::Form { flag, form, .. } => format!("write {flag} {form}"),
            Self::DeadBeforePing { .. } => "make --dead-after at least twice --ping, or --ping 0".into(),
            Self::PatchFile { .. } => "name a file with a JSON or YAML patch of the pod template".into(),
            Self::Patch(error) => error.hint(),
            Self::Proxy(error) => error.hint(),
            Self::Trace(error) => error.hint(),
        }
    }
}

impl Settings {
    /// Gives the typed arguments their meaning. Reads the targets files and the patch file, nothing else.
    ///
    /// # Errors
    /// The first argument that makes no sense.
    pub fn from_args(args: Args) -> Result<Self, UsageError> {
        let (targets, view) = (wanted::gather(&args)?, args.view());
        let Args { session, agent, cluster, verbosity, .. } = args;
        Ok(Self {
            targets,
            addresses: parse_addresses(&args.listen.address)?,
            ports_file: args.ports_file,
            metrics: args.metrics,
            view,
            command: CommandLine::new(args.command),
            connect_wait: args.listen.connect_wait,
            json: args.output == OutputArg::Json,
            ..Self::without_targets(&agent, &session, cluster, verbosity)?
        })
    }

    /// The same for a verb that starts an agent and listens nowhere.
    ///
    /// # Errors
    /// The first argument that makes no sense.
    pub fn without_targets(
        agent: &AgentArgs,
        session: &SessionArgs,
        cluster: ClusterArgs,
        verbosity: u8,
    ) -> Result<Self, UsageError> {
        if session.dead_after.is_zero() || session.dead_after < session.ping * 2 {
            return Err(UsageError::DeadBeforePing {
                dead_after: super::duration::show_duration(session.dead_after),
                ping: super::duration::show_duration(session.ping),
            });
        }
        Ok(Self {
            targets: Vec::new(),
            addresses: Vec::new(),
            ports_file: None,
            metrics: None,
            view: None,
            proxy: None,
            trace: None,
            command: None,
            connect_wait: Duration::ZERO,
            session: SessionSettings {
                transport: session.transport,
                lanes: session.lanes,
                ping: (!session.ping.is_zero()).then_some(session.ping),
                dead_after: session.dead_after,
                session_life: session.session_life,
            },
            agent: agent_settings(agent, session, verbosity)?,
            pod_running_timeout: agent.pod_running_timeout,
            cluster,
            json: false,
            verbosity,
        })
    }

    /// A run without targets, for a proxy.
    ///
    /// # Errors
    /// The first argument that makes no sense.
    pub fn for_proxy(
        proxy: ProxySettings,
        args: &ProxyArgs,
        cluster: ClusterArgs,
        verbosity: u8,
    ) -> Result<Self, UsageError> {
        Ok(Self {
            proxy: Some(proxy),
            metrics: args.metrics,
            command: CommandLine::new(args.command.clone()),
            connect_wait: args.connect_wait,
            json: args.output == OutputArg::Json,
            ..Self::without_targets(&args.agent, &args.session, cluster, verbosity)?
        })
    }
}

impl PodArgs {
    /// The same with the patch file's text as the patch: it may be another one, or nowhere, later.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn with_patch_read(self) -> Result<Self, UsageError> {
        let Some(path) = &self.patch_file else { return Ok(self) };
        let text = std::fs::read_to_string(path)
            .map_err(|source| UsageError::PatchFile { path: path.clone(), source })?;
        Ok(Self { patch: Some(text), patch_file: None, ..self })
    }

    /// What was typed, checked. Reads the patch file.
    ///
    /// # Errors
    /// The first value that makes no sense.
    pub fn settings(&self) -> Result<PodSettings, UsageError> {
        let Self { patch, .. } = self.clone().with_patch_read()?;
        Ok(PodSettings {
            image: self.image.clone(),
            pull_secrets: self.pull_secrets.clone(),
            node_selector: pairs("--server.node-selector", "KEY=VALUE", &self.node_selector)?,
            tolerations: self.tolerations.iter().map(|taint| toleration(taint)).collect::<Result<_, _>>()?,
            requests: pairs("--server.requests", "NAME=QUANTITY", &self.requests)?,
            limits: pairs("--server.limits", "NAME=QUANTITY", &self.limits)?,
            patch: patch.as_deref().map(patch::parse).transpose()?,
        })
    }
}

fn agent_settings(
    agent: &AgentArgs,
    session: &SessionArgs,
    verbosity: u8,
) -> Result<AgentSettings, UsageError> {
    Ok(AgentSettings {
        source: agent.agent_source,
        namespace: agent.namespace.clone(),
        pod: agent.pod.settings()?,
        idle: agent.agent_idle,
        drain_grace: agent.drain_grace,
        session_life: session.session_life,
        // A little later than this end, whose pings then serve both.
        ping: session.ping * 3 / 2,
        dead_after: session.dead_after,
        verbosity,
    })
}

pub(crate) fn parse_addresses(typed: &[String]) -> Result<Vec<ListenAddress>, UsageError> {
    let mut addresses = Vec::new();
    for text in typed {
        let address = match text.trim() {
            "localhost" => ListenAddress::Localhost,
            other => {
                let literal =
                    other.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(other);
                literal.parse().map(ListenAddress::Ip).map_err(|_| UsageError::Address(text.clone()))?
            }
        };
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    Ok(addresses)
}

fn pairs(
    flag: &'static str,
    form: &'static str,
    typed: &[String],
) -> Result<BTreeMap<String, String>, UsageError> {
    typed
        .iter()
        .map(|pair| match pair.split_once('=') {
            Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
            _ => Err(UsageError::Form { flag, value: pair.clone(), form }),
        })
        .collect()
}

fn toleration(taint: &str) -> Result<Value, UsageError> {
    let (key, effect) = match taint.split_once(':') {
        Some((key, effect)) => (key, Some(effect)),
        None => (taint, None),
    };
    let known_effect = effect.is_none_or(|e| ["NoSchedule", "PreferNoSchedule", "NoExecute"].contains(&e));
    if key.is_empty() || key.starts_with('=') || !known_effect {
        return Err(UsageError::Form {
            flag: "--server.toleration",
            value: taint.into(),
            form: "KEY[=VALUE][:NoSchedule|PreferNoSchedule|NoExecute]",
        });
    }
    let mut toleration = match key.split_once('=') {
        Some((key, value)) => json!({"key": key, "operator": "Equal", "value": value}),
        None => json!({"key": key, "operator": "Exists"}),
    };
    if let Some(effect) = effect {
        toleration["effect"] = effect.into();
    }
    Ok(toleration)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    fn settings(arguments: &[&str]) -> Result<Settings, UsageError> {
        let all = ["kubectl-relay"].iter().chain(arguments).copied();
        Settings::from_args(Args::try_parse_from(all).unwrap())
    }

    #[test]
    fn nothing_typed_means_the_documented_defaults() {
        let settings = settings(&["svc/web", "80"]).unwrap();
        assert_eq!(settings.targets[0].addresses, [ListenAddress::Localhost]);
        assert_eq!(settings.connect_wait, Duration::from_secs(10));
        assert_eq!(settings.session.ping, Some(Duration::from_secs(5)));
        assert_eq!(settings.session.dead_after, Duration::from_secs(15));
        assert_eq!(settings.session.lanes, 4);
        assert_eq!(settings.agent.idle, Duration::from_secs(300));
        assert_eq!(settings.agent.session_life, Duration::from_secs(1800));
        assert_eq!(settings.agent.drain_grace, Duration::from_secs(30));
        assert_eq!(settings.pod_running_timeout, Duration::from_secs(60));
        assert_eq!(settings.agent.source, AgentSource::Auto);
        assert_eq!(settings.agent.pod.image, None);
    }

    #[test]
    fn taints_become_tolerations() {
        let settings = settings(&["--server.toleration", "spot,a=b:NoExecute", "x", "1"]).unwrap();
        assert_eq!(
            settings.agent.pod.tolerations,
            [
                json!({"key": "spot", "operator": "Exists"}),
                json!({"key": "a", "operator": "Equal", "value": "b", "effect": "NoExecute"})
            ]
        );
    }

    #[test]
    fn wrong_values_are_named_with_their_flag() {
        let cases: &[(&[&str], &str)] = &[
            (&["-l", "example.com", "x", "1"], "\"example.com\" is no address to listen on"),
            (
                &["--server.node-selector", "zone", "x", "1"],
                "--server.node-selector \"zone\" is not of the form KEY=VALUE",
            ),
            (
                &["--server.toleration", "a:Maybe", "x", "1"],
                "--server.toleration \"a:Maybe\" is not of the form KEY[=VALUE][:NoSchedule|PreferNoSchedule|NoExecute]",
            ),
            (&["--dead-after", "5s", "x", "1"], "--dead-after 5s leaves no time for a ping every 5s"),
            (&["--patch-file", "/nowhere/p.yaml", "x", "1"], "cannot read the patch file /nowhere/p.yaml"),
        ];
        for (arguments, message) in cases {
            let error = settings(arguments).unwrap_err();
            assert_eq!(error.to_string(), *message);
            assert!(!error.hint().is_empty());
        }
    }

    #[test]
    fn an_address_named_twice_is_listened_on_once() {
        let settings = settings(&["-l", "localhost,::1,localhost", "x", "1"]).unwrap();
        let both = [ListenAddress::Localhost, ListenAddress::Ip("::1".parse().unwrap())];
        assert_eq!(settings.targets[0].addresses, both);
    }
}
