//! From programs to the files of a release.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::build::{self, Release};
use super::licences::{self, Part};
use super::platform::Platform;
use super::template::{self, Values};
use super::toolchain::Zig;
use super::{deb, elf, macho, manual, oci, packages, sbom};
use crate::archive::{Entry, gzip, tar, zip};
use crate::image::{self, sha256};
use crate::plugin::Processor;
use crate::shell::{self, say, step};
use crate::workspace::Workspace;

/// What is linked into an archive's program, or carried by it.
const PROGRAMS: [&str; 3] = ["kubectl-relay", "relay-server", "relay-launcher"];
const MIB: usize = 1 << 20;
/// What the plugin, the agent and a node's download of the image may have at most, in bytes.
const PLUGIN: usize = 15 * MIB;
const AGENT: usize = 2 * MIB;
const IMAGE: usize = 2 * MIB;

/// A file of the release: name and content.
pub(crate) type Files = Vec<(String, Vec<u8>)>;

/// Builds everything for these platforms.
pub(crate) fn assemble(
    workspace: &Workspace,
    zig: &Zig,
    release: &Release,
    platforms: &[Platform],
) -> Result<Files> {
    let agents = build::agents(workspace)?;
    let mut files = Files::new();
    files.push(image(workspace, zig, release)?);
    let manual = manual::entries(workspace)?;
    let mut archives = Vec::new();
    for platform in platforms {
        let plugin = build::plugin(workspace, zig, *platform, &agents)?;
        let program = read(&plugin)?;
        let title = format!("{}/{}", platform.os(), platform.arch());
        check(&title, &program, *platform)?;
        if platform.is_native() {
            let said = shell::output(Command::new(&plugin).arg("version"))?;
            if !said.contains(&release.version) {
                bail!("{} says of its version: {said}", plugin.display());
            }
        }
        let made = step(&format!("archive for {title}"), || {
            let texts = texts(workspace, zig, &PROGRAMS, *platform)?;
            archive(workspace, release, *platform, program, texts, &manual)
        })?;
        archives.push((*platform, made[0].0.clone(), sha256(&made[0].1)));
        files.extend(made);
    }
    files.extend(manifests(workspace, release, &archives)?);
    files.sort();
    let sums: String = files.iter().map(|(name, bytes)| format!("{}  {name}\n", sha256(bytes))).collect();
    files.push(("SHA256SUMS".into(), sums.into_bytes()));
    Ok(files)
}

fn check(title: &str, program: &[u8], platform: Platform) -> Result<()> {
    within(&format!("plugin for {title}"), program.len(), PLUGIN)?;
    let checked = match platform.os() {
        "linux" => elf::check_static(program, platform.arch()),
        "darwin" => macho::check(program, platform.arch()),
        _ => Ok(()),
    };
    checked.with_context(|| format!("the plugin for {title}"))
}

fn within(title: &str, size: usize, limit: usize) -> Result<()> {
    say(format!("  {title}: {:.2} MiB", size as f64 / MIB as f64));
    if size > limit {
        bail!("{title} has {size} bytes, and may have {limit}");
    }
    Ok(())
}

/// The agent's image for both processors.
fn image(workspace: &Workspace, zig: &Zig, release: &Release) -> Result<(String, Vec<u8>)> {
    let mut parts = Vec::new();
    for processor in Processor::ALL {
        let program = read(&workspace.built(processor.target(), "relay-server", "agent"))?;
        within(&format!("agent for {}", processor.name()), program.len(), AGENT)?;
        elf::check_static(&program, processor.name())?;
        parts.push(oci::Part { processor, program });
    }
    // The same for both, as far as licences go.
    let texts = texts(workspace, zig, &["relay-server"], Platform::LinuxAmd64)?;
    let name = image::server_name();
    let layout =
        step(&format!("image {name} for all processors"), || oci::layout(&parts, &texts, &name, release))?;
    within("image, as a node downloads it", layout.download, IMAGE)?;
    Ok((format!("relay-server_v{}_oci.tar", release.version), layout.archive))
}

/// Licences: ours, those of the packages linked, and that of Rust's library as it comes with the compiler.
fn texts(workspace: &Workspace, zig: &Zig, programs: &[&str], platform: Platform) -> Result<Vec<Entry>> {
    let ours = read(&workspace.source.join("LICENSE"))?;
    let part = |name: &str, path| Ok::<_, anyhow::Error>(Part { name: name.into(), text: zig.text(path)? });
    let mut parts = vec![part("musl, the C library", "lib/libc/musl/COPYRIGHT")?];
    if platform.os() == "windows" {
        parts.push(part("MinGW-w64, the C library", "lib/libc/mingw/COPYING")?);
    }
    parts.push(part("LLVM's libunwind", "lib/libunwind/LICENSE.TXT")?);
    parts.push(part("Zig's own part of the C library, and its compiler-rt", "LICENSE")?);
    let packages = packages::linked(workspace, programs, platform.target())?;
    let others = licences::texts(&packages, &parts, &String::from_utf8_lossy(&ours))?;
    let library = read(&Path::new(&build::sysroot()?).join("share/doc/rust/COPYRIGHT-library.html"))?;
    Ok(vec![
        Entry::file("LICENSE", ours),
        Entry::file("THIRD-PARTY.txt", others),
        Entry::file("rust-library.html", library),
    ])
}

/// The archive first, then what else is made for this platform.
fn archive(
    workspace: &Workspace,
    release: &Release,
    platform: Platform,
    program: Vec<u8>,
    texts: Vec<Entry>,
    manual: &[Entry],
) -> Result<Files> {
    let mut files = Files::new();
    let name = platform.archive(&release.version);
    let mut entries = texts.clone();
    // Windows has nothing that reads a man page.
    let is_wanted = |entry: &&Entry| platform.os() != "windows" || !entry.path.starts_with("man/");
    entries.extend(manual.iter().filter(is_wanted).cloned());
    entries.push(Entry::file("README.md", read(&workspace.source.join("README.md"))?));
    entries.push(Entry::program(format!("kubectl-relay{}", platform.suffix()), program.clone()));
    // No link to it as the helper for completion: krew refuses an archive that has one.
    if platform.os() == "windows" {
        files.push((name, zip(entries)?));
    } else {
        files.push((name, gzip(&tar(entries, release.time)?)?));
    }
    if platform.os() == "linux" {
        files.push((deb::name(release, platform), deb::package(release, platform, program, &texts, manual)?));
    }
    let lock = fs::read_to_string(workspace.source.join("Cargo.lock")).context("read Cargo.lock")?;
    let packages = packages::linked(workspace, &PROGRAMS, platform.target())?;
    let bill = sbom::bill(&packages, &sbom::checksums(&lock), release, &build::rustc()?, platform.target())?;
    let name = format!("kubectl-relay_v{}_{}_{}.cdx.json", release.version, platform.os(), platform.arch());
    files.push((name, bill.into_bytes()));
    Ok(files)
}

/// What package managers read.
fn manifests(
    workspace: &Workspace,
    release: &Release,
    archives: &[(Platform, String, String)],
) -> Result<Files> {
    let repository = env!("CARGO_PKG_REPOSITORY");
    let values: Values = [
        ("VERSION", release.version.clone()),
        ("REPOSITORY", repository.into()),
        ("DOWNLOADS", format!("{repository}/releases/download/v{}", release.version)),
    ]
    .into();
    let of_platform = |(platform, archive, checksum): &(Platform, String, String)| -> Values {
        [
            ("OS", platform.os().to_owned()),
            ("ARCH", platform.arch().into()),
            ("BREW_OS", if platform.os() == "darwin" { "macos" } else { "linux" }.into()),
            ("BREW_ARCH", if platform.arch() == "arm64" { "arm" } else { "intel" }.into()),
            ("PROGRAM", format!("kubectl-relay{}", platform.suffix())),
            ("ARCHIVE", archive.clone()),
            ("SHA256", checksum.clone()),
        ]
        .into()
    };
    let all: Vec<Values> = archives.iter().map(of_platform).collect();
    let brew = archives.iter().filter(|(platform, ..)| platform.os() != "windows").map(of_platform).collect();
    let mut files = Files::new();
    for (path, name, platforms) in
        [("krew/relay.yaml", "relay.yaml", all), ("homebrew/kubectl-relay.rb", "kubectl-relay.rb", brew)]
    {
        let template = workspace.source.join("manifests").join(format!("{path}.tmpl"));
        let template =
            fs::read_to_string(&template).with_context(|| format!("read {}", template.display()))?;
        let text =
            template::render(&template, &values, &platforms).with_context(|| format!("make {name}"))?;
        files.push((name.into(), text.into_bytes()));
    }
    Ok(files)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("read {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_templates_of_this_checkout_name_every_archive_with_its_checksum() {
        let release = Release { version: "1.2.3".into(), commit: None, time: 0, changed: false };
        let archives = Platform::ALL
            .map(|platform| (platform, platform.archive("1.2.3"), sha256(platform.target().as_bytes())));
        let files = manifests(&Workspace::here(), &release, &archives).unwrap();
        for (name, text) in &files {
            let text = String::from_utf8(text.clone()).unwrap();
            assert!(!text.contains("{{"), "{name}: {text}");
            for (platform, archive, checksum) in &archives {
                // Homebrew is not for Windows.
                let expected = usize::from(name == "relay.yaml" || platform.os() != "windows");
                assert_eq!(
                    text.matches(&format!("/releases/download/v1.2.3/{archive}")).count(),
                    expected,
                    "{name}"
                );
                assert_eq!(text.matches(checksum.as_str()).count(), expected, "{name}");
            }
        }
        let names: Vec<_> = files.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["relay.yaml", "kubectl-relay.rb"]);
        let krew = String::from_utf8_lossy(&files[0].1).into_owned();
        assert!(krew.contains("      bin: kubectl-relay.exe\n") && krew.contains("\n  name: relay\n"));
    }
}
