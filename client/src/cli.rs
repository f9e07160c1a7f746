//! The command line in two levels: `args` is what was typed, `settings` is what it means.

pub mod args;
pub mod duration;
pub mod help;
pub mod misuse;
pub mod settings;
mod targets_file;
pub mod verb;
pub mod wanted;
