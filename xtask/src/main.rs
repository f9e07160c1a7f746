//! `cargo xtask`: everything this repository does besides the product itself.

mod cluster;
mod image;
mod paths;
mod shell;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Cluster, demo, tests and images of kubectl relay")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// A real one-node Kubernetes on this machine (Linux, root).
    Cluster(cluster::Options),
    /// Build the agent's image as an archive, without Docker.
    Image(image::Options),
}

fn main() -> Result<()> {
    match Cli::parse().command {
        Command::Cluster(options) => cluster::run(options),
        Command::Image(options) => image::run(&options),
    }
}
