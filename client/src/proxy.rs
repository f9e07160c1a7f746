//! `kubectl relay proxy`: one local port through which every program that knows a proxy reaches what the cluster can
//! reach.

pub mod args;
mod dial;
pub mod dns;
pub mod environment;
pub mod pac;
mod serve;
pub mod settings;
mod shell;
pub mod status;
mod tell;

pub use args::ProxyArgs;
pub(crate) use serve::{Listening, Proxying};
pub use settings::{ProxyError, ProxySettings};
