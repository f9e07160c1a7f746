//! A Debian package: an `ar` archive of a version, of what `dpkg` is told, and of the files.

use std::collections::BTreeSet;

use anyhow::{Context, Result};

use super::build::Release;
use super::manual;
use super::platform::Platform;
use crate::archive::{Content, Entry, gzip, tar};

/// The package's name for this version and processor.
pub(crate) fn name(release: &Release, platform: Platform) -> String {
    format!("kubectl-relay_{}_{}.deb", release.version, platform.arch())
}

/// The package with the program, the texts and the manual in it; a static program depends on nothing.
pub(crate) fn package(
    release: &Release,
    platform: Platform,
    program: Vec<u8>,
    texts: &[Entry],
    manual: &[Entry],
) -> Result<Vec<u8>> {
    let mut files = vec![
        Entry::program("./usr/bin/kubectl-relay", program),
        Entry::link("./usr/bin/kubectl_complete-relay", "kubectl-relay"),
    ];
    for text in texts {
        // Debian's name for it.
        let name = if text.path == "LICENSE" { "copyright" } else { &text.path };
        let path = format!("./usr/share/doc/kubectl-relay/{name}");
        files.push(Entry { path, content: text.content.clone() });
    }
    files.extend(manual::packaged(manual)?);
    let size: usize = files.iter().map(size).sum();
    files.extend(folders(&files));
    let control = format!(
        "Package: kubectl-relay\nVersion: {}\nArchitecture: {}\nMaintainer: The kubectl relay authors <{}>\n\
         Installed-Size: {}\nSection: net\nPriority: optional\nHomepage: {}\n\
         Description: forward TCP and UDP to anything a Kubernetes cluster can reach\n \
         A plugin of kubectl that forwards local ports to services, pods, workloads,\n \
         addresses and host names; connections outlive that to the API server.\n",
        release.version,
        platform.arch(),
        env!("CARGO_PKG_REPOSITORY"),
        size.div_ceil(1024),
        env!("CARGO_PKG_REPOSITORY"),
    );
    let control =
        vec![Entry { path: ".".into(), content: Content::Folder }, Entry::file("./control", control)];
    let mut package = b"!<arch>\n".to_vec();
    member(&mut package, "debian-binary", b"2.0\n", release.time)?;
    member(&mut package, "control.tar.gz", &gzip(&tar(control, release.time)?)?, release.time)?;
    member(&mut package, "data.tar.gz", &gzip(&tar(files, release.time)?)?, release.time)?;
    Ok(package)
}

fn size(entry: &Entry) -> usize {
    match &entry.content {
        Content::File(bytes) | Content::Program(bytes) => bytes.len(),
        Content::Folder | Content::Link(_) => 0,
    }
}

/// Every folder on the way to a file.
fn folders(files: &[Entry]) -> Vec<Entry> {
    let mut folders = BTreeSet::new();
    for file in files {
        let mut path = file.path.as_str();
        while let Some((folder, _)) = path.rsplit_once('/') {
            folders.insert(folder.to_owned());
            path = folder;
        }
    }
    folders.into_iter().map(|path| Entry { path, content: Content::Folder }).collect()
}

/// A member's header: name, time, owner, group, mode and size in columns of 16, 12, 6, 6, 8 and 10 characters.
fn member(archive: &mut Vec<u8>, name: &str, bytes: &[u8], time: u64) -> Result<()> {
    let header = format!("{name:<16}{time:<12}{:<6}{:<6}{:<8}{:<10}`\n", 0, 0, "100644", bytes.len());
    let header: [u8; 60] = header.into_bytes().try_into().ok().context("a package is too large")?;
    archive.extend(header);
    archive.extend(bytes);
    if bytes.len() % 2 == 1 {
        archive.push(b'\n');
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    /// Name and content of the members.
    fn members(mut archive: &[u8]) -> Vec<(String, Vec<u8>)> {
        archive = archive.strip_prefix(b"!<arch>\n").unwrap();
        let mut members = Vec::new();
        while !archive.is_empty() {
            let header = std::str::from_utf8(&archive[..60]).unwrap();
            let size: usize = header[48..58].trim().parse().unwrap();
            members.push((header[..16].trim().to_owned(), archive[60..60 + size].to_vec()));
            archive = &archive[60 + size + size % 2..];
        }
        members
    }

    fn paths(packed: &[u8]) -> Vec<String> {
        let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(packed));
        archive.entries().unwrap().map(|entry| entry.unwrap().path().unwrap().display().to_string()).collect()
    }

    #[test]
    fn a_package_holds_the_program_under_both_names_and_says_what_it_is_for() {
        let release = Release { version: "1.2.3".into(), commit: None, time: 1_700_000_000, changed: false };
        let texts = [Entry::file("LICENSE", *b"free"), Entry::file("THIRD-PARTY.txt", *b"others")];
        let manual = [Entry::file("man/kubectl-relay.1", *b".TH")];
        let build = || package(&release, Platform::LinuxArm64, vec![7; 3001], &texts, &manual).unwrap();
        let members = members(&build());
        let names: Vec<_> = members.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["debian-binary", "control.tar.gz", "data.tar.gz"]);
        let mut control = String::new();
        let mut unpacked = flate2::read::GzDecoder::new(members[1].1.as_slice());
        unpacked.read_to_string(&mut control).unwrap();
        assert!(control.contains("\nVersion: 1.2.3\nArchitecture: arm64\n"));
        assert!(control.contains("\nInstalled-Size: 3\n"));
        let paths = paths(&members[2].1);
        for path in [
            "usr/bin/",
            "usr/bin/kubectl-relay",
            "usr/bin/kubectl_complete-relay",
            "usr/share/doc/kubectl-relay/copyright",
            "usr/share/man/man1/kubectl-relay.1.gz",
        ] {
            assert!(paths.iter().any(|found| found.trim_start_matches("./") == path), "{path} of {paths:?}");
        }
        assert_eq!(build(), build());
    }
}
