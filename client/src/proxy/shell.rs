//! A proxy that a shell has started for itself, by `--print-env`: once the shell goes on, the proxy has to stay when a
//! key is for another program, and to go when the shell does.

#[cfg(unix)]
use rustix::process::{Pid, getppid, setpgid};

/// Whoever started this process. Nobody asks for it on Windows, where `--print-env` is refused.
pub(super) struct Shell(#[cfg(unix)] Option<Pid>);

#[cfg(windows)]
impl Shell {
    pub(super) fn of_this_process() -> Self {
        Self()
    }

    pub(super) fn stay_beside(&self) {}
}

#[cfg(unix)]
impl Shell {
    /// To be called at the start: who the parent was then.
    pub(super) fn of_this_process() -> Self {
        Self(getppid())
    }

    /// From now on Ctrl-C is not for this process, which ends with its shell. Where the shell has put something of its
    /// own in between that is gone already, nobody is followed.
    pub(super) fn stay_beside(&self) {
        if let Err(error) = setpgid(None, None) {
            tracing::debug!(%error, "no process group of its own");
        }
        if getppid() == self.0 {
            end_with_parent();
        }
    }
}

#[cfg(target_os = "linux")]
fn end_with_parent() {
    use rustix::process::{Signal, set_parent_process_death_signal};
    if let Err(error) = set_parent_process_death_signal(Some(Signal::TERM)) {
        tracing::debug!(%error, "does not end with its shell");
    }
}

/// Elsewhere `kill $RELAY_PID` ends it.
#[cfg(all(unix, not(target_os = "linux")))]
fn end_with_parent() {}
