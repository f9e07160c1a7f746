//! What was typed behind `kubectl relay trace`.

use std::{ffi::OsString, path::PathBuf};

use clap::{Args as ArgGroup, ValueHint};

use super::{TraceError, TraceSettings};
use crate::{
    cli::{
        args::{AgentArgs, Args, ClusterArgs, ListenArgs, OutputArg, SessionArgs},
        settings::{Settings, UsageError},
    },
    output::Output,
};

/// What `kubectl relay trace` takes: what a run takes, and what is to be seen of it.
#[derive(Debug, Clone, ArgGroup)]
#[command(after_long_help = EXAMPLES, override_usage = "kubectl relay trace [OPTIONS] TARGET PORT... [TARGET PORT...]... [-- COMMAND [ARG]...]\n       kubectl relay trace [OPTIONS] -f FILE... [-- COMMAND [ARG]...]")]
pub struct TraceArgs {
    /// A target, the ports after it, and more of both, as without trace.
    #[arg(value_name = "TARGET PORT", num_args = 0..)]
    pub arguments: Vec<String>,

    /// A file with a target and its ports on each line, and -n, -l or --context where they differ; - is stdin; repeatable.
    #[arg(short = 'f', long = "file", value_name = "FILE")]
    pub files: Vec<PathBuf>,

    /// Write all that passes to a capture (pcapng) that only you may read; - is stdout, and all else goes to stderr.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::AnyPath, help_heading = "Tracing")]
    pub pcap: Option<PathBuf>,

    /// Show query strings, and parameters behind semicolons: they may hold passwords and tokens.
    #[arg(long, help_heading = "Tracing")]
    pub show_query: bool,

    /// Listening.
    #[command(flatten)]
    pub listen: ListenArgs,
    /// The session.
    #[command(flatten)]
    pub session: SessionArgs,
    /// The agent.
    #[command(flatten)]
    pub agent: AgentArgs,

    /// Output on stdout: lines, or one JSON event per line.
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value_t = OutputArg::Text, help_heading = "Output")]
    pub output: OutputArg,

    /// Tell of each connection at its end: when, from where, to what, bytes each way, status.
    #[arg(long, help_heading = "Output")]
    pub log_connections: bool,

    /// A file that says where each forward listens: made when all are ready, removed at the end; JSON if its name ends in .json.
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub ports_file: Option<PathBuf>,

    /// A command to run once traffic can flow, with its arguments; the run ends when it does, with its exit code.
    #[arg(value_name = "COMMAND", last = true, num_args = 0..)]
    pub command: Vec<OsString>,
}

/// Shown under the flags by `--help`.
const EXAMPLES: &str = "\
Forwards as `kubectl relay` does, and tells each HTTP exchange on a line of its own (HTTP/1, and HTTP/2 without TLS; gRPC's
status too): path, status, duration, bytes on the wire. Of other connections it tells once what they are. Traffic passes
unchanged, and never waits for it: what can't be told or written in time is counted. Header values and bodies are never
shown, query strings with --show-query. A capture holds everything, passwords too.

Examples:
  # Who asks what of a Service
  kubectl relay trace svc/web 8080:http

  # What a program asks, as JSON
  kubectl relay trace svc/web :http -o json -- sh -c 'curl -s http://$RELAY_ADDR/'

  # A capture of a database's connections, to be looked at later
  kubectl relay trace svc/db 5432 --pcap db.pcapng

  # Live
  kubectl relay trace svc/web 8080:http --pcap - | wireshark -k -i -";

impl TraceArgs {
    /// Whether stdout is the capture's.
    fn is_piped(&self) -> bool {
        self.pcap.as_ref().is_some_and(|path| path.as_os_str() == "-")
    }

    /// What the flags make of stdout and stderr.
    pub fn terminal(&self, verbosity: u8) -> Output {
        let output = Output::new(self.output == OutputArg::Json, verbosity);
        let has_stdout = self.command.is_empty() && !self.is_piped();
        let output = if has_stdout { output } else { output.beside_a_command() };
        if self.log_connections { output.log_connections() } else { output }
    }

    /// What was typed, as a run's settings and what is to be traced of it.
    ///
    /// # Errors
    /// The first argument that makes no sense.
    pub fn settings(
        self,
        cluster: ClusterArgs,
        verbosity: u8,
    ) -> Result<(Settings, TraceSettings), UsageError> {
        if self.is_piped() && !self.command.is_empty() {
            return Err(TraceError::Command.into());
        }
        let tracing = TraceSettings { show_query: self.show_query, pcap: self.pcap };
        let settings = Settings::from_args(Args {
            verb: None,
            arguments: self.arguments,
            files: self.files,
            command: self.command,
            listen: self.listen,
            session: self.session,
            agent: self.agent,
            cluster,
            output: self.output,
            log_connections: self.log_connections,
            ports_file: self.ports_file,
            metrics: None,
            tui: false,
            plain: false,
            verbosity,
        })?;
        Ok((settings, tracing))
    }
}
