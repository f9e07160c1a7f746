//! `kubectl relay proxy`: one local port through which every program that knows a proxy reaches what the cluster can
//! reach.

pub mod args;
mod dial;
mod serve;
pub mod settings;
mod tell;

pub use args::ProxyArgs;
pub(crate) use serve::{Listening, Proxying};
pub use settings::{ProxyError, ProxySettings};
