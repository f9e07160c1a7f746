//! kubectl of the cluster's own version, as its administrator.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::binaries::Binaries;
use super::plan::Plan;
use crate::shell;

/// kubectl with program and kubeconfig set.
#[derive(Debug)]
pub(crate) struct Kubectl {
    program: PathBuf,
    kubeconfig: PathBuf,
}

impl Kubectl {
    /// For the cluster of this plan.
    pub(crate) fn new(plan: &Plan) -> Result<Self> {
        Ok(Self { program: Binaries::cached()?.kubernetes("kubectl"), kubeconfig: plan.kubeconfig() })
    }

    /// A command to add arguments to.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--kubeconfig").arg(&self.kubeconfig);
        // The cluster is on this machine: a proxy for the outside has no way to it.
        command.env("NO_PROXY", "*").env("no_proxy", "*");
        command
    }

    /// Runs it; gives what it printed.
    pub(crate) fn output(&self, arguments: &[&str]) -> Result<String> {
        shell::output(self.command().args(arguments))
    }

    /// `kubectl apply` of a manifest.
    pub(crate) fn apply(&self, manifest: &str) -> Result<()> {
        let mut command = self.command();
        command.args(["apply", "--server-side", "--force-conflicts", "-f", "-"]);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().context("start kubectl apply")?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(manifest.as_bytes())?;
        }
        let done = child.wait_with_output()?;
        if !done.status.success() {
            bail!("kubectl apply: {}", String::from_utf8_lossy(&done.stderr).trim());
        }
        Ok(())
    }
}
