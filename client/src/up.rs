//! Many forwards, in the background: `kubectl relay up` and the verbs that talk to what it has started.

pub mod args;
pub mod background;
pub mod client;
mod contexts;
pub mod desk;
pub mod engine;
mod foreground;
mod forward;
pub mod log;
pub mod place;
pub mod protocol;
mod render;
pub mod server;
pub mod told;
mod ways;
pub mod wish;

pub use forward::Progress;
pub use place::socket_path;
