//! The parts that come from Debian: runtime, CNI plug-ins, iptables.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};

use crate::shell::{self, say};

/// A file that a package brings, and the package.
const NEEDED: &[(&str, &str)] = &[
    ("/usr/bin/containerd", "containerd"),
    ("/usr/sbin/runc", "runc"),
    ("/usr/lib/cni/ptp", "containernetworking-plugins"),
    ("/usr/sbin/iptables", "iptables"),
    ("/usr/sbin/conntrack", "conntrack"),
    ("/bin/ip", "iproute2"),
    ("/usr/bin/nsenter", "util-linux"),
];

/// Fails early, with what to do, where a cluster cannot run at all.
pub(crate) fn check_machine() -> Result<()> {
    if !cfg!(target_os = "linux") {
        bail!("the cluster needs Linux; `cargo xtask test --no-cluster` runs what does not need it");
    }
    if !rustix::process::geteuid().is_root() {
        bail!(
            "the cluster needs root, for namespaces, mounts and containers: run `sudo -E cargo xtask …`; \
             `cargo xtask test --no-cluster` runs what does not need it"
        );
    }
    Ok(())
}

/// Installs what is missing.
pub(crate) fn install() -> Result<()> {
    let missing = missing();
    if missing.is_empty() {
        return Ok(());
    }
    if !Path::new("/usr/bin/apt-get").exists() {
        bail!("missing: {}; install them with this system's package manager", missing.join(" "));
    }
    say(format!("  installing Debian packages: {}", missing.join(" ")));
    shell::output(Command::new("apt-get").args(["update", "-qq"]))?;
    let mut install = Command::new("apt-get");
    install.env("DEBIAN_FRONTEND", "noninteractive");
    // A freshly installed containerd would start as a system service, which is not ours to run.
    install.env("RUNLEVEL", "1");
    install.args(["install", "-y", "-qq", "--no-install-recommends"]).args(&missing);
    shell::output(&mut install)?;
    let still = self::missing();
    if !still.is_empty() {
        bail!("still missing after apt-get: {}", still.join(" "));
    }
    Ok(())
}

fn missing() -> Vec<&'static str> {
    NEEDED.iter().filter(|(file, _)| !Path::new(file).exists()).map(|(_, package)| *package).collect()
}
