//! The agent's image for all processors as an OCI layout, without a container engine: an archive that `ctr images
//! import`, `podman load`, `skopeo copy oci-archive:…` and `crane push` take.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::build::Release;
use crate::archive::{Content, Entry, gzip, tar};
use crate::image::{USER, sha256};
use crate::plugin::Processor;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// Files of a layout by their paths.
type Files = BTreeMap<String, Vec<u8>>;

/// What an image holds for one processor.
pub(crate) struct Part {
    pub(crate) processor: Processor,
    /// The static program, which is all that runs.
    pub(crate) program: Vec<u8>,
}

/// The layout's archive, and the size of the largest image in it: what a node downloads, in bytes.
pub(crate) struct Layout {
    pub(crate) archive: Vec<u8>,
    pub(crate) download: usize,
}

/// Packs the parts, each with these texts beside its program, under `name` (with its tag).
pub(crate) fn layout(parts: &[Part], texts: &[Entry], name: &str, release: &Release) -> Result<Layout> {
    let mut files = Files::new();
    let mut manifests = Vec::new();
    let mut download = 0;
    for part in parts {
        let mut entries = texts.to_vec();
        entries.push(Entry::program("relay-server", part.program.as_slice()));
        let layer = tar(entries, 0)?;
        let packed = gzip(&layer)?;
        let config = json!({
            "architecture": part.processor.name(),
            "os": "linux",
            "created": "1970-01-01T00:00:00Z",
            "config": {
                "User": format!("{USER}:{USER}"),
                "Entrypoint": ["/relay-server"],
                "WorkingDir": "/",
                "Labels": annotations(release),
            },
            "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{}", sha256(&layer))] },
            "history": [{ "created": "1970-01-01T00:00:00Z", "created_by": "kubectl-relay" }],
        });
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": add(&mut files, CONFIG, config.to_string().into_bytes()),
            "layers": [add(&mut files, LAYER, packed.clone())],
            "annotations": annotations(release),
        });
        let manifest = manifest.to_string().into_bytes();
        download = download.max(packed.len() + config.to_string().len() + manifest.len());
        let mut described = add(&mut files, MANIFEST, manifest);
        described["platform"] = json!({ "os": "linux", "architecture": part.processor.name() });
        manifests.push(described);
    }
    let index = json!({
        "schemaVersion": 2, "mediaType": INDEX, "manifests": manifests, "annotations": annotations(release),
    });
    let mut named = add(&mut files, INDEX, index.to_string().into_bytes());
    let (_, tag) = name.rsplit_once(':').context("the image's name has no tag")?;
    named["annotations"] = json!({
        "io.containerd.image.name": name,
        "org.opencontainers.image.ref.name": tag,
    });
    let top = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [named] });
    files.insert("index.json".into(), top.to_string().into_bytes());
    files.insert("oci-layout".into(), json!({ "imageLayoutVersion": "1.0.0" }).to_string().into_bytes());

    check(&files, parts.len())?;
    let mut entries: Vec<Entry> = files.into_iter().map(|(path, bytes)| Entry::file(path, bytes)).collect();
    for folder in ["blobs", "blobs/sha256"] {
        entries.push(Entry { path: folder.into(), content: Content::Folder });
    }
    Ok(Layout { archive: tar(entries, 0)?, download })
}

fn annotations(release: &Release) -> Value {
    let mut annotations = json!({
        "org.opencontainers.image.title": "relay-server",
        "org.opencontainers.image.version": release.version,
        "org.opencontainers.image.licenses": "Apache-2.0",
        "org.opencontainers.image.source": env!("CARGO_PKG_REPOSITORY"),
    });
    if let Some(commit) = &release.commit {
        annotations["org.opencontainers.image.revision"] = commit.as_str().into();
    }
    annotations
}

/// Puts a blob into the layout; gives its description.
fn add(files: &mut Files, kind: &str, bytes: Vec<u8>) -> Value {
    let digest = sha256(&bytes);
    let described = json!({ "mediaType": kind, "digest": format!("sha256:{digest}"), "size": bytes.len() });
    files.insert(format!("blobs/sha256/{digest}"), bytes);
    described
}

/// Follows the layout from its index down, as whoever loads it does: each blob is there, has the size and the digest
/// that it is described with, and no blob is left over.
fn check(files: &Files, images: usize) -> Result<()> {
    let mut wanted = vec![json(&files["index.json"])?];
    let mut seen = std::collections::BTreeSet::new();
    let mut manifests = 0;
    while let Some(document) = wanted.pop() {
        let lists = ["manifests", "layers"]
            .into_iter()
            .flat_map(|name| document[name].as_array().into_iter().flatten());
        let config = Some(&document["config"]).filter(|config| config["digest"].is_string());
        for described in lists.chain(config) {
            let digest = described["digest"].as_str().and_then(|digest| digest.strip_prefix("sha256:"));
            let digest = digest.context("a blob without a digest")?;
            let path = format!("blobs/sha256/{digest}");
            let bytes = files.get(&path).with_context(|| format!("no blob {digest}"))?;
            if sha256(bytes) != digest || described["size"] != bytes.len() {
                bail!("blob {digest} is not what it is described as");
            }
            let kind = described["mediaType"].as_str().unwrap_or_default();
            manifests += usize::from(kind == MANIFEST);
            if [INDEX, MANIFEST].contains(&kind) {
                wanted.push(json(bytes)?);
            }
            seen.insert(path);
        }
    }
    let blobs = files.keys().filter(|path| path.starts_with("blobs/")).count();
    if manifests != images || seen.len() != blobs {
        bail!(
            "{manifests} of {images} images and {} of {blobs} blobs are reached from the index",
            seen.len()
        );
    }
    Ok(())
}

fn json(bytes: &[u8]) -> Result<Value> {
    serde_json::from_slice(bytes).context("a document of the layout is no JSON")
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn parts() -> [Part; 2] {
        Processor::ALL
            .map(|processor| Part { processor, program: processor.name().repeat(1000).into_bytes() })
    }

    fn build() -> Layout {
        let release =
            Release { version: "1.2.3".into(), commit: Some("c0ffee".into()), time: 5, changed: false };
        layout(&parts(), &[Entry::file("LICENSE", *b"free")], "relay.test/agent:1.2.3", &release).unwrap()
    }

    fn unpack(archive: &[u8]) -> Files {
        let mut files = Files::new();
        for entry in tar::Archive::new(archive).entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            if entry.header().entry_type().is_file() {
                files.insert(entry.path().unwrap().display().to_string(), bytes);
            }
        }
        files
    }

    fn blob(files: &Files, described: &Value) -> Vec<u8> {
        files[&described["digest"].as_str().unwrap().replace("sha256:", "blobs/sha256/")].clone()
    }

    #[test]
    fn each_processor_has_its_own_program_under_one_name() {
        let layout = build();
        assert_eq!(layout.archive, build().archive);
        let files = unpack(&layout.archive);
        let top = &json(&files["index.json"]).unwrap()["manifests"][0];
        assert_eq!(top["annotations"]["io.containerd.image.name"], "relay.test/agent:1.2.3");
        let index = json(&blob(&files, top)).unwrap();
        for (described, part) in index["manifests"].as_array().unwrap().iter().zip(parts()) {
            assert_eq!(described["platform"]["architecture"], part.processor.name());
            let manifest = json(&blob(&files, described)).unwrap();
            let config = json(&blob(&files, &manifest["config"])).unwrap();
            assert_eq!(config["architecture"], part.processor.name());
            assert_eq!(config["config"]["User"], "65532:65532");
            let mut layer = Vec::new();
            let packed = blob(&files, &manifest["layers"][0]);
            flate2::read::GzDecoder::new(packed.as_slice()).read_to_end(&mut layer).unwrap();
            assert_eq!(config["rootfs"]["diff_ids"][0], format!("sha256:{}", sha256(&layer)));
            let content = unpack(&layer);
            assert_eq!(content["relay-server"], part.program);
            assert_eq!(content.len(), 2);
        }
    }

    #[test]
    fn a_layout_that_does_not_hold_what_it_describes_is_refused() {
        let good = unpack(&build().archive);
        assert!(check(&good, 2).is_ok());
        assert!(check(&good, 1).is_err());
        for path in good.keys().filter(|path| path.starts_with("blobs/")) {
            let mut changed = good.clone();
            changed.get_mut(path).unwrap().push(0);
            assert!(check(&changed, 2).is_err(), "{path} was changed");
            let mut without = good.clone();
            without.remove(path);
            assert!(check(&without, 2).is_err(), "{path} was removed");
        }
        let mut more = good;
        more.insert("blobs/sha256/0".into(), Vec::new());
        assert!(check(&more, 2).is_err());
    }
}
