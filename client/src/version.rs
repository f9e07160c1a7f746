//! `kubectl relay version`.

use std::env::consts::{ARCH, OS};

use clap::{Args as ArgGroup, ValueEnum};
use serde_json::json;

use crate::{agent::embedded::embedded, cli::settings::default_image, output::Output};

/// What `kubectl relay version` takes.
#[derive(Debug, Clone, ArgGroup)]
pub struct VersionArgs {
    /// How to print it.
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value_t = Format::Text)]
    pub output: Format,
}

/// The form of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// The commit that a release was built from, if this is one.
const COMMIT: Option<&str> = option_env!("RELAY_COMMIT");

/// Prints version, commit, the agent's image and the processors that carried agents are for.
pub fn tell(args: &VersionArgs, output: &Output) {
    let version = env!("CARGO_PKG_VERSION");
    let agents: Vec<_> = embedded().iter().map(|agent| agent.processor).collect();
    let image = default_image();
    match args.output {
        Format::Json => {
            let answer = json!({
                "version": version, "commit": COMMIT, "os": OS, "arch": ARCH, "image": image, "embeddedAgents": agents,
            });
            output.answer(&answer.to_string());
        }
        Format::Text => {
            let agents = if agents.is_empty() { "none".into() } else { agents.join(", ") };
            let commit = COMMIT.map(|commit| format!(" ({commit})")).unwrap_or_default();
            let lines = [
                format!("kubectl relay {version}{commit}, {OS}/{ARCH}"),
                format!("agent image: {image}"),
                format!("embedded agents: {agents}"),
            ];
            output.answer(&lines.join("\n"));
        }
    }
}
