//! What was typed behind `kubectl relay proxy`.

use std::{ffi::OsString, net::SocketAddr, path::PathBuf, time::Duration};

use clap::Args as ArgGroup;

use crate::{
    cli::{
        args::{AgentArgs, ClusterArgs, OutputArg, SessionArgs},
        duration::parse_duration,
        settings::{Settings, UsageError},
    },
    metrics::parse_listen,
    output::Output,
    proxy::{dns::DnsArgs, pac::PacArgs},
};

/// What `kubectl relay proxy` takes.
#[derive(Debug, Clone, ArgGroup)]
#[command(after_long_help = EXAMPLES)]
pub struct ProxyArgs {
    /// Where to listen: ADDRESS:PORT, or a PORT on 127.0.0.1, 0 being a free one; repeated or comma-separated.
    #[arg(
        short = 'l',
        long,
        value_name = "ADDR:PORT",
        value_delimiter = ',',
        default_value = "127.0.0.1:1080",
        env = "KUBECTL_RELAY_PROXY_LISTEN"
    )]
    pub listen: Vec<String>,

    /// A namespace that short names are looked for in, in the order given [default: the current one]; repeatable.
    #[arg(long, value_name = "NAMESPACE", value_delimiter = ',')]
    pub namespace_search: Vec<String>,

    /// What may be reached, and nothing else: NAME, *.NAME, ADDRESS or CIDR, with :PORT or :PORT-PORT; repeatable.
    #[arg(long, value_name = "PATTERN", value_delimiter = ',')]
    pub allow: Vec<String>,

    /// What may not be reached, whatever is allowed; repeatable.
    #[arg(long, value_name = "PATTERN", value_delimiter = ',')]
    pub deny: Vec<String>,

    /// What goes out from this machine instead of the cluster; repeatable.
    #[arg(long, value_name = "PATTERN", value_delimiter = ',')]
    pub direct: Vec<String>,

    /// A file with the NAME:PASSWORD that clients have to give; or put that into KUBECTL_RELAY_PROXY_AUTH. Needed to listen beyond this machine.
    #[arg(long, value_name = "FILE")]
    pub auth_file: Option<PathBuf>,

    /// Clients at once; more are reset.
    #[arg(long, value_name = "N", default_value_t = 4096, value_parser = clap::value_parser!(u32).range(1..))]
    pub max_connections: u32,

    /// UDP flows at once.
    #[arg(long, value_name = "N", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..))]
    pub max_flows: u32,

    /// How long a new connection waits while the relay is starting or reconnecting; 0 refuses it at once.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parse_duration, env = "KUBECTL_RELAY_CONNECT_WAIT")]
    pub connect_wait: Duration,

    /// The name server.
    #[command(flatten)]
    pub dns: DnsArgs,
    /// Browsers.
    #[command(flatten)]
    pub pac: PacArgs,
    /// The session.
    #[command(flatten)]
    pub session: SessionArgs,
    /// The agent.
    #[command(flatten)]
    pub agent: AgentArgs,

    /// Output on stdout: lines, or one JSON event per line.
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value_t = OutputArg::Text)]
    pub output: OutputArg,

    /// Tell of each connection at its end: when, from where, to what, bytes each way, status.
    #[arg(long)]
    pub log_connections: bool,

    /// A page with Prometheus' metrics of the proxy, at http://ADDR:PORT/metrics; port 0 is a free one, and is told; ADDR may be left out.
    #[arg(long, value_name = "ADDR:PORT", value_parser = parse_listen)]
    pub metrics: Option<SocketAddr>,

    /// Print what sets a shell's variables once traffic can flow, and nothing else: source <(kubectl relay proxy --print-env).
    #[arg(long, conflicts_with_all = ["output", "command"])]
    pub print_env: bool,

    /// A command to run once traffic can flow, with the variables that lead programs to the proxy; the run ends when it does, with its exit code.
    #[arg(value_name = "COMMAND", last = true, num_args = 0..)]
    pub command: Vec<OsString>,
}

/// Shown under the flags by `--help`.
const EXAMPLES: &str = "\
The port speaks SOCKS5 (with UDP), SOCKS4a and HTTP (CONNECT, and http URLs). Names are resolved in the cluster.

Examples:
  # Everything the cluster can reach, through port 1080
  kubectl relay proxy
  curl -x socks5h://127.0.0.1:1080 http://web.default

  # Short names are looked for in two namespaces; nothing in kube-system, and no SSH
  kubectl relay proxy --namespace-search dev,test --deny '*.kube-system,*:22'

  # Only one namespace's Services and one network
  kubectl relay proxy --allow '*.dev,10.0.0.0/8'

  # A command, or a shell, with the variables that lead programs to the proxy
  kubectl relay proxy -l 0 -- curl http://web.default
  source <(kubectl relay proxy --print-env); git clone http://git.tools/repo; kill $RELAY_PID

  # A browser: only the cluster's names, and these addresses
  kubectl relay proxy --pac-range 10.96.0.0/12
  chromium --proxy-pac-url=http://127.0.0.1:1080/proxy.pac

  # Names
  kubectl relay proxy --dns 127.0.0.1:5300
  dig -p 5300 @127.0.0.1 web SRV _http._tcp.web.default.svc.cluster.local

  # For other machines too, with a password
  KUBECTL_RELAY_PROXY_AUTH=me:secret kubectl relay proxy -l 0.0.0.0:1080";

impl ProxyArgs {
    /// What the flags make of stdout and stderr.
    pub fn terminal(&self, verbosity: u8) -> Output {
        let output = Output::new(self.output == OutputArg::Json, verbosity);
        let output =
            if self.print_env || !self.command.is_empty() { output.beside_a_command() } else { output };
        if self.log_connections { output.log_connections() } else { output }
    }

    /// What was typed, as a run's settings.
    ///
    /// # Errors
    /// The first argument that makes no sense.
    pub fn settings(self, cluster: ClusterArgs, verbosity: u8) -> Result<Settings, UsageError> {
        let proxy = super::settings::ProxySettings::from_args(&self)?;
        Settings::for_proxy(proxy, &self, cluster, verbosity)
    }
}
