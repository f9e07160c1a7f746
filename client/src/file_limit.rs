//! How many files may be open: as many as the system allows for the relay itself, as many as before for a program that
//! it starts. (Some programs still use `select`, which knows no more than 1,024.)

#[cfg(unix)]
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The limit that this process began with. Windows has none.
pub struct FileLimit(#[cfg(unix)] Rlimit);

#[cfg(windows)]
impl FileLimit {
    /// Does nothing.
    pub fn raise() -> Self {
        Self()
    }

    /// Does something.
    pub fn restored<T>(&self, act: impl FnOnce() -> T) -> T {
        act()
    }
}

#[cfg(unix)]
impl FileLimit {
    /// Raises the limit: a thousand connections need more files than the usual one allows.
    pub fn raise() -> Self {
        let limit = getrlimit(Resource::Nofile);
        set(Rlimit { current: limit.maximum, ..limit });
        Self(limit)
    }

    /// Does something under the limit that there was before.
    pub fn restored<T>(&self, act: impl FnOnce() -> T) -> T {
        let raised = getrlimit(Resource::Nofile);
        set(Rlimit { current: self.0.current, ..raised });
        let outcome = act();
        set(raised);
        outcome
    }
}

#[cfg(unix)]
fn set(limit: Rlimit) {
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::debug!(%error, "limit of open files not set");
    }
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use super::*;

    #[test]
    fn what_is_started_has_the_limit_from_before() {
        let before = getrlimit(Resource::Nofile).current;
        let limit = FileLimit::raise();
        let raised = getrlimit(Resource::Nofile);
        assert_eq!(raised.current, raised.maximum);
        assert_eq!(limit.restored(|| getrlimit(Resource::Nofile).current), before);
        assert_eq!(getrlimit(Resource::Nofile), raised);
    }
}
