//! The session as a whole, in virtual time.
//!
//! `simulator` connects two ends over lanes that lag, stall, die and go silent; `schedules` draws thousands of
//! situations from seeds, `faults` some more of each fault that people meet; the other modules each hold one topic's
//! directed tests.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test fails by a panic")]

mod again;
mod ending;
mod faults;
mod flows;
mod hostile;
mod joining;
mod lanes;
mod pair;
mod scenes;
mod schedules;
mod simulator;
mod speed;
mod streams;
