//! What the plugin asks of the API server: credentials, objects, rights, and what a target's name stands for.

pub mod access;
pub mod api;
pub mod config;
pub mod connect;
pub mod discovery;
pub mod follow;
pub mod ports;
pub mod rbac;
pub mod ready;
pub mod resolve;
pub mod service;
mod until;
