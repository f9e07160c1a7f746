//! What the agent tells of itself.
//!
//! The [`Ledger`] has an [`Entry`] for every stream and flow from its header to its end. It counts them for
//! [`metrics`], and writes an [`audit`] line at either end where that is wanted. [`http`] is as much of a web server as
//! a scraper needs. No sockets and no tasks are in here.

pub mod audit;
pub mod http;
mod ledger;
pub mod metrics;

pub use audit::About;
pub use ledger::{Entry, Ledger};
