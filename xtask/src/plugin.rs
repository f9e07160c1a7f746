//! The plugin as it is given away: with the agent inside, one for each processor that nodes have.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};

use crate::shell::{self, step};
use crate::workspace::{Workspace, cargo};

/// The folder with agents that the client's build takes in.
pub(crate) const AGENTS: &str = "RELAY_EMBEDDED_AGENTS";

/// Options of `cargo xtask plugin`.
#[derive(Args)]
pub(crate) struct Options {
    /// Processors of nodes that it shall bring an agent for.
    #[arg(long, value_enum, value_delimiter = ',', value_name = "PROCESSOR", default_value = "amd64,arm64")]
    agents: Vec<Processor>,
}

/// A node's processor, as Kubernetes calls it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Processor {
    Amd64,
    Arm64,
}

impl Processor {
    pub(crate) const ALL: [Self; 2] = [Self::Amd64, Self::Arm64];

    /// The target triple of what runs in a container.
    pub(crate) fn target(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64-unknown-linux-musl",
            Self::Arm64 => "aarch64-unknown-linux-musl",
        }
    }

    /// As the label `kubernetes.io/arch` and images have it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }
}

/// Builds the plugin for this machine.
pub(crate) fn run(options: &Options) -> Result<()> {
    let workspace = Workspace::here();
    let agents = pack_agents(&workspace, &options.agents)?;
    step("build kubectl-relay (profile release)", || {
        shell::run(workspace.build(cargo(), "build", "kubectl-relay", "release").env(AGENTS, &agents))
    })?;
    println!("{}", workspace.target.join("release/kubectl-relay").display());
    Ok(())
}

/// Builds and packs agents for these processors; gives the folder for [`AGENTS`].
pub(crate) fn pack_agents(workspace: &Workspace, processors: &[Processor]) -> Result<PathBuf> {
    let names: Vec<_> = processors.iter().map(|processor| processor.name()).collect();
    // Whoever wants other processors must not find these.
    let folder = workspace.target.join("agents").join(names.join("-"));
    fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
    for processor in Processor::ALL.into_iter().filter(|processor| processors.contains(processor)) {
        let agent = workspace.build_static(processor.target(), "relay-server", "agent")?;
        let launcher = workspace.build_static(processor.target(), "relay-launcher", "agent")?;
        let file = folder.join(format!("relay-server-{}", processor.name()));
        step(&format!("pack the agent for {}", processor.name()), || {
            let packed = relay_launcher::pack(&read(&launcher)?, &read(&agent)?)?;
            // Touched files make Cargo build again.
            if fs::read(&file).is_ok_and(|before| before == packed) {
                return Ok(());
            }
            fs::write(&file, packed).with_context(|| format!("write {}", file.display()))
        })?;
    }
    Ok(folder)
}

fn read(program: &Path) -> Result<Vec<u8>> {
    fs::read(program).with_context(|| format!("read {}", program.display()))
}
