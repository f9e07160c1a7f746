//! `kubectl relay version`.

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

/// Prints version, the agent's image and the processors that carried agents are for.
pub fn tell(args: &VersionArgs, output: &Output) {
    let version = env!("CARGO_PKG_VERSION");
    let agents: Vec<_> = embedded().iter().map(|agent| agent.processor).collect();
    let image = default_image();
    match args.output {
        Format::Json => {
            output
                .answer(&json!({ "version": version, "image": image, "embeddedAgents": agents }).to_string());
        }
        Format::Text => {
            let agents = if agents.is_empty() { "none".into() } else { agents.join(", ") };
            output
                .answer(&format!("kubectl relay {version}\nagent image: {image}\nembedded agents: {agents}"));
        }
    }
}
