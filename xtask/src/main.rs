//! `cargo xtask`: everything this repository does besides the product itself.

mod archive;
mod bench;
mod cluster;
mod count;
mod demo;
mod dist;
mod docs;
mod image;
mod paths;
mod plugin;
mod shell;
mod test;
mod workspace;

use std::process::ExitCode;

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
    /// Build the plugin with the agent inside.
    Plugin(plugin::Options),
    /// Build everything that a release consists of.
    Dist(dist::Options),
    /// Write docs/reference.md, and man pages into target/man, from the definition of the command line.
    Docs,
    /// Everything that must hold before a change lands.
    Test(test::Options),
    /// Show the main job on a real cluster.
    Demo(demo::Options),
    /// Figures beside those of `kubectl port-forward`, on a real cluster.
    Bench(bench::Options),
    /// Instructions that small pieces of code take: header, frames, session, framing (valgrind).
    Count(count::Options),
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            for cause in error.chain().skip(1) {
                eprintln!("  because: {cause}");
            }
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::Cluster(options) => cluster::run(options),
        Command::Image(options) => image::run(&options),
        Command::Plugin(options) => plugin::run(&options),
        Command::Dist(options) => dist::run(&options),
        Command::Docs => docs::run(),
        Command::Test(options) => test::run(&options),
        Command::Demo(options) => demo::run(&options),
        Command::Bench(options) => bench::run(&options),
        Command::Count(options) => count::run(&options),
    }
}
