//! Why a target was not reached: a status for the client, a reason for the log.

use std::io;

use relay_policy::Denial;
use relay_protocol::Status;

/// Why a target was not reached.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub struct DialError {
    /// What the client is told.
    pub status: Status,
    /// What the log says.
    pub reason: String,
}

impl DialError {
    pub(crate) fn new(status: Status, reason: impl Into<String>) -> Self {
        Self { status, reason: reason.into() }
    }
}

impl From<Denial> for DialError {
    fn from(denial: Denial) -> Self {
        Self::new(Status::Denied, denial.to_string())
    }
}

impl From<io::Error> for DialError {
    fn from(error: io::Error) -> Self {
        Self::new(status_of(&error), error.to_string())
    }
}

/// "Address family not supported by protocol" on Linux, wherever the agent is built for: the library has no word of
/// its own for it.
const EAFNOSUPPORT: i32 = 97;

/// The status for a socket's error.
pub fn status_of(error: &io::Error) -> Status {
    use io::ErrorKind as Kind;
    match error.kind() {
        Kind::ConnectionRefused => Status::Refused,
        // An address that the pod has no family or no route for is as far away as one behind a missing route.
        Kind::HostUnreachable | Kind::NetworkUnreachable | Kind::NetworkDown | Kind::AddrNotAvailable => {
            Status::Unreachable
        }
        Kind::TimedOut => Status::ConnectTimedOut,
        Kind::ConnectionReset | Kind::ConnectionAborted | Kind::BrokenPipe => Status::ResetByPeer,
        // What a network policy in the kernel answers.
        Kind::PermissionDenied => Status::Denied,
        _ if error.raw_os_error() == Some(EAFNOSUPPORT) => Status::Unreachable,
        _ => Status::Unknown,
    }
}
