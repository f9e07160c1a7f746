//! The agent's life in the cluster: its Job, what goes wrong with it, and the session that is tied to its pod.

mod attempt;
pub mod borrow;
pub mod diagnosis;
pub mod embedded;
pub mod farewell;
pub mod found;
pub mod identity;
pub mod jobs;
pub mod launch;
mod outage;
pub mod patch;
mod progress;
pub mod spec;
pub mod supervisor;
pub mod wire;
