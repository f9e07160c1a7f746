//! How a session does, in numbers.

use std::time::Duration;

use super::Session;

/// What there is of a session at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Health {
    /// Its lanes, those that are suspected to be dead among them.
    pub lanes: usize,
    /// The least smoothed round trip of those that work, once one was measured.
    pub round_trip: Option<Duration>,
}

impl Session {
    /// How the session does.
    pub fn health(&self) -> Health {
        self.shared.peek(|session| Health {
            lanes: session.lanes().count(),
            round_trip: Some(session.round_trip()).filter(|time| !time.is_zero()),
        })
    }
}
