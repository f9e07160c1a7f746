//! The install page followed word by word, by somebody who has nothing in the home folder yet.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use crate::archive::{Entry, gzip, tar};
use crate::image::sha256;
use crate::paths;

const PLATFORM: &str = "linux_amd64";
/// Stands for the plugin: tells by which name it was called, and how.
const PLUGIN: &str = "#!/bin/sh\necho \"$(basename \"$0\")\" \"$@\"\n";
/// Finds plugins as kubectl does: by their names, in the folders of the PATH.
const KUBECTL: &str = "#!/bin/sh\nname=$1; shift; exec \"kubectl-$name\" \"$@\"\n";

/// What is typed in the first block of shell lines under this heading.
fn typed(heading: &str) -> String {
    let page = fs::read_to_string(paths::root().join("docs/install.md")).unwrap();
    let (_, section) = page.split_once(&format!("\n{heading}\n")).unwrap();
    let (_, block) = section.split_once("```console\n").unwrap();
    let (block, _) = block.split_once("```").unwrap();
    let lines: Vec<_> = block.lines().filter_map(|line| line.strip_prefix("$ ")).collect();
    assert!(!lines.is_empty(), "{block}");
    lines.join("\n").replace("VERSION", "1.2.3")
}

fn program(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn an_archive_is_installed_by_what_the_page_says() {
    let folder = tempfile::tempdir().unwrap();
    let (home, downloads, system) =
        (folder.path().join("home"), folder.path().join("downloads"), folder.path().join("system"));
    for folder in [&home, &downloads, &system] {
        fs::create_dir(folder).unwrap();
    }
    program(&system.join("kubectl"), KUBECTL);
    let name = format!("kubectl-relay_v1.2.3_{PLATFORM}.tar.gz");
    let archive = gzip(&tar(vec![Entry::program("kubectl-relay", PLUGIN)], 0).unwrap()).unwrap();
    // The list names files that nobody has downloaded.
    let sums = format!("{}  {name}\n{}  another\n", sha256(&archive), sha256(b"another"));
    fs::write(downloads.join(&name), archive).unwrap();
    fs::write(downloads.join("SHA256SUMS"), sums).unwrap();

    let script = format!("set -eu\n{}\nkubectl_complete-relay svc/\n", typed("## From an archive"));
    let path = format!("{}:{}:/usr/bin:/bin", home.join(".local/bin").display(), system.display());
    let mut shell = Command::new("bash");
    shell.env_clear().env("HOME", &home).env("PATH", path).current_dir(&downloads);
    let output = shell.args(["-c", &script]).output().unwrap();

    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(said, format!("{name}: OK\nkubectl-relay version\nkubectl_complete-relay svc/\n"));
}
