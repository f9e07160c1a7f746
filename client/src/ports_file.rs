//! `--ports-file`: where each forward listens, in a file that is there, whole, from the moment they are all ready until the
//! run ends.

#[cfg_attr(unix, path = "ports_file/unix.rs")]
#[cfg_attr(windows, path = "ports_file/windows.rs")]
mod system;

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use relay_protocol::header::Protocol;
use serde::Serialize;

use crate::command::environment::{Forwarded, reachable};

/// A file that cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum PortsFileError {
    /// There is something that is no file, which nobody wants replaced.
    #[error("--ports-file {} is there and no regular file", .0.display())]
    NotAFile(PathBuf),
    /// Its place is no place for a file.
    #[error("cannot make --ports-file {}: {source}", path.display())]
    Place {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It cannot be written when the time has come.
    #[error("cannot write --ports-file {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl PortsFileError {
    /// What to do about it.
    pub fn hint(&self) -> String {
        match self {
            Self::NotAFile(_) => {
                "name a file that is not there yet; it is made when the forwards are ready".into()
            }
            Self::Place { .. } | Self::Write { .. } => {
                "name a file in a folder that is there and may be written to".into()
            }
        }
    }
}

impl PortsFileError {
    /// Whether it is the command line that is wrong.
    pub fn is_misuse(&self) -> bool {
        !matches!(self, Self::Write { .. })
    }
}

/// The place of the file; the file is removed when this is dropped, if it is still this one's.
#[derive(Debug)]
pub struct PortsFile {
    path: PathBuf,
    /// What was written. While it is open, no other file can be taken for it.
    written: Mutex<Option<File>>,
}

impl PortsFile {
    /// Removes what an earlier run may have left there, and finds out whether a file can be made.
    ///
    /// # Errors
    /// See [`PortsFileError`].
    pub fn prepare(path: &Path) -> Result<Self, PortsFileError> {
        match fs::symlink_metadata(path) {
            Ok(there) if !there.is_file() => return Err(PortsFileError::NotAFile(path.into())),
            _ => {}
        }
        let prepared = Self { path: path.into(), written: Mutex::default() };
        let try_out = || {
            let (beside, _) = prepared.beside()?;
            fs::remove_file(beside)?;
            match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            }
        };
        try_out().map_err(|source| PortsFileError::Place { path: path.into(), source })?;
        Ok(prepared)
    }

    /// Makes the file, at once and whole.
    ///
    /// # Errors
    /// What the system says.
    pub fn write(&self, forwards: &[Forwarded]) -> Result<(), PortsFileError> {
        let is_json = self.path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("json"));
        let text = if is_json { json(forwards) } else { lines(forwards) };
        let write = || {
            let (beside, mut file) = self.beside()?;
            let made = file.write_all(text.as_bytes()).and_then(|()| fs::rename(&beside, &self.path));
            if made.is_err() {
                // The first error is the one to tell.
                let _ = fs::remove_file(&beside);
            }
            made.map(|()| file)
        };
        let made = write().map_err(|source| PortsFileError::Write { path: self.path.clone(), source })?;
        *self.written.lock().unwrap_or_else(PoisonError::into_inner) = Some(made);
        Ok(())
    }

    /// An empty file in the same folder, readable by its owner alone.
    fn beside(&self) -> io::Result<(PathBuf, File)> {
        let name = self.path.file_name().ok_or(io::ErrorKind::InvalidFilename)?;
        let beside = self.path.with_file_name(format!(".{}.{}", name.display(), std::process::id()));
        // Of a run that was killed: where process ids are few, as in a container, they come again soon.
        let _ = fs::remove_file(&beside);
        let file = system::private(OpenOptions::new().write(true).create_new(true)).open(&beside)?;
        Ok((beside, file))
    }
}

impl Drop for PortsFile {
    fn drop(&mut self) {
        let written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        let written = written.as_ref().and_then(|file| file.metadata().ok()).map(system::identity);
        let there = fs::symlink_metadata(&self.path).ok().map(system::identity);
        // Another run may have put its own there.
        if written.is_some() && written == there {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// `TARGET PORT PROTOCOL ADDRESS:PORT` for each.
fn lines(forwards: &[Forwarded]) -> String {
    let line = |Forwarded { target, port, protocol, local, .. }: &Forwarded| {
        format!("{target} {port} {protocol} {}\n", reachable(*local))
    };
    forwards.iter().map(line).collect()
}

/// A forward in a file that ends in `.json`; the fields are called as those of the `forwarding` event.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Listed<'a> {
    target: &'a str,
    remote: &'a str,
    remote_port: u16,
    protocol: &'static str,
    address: String,
    port: u16,
}

fn json(forwards: &[Forwarded]) -> String {
    let list: Vec<Listed<'_>> = forwards
        .iter()
        .map(|forward| {
            let local = reachable(forward.local);
            Listed {
                target: &forward.target,
                remote: &forward.port,
                remote_port: forward.remote,
                protocol: match forward.protocol {
                    Protocol::Tcp => "tcp",
                    Protocol::Udp => "udp",
                },
                address: local.ip().to_string(),
                port: local.port(),
            }
        })
        .collect();
    // Strings and numbers always make JSON.
    serde_json::to_string_pretty(&list).unwrap_or_default() + "\n"
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use std::os::unix::fs::{MetadataExt, symlink};

    use super::*;

    fn forwards() -> Vec<Forwarded> {
        let forward = |target: &str, port: &str, remote, protocol, local: &str| Forwarded {
            target: target.into(),
            port: port.into(),
            remote,
            protocol,
            local: local.parse().unwrap(),
        };
        vec![
            forward("svc/web", "http", 80, Protocol::Tcp, "127.0.0.1:40123"),
            forward("svc/dns", "53", 53, Protocol::Udp, "[::]:5353"),
        ]
    }

    fn folder() -> tempfile::TempDir {
        tempfile::tempdir().unwrap()
    }

    fn names(folder: &tempfile::TempDir) -> Vec<String> {
        let names = fs::read_dir(folder.path()).unwrap();
        names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn each_forward_has_a_line_and_the_file_goes_with_the_run() {
        let folder = folder();
        let path = folder.path().join("ports.txt");
        fs::write(&path, "svc/old 1 tcp 127.0.0.1:1\n").unwrap();
        let file = PortsFile::prepare(&path).unwrap();
        assert!(names(&folder).is_empty(), "what a killed run left must not be taken for this one's");
        file.write(&forwards()).unwrap();
        assert_eq!(
            fs::read_to_string(&path).unwrap(),
            "svc/web http tcp 127.0.0.1:40123\nsvc/dns 53 udp [::1]:5353\n"
        );
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(names(&folder), ["ports.txt"]);
        drop(file);
        assert!(names(&folder).is_empty());
    }

    #[test]
    fn a_name_that_ends_in_json_makes_json() {
        let folder = folder();
        let path = folder.path().join("ports.JSON");
        let file = PortsFile::prepare(&path).unwrap();
        file.write(&forwards()).unwrap();
        let value: serde_json::Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        assert_eq!(
            value,
            serde_json::json!([
                {"target": "svc/web", "remote": "http", "remotePort": 80, "protocol": "tcp", "address": "127.0.0.1", "port": 40123},
                {"target": "svc/dns", "remote": "53", "remotePort": 53, "protocol": "udp", "address": "::1", "port": 5353},
            ])
        );
    }

    #[test]
    fn what_another_run_has_put_there_stays() {
        let folder = folder();
        let path = folder.path().join("ports.txt");
        let first = PortsFile::prepare(&path).unwrap();
        first.write(&forwards()).unwrap();
        let second = PortsFile::prepare(&path).unwrap();
        second.write(&forwards()[..1]).unwrap();
        drop(first);
        assert!(path.exists());
        drop(second);
        assert!(!path.exists());
    }

    #[test]
    fn only_a_regular_file_is_touched() {
        let folder = folder();
        let (link, target) = (folder.path().join("link"), folder.path().join("target"));
        fs::write(&target, "").unwrap();
        symlink(&target, &link).unwrap();
        for path in [Path::new("/dev/null"), folder.path(), &link] {
            let error = PortsFile::prepare(path).unwrap_err();
            assert_eq!(
                error.to_string(),
                format!("--ports-file {} is there and no regular file", path.display())
            );
            assert!(path.exists() && !error.hint().is_empty());
        }
        for path in ["/nowhere/ports", "", ".."] {
            assert!(PortsFile::prepare(Path::new(path)).is_err(), "{path:?}");
        }
    }
}
