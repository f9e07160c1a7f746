//! What was typed: one field per flag, in clap's terms. Nothing is interpreted here beyond single values.

use std::{ffi::OsString, net::SocketAddr, path::PathBuf, time::Duration};

use clap::{
    ArgMatches, Args as ArgGroup, CommandFactory, FromArgMatches, Parser, ValueEnum, error::ErrorKind,
    parser::ValueSource,
};
use serde::{Deserialize, Serialize};

use super::{
    duration::parse_duration,
    help::{ABOUT, EXAMPLES},
    verb::Verb,
};
use crate::{metrics::parse_listen, output::Output, view::Kind};

/// The heading of what is about the terminal.
const OUTPUT: &str = "Output";

/// `kubectl relay`.
#[derive(Debug, Clone, Parser)]
#[command(
    name = "kubectl-relay",
    bin_name = "kubectl relay",
    version,
    about = "Forward TCP and UDP to anything a Kubernetes cluster can reach",
    long_about = ABOUT,
    after_long_help = EXAMPLES,
    override_usage = "kubectl relay [OPTIONS] TARGET PORT... [TARGET PORT...]... [-- COMMAND [ARG]...]\n       kubectl relay [OPTIONS] -f FILE... [-- COMMAND [ARG]...]\n       kubectl relay VERB [OPTIONS]",
    subcommand_help_heading = "Verbs",
    subcommand_value_name = "VERB",
    max_term_width = 110
)]
pub struct Args {
    /// Something else than forwarding.
    #[command(subcommand)]
    pub verb: Option<Verb>,

    /// A target, the ports after it, and more of both; see the examples of --help.
    #[arg(value_name = "TARGET PORT", num_args = 0..)]
    pub arguments: Vec<String>,

    /// A file with a target and its ports on each line, and -n, -l or --context where they differ; - is stdin; repeatable.
    #[arg(short = 'f', long = "file", value_name = "FILE")]
    pub files: Vec<PathBuf>,

    /// A command to run once traffic can flow, with its arguments; the run ends when it does, with its exit code.
    #[arg(value_name = "COMMAND", last = true, num_args = 0..)]
    pub command: Vec<OsString>,

    /// Listening.
    #[command(flatten)]
    pub listen: ListenArgs,
    /// The session.
    #[command(flatten)]
    pub session: SessionArgs,
    /// The agent.
    #[command(flatten)]
    pub agent: AgentArgs,
    /// The API server.
    #[command(flatten)]
    pub cluster: ClusterArgs,

    /// Output on stdout: the Forwarding lines, or one JSON event per line.
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value_t = OutputArg::Text, help_heading = OUTPUT)]
    pub output: OutputArg,

    /// Tell of each connection at its end: when, from where, to what, bytes each way, status.
    #[arg(long, help_heading = OUTPUT)]
    pub log_connections: bool,

    /// A file that says where each forward listens: made when all are ready, removed at the end; JSON if its name ends in .json.
    #[arg(long, value_name = "FILE", help_heading = OUTPUT)]
    pub ports_file: Option<PathBuf>,

    /// A page with Prometheus' metrics of the forwards, at http://ADDR:PORT/metrics; port 0 is a free one, and is told; ADDR may be left out.
    #[arg(long, value_name = "ADDR:PORT", value_parser = parse_listen, help_heading = OUTPUT)]
    pub metrics: Option<SocketAddr>,

    /// Show the forwards on the whole terminal: states, connections, bytes, delays; ? tells the keys. Line by line in a pipe.
    #[arg(long, conflicts_with_all = ["output", "command"], help_heading = OUTPUT)]
    pub tui: bool,

    /// With --tui: line by line on a terminal too, as screen readers like it.
    #[arg(long, requires = "tui", help_heading = OUTPUT)]
    pub plain: bool,

    /// Log more to stderr: 2 tells states, 4 decisions, 6 requests, 8 frames.
    #[arg(short = 'v', long = "v", value_name = "N", default_value_t = 0, global = true, help_heading = OUTPUT)]
    pub verbosity: u8,
}

impl Args {
    /// Reads a whole command line, its first word the program's name.
    ///
    /// # Errors
    /// What is wrong with it, or the text of `--help`.
    pub fn read(typed: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        let typed: Vec<OsString> = typed.into_iter().collect();
        let matches = Self::command().try_get_matches_from(&typed)?;
        Self::refuse_before_a_verb(&matches)?;
        let args = Self::from_arg_matches(&matches)?;
        // Most likely a script's variable that is empty: forwarding for ever is not what it wanted.
        let has_command = !args.command.is_empty() || args.verb.as_ref().is_some_and(Verb::has_command);
        if !has_command && typed.last().is_some_and(|last| last == "--") {
            let message = "a command is missing after --";
            return Err(Self::command().error(ErrorKind::MissingRequiredArgument, message));
        }
        Ok(args)
    }

    /// A flag that a verb would not look at is a mistake. Those that every verb has may stand before it.
    fn refuse_before_a_verb(matches: &ArgMatches) -> Result<(), clap::Error> {
        let Some(verb) = matches.subcommand_name() else { return Ok(()) };
        let mut command = Self::command();
        command.build();
        let typed = |arg: &&clap::Arg| {
            !arg.is_global_set()
                && matches.value_source(arg.get_id().as_str()) == Some(ValueSource::CommandLine)
        };
        let Some(arg) = command.get_arguments().find(typed) else { return Ok(()) };
        let message = format!("{arg} is about forwarding: it cannot stand before {verb}");
        Err(command.error(ErrorKind::ArgumentConflict, message))
    }

    /// How the forwards are to be shown, if they are.
    pub fn view(&self) -> Option<Kind> {
        self.tui.then(|| Kind::of_this_process(self.plain))
    }

    /// What the flags make of stdout and stderr.
    pub fn terminal(&self) -> Output {
        if let Some(Verb::Proxy(proxy)) = &self.verb {
            return proxy.terminal(self.verbosity);
        }
        if let Some(Verb::Trace(trace)) = &self.verb {
            return trace.terminal(self.verbosity);
        }
        let output = Output::new(self.output == OutputArg::Json, self.verbosity);
        let output = if self.command.is_empty() { output } else { output.beside_a_command() };
        if self.log_connections { output.log_connections() } else { output }
    }
}

/// Where the plugin listens.
#[derive(Debug, Clone, ArgGroup)]
#[command(next_help_heading = "Listening")]
pub struct ListenArgs {
    /// Addresses to listen on: IP addresses or localhost (127.0.0.1 and ::1); repeated or comma-separated.
    #[arg(
        short = 'l',
        long,
        value_name = "ADDR",
        value_delimiter = ',',
        default_value = "localhost",
        env = "KUBECTL_RELAY_ADDRESS"
    )]
    pub address: Vec<String>,

    /// How long a new connection waits while the relay is starting or reconnecting; 0 resets it at once.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parse_duration, env = "KUBECTL_RELAY_CONNECT_WAIT")]
    pub connect_wait: Duration,
}

/// The session with the agent.
#[derive(Debug, Clone, ArgGroup)]
#[command(next_help_heading = "Session")]
pub struct SessionArgs {
    /// How to reach the agent through the API server.
    #[arg(long, value_enum, value_name = "KIND", default_value_t = TransportArg::Auto, env = "KUBECTL_RELAY_TRANSPORT")]
    pub transport: TransportArg,

    /// At most so many connections to the API server carry bulk, twice as many where the path loses packets (1 to 16).
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=16), env = "KUBECTL_RELAY_LANES")]
    pub lanes: u8,

    /// Silence on a lane after which it is asked for a sign of life; 0 turns it off, at both ends.
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = parse_duration, env = "KUBECTL_RELAY_PING")]
    pub ping: Duration,

    /// Silence after which a lane is given up.
    #[arg(long, value_name = "TIME", default_value = "15s", value_parser = parse_duration, env = "KUBECTL_RELAY_DEAD_AFTER")]
    pub dead_after: Duration,

    /// How long the agent keeps open streams without any connection to this side.
    #[arg(long, value_name = "TIME", default_value = "30m", value_parser = parse_duration, env = "KUBECTL_RELAY_SESSION_LIFE")]
    pub session_life: Duration,
}

/// The agent in the cluster.
#[derive(Debug, Clone, ArgGroup)]
#[command(next_help_heading = "Agent")]
pub struct AgentArgs {
    /// Where the agent comes from.
    #[arg(long, value_enum, value_name = "SOURCE", default_value_t = AgentSource::Auto, env = "KUBECTL_RELAY_AGENT_SOURCE")]
    pub agent_source: AgentSource,

    /// The namespace the agent runs in [default: the current one].
    #[arg(
        id = "server_namespace",
        long = "server.namespace",
        value_name = "NAMESPACE",
        env = "KUBECTL_RELAY_SERVER_NAMESPACE"
    )]
    pub namespace: Option<String>,

    /// Its pod.
    #[command(flatten)]
    pub pod: PodArgs,

    /// The agent ends itself after so long without a session.
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = parse_duration, env = "KUBECTL_RELAY_AGENT_IDLE")]
    pub agent_idle: Duration,

    /// How long streams may go on when the agent is asked to end.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = parse_duration, env = "KUBECTL_RELAY_DRAIN_GRACE")]
    pub drain_grace: Duration,

    /// How long to wait for a pod (the agent's, or a target's) to run.
    #[arg(long, value_name = "TIME", default_value = "1m", value_parser = parse_duration, env = "KUBECTL_RELAY_POD_RUNNING_TIMEOUT")]
    pub pod_running_timeout: Duration,
}

/// An agent's pod, of whatever kind the agent is.
#[derive(Debug, Clone, Default, PartialEq, Eq, ArgGroup, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodArgs {
    /// The agent's image; with --agent-source embedded, the image that the carried agent is started under.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[arg(long = "server.image", value_name = "IMAGE", env = "KUBECTL_RELAY_SERVER_IMAGE")]
    pub image: Option<String>,

    /// A secret to pull the image with; repeatable.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[arg(long = "server.pull-secret", value_name = "NAME", value_delimiter = ',')]
    pub pull_secrets: Vec<String>,

    /// Labels the agent's node must have, as KEY=VALUE; repeatable.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[arg(long = "server.node-selector", value_name = "KEY=VALUE", value_delimiter = ',')]
    pub node_selector: Vec<String>,

    /// A taint the agent tolerates, as KEY, KEY=VALUE, KEY:EFFECT or KEY=VALUE:EFFECT; repeatable.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[arg(long = "server.toleration", value_name = "TAINT", value_delimiter = ',')]
    pub tolerations: Vec<String>,

    /// Resources the agent asks for, as NAME=QUANTITY, for example cpu=50m,memory=64Mi.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[arg(long = "server.requests", value_name = "NAME=QUANTITY", value_delimiter = ',')]
    pub requests: Vec<String>,

    /// Resources the agent may use, as NAME=QUANTITY; it needs 128Mi of memory for its buffers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[arg(long = "server.limits", value_name = "NAME=QUANTITY", value_delimiter = ',')]
    pub limits: Vec<String>,

    /// A strategic merge patch (JSON or YAML) for the agent's pod template.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[arg(short = 'p', long, value_name = "PATCH", conflicts_with = "patch_file")]
    pub patch: Option<String>,

    /// A file with such a patch.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[arg(long, value_name = "FILE")]
    pub patch_file: Option<PathBuf>,
}

/// kubectl's own flags.
#[derive(Debug, Clone, Default, PartialEq, Eq, ArgGroup, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[command(next_help_heading = "kubectl's flags")]
pub struct ClusterArgs {
    /// The kubeconfig file.
    #[arg(global = true, long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// The kubeconfig's context.
    #[arg(global = true, long, value_name = "NAME")]
    pub context: Option<String>,
    /// The kubeconfig's cluster.
    #[arg(global = true, long, value_name = "NAME")]
    pub cluster: Option<String>,
    /// The kubeconfig's user.
    #[arg(global = true, long, value_name = "NAME")]
    pub user: Option<String>,
    /// The namespace of the targets, and of the agent.
    #[arg(global = true, short, long, value_name = "NAME")]
    pub namespace: Option<String>,
    /// The user to impersonate.
    #[arg(global = true, long = "as", value_name = "USER")]
    pub impersonate: Option<String>,
    /// A group to impersonate; repeatable.
    #[arg(global = true, long = "as-group", value_name = "GROUP")]
    pub impersonate_groups: Vec<String>,
    /// The uid to impersonate.
    #[arg(global = true, long = "as-uid", value_name = "UID")]
    pub impersonate_uid: Option<String>,
    /// The address of the API server.
    #[arg(global = true, short, long, value_name = "URL")]
    pub server: Option<String>,
    /// A bearer token for the API server.
    #[arg(global = true, long, value_name = "TOKEN", hide_env_values = true)]
    pub token: Option<String>,
    /// A file with the certificate authority's certificate.
    #[arg(global = true, long, value_name = "FILE")]
    pub certificate_authority: Option<PathBuf>,
    /// The name that the server's certificate is checked against.
    #[arg(global = true, long, value_name = "NAME")]
    pub tls_server_name: Option<String>,
    /// Do not check the server's certificate: anybody could be at the other end.
    #[arg(global = true, long, num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true", value_name = "BOOL")]
    pub insecure_skip_tls_verify: bool,
    /// How long a single request to the API server may take; 0 waits for ever.
    #[arg(global = true, long, value_name = "TIME", default_value = "0", value_parser = parse_duration)]
    pub request_timeout: Duration,
}

/// `--output`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OutputArg {
    /// Forwarding lines.
    Text,
    /// One event per line.
    Json,
}

/// `--transport`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum TransportArg {
    /// WebSocket, then SPDY.
    Auto,
    /// SPDY frames inside a WebSocket.
    Websocket,
    /// The older channel protocol inside a WebSocket.
    WebsocketV4,
    /// SPDY itself.
    Spdy,
}

/// `--agent-source`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum AgentSource {
    /// The shared agent if there is one, else the image, the embedded one when that cannot be pulled, and none where no
    /// agent may be had.
    Auto,
    /// An image that the nodes can pull.
    Image,
    /// The one that this plugin carries, under an image that the cluster has already.
    Embedded,
    /// The shared agent, in --server.namespace, the current namespace or kubectl-relay; nothing is created.
    Shared,
    /// No agent: each pod's own port-forward, for TCP to pods, workloads and Services.
    None,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_well_defined() {
        Args::command().debug_assert();
    }

    fn read(words: &[&str]) -> Result<Args, clap::Error> {
        Args::read(["kubectl-relay"].iter().chain(words).map(OsString::from))
    }

    #[test]
    fn kubectls_flags_stand_before_a_verb_or_behind_it() {
        for words in [["-n", "x", "version"], ["version", "-n", "x"]] {
            let args = read(&words).unwrap();
            assert!(matches!(args.verb, Some(Verb::Version(_))), "{words:?}");
            assert_eq!(args.cluster.namespace.as_deref(), Some("x"), "{words:?}");
        }
    }

    #[test]
    fn a_flag_that_a_verb_has_not_is_refused() {
        let error = read(&["--lanes", "2", "version"]).unwrap_err();
        let message = "--lanes <N> is about forwarding: it cannot stand before version";
        assert!(error.to_string().contains(message), "{error}");
        assert_eq!(error.exit_code(), 2);
        assert!(read(&["version", "--lanes", "2"]).is_err());
    }

    #[test]
    fn a_verbs_command_may_end_in_dashes_and_may_not_be_missing() {
        let args = read(&["proxy", "-l", "0", "--", "git", "diff", "--"]).unwrap();
        assert!(args.verb.is_some_and(|verb| verb.has_command()));
        assert!(read(&["proxy", "--"]).unwrap_err().to_string().contains("a command is missing"));
        assert!(read(&["proxy", "--print-env", "--", "true"]).is_err());
        assert!(read(&["proxy", "--print-env", "-o", "json"]).is_err());
    }

    #[test]
    fn behind_a_target_a_verbs_name_is_a_word_like_others() {
        let args = read(&["svc/web", "80", "version", "81"]).unwrap();
        assert!(args.verb.is_none());
        assert_eq!(args.arguments, ["svc/web", "80", "version", "81"]);
    }

    #[test]
    fn flags_are_written_as_kubectl_writes_them() {
        let args = Args::try_parse_from([
            "kubectl-relay",
            "-n",
            "dev",
            "-v=4",
            "-l",
            "127.0.0.1,::1",
            "--address=10.0.0.1",
            "--as=jane",
            "--as-group",
            "a",
            "--as-group=b",
            "--insecure-skip-tls-verify",
            "svc/web",
            "8080:http",
            "--request-timeout=1m30s",
            ":443",
        ])
        .unwrap();

        assert_eq!(args.arguments, ["svc/web", "8080:http", ":443"]);
        assert_eq!(args.verbosity, 4);
        assert_eq!(args.listen.address, ["127.0.0.1", "::1", "10.0.0.1"]);
        assert_eq!(args.cluster.impersonate_groups, ["a", "b"]);
        assert!(args.cluster.insecure_skip_tls_verify);
        assert_eq!(args.cluster.request_timeout, Duration::from_secs(90));
    }

    #[test]
    fn a_server_flag_and_the_agents_flags_do_not_mix() {
        let args = Args::try_parse_from([
            "kubectl-relay",
            "--server=https://h:6443",
            "--server.image=i:1",
            "x",
            "1",
        ])
        .unwrap();
        assert_eq!(args.cluster.server.as_deref(), Some("https://h:6443"));
        assert_eq!(args.agent.pod.image.as_deref(), Some("i:1"));
    }

    #[test]
    fn sources_that_are_not_there_are_not_accepted() {
        let source = |source| Args::try_parse_from(["kubectl-relay", "--agent-source", source, "x", "1"]);
        assert_eq!(source("embedded").unwrap().agent.agent_source, AgentSource::Embedded);
        assert_eq!(source("none").unwrap().agent.agent_source, AgentSource::None);
        for other in ["elsewhere", ""] {
            assert!(source(other).is_err(), "{other}");
        }
    }

    #[test]
    fn what_follows_two_dashes_is_the_command_whatever_it_looks_like() {
        let words =
            ["kubectl-relay", "svc/db", "5432", "-n", "dev", "--", "psql", "-h", "127.0.0.1", "--", "-n"];
        let args = Args::read(words.map(OsString::from)).unwrap();
        assert_eq!(args.arguments, ["svc/db", "5432"]);
        assert_eq!(args.cluster.namespace.as_deref(), Some("dev"));
        assert_eq!(args.command, ["psql", "-h", "127.0.0.1", "--", "-n"]);
    }

    #[test]
    fn two_dashes_without_a_command_are_misuse() {
        let error = Args::read(["kubectl-relay", "svc/db", "5432", "--"].map(OsString::from)).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("a command is missing after --"), "{error}");
        assert!(
            Args::read(["kubectl-relay", "svc/db", "5432"].map(OsString::from)).unwrap().command.is_empty()
        );
    }

    #[test]
    fn lanes_have_bounds() {
        assert!(Args::try_parse_from(["kubectl-relay", "--lanes=0", "x", "1"]).is_err());
        assert!(Args::try_parse_from(["kubectl-relay", "--lanes=17", "x", "1"]).is_err());
    }
}
