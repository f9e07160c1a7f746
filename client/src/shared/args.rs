//! What `kubectl relay agent` takes.

use std::{net::SocketAddr, time::Duration};

use clap::{Args as ArgGroup, Subcommand, ValueEnum};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::SharedError;
use crate::{
    cli::{args::PodArgs, duration::parse_duration, settings::UsageError},
    version::Format,
};

/// What is done with the shared agent. It is in namespace kubectl-relay, or in that of -n.
#[derive(Debug, Clone, Subcommand)]
pub enum AgentVerb {
    /// Install the shared agent, or change it to what is given now; waits until it is ready.
    Install(Box<InstallArgs>),
    /// Tell of each replica: version, node, age, sessions, streams, bytes, denials.
    Status(StatusArgs),
    /// Roll it to this plugin's version: settings stay as they were installed, but for those given.
    Upgrade(Box<InstallArgs>),
    /// Remove what install has made, and nothing else.
    Uninstall(UninstallArgs),
    /// Print what install would apply.
    Manifest(Box<WantedArgs>),
}

/// How the shared agent shall be. It is recorded with it, for the next upgrade.
#[derive(Debug, Clone, Default, PartialEq, Eq, ArgGroup, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct WantedArgs {
    /// So many pods [default: 2].
    #[serde(skip_serializing_if = "Option::is_none")]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=100))]
    pub replicas: Option<u16>,

    /// Reach nothing but this: a CIDR, a host-name pattern, or * (all but what is denied by itself), each with :PORT or
    /// :FROM-TO if wanted; repeatable.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[arg(long, value_name = "RULE")]
    pub allow: Vec<String>,

    /// Never reach this, whatever is allowed; repeatable.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[arg(long, value_name = "RULE")]
    pub deny: Vec<String>,

    /// Sessions at a time, on each replica.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub max_sessions: Option<u32>,

    /// Streams of one session at a time.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub max_streams: Option<u32>,

    /// Write the beginning and the end of each stream to the pods' logs, as JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub audit: Option<bool>,

    /// Serve metrics at this address of each pod too, and let the cluster reach that port.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[arg(long, value_name = "ADDR:PORT")]
    pub metrics_listen: Option<SocketAddr>,

    /// How long streams may go on when a pod is asked to end [default: 30s].
    #[serde(skip_serializing_if = "Option::is_none")]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub drain_grace: Option<Duration>,

    /// How long a session with open streams is kept without any connection [default: 30m].
    #[serde(skip_serializing_if = "Option::is_none")]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub session_life: Option<Duration>,

    /// A group that may use it: bound to the Role that is installed with it; repeatable.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[arg(long = "user-group", value_name = "GROUP")]
    pub user_groups: Vec<String>,

    /// Who else may use it: user:NAME, group:NAME or serviceaccount:NAMESPACE:NAME; repeatable.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[arg(long = "subject", value_name = "SUBJECT")]
    pub subjects: Vec<String>,

    /// What the agent logs: 0 to 3 what happens, 4 addresses too.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[arg(long = "server.verbosity", value_name = "N")]
    pub server_verbosity: Option<u8>,

    /// Its pods.
    #[serde(flatten)]
    #[command(flatten)]
    pub pod: PodArgs,

    /// The version that the record is of.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[arg(skip)]
    pub version: Option<String>,
}

/// What install and upgrade take.
#[derive(Debug, Clone, ArgGroup)]
pub struct InstallArgs {
    /// How it shall be.
    #[command(flatten)]
    pub wanted: WantedArgs,

    /// Change nothing: server asks the API server what it would say, client only lists what would be applied.
    #[arg(long, value_enum, value_name = "WHERE")]
    pub dry_run: Option<DryRunArg>,

    /// Take over fields that somebody else has set.
    #[arg(long)]
    pub force_conflicts: bool,

    /// How long to wait until it is ready.
    #[arg(long, value_name = "TIME", default_value = "2m", value_parser = parse_duration)]
    pub timeout: Duration,
}

/// What uninstall takes.
#[derive(Debug, Clone, ArgGroup)]
pub struct UninstallArgs {
    /// How long to wait until everything is gone.
    #[arg(long, value_name = "TIME", default_value = "2m", value_parser = parse_duration)]
    pub timeout: Duration,
}

/// What status takes.
#[derive(Debug, Clone, ArgGroup)]
pub struct StatusArgs {
    /// How to print it.
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value_t = Format::Text)]
    pub output: Format,
}

/// `--dry-run`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DryRunArg {
    /// Nothing is asked.
    Client,
    /// The API server checks everything and keeps nothing.
    Server,
}

impl WantedArgs {
    /// The same without files: what is recorded must mean the same anywhere.
    ///
    /// # Errors
    /// When the patch file cannot be read.
    pub(super) fn read(self) -> Result<Self, UsageError> {
        Ok(Self { pod: self.pod.with_patch_read()?, ..self })
    }

    /// A record, with what is given now in place of what was given for the same. A list with an empty value only is
    /// emptied. An image whose tag is the recorded version becomes that of this version.
    pub(super) fn overlaid_with(&self, given: &Self) -> Result<Self, SharedError> {
        let mut all = fields(self)?;
        let recorded = all.remove("version");
        all.extend(fields(given)?);
        for list in all.values_mut().filter_map(Value::as_array_mut) {
            list.retain(|value| value != "");
        }
        let mut wanted: Self = serde_json::from_value(Value::Object(all)).map_err(SharedError::Record)?;
        if given.pod.image.is_none()
            && let Some(version) = recorded.as_ref().and_then(Value::as_str)
            && let Some(image) = &wanted.pod.image
            && let Some(repository) = image.strip_suffix(&format!(":{version}"))
        {
            wanted.pod.image = Some(format!("{repository}:{}", env!("CARGO_PKG_VERSION")));
        }
        Ok(wanted)
    }
}

fn fields(wanted: &WantedArgs) -> Result<Map<String, Value>, SharedError> {
    match serde_json::to_value(wanted).map_err(SharedError::Record)? {
        Value::Object(fields) => Ok(fields),
        _ => Ok(Map::new()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Typed {
        #[command(flatten)]
        wanted: WantedArgs,
    }

    fn typed(words: &[&str]) -> WantedArgs {
        Typed::try_parse_from(["x"].iter().chain(words)).unwrap().wanted
    }

    #[test]
    fn an_upgrade_keeps_what_was_installed_but_for_what_is_given() {
        let recorded = typed(&[
            "--allow=10.0.0.0/8",
            "--deny=*.corp",
            "--replicas=3",
            "--audit",
            "--server.pull-secret=s",
        ]);
        let given = typed(&["--allow=192.168.0.0/16", "--audit=false", "--deny="]);
        let both = recorded.overlaid_with(&given).unwrap();
        assert_eq!(
            both,
            typed(&["--allow=192.168.0.0/16", "--replicas=3", "--audit=false", "--server.pull-secret=s"])
        );
    }

    #[test]
    fn an_upgrade_takes_the_image_of_its_version_from_the_registry_that_was_named() {
        let of =
            |image: &str| WantedArgs { version: Some("0.0.9".into()), ..typed(&["--server.image", image]) };
        let upgraded = of("r.example.com/relay:0.0.9").overlaid_with(&typed(&[])).unwrap();
        let ours = format!("r.example.com/relay:{}", env!("CARGO_PKG_VERSION"));
        assert_eq!(upgraded.pod.image, Some(ours));
        let pinned = of("r.example.com/relay:stable").overlaid_with(&typed(&[])).unwrap();
        assert_eq!(pinned.pod.image.as_deref(), Some("r.example.com/relay:stable"));
        let given =
            of("r.example.com/relay:0.0.9").overlaid_with(&typed(&["--server.image=x:0.0.9"])).unwrap();
        assert_eq!(given.pod.image.as_deref(), Some("x:0.0.9"));
    }
}
