//! Kubernetes, etcd and CoreDNS, built from their Go modules into a cache.
//!
//! Each component is a small Go module of ours that requires the real one. Nothing counts as
//! cached before it is complete: a build goes to a folder of its own, which is renamed at the end.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use crate::paths;
use crate::shell::{self, say, step};

/// Versions of the API server that the cluster can run; the rest stays at 1.34.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ApiVersion {
    /// Upgrades to port-forward need `get` by WebSocket, `create` by SPDY.
    #[value(name = "1.34")]
    V1_34,
    /// Both kinds of upgrade need `create`.
    #[value(name = "1.36")]
    V1_36,
}

/// Something built from one Go module.
struct Component {
    name: &'static str,
    module: &'static str,
    version: &'static str,
    /// Packages relative to the module and what the programs are called.
    programs: &'static [(&'static str, &'static str)],
    /// Kubernetes' module refers to its libraries by local folders; this is their published version.
    staging: Option<&'static str>,
}

const KUBERNETES: Component = Component {
    name: "kubernetes",
    module: "k8s.io/kubernetes",
    version: "v1.34.4",
    programs: &[
        ("/cmd/kube-apiserver", "kube-apiserver"),
        ("/cmd/kube-controller-manager", "kube-controller-manager"),
        ("/cmd/kube-scheduler", "kube-scheduler"),
        ("/cmd/kubelet", "kubelet"),
        ("/cmd/kube-proxy", "kube-proxy"),
        ("/cmd/kubectl", "kubectl"),
    ],
    staging: Some("v0.34.4"),
};

const NEWER_API_SERVER: Component = Component {
    name: "kubernetes-apiserver",
    module: "k8s.io/kubernetes",
    version: "v1.36.3",
    programs: &[("/cmd/kube-apiserver", "kube-apiserver")],
    staging: Some("v0.36.3"),
};

const ETCD: Component = Component {
    name: "etcd",
    module: "go.etcd.io/etcd/server/v3",
    version: "v3.7.3",
    programs: &[("", "etcd")],
    staging: None,
};

const COREDNS: Component = Component {
    name: "coredns",
    module: "github.com/coredns/coredns",
    version: "v1.15.0",
    programs: &[("", "coredns")],
    staging: None,
};

/// The programs of a cluster, built.
#[derive(Debug)]
pub(crate) struct Binaries {
    kubernetes: PathBuf,
    etcd: PathBuf,
    coredns: PathBuf,
}

impl Binaries {
    /// Builds what the cache lacks.
    pub(crate) fn ensure() -> Result<Self> {
        Ok(Self { kubernetes: ensure(&KUBERNETES)?, etcd: ensure(&ETCD)?, coredns: ensure(&COREDNS)? })
    }

    /// Builds the newer API server too, so that nobody has to wait for it in the middle of a test.
    pub(crate) fn ensure_newer() -> Result<()> {
        ensure(&NEWER_API_SERVER).map(drop)
    }

    /// Where they would be; for commands that work on a running cluster.
    pub(crate) fn cached() -> Result<Self> {
        let cache = paths::cache()?;
        let folder = |component: &Component| cache.join(component.folder());
        Ok(Self { kubernetes: folder(&KUBERNETES), etcd: folder(&ETCD), coredns: folder(&COREDNS) })
    }

    /// A program of the main Kubernetes version.
    pub(crate) fn kubernetes(&self, program: &str) -> PathBuf {
        self.kubernetes.join(program)
    }

    /// etcd.
    pub(crate) fn etcd(&self) -> PathBuf {
        self.etcd.join("etcd")
    }

    /// CoreDNS.
    pub(crate) fn coredns(&self) -> PathBuf {
        self.coredns.join("coredns")
    }

    /// The folder that holds kubectl, for somebody's PATH.
    pub(crate) fn folder(&self) -> &Path {
        &self.kubernetes
    }

    /// The API server of the version asked for; the newer one is built when first wanted.
    pub(crate) fn api_server(&self, version: ApiVersion) -> Result<PathBuf> {
        match version {
            ApiVersion::V1_34 => Ok(self.kubernetes("kube-apiserver")),
            ApiVersion::V1_36 => Ok(ensure(&NEWER_API_SERVER)?.join("kube-apiserver")),
        }
    }
}

impl Component {
    fn folder(&self) -> String {
        format!("{}-{}", self.name, self.version)
    }

    /// Our module that stands for this component.
    fn go_mod(&self, theirs: &str) -> String {
        let mut text = String::from("module cluster\n\n");
        for line in theirs.lines().filter(|line| line.starts_with("go ") || line.starts_with("godebug ")) {
            text.push_str(line);
            text.push('\n');
        }
        text.push_str(&format!("\nrequire {} {}\n\n", self.module, self.version));
        if let Some(version) = self.staging {
            for line in theirs.lines() {
                let Some((left, _)) = line.split_once("=> ./staging/") else { continue };
                if let Some(module) = left.split_whitespace().find(|word| word.contains('/')) {
                    text.push_str(&format!("replace {module} => {module} {version}\n"));
                }
            }
        }
        text
    }

    /// Kubernetes learns its version from the linker only; without it the API server reports none.
    fn linker_flags(&self) -> String {
        let mut flags = String::from("-s -w");
        if self.staging.is_some() {
            let mut parts = self.version.trim_start_matches('v').split('.');
            let (major, minor) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
            for package in ["k8s.io/component-base/version", "k8s.io/client-go/pkg/version"] {
                flags.push_str(&format!(
                    " -X {package}.gitVersion={} -X {package}.gitMajor={major} -X {package}.gitMinor={minor} \
                     -X {package}.gitTreeState=clean",
                    self.version
                ));
            }
        }
        flags
    }
}

fn ensure(component: &Component) -> Result<PathBuf> {
    let cache = paths::cache()?;
    let done = cache.join(component.folder());
    if is_complete(component, &done) {
        return Ok(done);
    }
    let work = cache.join("build").join(component.folder());
    fs::create_dir_all(&work).with_context(|| format!("make {}", work.display()))?;
    // Another run may be building the same thing: wait for it instead of doing it twice.
    let lock = File::create(work.join("lock"))?;
    lock.lock()?;
    if is_complete(component, &done) {
        return Ok(done);
    }
    say(format!(
        "  {} {} is not in the cache; building it takes minutes, once",
        component.name, component.version
    ));
    step(&format!("build {}", component.folder()), || build(component, &work, &done))?;
    Ok(done)
}

fn is_complete(component: &Component, folder: &Path) -> bool {
    component.programs.iter().all(|(_, program)| folder.join(program).is_file())
}

fn build(component: &Component, work: &Path, done: &Path) -> Result<()> {
    if !shell::succeeds(Command::new("go").arg("version")) {
        bail!("Go is not in PATH; install it from https://go.dev/dl, 1.26 or newer");
    }
    let query = format!("{}@{}", component.module, component.version);
    let answer = shell::output(go(work).args(["mod", "download", "-json", &query]))?;
    let answer: serde_json::Value = serde_json::from_str(&answer).context("what `go mod download` says")?;
    let Some(theirs) = answer["GoMod"].as_str() else {
        bail!("`go mod download -json {query}` names no go.mod")
    };
    fs::write(work.join("go.mod"), component.go_mod(&fs::read_to_string(theirs)?))?;

    let out = work.join("out");
    if out.exists() {
        fs::remove_dir_all(&out)?;
    }
    fs::create_dir_all(&out)?;
    let mut packages = Vec::new();
    for (package, _) in component.programs {
        packages.push(format!("{}{package}", component.module));
    }
    let mut build = go(work);
    build.args(["build", "-trimpath", "-ldflags", &component.linker_flags(), "-o"]);
    // One program gets the name we give it; several are named by their packages.
    match component.programs {
        [(_, program)] => build.arg(out.join(program)),
        _ => build.arg(format!("{}/", out.display())),
    };
    shell::output(build.args(&packages))?;
    if !is_complete(component, &out) {
        bail!("`go build` left no complete set of programs in {}", out.display());
    }
    if done.exists() {
        fs::remove_dir_all(done)?;
    }
    fs::rename(&out, done)?;
    Ok(())
}

/// Go with our settings; niced, for it takes all cores for minutes.
fn go(folder: &Path) -> Command {
    let mut command = Command::new("nice");
    command.args(["-n", "5", "go"]).current_dir(folder);
    command.env("CGO_ENABLED", "0").env("GOFLAGS", "-mod=mod").env("GOWORK", "off");
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_folders_of_kubernetes_become_published_versions() {
        let theirs = "module k8s.io/kubernetes\n\ngo 1.24.0\n\ngodebug default=go1.24\n\nrequire (\n\tk8s.io/api v0.0.0\n)\n\nreplace (\n\tk8s.io/api => ./staging/src/k8s.io/api\n)\n";
        let ours = KUBERNETES.go_mod(theirs);
        assert!(ours.contains("require k8s.io/kubernetes v1.34.4\n"));
        assert!(ours.contains("replace k8s.io/api => k8s.io/api v0.34.4\n"));
        assert!(ours.contains("\ngo 1.24.0\n"));
        assert!(ours.contains("\ngodebug default=go1.24\n"));
    }

    #[test]
    fn the_linker_gives_kubernetes_its_version() {
        assert!(KUBERNETES.linker_flags().contains("gitMinor=34"));
        assert!(NEWER_API_SERVER.linker_flags().contains("component-base/version.gitVersion=v1.36.3"));
        assert_eq!(ETCD.linker_flags(), "-s -w");
    }
}
