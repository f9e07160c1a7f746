//! Socket options that neither the standard library nor socket2, rustix or nix sets, and what is made of them: a reader of
//! bulk ([`BulkReader`]), a TCP window that follows its buffer ([`set_window_clamp`]), and bytes that are spread over the
//! round trip ([`pace`]).
//!
//! This crate has the project's only unsafe calls: an option is nothing but integers that the kernel copies.

mod lowwater;
mod option;
mod rate;

pub use lowwater::{BulkReader, LowWater, Socket};
pub use option::{pace, set_window_clamp};
