//! The plugin's dealings with the API server, against one that answers as told.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod access;
#[path = "../support/captured.rs"]
mod captured;
mod completion;
mod denied;
mod doctor;
mod embedded;
mod fake;
mod hints;
mod launch;
mod resolve;
mod shared;
