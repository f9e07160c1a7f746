//! Whether a command can be started at all, so that a mistyped one costs no agent.

use std::{
    env,
    ffi::{OsStr, OsString},
    fs,
    path::{Path, PathBuf},
};

use super::{CommandError, CommandLine};

/// What a path is to whoever wants to execute it.
enum Candidate {
    Executable,
    Not(&'static str),
    Missing,
}

impl CommandLine {
    /// Looks for the program where the system will.
    ///
    /// # Errors
    /// It is not there, or is nothing to execute.
    pub fn find(&self) -> Result<(), CommandError> {
        self.find_in(env::var_os("PATH").as_deref())
    }

    fn find_in(&self, path: Option<&OsStr>) -> Result<(), CommandError> {
        if self.program.is_empty() {
            return Err(CommandError::NotFound { command: self.to_string(), in_path: true });
        }
        let candidates: Vec<PathBuf> = if self.is_path() {
            names(&self.program).map(PathBuf::from).collect()
        } else {
            // Without PATH, the system has its own idea of where programs are.
            let Some(path) = path else { return Ok(()) };
            env::split_paths(path)
                .flat_map(|folder| names(&self.program).map(move |name| folder.join(name)))
                .collect()
        };
        let mut refusal = None;
        for candidate in &candidates {
            match look_at(candidate) {
                Candidate::Executable => return Ok(()),
                Candidate::Not(reason) => refusal = refusal.or(Some(reason)),
                Candidate::Missing => {}
            }
        }
        let command = self.to_string();
        Err(match refusal {
            Some(reason) => CommandError::NotExecutable { command, reason: reason.into() },
            None => CommandError::NotFound { command, in_path: !self.is_path() },
        })
    }
}

/// A program's name as typed and, where programs have an ending that nobody types, with it.
fn names(typed: &OsStr) -> impl Iterator<Item = OsString> {
    let full = (!env::consts::EXE_SUFFIX.is_empty()).then(|| {
        let mut full = typed.to_owned();
        full.push(env::consts::EXE_SUFFIX);
        full
    });
    [typed.to_owned()].into_iter().chain(full)
}

/// Whether its mode lets anybody execute it; Windows has no such mode.
#[cfg(unix)]
fn may_be_executed(metadata: &fs::Metadata) -> bool {
    std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o111 != 0
}

#[cfg(windows)]
fn may_be_executed(_: &fs::Metadata) -> bool {
    true
}

fn look_at(path: &Path) -> Candidate {
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => Candidate::Not("it is a folder"),
        Ok(metadata) if !may_be_executed(&metadata) => Candidate::Not("it has no permission to be executed"),
        Ok(_) => Candidate::Executable,
        Err(_) => Candidate::Missing,
    }
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn find(program: &str, path: Option<&OsStr>) -> Result<(), (u8, String)> {
        let command = CommandLine { program: program.into(), arguments: Vec::new() };
        command.find_in(path).map_err(|error| {
            assert!(!error.hint().is_empty());
            (error.exit_code(), error.to_string())
        })
    }

    fn put(folder: &Path, name: &str, mode: u32) -> PathBuf {
        let path = folder.join(name);
        fs::write(&path, "#!/bin/sh\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    #[test]
    fn a_program_is_found_by_its_path_and_in_every_folder_of_path() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let program = put(two.path(), "program", 0o755);
        // As a shell does: what cannot be executed does not hide what can.
        put(one.path(), "program", 0o644);
        let path = env::join_paths([one.path(), two.path()]).unwrap();
        assert_eq!(find("program", Some(&path)), Ok(()));
        assert_eq!(find(program.to_str().unwrap(), None), Ok(()));
        assert_eq!(find("anything", None), Ok(()));
    }

    #[test]
    fn what_is_not_there_is_127_and_what_cannot_be_executed_126() {
        let folder = tempfile::tempdir().unwrap();
        let data = put(folder.path(), "data", 0o644).display().to_string();
        let path = folder.path().as_os_str();
        assert_eq!(find("nothing", Some(path)), Err((127, "there is no command \"nothing\" in PATH".into())));
        assert_eq!(
            find("/nowhere/at/all", None),
            Err((127, "there is no command \"/nowhere/at/all\"".into()))
        );
        let refused = "the command \"data\" cannot be executed: it has no permission to be executed";
        assert_eq!(find("data", Some(path)), Err((126, refused.into())));
        assert_eq!(find(&data, None).unwrap_err().0, 126);
        assert_eq!(
            find("/", None),
            Err((126, "the command \"/\" cannot be executed: it is a folder".into()))
        );
    }
}
