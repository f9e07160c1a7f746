//! The flags of the verbs around the background process.

use std::{path::PathBuf, time::Duration};

use clap::{Args, ValueEnum};

use crate::cli::duration::parse_duration;

/// `kubectl relay up`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  # Everything in relay.yaml of this folder, in the background; returns when all are ready
  kubectl relay up

  # The groups data and web of another file
  kubectl relay up data web -f team/relay.yaml

  # In this terminal, until Ctrl-C; the file may be edited meanwhile
  kubectl relay up --foreground

The file is watched: what is added, changed or removed there is so at once, and all else goes on untouched.
Exit codes: 0 when all are ready; 1 when one has failed or is not ready in time (the others go on, and it is tried again);
2 for a wrong file or command line, and then nothing has changed.")]
pub struct UpArgs {
    /// Groups of the file to forward, beside those that are already; none: all of it.
    #[arg(value_name = "GROUP")]
    pub groups: Vec<String>,

    /// The file.
    #[arg(short = 'f', long, value_name = "FILE", default_value = "relay.yaml")]
    pub file: PathBuf,

    /// Stay in this terminal, without a background process.
    #[arg(long, conflicts_with = "no_wait")]
    pub foreground: bool,

    /// How to wait.
    #[command(flatten)]
    pub waiting: WaitArgs,
}

/// Whether to wait, and for how long.
#[derive(Debug, Clone, Args)]
pub struct WaitArgs {
    /// Return when every forward is ready or has failed; this is the default.
    #[arg(long, conflicts_with = "no_wait")]
    pub wait: bool,

    /// Return at once, whatever comes of it.
    #[arg(long)]
    pub no_wait: bool,

    /// How long to wait at most.
    #[arg(long, value_name = "TIME", default_value = "2m", value_parser = parse_duration)]
    pub timeout: Duration,
}

/// `kubectl relay down` and `kubectl relay rm`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  # End all forwards and the background process; nothing is left in the cluster
  kubectl relay down

  # End one group and one forward; the others go on
  kubectl relay down data web

What is ended while its group goes on stays so until it is asked for with kubectl relay up.")]
pub struct DownArgs {
    /// Groups, names, targets or numbers of forwards; none: all.
    #[arg(value_name = "GROUP|NAME|ID")]
    pub which: Vec<String>,
}

/// `kubectl relay rm`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Example:
  # End forward 3, and those that are called web
  kubectl relay rm 3 web")]
pub struct RmArgs {
    /// Names, targets or numbers of forwards.
    #[arg(value_name = "NAME|ID", required = true)]
    pub which: Vec<String>,
}

/// `kubectl relay ls`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  # Number, name, local address, target and state of each
  kubectl relay ls

  # Everything that is known, for a program
  kubectl relay ls -o json

Exit codes: 0, also when there is none; 1 when the background process does not answer.")]
pub struct LsArgs {
    /// How to list them.
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value_t = ListFormat::Text)]
    pub output: ListFormat,
}

/// `kubectl relay ls -o`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ListFormat {
    /// A table.
    Text,
    /// A table with agents and numbers.
    Wide,
    /// JSON.
    Json,
    /// YAML.
    Yaml,
    /// Names alone.
    Name,
}

/// `kubectl relay logs`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Example:
  # What has happened, and what happens from now on
  kubectl relay logs -f")]
pub struct LogsArgs {
    /// Go on until Ctrl-C, or until the background process ends.
    #[arg(short, long)]
    pub follow: bool,
}

/// `kubectl relay add`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  # One more forward in the background, whether there is a file or not
  kubectl relay add svc/web 8080:http

  # Under a name of its own, from another namespace
  kubectl relay add -n data --name db svc/postgres 5432")]
pub struct AddArgs {
    /// A target, the ports after it, and more of both.
    #[arg(value_name = "TARGET PORT", required = true)]
    pub arguments: Vec<String>,

    /// What to call it [default: what the target is called].
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,

    /// Addresses to listen on: IP addresses or localhost; repeated or comma-separated.
    #[arg(short = 'l', long, value_name = "ADDR", value_delimiter = ',')]
    pub address: Vec<String>,

    /// How to wait.
    #[command(flatten)]
    pub waiting: WaitArgs,
}

/// The background process itself.
#[derive(Debug, Clone, Args)]
pub struct BackgroundArgs {}
