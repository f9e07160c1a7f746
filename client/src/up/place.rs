//! Where the background process is found: a folder of its owner's alone, with a socket, a lock and a log.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use super::told::Told;

/// The folder's name, in whatever folder it is.
const FOLDER: &str = "kubectl-relay";
/// What a path of a socket may have, by the smallest of the systems.
const LONGEST: usize = 103;

/// The folder, which may not be there yet: in `XDG_RUNTIME_DIR`, else in `XDG_STATE_HOME`, else in `~/.local/state`.
pub fn folder() -> PathBuf {
    let of_variable = |name: &str| {
        let path = std::env::var_os(name).map(PathBuf::from);
        path.filter(|path| path.is_absolute())
    };
    let runtime = of_variable("XDG_RUNTIME_DIR").filter(|path| path.is_dir());
    let state = || of_variable("XDG_STATE_HOME");
    let home = || std::env::home_dir().unwrap_or_else(|| "/".into()).join(".local/state");
    runtime.or_else(state).unwrap_or_else(home).join(FOLDER)
}

/// The control socket's path.
pub fn socket_path() -> PathBuf {
    folder().join("control")
}

/// The log's path.
pub fn log_path() -> PathBuf {
    folder().join("log")
}

/// Makes the folder, or makes sure that it is its owner's alone.
///
/// # Errors
/// When it cannot be made, or is somebody else's.
pub fn prepare() -> Result<PathBuf, Told> {
    prepare_at(folder())
}

fn prepare_at(folder: PathBuf) -> Result<PathBuf, Told> {
    let hint = "XDG_RUNTIME_DIR, or else XDG_STATE_HOME, names the folder that it is made in";
    let shown = folder.display();
    if folder.as_os_str().len() + "/control".len() > LONGEST {
        return Err(Told::new(format!("the path {shown} is too long for a socket"), hint));
    }
    let cannot = |error: io::Error| Told::new(format!("cannot use the folder {shown}: {error}"), hint);
    if let Some(parent) = folder.parent() {
        fs::create_dir_all(parent).map_err(cannot)?;
    }
    match DirBuilder::new().mode(0o700).create(&folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(cannot(error)),
        _ => {}
    }
    let there = fs::symlink_metadata(&folder).map_err(cannot)?;
    let own = rustix::process::geteuid().as_raw();
    if !there.is_dir() || there.uid() != own || there.mode() & 0o077 != 0 {
        let message = format!("the folder {shown} is not yours alone");
        return Err(Told::new(message, format!("move it away, or: chmod 700 {shown}")));
    }
    Ok(folder)
}

/// Held as long as the background process lives: by this and nothing else it is known whether there is one.
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Takes it; `None` where another process has it.
    ///
    /// # Errors
    /// What the system says.
    pub fn take(folder: &Path) -> io::Result<Option<Self>> {
        let file = Self::open(folder)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Self { _file: file })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    /// Waits until no process has it.
    ///
    /// # Errors
    /// What the system says.
    pub fn wait(folder: &Path) -> io::Result<()> {
        Self::open(folder)?.lock_shared()
    }

    fn open(folder: &Path) -> io::Result<File> {
        let path = folder.join("lock");
        OpenOptions::new().write(true).read(true).create(true).truncate(false).mode(0o600).open(path)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn the_folder_is_its_owners_alone() {
        let parent = tempfile::tempdir().unwrap();
        let folder = prepare_at(parent.path().join("deep/er")).unwrap();
        assert_eq!(fs::metadata(&folder).unwrap().mode() & 0o777, 0o700);
        assert!(prepare_at(folder.clone()).is_ok());
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o750)).unwrap();
        let told = prepare_at(folder.clone()).unwrap_err();
        assert!(told.message.ends_with("is not yours alone"), "{told}");
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).unwrap();
        let link = parent.path().join("link");
        symlink(&folder, &link).unwrap();
        assert!(prepare_at(link).is_err());
        let told = prepare_at(parent.path().join("x".repeat(120))).unwrap_err();
        assert!(told.message.ends_with("is too long for a socket"), "{told}");
    }

    #[test]
    fn one_process_holds_the_lock() {
        let folder = tempfile::tempdir().unwrap();
        let lock = Lock::take(folder.path()).unwrap().unwrap();
        assert!(Lock::take(folder.path()).unwrap().is_none());
        drop(lock);
        Lock::wait(folder.path()).unwrap();
        assert!(Lock::take(folder.path()).unwrap().is_some());
    }
}
