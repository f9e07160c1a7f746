//! Container images without Docker: one layer with one static program, as a docker-archive.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::archive::{Entry, tar};
use crate::paths::{self, STATIC_TARGET};
use crate::shell::step;
use crate::workspace::Workspace;

/// Where the agent's image is published. A placeholder until there is a registry.
const SERVER_REPOSITORY: &str = "ghcr.io/kubectl-relay/relay-server";
/// The user id of everything in our images: "nonroot" by convention.
pub(crate) const USER: u32 = 65532;

/// Options of `cargo xtask image`.
#[derive(Args)]
pub(crate) struct Options {
    /// Also load it into the running cluster of this name.
    #[arg(long, value_name = "NAME")]
    load: Option<String>,
}

/// One image: a name, a program, and how it is called.
pub(crate) struct Image<'a> {
    /// Full name with tag.
    pub(crate) name: &'a str,
    /// The static program on this machine.
    pub(crate) program: &'a Path,
    /// What the container runs; the program lies at the root of the file system.
    pub(crate) entrypoint: &'a [&'a str],
}

/// Name and tag of the agent's image, as in the pods that the plugin makes.
pub(crate) fn server_name() -> String {
    format!("{SERVER_REPOSITORY}:{}", env!("CARGO_PKG_VERSION"))
}

/// Builds the agent and its image.
pub(crate) fn run(options: &Options) -> Result<()> {
    let archive = build_server()?;
    println!("{}", archive.display());
    if let Some(cluster) = &options.load {
        crate::cluster::load(cluster, &[archive])?;
    }
    Ok(())
}

/// Builds `target/image/relay-server.tar`.
pub(crate) fn build_server() -> Result<PathBuf> {
    let program = build_static("relay-server", "agent")?;
    let archive = paths::target().join("image/relay-server.tar");
    let name = server_name();
    step(&format!("image {name}"), || {
        write(&Image { name: &name, program: &program, entrypoint: &["/relay-server"] }, &archive)
    })?;
    Ok(archive)
}

/// Builds a package of this workspace as a static program for this machine; gives its path.
pub(crate) fn build_static(package: &str, profile: &str) -> Result<PathBuf> {
    Workspace::here().build_static(STATIC_TARGET, package, profile)
}

/// Writes an image as a docker-archive: equal programs give equal bytes.
pub(crate) fn write(image: &Image<'_>, archive: &Path) -> Result<()> {
    let program = fs::read(image.program).with_context(|| format!("read {}", image.program.display()))?;
    let file = image.entrypoint.first().context("an image needs an entrypoint")?.trim_start_matches('/');
    let layer = tar(vec![Entry::program(file, program)], 0)?;
    let config = json!({
        "architecture": "amd64",
        "os": "linux",
        "created": "1970-01-01T00:00:00Z",
        "config": {
            "User": format!("{USER}:{USER}"),
            "Entrypoint": image.entrypoint,
            "WorkingDir": "/",
        },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{}", sha256(&layer))] },
        "history": [{ "created": "1970-01-01T00:00:00Z", "created_by": "kubectl-relay" }],
    });
    let config = config.to_string();
    let config_name = format!("{}.json", sha256(config.as_bytes()));
    let layer_name = format!("{}/layer.tar", sha256(&layer));
    let manifest = json!([{ "Config": config_name, "RepoTags": [image.name], "Layers": [layer_name] }]);

    let folder = archive.parent().context("an archive needs a folder")?;
    fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    // Somebody else may be writing the same archive.
    let unfinished = archive.with_extension(format!("tar.{}", std::process::id()));
    let entries = vec![
        Entry::file(config_name, config),
        Entry::file(layer_name, layer),
        Entry::file("manifest.json", manifest.to_string()),
    ];
    fs::write(&unfinished, tar(entries, 0)?)?;
    fs::rename(&unfinished, archive)?;
    Ok(())
}

/// SHA-256 in lower-case hexadecimal.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_program_gives_the_same_archive() {
        let folder = std::env::temp_dir().join(format!("relay-image-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let program = folder.join("program");
        fs::write(&program, b"not really a program").unwrap();
        let image = Image { name: "relay.test/x:1", program: &program, entrypoint: &["/program", "pause"] };

        write(&image, &folder.join("a.tar")).unwrap();
        write(&image, &folder.join("b.tar")).unwrap();
        let first = fs::read(folder.join("a.tar")).unwrap();
        let second = fs::read(folder.join("b.tar")).unwrap();
        fs::remove_dir_all(&folder).unwrap();

        assert!(first == second);
        let mut names: Vec<String> = Vec::new();
        for entry in tar::Archive::new(first.as_slice()).entries().unwrap() {
            names.push(entry.unwrap().path().unwrap().display().to_string());
        }
        assert_eq!(names.len(), 3);
        assert!(names.contains(&"manifest.json".to_owned()));
    }
}
