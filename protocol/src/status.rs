//! Status codes: one table for direct streams and for resets inside a session.

use std::fmt;

/// How an attempt to reach a target ended, or why a stream was reset. One byte on the wire.
///
/// Codes 1 to 6 are those that clients of krelay's port-forward generation know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Status {
    /// The target was reached.
    Ok = 1,
    /// Something failed that has no code of its own.
    Unknown = 2,
    /// The host name does not exist, or has no address.
    NoSuchHost = 3,
    /// No answer from the name servers in time.
    ResolveTimedOut = 4,
    /// No answer from the target in time.
    ConnectTimedOut = 5,
    /// The header names a protocol that the agent does not speak.
    UnknownProtocol = 6,
    /// The target refused the connection.
    Refused = 7,
    /// There is no route to the target.
    Unreachable = 8,
    /// The socket at the other end was reset. In a session, bytes sent before it are delivered first.
    ResetByPeer = 9,
    /// A policy on the agent forbids the target.
    Denied = 10,
    /// A limit on the number of streams, flows or their memory was met.
    TooManyStreams = 11,
    /// The agent is shutting down.
    ShuttingDown = 12,
    /// The agent, or the session on it, is gone.
    AgentLost = 13,
    /// This end gave the stream up.
    Aborted = 14,
    /// The first byte, or the version in it, is none that this end speaks.
    UnknownVersion = 15,
}

impl Status {
    /// Every status, in the order of its code.
    pub const ALL: [Self; 15] = [
        Self::Ok,
        Self::Unknown,
        Self::NoSuchHost,
        Self::ResolveTimedOut,
        Self::ConnectTimedOut,
        Self::UnknownProtocol,
        Self::Refused,
        Self::Unreachable,
        Self::ResetByPeer,
        Self::Denied,
        Self::TooManyStreams,
        Self::ShuttingDown,
        Self::AgentLost,
        Self::Aborted,
        Self::UnknownVersion,
    ];

    /// The code on the wire.
    pub const fn as_u8(self) -> u8 {
        self as u8
    }

    /// The status with this code; a code from the future is [`Status::Unknown`].
    pub fn from_u8(code: u8) -> Self {
        code.checked_sub(1)
            .and_then(|index| Self::ALL.get(usize::from(index)))
            .copied()
            .unwrap_or(Self::Unknown)
    }

    /// The code for a client of krelay's port-forward generation, which knows 1 to 6 only.
    pub const fn as_v0(self) -> u8 {
        if self as u8 > 6 { 2 } else { self as u8 }
    }

    /// True for a failed dial: sent before the status byte, it proves that no byte reached the target.
    pub const fn is_dial_failure(self) -> bool {
        matches!(
            self,
            Self::NoSuchHost
                | Self::ResolveTimedOut
                | Self::ConnectTimedOut
                | Self::Refused
                | Self::Unreachable
        )
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ok => "ok",
            Self::Unknown => "unknown error",
            Self::NoSuchHost => "no such host",
            Self::ResolveTimedOut => "resolving the name timed out",
            Self::ConnectTimedOut => "connecting timed out",
            Self::UnknownProtocol => "unknown protocol",
            Self::Refused => "connection refused",
            Self::Unreachable => "network or host unreachable",
            Self::ResetByPeer => "connection reset by peer",
            Self::Denied => "denied by policy",
            Self::TooManyStreams => "too many streams",
            Self::ShuttingDown => "agent is shutting down",
            Self::AgentLost => "agent lost",
            Self::Aborted => "aborted locally",
            Self::UnknownVersion => "unknown version",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_comes_back_as_its_status() {
        for (index, status) in Status::ALL.into_iter().enumerate() {
            assert_eq!(usize::from(status.as_u8()), index + 1);
            assert_eq!(Status::from_u8(status.as_u8()), status);
        }
    }

    #[test]
    fn codes_from_the_future_are_unknown() {
        for code in [0, 16, 200, 255] {
            assert_eq!(Status::from_u8(code), Status::Unknown);
        }
    }

    #[test]
    fn a_v0_client_sees_only_codes_it_knows() {
        for status in Status::ALL {
            assert!((1..=6).contains(&status.as_v0()));
        }
        assert_eq!(Status::Refused.as_v0(), 2);
        assert_eq!(Status::ConnectTimedOut.as_v0(), 5);
    }
}
