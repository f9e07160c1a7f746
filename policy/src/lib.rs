//! What an agent may reach.
//!
//! A [`Policy`] is made of [`Rule`]s that its owner wrote, and of places that are [`reserved`]: denied unless a rule
//! names them. It judges an address that is about to be dialled, together with the [`Names`] that led there. Nothing
//! here resolves or connects.

mod policy;
pub mod reserved;
mod rule;

pub use policy::{Denial, Names, Policy};
pub use rule::{Rule, RuleError};
