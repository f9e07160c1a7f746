//! Socket options that neither the standard library nor socket2, rustix or nix sets, and what is made of them: a reader of
//! bulk ([`BulkReader`]), and a TCP window that follows its buffer ([`set_window_clamp`]).
//!
//! This crate has the project's only unsafe call: an option is nothing but an integer that the kernel copies.

mod lowwater;
mod option;
mod rate;

pub use lowwater::{BulkReader, LowWater, Socket};
pub use option::set_window_clamp;
